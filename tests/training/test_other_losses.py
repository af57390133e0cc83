"""Runs with other losses than VATT's: they train, harmonize, stop and go on."""

import pytest
import torch
from safetensors.torch import load_file

from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.run_folder import read_metrics

BASE = {
    "batch": 16,
    "log_every": 1,
    "optim": {"lr": 2e-3},
    "checkpoint": {"every": 3},
    "model": {"width": 32, "heads": 2, "layers": 2, "feedforward": 64, "head": {"va": 32, "vt": 16}},
}
TERMS = {
    "two_kinds_on_one_pair": (["vt", "siglip:vt"], ["nce_vt", "siglip_vt"]),
    "pair_and_triple": (["va", {"kind": "gramian", "on": "vat", "weight": 0.5}], ["va", "vat"]),
    "four": (["rince:va", "siglip:vt", "at", "symile:vat"], ["va", "vt", "at", "vat"]),
}


def settings(terms, *, steps: int, **more) -> PretrainConfig:
    return PretrainConfig.model_validate({**BASE, "loss": {"terms": terms}, "steps": steps, **more})


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("scope", ["representation", "shared"])
def test_losses_are_harmonized_and_a_resume_is_exact(store_path, tmp_path, name, scope):
    terms, names = TERMS[name]
    harmonize = {"mode": "both", "scope": scope, "gate": {"rejected": names[-1]}}
    pretrain(store_path, tmp_path / "whole", settings(terms, steps=6, harmonize=harmonize))
    lines = read_metrics(tmp_path / "whole")
    assert {f"loss_{each}" for each in names} <= lines[0].keys()
    assert {"conflict_share", *(f"weight_{each}" for each in names)} <= lines[0].keys()
    pretrain(store_path, tmp_path / "parts", settings(terms, steps=6, harmonize=harmonize))
    (tmp_path / "parts/checkpoints/step-00000006/manifest.json").unlink()
    pretrain(store_path, tmp_path / "parts")
    one, two = (load_file(tmp_path / run / "last" / "weights.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", TERMS)
def test_every_loss_falls(store_path, tmp_path, name):
    terms, names = TERMS[name]
    pretrain(store_path, tmp_path / "run", settings(terms, steps=120, log_every=20))
    lines = read_metrics(tmp_path / "run")
    for each in names:
        assert lines[-1][f"loss_{each}"] < lines[0][f"loss_{each}"], each
