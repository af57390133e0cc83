"""SIGTERM asks for a checkpoint and a clean end; the loop looks at the flag once per step."""

import signal
import threading
from types import FrameType


class StopOnSignal:
    """Context in which SIGTERM sets `asked` instead of ending the process. A second one ends it."""

    def __init__(self) -> None:
        self.asked = False
        self._before: signal.Handlers | object = signal.SIG_DFL

    def __enter__(self) -> "StopOnSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise SystemExit(143)
        self.asked = True
