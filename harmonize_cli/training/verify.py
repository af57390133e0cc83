"""`--verify`: the engine's exactness, on the user's own model and batch."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.harmony import Verification, verify
from harmonize_cli.ranks import pick_device
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import training_samples
from harmonize_cli.training.order import Schedule, shuffled
from harmonize_cli.training.setup import build, start_state

SAMPLES = 16
"""Samples of the batch that are looped over one by one."""


def verify_gradients(store_path: Path, config: PretrainConfig) -> Verification:
    """Compare the first batch's harmonized step with a loop of single-sample backward passes.

    With mode none, rule and scope of the config are checked all the same.

    Raises:
        BadInput: as `pretrain`.
    """
    if config.harmonize.mode == "none":
        section = config.harmonize.model_copy(update={"mode": "realign"})
        config = config.model_copy(update={"harmonize": section})
    device = pick_device(config.device)
    store = Store.open(store_path)
    parts = build(store, config, 1, device)
    assert parts.harmonizer is not None
    gradients = start_state(parts, config).gradients
    schedule = Schedule(shuffled(training_samples(store, config.data), config.seed), config.batch)
    batch = StoreDataset(store, parts.specs, seed=config.seed).batch(schedule.draws(0)).to(device)

    def forward() -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        pooled, terms = gradients.forward(batch, 0)
        return {name: term.value for name, term in terms.items()}, pooled

    return verify(parts.harmonizer, forward, units=min(SAMPLES, config.batch))
