"""Figures of a run between two lines of its log, and as text."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harmonize_cli.harmony import HarmonyReport
from harmonize_cli.ranks import gather, ranks, sum_over_ranks
from harmonize_cli.training.step import Outcome

SCORE = "val/score"
"""What `best` is chosen by: of the retrieval validator the mean R@10 over all directions."""


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


def format_validation(figures: dict[str, float]) -> str:
    """A validation in one line."""
    r10 = {k.split("/")[1]: v for k, v in figures.items() if k.endswith("/R@10")}
    each = ", ".join(f"{direction} {value:.3f}" for direction, value in r10.items())
    return f"validation R@10 {figures[SCORE]:.3f} ({each})"


def harmony_figures(report: HarmonyReport | None) -> dict[str, Any]:
    """What harmonization saw in a step, on all ranks."""
    if report is None:
        return {}
    if ranks() > 1:
        report = replace(
            report,
            gram=gather(report.gram),
            cosine=gather(report.cosine),
            weights=gather(report.weights),
            kept=gather(report.kept),
        )
    figures: dict[str, Any] = report.scalars()
    return {"harmony_seconds": figures.pop("seconds"), **figures}


def format_progress(figures: dict[str, Any]) -> str:
    """The text of the progress bar."""
    conflict = figures.get("conflict_share")
    share = f", conflict {conflict:.0%}" if conflict is not None else ""
    loss = "not finite" if figures["loss"] is None else f"{figures['loss']:.3f}"
    return f"loss {loss}{share}, {figures['clips_per_s']:.0f} clips/s"
