"""What may decide on the samples of a run: a curriculum, for one."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from torch import Tensor

from harmonize_cli.data.batches import Batch
from harmonize_cli.harmony import Gate
from harmonize_cli.objectives.base import LossOutput


class Guide(Protocol):
    """Decides which samples come and what they keep; the same on every rank and after a resume."""

    def order(self, epoch: int) -> np.ndarray:
        """As `training.order.EpochOrder`."""

    def before(self, batch: Batch, step: int) -> Batch:
        """The batch that the losses of `step` (from 0) are made from."""

    def gate(self, step: int) -> Gate | None:
        """What the gradient engine lets pass at `step`; None: all."""

    def after(
        self, batch: Batch, embeddings: Mapping[str, Tensor], terms: Mapping[str, LossOutput], step: int
    ) -> Batch | None:
        """What to make the losses from instead, now that embeddings and first losses are known; None:
        nothing changes."""
