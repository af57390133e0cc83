"""A second model behind the protocol: three towers of Hugging Face, through a run's whole life."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_run import small_store

from harmonize_cli.config import validate
from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.validation import retrieval_scores
from harmonize_cli.models.base import MODELS, blank_inputs, make_model
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.models.config import ModelConfig
from harmonize_cli.models.export import export_encoder, load_encoder
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.models.towers import TowersConfig
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.overview import describe_model
from harmonize_cli.training.run_folder import read_metrics

HF = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MODEL = {
    "kind": "towers",
    "video": {"config": {**HF, "patch_size": 4, "tubelet_size": 2}},
    "audio": {"config": {**HF, "patch_size": 4, "frequency_stride": 4, "time_stride": 4}},
    "text": {"config": {**HF, "hidden_dropout_prob": 0.1}},
    "space": 12,
}


def settings(**more) -> PretrainConfig:
    base = {
        "batch": 8,
        "steps": 6,
        "log_every": 1,
        "device": "cpu",
        "checkpoint": {"every": 3},
        "model": MODEL,
    }
    return validate(PretrainConfig, {**base, **more}, source="test")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("towers") / "store.h5")


def test_a_run_trains_harmonizes_stops_goes_on_and_is_evaluated(store, tmp_path):
    config = settings(harmonize={"mode": "both"}, validation={"every": 3})
    pretrain(store, tmp_path / "whole", config)
    lines = read_metrics(tmp_path / "whole")
    assert any("conflict_share" in line for line in lines)
    assert any("val/score" in line for line in lines)
    pretrain(store, tmp_path / "parts", config)
    (tmp_path / "parts/checkpoints/step-00000006/manifest.json").unlink()
    pretrain(store, tmp_path / "parts")
    one, two = (load_file(tmp_path / run / "last/weights.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)

    loaded = load_model(tmp_path / "whole")
    assert type(loaded.model).__name__ == "Towers"
    assert "text-to-video/R@10" in retrieval_scores(loaded, Store.open(store), np.arange(20))

    export_encoder(loaded, tmp_path / "encoder", heads=True, vocab=None)
    again = load_encoder(tmp_path / "encoder")
    inputs = blank_inputs(loaded.specs)
    for name, z in loaded.model.encode(inputs).items():
        assert torch.equal(z, again.encode(inputs)[name])


@pytest.mark.parametrize("scope", ["auto", "shared", "representation"])
def test_each_scope_that_separate_towers_have(store, tmp_path, scope):
    pretrain(store, tmp_path / "run", settings(harmonize={"mode": "realign", "scope": scope}, steps=2))
    rows = describe_model(load_model(tmp_path / "run").specs, settings(harmonize={"scope": scope}))
    inside = {row.path.split(".")[1] for row in rows if row.in_scope}
    assert inside == (set() if scope == "representation" else {"video"})


def test_backbone_says_what_to_take_instead(store, tmp_path):
    with pytest.raises(BadInput, match="Use scope shared"):
        pretrain(store, tmp_path / "run", settings(harmonize={"mode": "realign", "scope": "backbone"}))


def test_features_waveforms_and_single_frames(tmp_path):
    specs = {
        "video": InputSpec("video", "video/frames", "frames", 3, (8, 8, 3)),
        "audio": InputSpec("audio", "audio/waveform", "waveform", 4000, ()),
        "text": InputSpec("text", "text/clip", "embedding", 1, (7,), candidates=2),
    }
    speech = {
        **HF,
        "conv_dim": [8, 8],
        "conv_stride": [8, 8],
        "conv_kernel": [8, 8],
        "num_feat_extract_layers": 2,
    }
    speech |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0}
    values = {"video": {"type": "vit", "config": {**HF, "patch_size": 4}}, "audio": {"config": speech}}
    config = TowersConfig.model_validate({"kind": "towers", **values, "text": {"config": HF}})
    model = make_model(config, specs)
    shapes = {name: tuple(z.shape) for name, z in model(blank_inputs(specs)).embeddings.items()}
    assert shapes["video_va"] == shapes["audio_vt"] == (2, 256)
    assert shapes["text_vt"] == (2, 2, 256)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"kind": "tower"}, "did you mean 'towers'"),
        ({"kind": "towers", "space": 0}, "model.space: Input should be greater"),
        ({"kind": "towers", "preset": "tiny"}, "model.preset: unknown key"),
        ({"kind": "towers", "text": {"type": "bart1"}}, "model.text: Hugging Face makes no model"),
        ({"kind": "towers", "text": {"weights": "/nowhere"}}, "model.text: Hugging Face makes no model"),
        ({"kind": "towers", "text": {"weights": "x", "config": HF}}, "give one of the two"),
    ],
)
def test_models_that_cannot_be_are_refused(store, tmp_path, model, message):
    with pytest.raises(BadInput, match=message):
        pretrain(store, tmp_path / "run", settings(model={**MODEL, **model}))


def test_the_registry_has_both(store):
    assert {"vatt", "towers"} <= set(MODELS)
    assert isinstance(settings(model={"preset": "tiny"}).model, ModelConfig)
