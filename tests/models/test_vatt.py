"""The model against VATT's facts: sizes, masks, DropToken, positions, where parameters live."""

import pytest
import torch
from torch import nn

from harmonize_cli.errors import BadInput
from harmonize_cli.models.config import ModelConfig
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.models.positions import PositionTable, spline_matrix
from harmonize_cli.models.tokenisers import VideoPatches
from harmonize_cli.models.vatt import Vatt


def spec(modality, kind, rows, row_shape=(), **more):
    return InputSpec(modality, f"{modality}/{kind}", kind, rows, row_shape, **more)


PUBLISHED = {
    "video": spec("video", "frames", 32, (224, 224, 3)),
    "audio": spec("audio", "waveform", 153_600),
    "text": spec("text", "tokens", 16, vocabulary=2**16, candidates=5),
}
SMALL = {
    "video": spec("video", "frames", 8, (32, 32, 1)),
    "audio": spec("audio", "logmel", 50, (20,)),
    "text": spec("text", "tokens", 6, vocabulary=50, candidates=3),
}


def batch(B=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    words = torch.randint(2, 50, (B, 3, 6), generator=rng)
    words[:, :, 4:] = 0
    return {
        "video": torch.randint(0, 256, (B, 8, 32, 32, 1), generator=rng, dtype=torch.uint8),
        "audio": torch.randn(B, 50, 20, generator=rng),
        "text": words,
    }


def build(**kwargs):
    torch.manual_seed(0)
    return Vatt(ModelConfig(width=32, heads=2, layers=2, feedforward=48, **kwargs), SMALL)


@pytest.mark.parametrize(
    ("preset", "millions"), [("small", 20.9), ("base", 87.9), ("medium", 155.0), ("large", 306.1)]
)
def test_parameters_of_the_video_encoder_as_published(preset, millions):
    """Counted: patch projection and pre_proj, position tables and their norm, AGG token, transformer."""
    with torch.device("meta"):
        model = Vatt(ModelConfig(preset=preset), PUBLISHED)
    parameters = sum(p.numel() for stage in model.stages("video")[:2] for p in stage.parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=0.015)


def test_shapes_and_published_token_grids():
    with torch.device("meta"):
        model = Vatt(ModelConfig(preset="base"), PUBLISHED)
    tables = {m: [t.weight.shape[0] for t in model.stems[m].positions.tables] for m in model.modalities}
    assert tables == {"video": [8, 14, 14], "audio": [1200], "text": [16]}
    out = build()(batch())
    assert {k: tuple(v.shape) for k, v in out.pooled.items()} == {
        "video": (4, 32),
        "audio": (4, 32),
        "text": (4, 3, 32),
    }
    assert {k: tuple(v.shape) for k, v in out.embeddings.items()} == {
        "video_va": (4, 512),
        "video_vt": (4, 256),
        "audio_va": (4, 512),
        "audio_vt": (4, 256),
        "text_vt": (4, 3, 256),
    }


def test_every_parameter_lives_in_a_leaf_module_with_a_forward():
    for sharing in ("agnostic", "specific"):
        model = build(sharing=sharing)
        for module in model.modules():
            if list(module.children()):
                assert not list(module.parameters(recurse=False)), module


def test_video_patches_are_a_strided_3d_convolution():
    patches = VideoPatches((2, 8, 8), 3, 5)
    conv = nn.Conv3d(3, 5, (2, 8, 8), stride=(2, 8, 8))
    with torch.no_grad():
        conv.weight.copy_(patches.proj.weight.view(5, 2, 8, 8, 3).permute(0, 4, 1, 2, 3))
        conv.bias.copy_(patches.proj.bias)
    x = torch.randint(0, 256, (2, 5, 16, 24, 3), dtype=torch.uint8)
    want = conv((x.float() / 127.5 - 1).permute(0, 4, 1, 2, 3)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches(x, None), want, atol=1e-5, rtol=1e-5)
    keep = torch.tensor([5, 0, 3])
    torch.testing.assert_close(patches(x, keep), want[:, keep], atol=1e-5, rtol=1e-5)


def test_padding_words_and_trimming_them_change_nothing():
    model, inputs = build().eval(), batch()
    full = model.encode(inputs)["text"]
    trimmed = model.encode({"text": inputs["text"][:, :, :4]})["text"]
    torch.testing.assert_close(full, trimmed)
    assert torch.isfinite(model.encode({"text": torch.zeros(2, 3, 6, dtype=torch.long)})["text"]).all()


def test_reading_the_agg_token_alone_is_the_same():
    model = build().eval()
    tokens, mask = model.stems["text"](batch()["text"].flatten(0, 1), batch()["text"].flatten(0, 1) != 0)
    every, first = model.transformer(tokens, mask), model.transformer(tokens, mask, queries=1)
    torch.testing.assert_close(first[:, 0], every[:, 0])


def test_modalities_and_samples_do_not_mix_before_the_heads():
    model, inputs = build().eval(), batch()
    alone = model.encode({"video": inputs["video"][1:2]})["video"][0]
    torch.testing.assert_close(model.encode(inputs)["video"][1], alone)


def test_feature_sequences_are_masked():
    specs = {
        "video": spec("video", "embedding", 7, (12,)),
        "audio": spec("audio", "embedding", 5, (6,)),
        "text": spec("text", "embedding", 1, (9,), candidates=2),
    }
    model = Vatt(ModelConfig(width=32, heads=2, layers=1), specs).eval()
    x = torch.randn(3, 7, 12)
    mask = torch.arange(7) < torch.tensor([[7], [4], [2]])
    changed = torch.where(mask.unsqueeze(-1), x, 100.0)
    inputs = {"video_mask": mask, "text": torch.randn(3, 2, 9)}
    a = model.encode({**inputs, "video": x})
    b = model.encode({**inputs, "video": changed})
    torch.testing.assert_close(a["video"], b["video"])
    assert a["text"].shape == (3, 2, 32)


@pytest.mark.parametrize("per_sample", [False, True])
def test_drop_token_keeps_its_share_of_video_and_audio_in_training_only(per_sample):
    model, inputs = build(drop_token=0.5, drop_token_per_sample=per_sample), batch()
    seen = {}
    for name in ("video", "audio", "text"):
        model.stems[name].register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out[0].shape[1]})
        )
    model.train()
    model.encode(inputs)
    assert seen == {"video": 1 + 8 // 2, "audio": 1 + 25 // 2, "text": 1 + 6}
    model.eval()
    model.encode(inputs)
    assert seen == {"video": 1 + 8, "audio": 1 + 25, "text": 1 + 6}


def test_drop_token_equals_dropping_after_the_positions():
    """Leaving a patch out before the projection is the same as dropping its finished token."""
    model, x = build(drop_token=0.5), batch()["video"]
    stem = model.stems["video"].train()
    torch.manual_seed(3)
    dropped, _ = stem(x, None)
    torch.manual_seed(3)
    keep = torch.randperm(8)[:4]
    whole, _ = stem.eval()(x, None)
    torch.testing.assert_close(dropped[:, 1:], whole[:, 1:][:, keep])


def test_agg_token_has_no_position_and_comes_first():
    model = build().eval()
    tokens, _ = model.stems["video"](batch()["video"], None)
    assert torch.equal(tokens[:, 0], model.stems["video"].agg.weight.expand(4, -1))


def test_dropout_is_repeatable_under_a_seed():
    model, inputs = build(dropout=0.3), batch()
    torch.manual_seed(1)
    a = model.encode(inputs)["video"]
    torch.manual_seed(1)
    assert torch.equal(a, model.encode(inputs)["video"])
    assert not torch.equal(a, model.encode(inputs)["video"])


def test_position_interpolation_is_exact_on_the_own_grid_and_on_lines():
    import numpy as np

    np.testing.assert_allclose(spline_matrix(9, 9), np.eye(9), atol=1e-8)
    line = np.arange(8) / 8
    np.testing.assert_allclose(spline_matrix(8, 20) @ line, np.arange(20) / 20, atol=1e-8)
    table = PositionTable(8, 4)
    even = table.at(16)[::2]
    torch.testing.assert_close(even, table.weight, atol=1e-5, rtol=1e-5)
    table.resize(16)
    assert table(3, 16).shape == (3, 16, 4)


@pytest.mark.parametrize(("old", "new"), [(2, 5), (2, 2), (3, 2), (5, 9), (8, 3), (16, 31)])
def test_position_interpolation_is_the_polyharmonic_spline_of_vatts_code(old, new):
    import numpy as np
    from scipy.interpolate import RBFInterpolator

    x, query = np.arange(old)[:, None] / old, np.arange(new)[:, None] / new
    wanted = RBFInterpolator(x, np.eye(old), kernel="cubic", degree=1)(query)
    np.testing.assert_allclose(spline_matrix(old, new), wanted, rtol=0, atol=1e-11)


def test_position_interpolation_of_a_long_table_is_as_exact():
    import numpy as np

    np.testing.assert_allclose(spline_matrix(600, 600), np.eye(600), rtol=0, atol=1e-12)
    np.testing.assert_allclose(spline_matrix(600, 1200)[::2], np.eye(600), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(spline_matrix(1, 3), np.ones((3, 1)))


def test_a_larger_picture_is_read_with_interpolated_positions():
    model = build().eval()
    assert model.encode({"video": torch.zeros(1, 8, 64, 48, 1)})["video"].shape == (1, 32)


def test_fac_head_has_the_published_layers():
    head = build().head
    assert [type(m).__name__ for m in head.video_va] == ["Linear", "BatchNorm", "ReLU", "Linear", "BatchNorm"]
    biases = {
        n: m.bias is not None
        for n, m in [
            ("video0", head.video_va[0]),
            ("video3", head.video_va[3]),
            ("va_vt", head.va_vt),
            ("audio", head.audio_va),
            ("text", head.text_vt),
        ]
    }
    assert biases == {"video0": False, "video3": False, "va_vt": False, "audio": True, "text": True}
    assert head.vt_norm.momentum == 0.1
    assert head.vt_norm.eps == 1e-5


def test_audio_leaves_no_trace_in_the_video_text_norm():
    model = build().train()
    pooled = model.encode(batch())
    model.heads({"audio": pooled["audio"]})
    assert torch.equal(model.head.vt_norm.running_mean, torch.zeros(256))


def test_joint_head_and_specific_stacks():
    model = build(head={"kind": "joint"}, sharing="specific", text_preset="tiny")
    out = model(batch())
    assert out.pooled["text"].shape == (4, 3, 128)
    assert out.embeddings["text_vt"].shape == (4, 3, 512)
    assert torch.equal(out.embeddings["video_va"], out.embeddings["video_vt"])


def test_mismatched_patches_are_named():
    with pytest.raises(BadInput, match=r"model.video_patch: 9 frames.*have 8"):
        build(video_patch=(9, 8, 8))
    with pytest.raises(BadInput, match="two numbers"):
        build(audio_patch=16)
    with pytest.raises(BadInput, match="5x30, but clips have 50"):
        build(audio_patch=(5, 30))


def test_word_vectors_from_a_file(tmp_path):
    import numpy as np

    file = tmp_path / "w.npy"
    np.save(file, np.random.default_rng(0).normal(size=(50, 300)).astype(np.float32))
    model = build(word_vectors=str(file), freeze_words=True)
    words = model.stems["text"].tokeniser.words.weight
    assert torch.equal(words, torch.from_numpy(np.load(file)))
    assert not words.requires_grad
    np.save(file, np.zeros((3, 3)))
    with pytest.raises(BadInput, match=r"shape \(3, 3\)"):
        build(word_vectors=str(file))
    with pytest.raises(BadInput, match="can't be read"):
        build(word_vectors=str(tmp_path / "none.npy"))


def test_activation_checkpointing_gives_the_same_gradients():
    model, inputs = build(dropout=0.2), batch()
    grads = []
    for on in (False, True):
        model.zero_grad()
        model.stack("video").checkpointing = on
        torch.manual_seed(0)
        model.encode(inputs)["video"].square().sum().backward()
        grads.append(model.stems["video"].tokeniser.proj.weight.grad.clone())
    torch.testing.assert_close(*grads)
