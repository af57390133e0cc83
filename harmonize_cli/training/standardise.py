"""Means and deviations of the inputs, taken once from the training split before the first step."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.models.base import Model
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import training_samples

SAMPLES = 512
"""Enough for two digits of a mean; the same ones on every rank, evenly spread over the split."""


def fit_inputs(
    model: Model, store: Store, specs: dict[str, InputSpec], config: PretrainConfig, device: torch.device
) -> None:
    """Let the model take statistics of its inputs; samples without the modality do not count."""
    samples = training_samples(store, config.data)
    if not len(samples):
        return
    spread = samples[np.unique(np.linspace(0, len(samples) - 1, SAMPLES).astype(int))]

    def rows_of(modality: str) -> Iterator[Tensor]:
        dataset = StoreDataset(store, {modality: specs[modality]})
        for batch in dataset.batches(spread, 64):
            yield batch.inputs[modality][batch.present[modality]].to(device)

    model.fit_inputs(rows_of)
