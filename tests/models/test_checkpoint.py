"""Checkpoints that can't be used say so, and what to do."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harmonize_cli.errors import BadInput
from harmonize_cli.models.checkpoint import (
    MANIFEST,
    STATE,
    WEIGHTS,
    load_model,
    read_loss_state,
    write_checkpoint,
)
from harmonize_cli.models.config import ModelConfig
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.models.vatt import Vatt

SPECS = {
    "video": InputSpec("video", "video/frames", "frames", 4, (8, 8, 1)),
    "text": InputSpec("text", "text/tokens", "tokens", 4, (), vocabulary=20),
}
CONFIG = ModelConfig.model_validate(
    {"preset": "tiny", "layers": 2, "width": 16, "heads": 2, "feedforward": 16, "word_dim": 8}
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    about = {
        "config": {"model": CONFIG.model_dump(mode="json")},
        "inputs": {modality: spec.to_dict() for modality, spec in SPECS.items()},
    }
    write_checkpoint(tmp_path, 3, Vatt(CONFIG, SPECS).state_dict(), {}, about)
    return tmp_path


def _edit(run: Path, **model: object) -> None:
    """Change the model's config in the manifest, as a user might to try something."""
    file = run / "last" / MANIFEST
    manifest = json.loads(file.read_text())
    manifest["config"]["model"] |= model
    file.write_text(json.dumps(manifest))


def test_weights_come_back(run: Path) -> None:
    saved = load_file(run / "last" / WEIGHTS)
    loaded = load_model(run)
    assert loaded.step == 3
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.model.state_dict().items())


def test_a_state_without_losses_has_learned_nothing_and_a_damaged_one_is_told(run: Path) -> None:
    assert read_loss_state(run / "last") == {}
    (run / "last" / STATE).write_bytes(b"no state")
    with pytest.raises(BadInput, match=r"state\.pt: can't be read"):
        read_loss_state(run / "last")


def test_weights_that_do_not_fit_are_named_with_both_shapes(run: Path) -> None:
    _edit(run, feedforward=24)
    with pytest.raises(BadInput, match=r"weights\.safetensors: not the weights of the model") as caught:
        load_model(run)
    assert "[16, 16] in the file, [24, 16] in the model" in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [(3, r"blocks\.2\..*missing in the file"), (1, r"blocks\.1\..*unknown to the model")],
)
def test_missing_and_unknown_weights_are_named(run: Path, layers: int, complaint: str) -> None:
    _edit(run, layers=layers)
    with pytest.raises(BadInput, match=complaint):
        load_model(run)


def test_a_file_that_is_no_safetensors_is_named(run: Path) -> None:
    (run / "last" / WEIGHTS).write_bytes(b"PK not tensors")
    with pytest.raises(BadInput, match=r"damaged checkpoint \(weights\.safetensors differs"):
        load_model(run)
    with pytest.raises(BadInput, match=r"weights\.safetensors: can't be read"):
        load_model(run, verify=False)


def test_a_run_without_a_checkpoint_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"`harmonize pretrain STORE -o \S+` writes one"):
        load_model(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(BadInput, match=r"`harmonize pretrain STORE -o \S+ --resume` writes one"):
        load_model(tmp_path)
    save_file({}, tmp_path / WEIGHTS)  # weights alone are no checkpoint
    with pytest.raises(BadInput, match="no checkpoint in it yet"):
        load_model(tmp_path)


def test_a_best_one_needs_validation(run: Path) -> None:
    with pytest.raises(
        BadInput, match=r"no checkpoint 'best'; it has step-00000003 \(best is marked by vali"
    ):
        load_model(run, "best")
