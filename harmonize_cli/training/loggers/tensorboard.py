"""TensorBoard event files in RUN/events (extra tensorboard)."""

import importlib.util
from pathlib import Path

from harmonize_cli.errors import missing_extra
from harmonize_cli.training.loggers import LOGGERS, Figures, Logger


@LOGGERS.register("tensorboard")
class TensorBoard(Logger):
    """A scalar per figure."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        super().__init__(folder)
        self._events = SummaryWriter(str(folder / "events"))

    @classmethod
    def check(cls) -> None:
        """See `Logger`."""
        if importlib.util.find_spec("tensorboard") is None:
            raise missing_extra("tensorboard", "tensorboard", "loggers: [tensorboard]")

    def write(self, step: int, figures: Figures) -> None:
        """See `Logger`."""
        for name, value in figures.items():
            if value is not None:
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Logger`."""
        self._events.close()
