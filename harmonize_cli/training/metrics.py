"""metrics.jsonl: one line of numbers every few steps."""

import importlib.util
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonize_cli.errors import missing_extra
from harmonize_cli.ranks import sum_over_ranks
from harmonize_cli.training.run_folder import METRICS
from harmonize_cli.training.step import Outcome


class MetricsLog:
    """Appends lines on rank 0; other ranks' calls do nothing. With `tensorboard`, event files as well."""

    def __init__(self, run: Path, *, write: bool, tensorboard: bool = False) -> None:
        self._file = (run / METRICS).open("a", encoding="utf-8") if write else None
        self._events = _event_writer(run) if write and tensorboard else None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line. NaN and infinity, which JSON lacks, become null."""
        if self._file:
            clean = {k: _finite(v) for k, v in values.items()}
            self._file.write(json.dumps({"step": step, **clean}) + "\n")
            self._file.flush()
        if self._events:
            for name, value in values.items():
                if value is not None:
                    self._events.add_scalar(name, value, step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
        if self._events:
            self._events.close()


def check_tensorboard() -> None:
    """Say before the first step that the extra is missing.

    Raises:
        BadInput: naming the extra.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "tensorboard", "tensorboard: true")


def _event_writer(run: Path) -> Any:
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(run / "events"))


class Pace:
    """Clips per second, and the share of time spent waiting for data, between two lines of the log."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._mark, self._clips, self._waited = self._start, 0, 0.0

    def count(self, clips: int, waited: float) -> None:
        """A step is done."""
        self._clips += clips
        self._waited += waited

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time that is no training: validation, checkpoints."""
        began = time.perf_counter()
        yield
        self._mark += time.perf_counter() - began

    def lap(self) -> dict[str, float]:
        """Figures since the last lap."""
        now = time.perf_counter()
        took = max(now - self._mark, 1e-9)
        figures = {
            "clips_per_s": self._clips / took,
            "wait_share": self._waited / took,
            "seconds": now - self._start,
        }
        self._mark, self._clips, self._waited = now, 0, 0.0
        return figures


class MeanLosses:
    """Mean losses over all ranks' rows since the last line of the log; nothing leaves the device before."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, outcome: Outcome) -> None:
        """A step is done."""
        self._steps += 1
        figures = {"loss": torch.stack([outcome.total.double(), torch.zeros_like(outcome.total).double()])}
        for name, term in outcome.terms.items():
            figures[name] = torch.stack([term.per_sample.sum().double(), term.valid.sum().double()])
        for name, figure in figures.items():
            self._sums[name] = self._sums[name] + figure if name in self._sums else figure

    def lap(self) -> dict[str, Any]:
        """`loss` is the weighted total, `loss_va` and so on are means over the samples that have the pair."""
        if not self._steps:  # none of them was finite
            return {"loss": None}
        names = list(self._sums)
        table = sum_over_ranks(torch.stack([self._sums[name] for name in names])).tolist()
        found: dict[str, Any] = {"loss": table[0][0] / self._steps}
        for name, (total, count) in zip(names[1:], table[1:], strict=True):
            found[f"loss_{name}"] = total / count if count else None
        self.reset()
        return found

    def reset(self) -> None:
        """Forget what was added."""
        self._sums, self._steps = {}, 0


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
