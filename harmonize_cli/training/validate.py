"""Zero-shot retrieval on a validation split, now and then during training."""

from pathlib import Path

import numpy as np
import torch

from harmonize_cli.evaluation.embed import embed_pool
from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.evaluation.retrieval import measure
from harmonize_cli.models.base import Model
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig, ValidationConfig
from harmonize_cli.training.data import no_split

SCORE = "val/score"
"""Mean R@10 over all directions that the data allow: what `best` is chosen by."""
SHOWN = ("R@1", "R@10", "MedR")


class Validator:
    """Retrieval among the first `samples` of a split; one window per clip, ties at their expected rank."""

    def __init__(
        self, store: Store, rows: np.ndarray, specs: dict[str, InputSpec], config: PretrainConfig, run: Path
    ) -> None:
        self.store, self.rows, self.specs, self.config, self.run = store, rows, specs, config, run

    def __call__(self, model: Model, step: int) -> dict[str, float]:
        """Metrics by name; `SCORE` is among them."""
        loaded = LoadedModel(
            model, self.config.model_dump(mode="json"), self.specs, "", self.run, step, self.run
        )
        protocol = RetrievalProtocol(windows=1, pool="all")
        training = model.training
        model.eval()
        try:
            with torch.random.fork_rng(devices=[]):
                pool = embed_pool(loaded, self.store, self.rows, protocol, cache=False)
                found = measure(pool, protocol, device=str(next(model.parameters()).device)).queries
        finally:
            model.train(training)
        values = {f"{way}/{name}": x for way, asked in found.items() for name, x in asked.points().items()}
        r10 = [value for name, value in values.items() if name.endswith("/R@10")]
        shown = {f"val/{name}": value for name, value in values.items() if name.split("/")[1] in SHOWN}
        return {SCORE: float(np.mean(r10)), **shown}


def validation_samples(store: Store, config: ValidationConfig) -> np.ndarray:
    """Indices to validate on; none where validation is off or the store has no such split.

    Raises:
        BadInput: a split was asked for that the store lacks.
    """
    if not config.every or (config.split is None and "val" not in store.splits):
        return np.empty(0, np.int64)
    split = config.split or "val"
    if split not in store.splits:
        raise no_split("validation.split", store, split)
    return np.asarray(store.select(split=split))[: config.samples]
