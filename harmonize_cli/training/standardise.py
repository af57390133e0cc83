"""Means and deviations of the inputs, taken once from the training split before the first step."""

import numpy as np
import torch

from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.data.windows import InputSpec
from harmonize_cli.models.tokenisers import PatchTokens
from harmonize_cli.models.vatt import Vatt
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import training_samples

SAMPLES = 512
"""Enough for two digits of a mean; the same ones on every rank, evenly spread over the split."""


def fit_inputs(
    model: Vatt, store: Store, specs: dict[str, InputSpec], config: PretrainConfig, device: torch.device
) -> None:
    """Fit `Standardise` of every tokeniser that has one; samples without the modality do not count."""
    samples = training_samples(store, config.data)
    if not len(samples):
        return
    spread = samples[np.unique(np.linspace(0, len(samples) - 1, SAMPLES).astype(int))]
    for modality in model.modalities:
        tokeniser = model.stems[modality].tokeniser
        if isinstance(tokeniser, PatchTokens) and tokeniser.standardise is not None:
            dataset = StoreDataset(store, {modality: specs[modality]})
            tokeniser.standardise.fit(
                tokeniser.patches(batch.inputs[modality][batch.present[modality]].to(device), None)
                for batch in dataset.batches(spread, 64)
            )
