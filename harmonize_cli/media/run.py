"""The one place that starts ffmpeg.

A child that nobody reads blocks for ever, a return code that nobody checks is a silent truncation, and an
ffmpeg left alone may wait for a key or for the network. So: an argument list (never a shell), no stdin unless
we feed it, messages to a temporary file whose tail becomes the reason, a deadline, and a process group of its
own that is killed as a whole, by the system where this process can't do it any more.
"""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, Any, Self

import ffmpeg

from harmonize_cli.media.binary import find_ffmpeg
from harmonize_cli.media.deadline import Deadline
from harmonize_cli.media.errors import DeadlinePassed, MediaError

QUIET = ("-hide_banner", "-nostdin", "-nostats")
# every message starts with its level, so that errors can be told from the description of the input
LOG = ("-loglevel", "level+info")
_LOG_HEAD, _LOG_TAIL = 1 << 16, 1 << 20
# hours of a film with an error in every frame stay below it
_MOST_LOG = 1 << 28
# lines that repeat that there was an error, or the file's name, which stands beside the reason anyway
NOISE = ("Error opening input file", "Conversion failed", "Task finished with error", "Terminating thread")


def command(*outputs: Any) -> list[str]:
    """The argument list for ffmpeg-python outputs; several outputs share one decode of their input."""
    if not outputs:
        raise ValueError("an ffmpeg command needs at least one output")
    node = outputs[0] if len(outputs) == 1 else ffmpeg.merge_outputs(*outputs)
    built: list[str] = ffmpeg.compile(node, cmd=find_ffmpeg().path)
    return [built[0], *QUIET, *LOG, *built[1:]]


class Running:
    """A started ffmpeg. Leaving the `with` block kills whatever of it is still there.

    `deadline` is in seconds from the start, or one that runs already. `keep_open` are descriptors that the
    child inherits.
    """

    def __init__(
        self,
        args: Sequence[str],
        *,
        deadline: float | Deadline,
        stdin: Iterable[bytes] | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        self._log = tempfile.TemporaryFile(prefix="harmonize-ffmpeg-")  # noqa: SIM115 (closed in __exit__)
        watched, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                args,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=(*keep_open, watched),
                start_new_session=True,
            )
            _kill_when_closed(watched, self._process.pid)
        except OSError as e:
            self._log.close()
            os.close(self._lifeline)
            raise MediaError(f"can't start {args[0]}: {e}") from e
        finally:
            os.close(watched)
        assert self._process.stdout is not None
        self.stdout: IO[bytes] = self._process.stdout
        self._deadline = deadline if isinstance(deadline, Deadline) else Deadline(deadline)
        self._late, self._flooded, self._ended = (threading.Event() for _ in range(3))
        threading.Thread(target=self._watch, daemon=True).start()
        self._feeder: threading.Thread | None = None
        if stdin is not None:
            self._feeder = threading.Thread(target=self._feed, args=(stdin,), daemon=True)
            self._feed_error: BaseException | None = None
            self._feeder.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.kill()
        self._process.wait()
        os.close(self._lifeline)
        self.stdout.close()
        if self._feeder is not None:
            self._feeder.join(timeout=10)
        self._log.close()

    def wait(self) -> None:
        """Wait for the end.

        Raises:
            DeadlinePassed: it had to be killed.
            MediaError: it failed; the message is the tail of what it said. Or it said so much that the disk
                would fill up.
        """
        code = self._process.wait()
        self._ended.set()
        if self._feeder is not None:
            self._feeder.join(timeout=10)
            if self._feed_error is not None and not isinstance(self._feed_error, OSError):
                raise self._feed_error
        if self._late.is_set():
            raise DeadlinePassed(f"not done after {self._deadline.seconds:g} s, killed")
        if self._flooded.is_set():
            raise MediaError("killed for its flood of messages: " + reason_from(self.messages()))
        if code != 0:
            raise MediaError(reason_from(self.messages(), code))

    def messages(self) -> list[str]:
        """What ffmpeg said so far, one line each with its level in front.

        Of a long log the first 64 KiB, which describe the input, and the last 1 MiB.
        """
        log = self._log.fileno()
        size = os.fstat(log).st_size
        said = os.pread(log, min(size, _LOG_HEAD), 0)
        if size > _LOG_HEAD:
            start = max(_LOG_HEAD, size - _LOG_TAIL)
            gap = b"\n" if start > _LOG_HEAD else b""
            said += gap + os.pread(log, _LOG_TAIL, start)
        # not `splitlines`: a file's tags may hold other separators, and must not begin lines of ffmpeg's
        return said.decode("utf-8", errors="replace").split("\n")

    def kill(self) -> None:
        """Kill the whole process group, if it is still there."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _watch(self) -> None:
        while (left := self._deadline.left()) > 0:
            if self._ended.wait(min(max(left, 0.05), 1.0)):
                return
            with contextlib.suppress(ValueError):  # it ended just now, and the log is closed
                if os.fstat(self._log.fileno()).st_size > _MOST_LOG:
                    self._flooded.set()
                    self.kill()
                    return
        if self._process.poll() is None:
            self._late.set()
            self.kill()

    def _feed(self, blocks: Iterable[bytes]) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            for block in blocks:
                pipe.write(block)
        except BaseException as e:  # handed to wait(), which runs in the caller's thread
            self._feed_error = e
            if not isinstance(e, OSError):
                self.kill()
        finally:
            with contextlib.suppress(OSError):
                pipe.close()


def _kill_when_closed(watched: int, group: int) -> None:
    """Let the system kill a process group when the other end of a pipe is closed, as the end of this process,
    whatever ends it, does. (A parent's death signal would come with the end of the thread that started it.)

    The group's processes hold `watched` open. Where the system can't do it a deadline is all there is.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(watched, fcntl.F_SETOWN, -group)
        fcntl.fcntl(watched, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(watched, fcntl.F_SETFL, fcntl.fcntl(watched, fcntl.F_GETFL) | os.O_ASYNC)


def run(*outputs: Any, deadline: float = 600.0, stdin: Iterable[bytes] | None = None) -> bytes:
    """Run ffmpeg-python `outputs` to their end and return what came out of `pipe:1` (all of it, in memory).

    `stdin` feeds `pipe:0` block by block. With `-nostdin` ffmpeg still reads an input named `pipe:0`.

    Raises:
        MediaError: with ffmpeg's own words.
    """
    with Running(command(*outputs), deadline=deadline, stdin=stdin) as running:
        data = running.stdout.read()
        running.wait()
    return data


def error_lines(messages: Iterable[str]) -> Iterator[str]:
    """The errors among ffmpeg's messages, without level, addresses and doubles."""
    seen: set[str] = set()
    for line in messages:
        found = re.match(r"(?:\[[^\]]*\] )*\[(?:error|fatal|panic)\] (.*)", line)
        if found:
            text = re.sub(r" @ 0x[0-9a-f]+", "", found[1]).strip()
            if text and text not in seen:
                seen.add(text)
                yield text


def reason_from(messages: Sequence[str], code: int | None = None, *, most: int = 300) -> str:
    """One short line that says why ffmpeg failed."""
    errors = [e for e in error_lines(messages) if not e.startswith(NOISE)]
    text = "; ".join(errors[:3]) or (
        f"ffmpeg ended with code {code}" if code is not None else "ffmpeg gave no reason"
    )
    return text if len(text) <= most else text[: most - 3] + "..."
