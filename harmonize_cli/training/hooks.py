"""What a run takes from outside: a guide that decides on its samples, recorders, a validator."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from harmonize_cli.data.batches import Batch
from harmonize_cli.harmony import Gate, HarmonyReport
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.objectives.base import LossOutput
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig

if TYPE_CHECKING:
    from harmonize_cli.training.run import Run


class Guide(Protocol):
    """Decides which samples come and what they keep; the same on every rank and after a resume."""

    @property
    def by_conflict(self) -> bool:
        """Whether `gate` may gate at any step."""

    def check(self, config: PretrainConfig, specs: Mapping[str, InputSpec]) -> None:
        """Whether a run with these inputs can follow.

        Raises:
            BadInput: it can't.
        """

    def keep(self, folder: Path, store: Store) -> None:
        """Write what is needed to go on the same way into the run's folder."""

    def order(self, epoch: int) -> np.ndarray:
        """As `training.data.EpochOrder`."""

    def before(self, batch: Batch, step: int) -> Batch:
        """The batch that the losses of `step` (from 0) are made from."""

    def gate(self, step: int) -> Gate | None:
        """What the gradient engine lets pass at `step`; None: all."""

    def after(
        self, batch: Batch, embeddings: Mapping[str, Tensor], terms: Mapping[str, LossOutput], step: int
    ) -> Batch | None:
        """What to make the losses from instead, now that embeddings and first losses are known; None:
        nothing changes."""


MakeGuide = Callable[["Run"], Guide | None]
"""From a run's folder, store, rows, config, steps and first step to what guides it; None: nothing does."""

Validator = Callable[[LoadedModel, Store, np.ndarray], dict[str, float]]
"""Metrics of some samples [N] of a store; `score` is what `best` is chosen by, larger being better."""


class Recorder(Protocol):
    """Watches every step on each rank; nothing that it does may change the run."""

    def record(
        self,
        step: int,
        epoch: int,
        batch: Batch,
        terms: Mapping[str, LossOutput],
        report: HarmonyReport | None,
    ) -> None:
        """After the gradients of `step` (from 1) are there; `terms` has the per-sample losses [B]."""

    def flush(self, step: int) -> None:
        """Before the checkpoint of `step` becomes visible: everything up to `step` must be on disk."""

    def rewind(self, step: int) -> None:
        """On a resume: steps after `step` are going to be made again."""
