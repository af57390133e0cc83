"""A tiny architecture of our own with random weights: nothing is downloaded."""

import json

import numpy as np
import pytest
import torch

from harmonize_cli.encoders.open_clip import ClipFrames, ClipModel, ClipTexts, OpenClipConfig, split_name
from harmonize_cli.errors import BadInput

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
