"""While one file is written, the next one is already being decoded."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
_BUFFER = 4


def prefetch(makers: Iterable[Callable[[], Iterator[T]]], *, depth: int = 1) -> Generator[T, None, None]:
    """The items of all iterators that `makers` make, in order; `depth` of the coming ones run in threads.

    Each holds at most a few items, so memory stays bounded. An exception comes out at its place in the
    order. Closing this generator ends all threads.
    """
    waiting = iter(makers)
    running: deque[_Stream[T]] = deque()
    try:
        while True:
            while len(running) <= depth and (maker := next(waiting, None)) is not None:
                running.append(_Stream(maker))
            if not running:
                return
            yield from running[0]
            running.popleft().stop()
    finally:
        for stream in running:
            stream.stop()


class _Stream(Generic[T]):
    """One iterator in a thread of its own."""

    def __init__(self, maker: Callable[[], Iterator[T]]) -> None:
        self._queue: queue.Queue[T | _End] = queue.Queue(_BUFFER)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(maker,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def stop(self) -> None:
        """End the thread; its iterator is closed there."""
        self._stopped.set()
        self._thread.join()

    def _run(self, maker: Callable[[], Iterator[T]]) -> None:
        end = _End()
        try:
            items = maker()
            try:
                for item in items:
                    if not self._put(item):
                        return
            finally:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
        except BaseException as e:  # handed to the thread that reads
            end = _End(e)
        self._put(end)

    def _put(self, item: "T | _End") -> bool:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return True
        return False


class _End:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
