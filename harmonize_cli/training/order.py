"""Which samples come at which step: a pure function, so that a step number is all a resume needs."""

from collections.abc import Callable, Iterator

import numpy as np

from harmonize_cli.data.batches import Draw
from harmonize_cli.errors import BadInput

EpochOrder = Callable[[int], np.ndarray]
"""Epoch -> indices of the samples in the order of that epoch; the same length for every epoch."""


def shuffled(indices: np.ndarray, seed: int) -> EpochOrder:
    """Every sample once an epoch, in an order given by (seed, epoch)."""

    def order(epoch: int) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        return rng.permutation(indices)

    return order


class Schedule:
    """Batches of a run by step; an epoch's last incomplete batch is left out.

    Each step's batch is cut into equal consecutive shares, one per rank: the ranks' rows together are
    what one process would read. `parts`: how many equal parts each share is going to be made in.
    """

    def __init__(
        self, order: EpochOrder, batch: int, *, rank: int = 0, ranks: int = 1, parts: int = 1
    ) -> None:
        samples = len(order(0))
        if batch > samples:
            raise BadInput(
                f"batch: {batch} clips a step, but there are only {samples} to train on; "
                f"choose --set batch={max(2, samples // 4)} or less"
            )
        if batch % ranks:
            raise BadInput(f"batch: {batch} can't be shared by {ranks} processes; make it a multiple")
        if batch // ranks % parts:
            raise BadInput(
                f"accumulate: the {batch // ranks} clips of each of {ranks} processes can't be made in "
                f"{parts} equal parts; change batch or accumulate"
            )
        self.order, self.batch, self.rank, self.ranks = order, batch, rank, ranks
        self.per_epoch = samples // batch
        self._epoch, self._indices = -1, np.empty(0, dtype=np.int64)

    def epoch(self, step: int) -> int:
        """The epoch that `step` (from 0) belongs to."""
        return step // self.per_epoch

    def draws(self, step: int) -> list[Draw]:
        """This rank's part of the batch of `step`."""
        epoch, k = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._indices = epoch, self.order(epoch)
        share = self.batch // self.ranks
        start = k * self.batch + self.rank * share
        return [Draw(int(i), epoch) for i in self._indices[start : start + share]]

    def from_step(self, first: int, last: int) -> Iterator[list[Draw]]:
        """The batches of steps first .. last - 1."""
        return (self.draws(step) for step in range(first, last))
