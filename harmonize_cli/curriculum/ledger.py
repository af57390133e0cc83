"""The conflict ledger: what every sample's visit of a pre-training looked like.

    RUN/ledger/rank-000-00000001-00000100.npz    this rank's visits of steps 1 to 100

Parts are only ever added, one per checkpoint and rank, so a kill costs what the checkpoint costs, and ranks
need not talk. Columns: index (row of the store), step, epoch, and float32 loss_<pair>, cosine, norm_<pair>,
kept; NaN where undefined or, with an engine that looks at some steps only, not looked at.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.data.batches import Batch
from harmonize_cli.errors import BadInput
from harmonize_cli.files import read_arrays, write_arrays
from harmonize_cli.harmony import HarmonyReport
from harmonize_cli.objectives.base import LossOutput
from harmonize_cli.ranks import rank, ranks

FOLDER = "ledger"
_PART = re.compile(r"rank-(\d{1,9})-(\d{1,18})-(\d{1,18})\.npz")
Visits = dict[str, NDArray[Any]]


class Ledger:
    """A `training.hooks.Recorder` that appends to RUN/ledger."""

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER
        self._visits: list[Visits] = []

    def record(
        self,
        step: int,
        epoch: int,
        batch: Batch,
        terms: Mapping[str, LossOutput],
        report: HarmonyReport | None,
    ) -> None:
        """Keep the visits of a step in memory until the next `flush`."""
        size = len(batch)
        visits: Visits = {
            "index": batch.indices.astype(np.int32),
            "step": np.full(size, step, np.int32),
            "epoch": np.full(size, epoch, np.int32),
        }
        for name, term in terms.items():
            undefined = term.per_sample.detach().float().masked_fill(~term.valid, float("nan"))
            visits[f"loss_{name}"] = undefined.cpu().numpy()
        if report is not None:
            for name, column in report.arrays().items():
                if not name.startswith("weight_") and len(column) == size:
                    visits[name] = column.float().numpy()
        self._visits.append(visits)

    def flush(self, step: int) -> None:
        """Write what came since the last time as one part."""
        if not self._visits:
            return
        self._write(rank(), step, _joined(self._visits))
        self._visits = []

    def rewind(self, step: int) -> None:
        """Forget visits after `step`: they are going to be made again, maybe by fewer ranks than before."""
        self._visits = []
        for path in sorted(self.folder.glob("rank-*.npz")):
            owner, first, last = _span(path)
            if last <= step or owner % ranks() != rank():
                continue
            if first <= step:
                visits = _read(path)
                kept = {name: column[visits["step"] <= step] for name, column in visits.items()}
                self._write(owner, step, kept)
            path.unlink()

    def _write(self, owner: int, step: int, visits: Visits) -> None:
        path = self.folder / f"rank-{owner:03d}-{int(visits['step'][0]):08d}-{step:08d}.npz"
        write_arrays(path, visits)


def read_ledger(run: Path) -> Visits:
    """All visits of all ranks, by step.

    Raises:
        BadInput: the run has no ledger, or a damaged one.
    """
    parts = [_read(path) for path in sorted((run / FOLDER).glob("rank-*.npz"))]
    if not parts:
        raise BadInput(
            f"{run}: has no ledger; it was trained with --no-ledger, or no checkpoint was written yet"
        )
    visits = _joined(parts)
    order = np.lexsort((visits["index"], visits["step"]))
    return {name: column[order] for name, column in visits.items()}


def _joined(parts: list[Visits]) -> Visits:
    """Parts one after another; a column that one lacks is NaN there."""
    names = dict.fromkeys(name for part in parts for name in part)
    sizes = [len(part["index"]) for part in parts]
    return {
        name: np.concatenate(
            [part.get(name, np.full(n, np.nan, np.float32)) for part, n in zip(parts, sizes, strict=True)]
        )
        for name in names
    }


def _span(path: Path) -> tuple[int, int, int]:
    """Rank, first and last step of a part."""
    match = _PART.fullmatch(path.name)
    if match is None:
        raise BadInput(f"{path}: is no part of a ledger; remove it")
    return int(match[1]), int(match[2]), int(match[3])


def _read(path: Path) -> Visits:
    part = read_arrays(path, hint="remove it to go on without its steps").columns("index", "step", "epoch")
    if not len(part["step"]):
        raise part.damaged("no visits")
    if part["index"].min() < 0 or any(part[name].dtype.kind == "U" for name in part):
        raise part.damaged("a row or a number is none")
    return part
