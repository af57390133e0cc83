"""The time that one file may take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Deadline:
    """`seconds` from now on, less those `spent` before. While it is `paused` the clock stands still.

    A decoder also waits for those who take its rows: an encoder that is slow, the file before this one. That
    is not its time, and no reason to kill it.
    """

    def __init__(self, seconds: float, spent: float = 0.0) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds - spent
        self._paused: float | None = None

    def left(self) -> float:
        """Seconds that are left, 0 or less when it has passed."""
        paused = self._paused
        return self._until - (time.monotonic() if paused is None else paused)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around the time that others take."""
        begin = self._paused = time.monotonic()
        try:
            yield
        finally:
            self._until += time.monotonic() - begin
            self._paused = None
