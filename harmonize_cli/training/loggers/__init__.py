"""Where a run's figures go, one file each; `jsonl` always, others by `loggers` in the config."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonize_cli.registry import Registry

Figures = Mapping[str, Any]


class Logger(ABC):
    """Made as `Kind(run_folder)` on rank 0. Subclasses register in `LOGGERS`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod  # noqa: B027 (most need nothing)
    def check(cls) -> None:
        """Before the first step: whether it can be used.

        Raises:
            BadInput: a package that is missing, and the like.
        """

    @abstractmethod
    def write(self, step: int, figures: Figures) -> None:
        """Figures after `step` steps; None where one is undefined."""

    @abstractmethod
    def close(self) -> None:
        """The run has ended."""


LOGGERS: Registry[type[Logger]] = Registry(
    "logger", group="harmonize.loggers", package="harmonize_cli.training.loggers"
)


class Loggers:
    """All loggers of a run, as a context; `names` None for none at all, as on other ranks than the first."""

    def __init__(self, names: Sequence[str] | None, folder: Path) -> None:
        wanted = [] if names is None else dict.fromkeys(["jsonl", *names])
        self._loggers = [LOGGERS.find(name)(folder) for name in wanted]

    def write(self, step: int, figures: Figures) -> None:
        """To each of them."""
        for logger in self._loggers:
            logger.write(step, figures)

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.close()
