"""Work in several processes, none of which outlives the one that started them."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from harmonize_cli.errors import HarmonizeError

Item = TypeVar("Item")
Done = TypeVar("Done")
_PATIENCE = 5.0
"""Seconds that a worker has to clean up before it is killed."""


def in_processes(
    function: Callable[[Item], Done], items: Sequence[Item], workers: int, *, killed: str
) -> Iterator[Done]:
    """What `function` makes of each item, as it gets done, in up to `workers` spawned processes.

    Ctrl-C is the parent's to decide on. When this generator is closed or fails the workers are ended; when
    the parent is killed they end by themselves.

    Raises:
        HarmonizeError: a worker was killed from outside; `killed` says how to go on.
    """
    size = min(workers, len(items))
    if not size:
        return
    context = get_context("spawn")  # this process may hold threads and open files
    with ProcessPoolExecutor(size, context, _begin) as pool:
        try:
            left = list(reversed(items))
            work = partial(_work, function)
            # a few are handed out ahead, so that no worker waits
            running = {pool.submit(work, left.pop()) for _ in range(min(len(left), 2 * size))}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                    if left:
                        running.add(pool.submit(work, left.pop()))
        except BrokenProcessPool:
            raise HarmonizeError(
                f"a worker process was killed, perhaps for want of memory; {killed}"
            ) from None
        except BaseException:
            _end(list((getattr(pool, "_processes", None) or {}).values()))
            pool.shutdown(cancel_futures=True)
            raise


def _end(processes: Sequence[Any]) -> None:
    for process in processes:
        with suppress(OSError):
            process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        if process.exitcode is None:
            with suppress(OSError):
                process.kill()


# ---- in the worker


class _Terminated(BaseException):
    """SIGTERM: leave all `with` blocks, so that nothing half-written stays."""


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminated)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _work(function: Callable[[Item], Done], item: Item) -> Done:
    try:
        return function(item)
    except _Terminated:
        os._exit(128 + signal.SIGTERM)


def _end_with_parent() -> None:
    """Wait until the parent is gone, however it ended, and go too, with the ffmpeg that may be running."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    for child in _children():
        with suppress(OSError):
            os.killpg(child, signal.SIGKILL)
    os._exit(1)


def _children() -> list[int]:
    """Child processes, where the system tells."""
    found: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, file.read_text().split())
    return found
