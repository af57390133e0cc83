"""metrics.jsonl: one line of numbers every few steps."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonize_cli.training.run_folder import METRICS


class MetricsLog:
    """Appends lines on rank 0; other ranks' calls do nothing."""

    def __init__(self, run: Path, *, write: bool) -> None:
        self._file = (run / METRICS).open("a", encoding="utf-8") if write else None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line. NaN and infinity, which JSON lacks, become null."""
        if self._file:
            clean = {k: _finite(v) for k, v in values.items()}
            self._file.write(json.dumps({"step": step, **clean}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


class Pace:
    """Clips per second, and the share of time spent waiting for data, between two lines of the log."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._mark, self._clips, self._waited = self._start, 0, 0.0

    def count(self, clips: int, waited: float) -> None:
        """A step is done."""
        self._clips += clips
        self._waited += waited

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


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
