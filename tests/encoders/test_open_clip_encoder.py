"""A tiny architecture of our own with random weights: nothing is downloaded."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from media_samples import make_clip

from harmonize_cli.encoders.open_clip import ClipFrames, ClipModel, ClipTexts, OpenClipConfig, split_name
from harmonize_cli.errors import BadInput
from harmonize_cli.media.decode import FileDecode
from harmonize_cli.media.decoders import decoder_for
from harmonize_cli.media.requests import Span

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory):
    import open_clip

    folder = tmp_path_factory.mktemp("configs")
    (folder / "tiny-test.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def model():
    return ClipModel("tiny-test/random", OpenClipConfig(device="cpu", batch=4))


def frames(n, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (n, 32, 32, 3), np.uint8)


def test_towers_give_unit_vectors(model):
    images, texts = ClipFrames(model), ClipTexts(model)
    rows = images.encode_frames(frames(3))
    words = texts.encode_texts(["a dog", "a cat"])
    assert rows.shape == (3, 16)
    assert words.shape == (2, 16)
    assert rows.dtype == words.dtype == np.float16
    for vectors in (rows, words):
        assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    assert texts.encode_texts([]).shape == (0, 16)
    assert images.request.row_shape == (32, 32, 3)


def test_rows_do_not_depend_on_the_batch(model):
    encoder, pictures = ClipFrames(model), frames(5)
    together = encoder.encode_frames(pictures)
    alone = np.concatenate([encoder.encode_frames(pictures[i : i + 1]) for i in range(5)])
    assert np.allclose(together, alone, atol=2e-3)


def test_bf16_agrees_with_fp32(model):
    """bf16 keeps 8 bits of a number: unit vectors turn by less than 0.02 (cosine above 0.9998), none by
    as much as two different inputs differ."""
    half = ClipModel("tiny-test/random", OpenClipConfig(device="cpu", batch=4, precision="bf16"))
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert half.weights_hash == model.weights_hash
    assert ClipFrames(half).spec.params["precision"] == "bfloat16"
    texts = ["a dog", "a cat", "a loud drum on a stage"]
    for one, other in (
        (ClipFrames(model).encode_frames(frames(6)), ClipFrames(half).encode_frames(frames(6))),
        (ClipTexts(model).encode_texts(texts), ClipTexts(half).encode_texts(texts)),
    ):
        a, b = one.astype(np.float32), other.astype(np.float32)
        assert not np.array_equal(a, b), "the same numbers: bf16 did nothing"
        gaps = np.linalg.norm(a - b, axis=1)
        assert gaps.max() < 0.02
        apart = np.linalg.norm(a[:, None] - a[None], axis=2)[~np.eye(len(a), dtype=bool)]
        assert gaps.max() < apart.min()


def test_agrees_with_open_clips_own_transform(model):
    import open_clip
    from PIL import Image

    transform = open_clip.image_transform(
        32, is_train=False, mean=model.model.visual.image_mean, std=model.model.visual.image_std
    )
    pictures = frames(2)
    with torch.no_grad():
        pixels = torch.stack([transform(Image.fromarray(p)) for p in pictures])
        want = model.model.encode_image(pixels, normalize=True).numpy()
    assert np.allclose(ClipFrames(model).encode_frames(pictures), want, atol=2e-3)


@pytest.fixture
def published(monkeypatch):
    """The tiny model as one that has weights published with SigLIP's preprocessing."""
    import open_clip
    from open_clip import pretrained

    entry = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-test", {"webli": {"url": "x", **entry}})
    assert open_clip.list_pretrained_tags_by_model("tiny-test") == ["webli"]


