"""What stands in for missing data has no part in a step, whatever it is filled with."""

import pytest
import torch

from harmonize_cli.data.batches import Batch, StoreDataset
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.norm_statistics import measure
from harmonize_cli.training.run import Run

CPU = torch.device("cpu")


def _filled(batch: Batch) -> Batch:
    """Absent sounds and captions, and padding captions, as something else than zeros."""
    inputs = {name: x.clone() for name, x in batch.inputs.items()}
    inputs["audio"][~batch.real["audio"]] = 3.0
    inputs["text"][~batch.real["text"]] = 7
    batch.inputs.update(inputs)
    return batch


@pytest.mark.parametrize("kind", ["fac", "joint"])
@pytest.mark.parametrize(
    "harmonize",
    [
        {"mode": "none"},
        {"mode": "realign"},
        {"mode": "both", "scope": "all", "gate": {"schedule": "quantile", "start": 0.5, "end": 0.5}},
    ],
    ids=["plain", "backbone", "all, gated"],
)
def test_fillers_change_no_gradient(store_path, tmp_path, kind: str, harmonize: dict) -> None:
    values = {
        "model": {"width": 32, "heads": 2, "layers": 1, "feedforward": 32, "head": {"kind": kind}},
        "harmonize": harmonize,
        "batch": 24,
        "device": "cpu",
    }
    config = PretrainConfig.model_validate(values)
    store = Store.open(store_path)
    found = []
    for fill in (lambda batch: batch, _filled):
        run = Run(store, config, tmp_path)
        batch = StoreDataset(store, run.specs).batch(range(24))
        assert not batch.real["audio"].all()
        assert not batch.real["text"][batch.present["text"]].all()
        outcome = run.train_step(fill(batch), 0)
        assert harmonize["mode"] != "both" or not outcome.report.kept.all()
        grads = {n: p.grad for n, p in run.model.named_parameters() if p.grad is not None}
        statistics = measure(run.model, [batch], CPU)
        found.append((outcome.total, grads, dict(run.model.named_buffers()), statistics))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
