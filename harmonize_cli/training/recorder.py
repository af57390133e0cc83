"""What may watch a run: the conflict ledger, for one."""

from collections.abc import Mapping
from typing import Protocol

from harmonize_cli.data.batches import Batch
from harmonize_cli.harmony import HarmonyReport
from harmonize_cli.objectives.base import LossOutput


class Recorder(Protocol):
    """Told of every step on each rank; none of its doings may change the run."""

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