def saved(model, folder, **preprocess):
    from safetensors.torch import save_file

    path = folder / "weights.safetensors"
    save_file({k: v.clone().contiguous() for k, v in model.model.state_dict().items()}, path)
    if preprocess:
        config = {"model_cfg": TINY, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    return ClipModel(f"tiny-test/{path}", OpenClipConfig(device="cpu"))


def test_a_weights_file_takes_the_preprocessing_of_its_model(model, published, tmp_path):
    squash = saved(model, tmp_path)
    assert squash.mean.flatten().tolist() == squash.std.flatten().tolist() == [0.5] * 3
    assert ClipFrames(squash).request.fit == "stretch"
    assert ClipFrames(model).request.fit == "crop"
    assert ClipFrames(squash).spec.preprocessing_hash != ClipFrames(model).spec.preprocessing_hash
    assert ClipFrames(squash).spec.params["resize_mode"] == "squash"


def test_the_real_models_of_siglip_and_clipa():
    from harmonize_cli.encoders.open_clip import _preprocessing

    for name in ("ViT-B-16-SigLIP", "ViT-H-14-CLIPA", "ViT-SO400M-14-SigLIP-384"):
        found = _preprocessing(name, "/some/weights.safetensors", SimpleNamespace(image_size=None))
        assert found["resize_mode"] == "squash"
    siglip = _preprocessing("ViT-B-16-SigLIP", "random", SimpleNamespace(image_size=None))
    assert (siglip["mean"], siglip["std"]) == ((0.5,) * 3, (0.5,) * 3)
    assert _preprocessing("ViT-B-32", "random", SimpleNamespace(image_size=None))["resize_mode"] == "shortest"


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("decoder", ["ffmpeg", "pyav"])
def test_frames_come_as_open_clips_transform_makes_them(model, tmp_path, resize_mode, interpolation, decoder):
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    if decoder == "pyav":
        pytest.importorskip("av")
    cfg = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    cfg |= {"interpolation": interpolation, "resize_mode": resize_mode}
    other = saved(model, tmp_path, **cfg)
    encoder = ClipFrames(other)
    smooth = np.random.default_rng(0).integers(0, 255, (1, 6, 10, 3), np.uint8)
    whole = np.stack(
        [np.asarray(Image.fromarray(f).resize((192, 96), Image.Resampling.BICUBIC)) for f in smooth]
    )
    path = make_clip(tmp_path / "a.mkv", np.repeat(whole, 5, 0), None, fps=5, pix_fmt="gbrp")
    work = FileDecode(path, [encoder.request], Span(), deadline=60, decoder=decoder_for(decoder))
    rows = np.concatenate([chunk.rows for chunk in work.chunks()])[:1]
    pixels = (torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 255 - other.mean) / other.std
    want = image_transform_v2(PreprocessCfg(size=32, **cfg), is_train=False)(Image.fromarray(whole[0]))
    levels = (pixels[0] - want).abs() * other.std * 255
    assert levels.mean() < 1.5
    assert levels.max() < 12


def test_weights_file_and_hash(model, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    state = {k: v.clone().contiguous() for k, v in model.model.state_dict().items()}
    save_file(state, path)
    same = ClipModel(f"tiny-test/{path}", OpenClipConfig(device="cpu"))
    assert same.weights_hash == model.weights_hash
    assert same.encoder_name == "tiny-test/weights.safetensors"
    state["logit_scale"] += 1
    save_file(state, path)
    assert ClipModel(f"tiny-test/{path}", OpenClipConfig(device="cpu")).weights_hash != model.weights_hash
    assert torch.equal(same.model.logit_scale, model.model.logit_scale)


def test_random_weights_are_the_same_everywhere(model):
    assert ClipModel("tiny-test/random", OpenClipConfig(device="cpu")).weights_hash == model.weights_hash


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadInput, match="can't load these weights"):
        ClipModel(f"tiny-test/{path}", OpenClipConfig(device="cpu"))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model/random", "unknown model"),
        ("ViT-B-32/no-such-tag", "neither a weights file nor a tag"),
        ("ViT-B-32/laion2b_s34b_b79k", "--allow-download"),
        ("ViT-B-32/openai", "--allow-download"),
    ],
)
def test_nothing_is_fetched_without_leave(name, message, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BadInput, match=message):
        ClipModel(name, OpenClipConfig(device="cpu"))


def test_a_tag_must_be_given():
    assert split_name("ViT-B-32//some/weights.pt") == ("ViT-B-32", "/some/weights.pt")
    with pytest.raises(BadInput, match="MODEL/TAG"):
        split_name("ViT-B-32")
