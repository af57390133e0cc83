"""metrics.jsonl: one line of numbers every few steps."""

import json
import math
from pathlib import Path

from harmonize_cli.training.loggers import LOGGERS, Figures, Logger
from harmonize_cli.training.run_folder import METRICS


@LOGGERS.register("jsonl")
class JsonLines(Logger):
    """NaN and infinity, which JSON lacks, become null."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._file = (folder / METRICS).open("a", encoding="utf-8")

    def write(self, step: int, figures: Figures) -> None:
        """One line."""
        clean = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in figures.items()
        }
        self._file.write(json.dumps({"step": step, **clean}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """See `Logger`."""
        self._file.close()
