"""Decoding in an ffmpeg child: one run, one decode, one pipe for each request, constant memory."""

import contextlib
import fcntl
import os
import queue
import threading
from collections.abc import Iterator, Sequence, Set
from fractions import Fraction
from math import ceil, lcm
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from harmonize_cli.media.deadline import Deadline
from harmonize_cli.media.decoders import DECODERS, DecoderEntry
from harmonize_cli.media.errors import MediaError
from harmonize_cli.media.filters import aligned_width, filters_for, jump_in, pixel_format
from harmonize_cli.media.info import MediaInfo, parse_info
from harmonize_cli.media.probe import first_frame_time
from harmonize_cli.media.requests import Chunk, FrameRequest, Request, Span, unseen
from harmonize_cli.media.run import NOISE, Running, command, error_lines
from harmonize_cli.media.source import COUNTED_FROM_TRACKS, UNSEEKABLE, input_node, is_avi

_Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]
_BLOCK = 1 << 20
_MOST_ROWS = 256
_QUEUED = 16
# a seek pays off when it skips at least this much; before it we land a little early
_SEEK_FROM = 30.0
_SEEK_EARLY = 5.0
# what ffmpeg says of a track without a single frame
_EMPTY = ("Could not open encoder before EOF", "Nothing was written into output file", *NOISE)
# frames that a decoder holds back at most
MOST_LAG = 16


class _Unseekable(Exception):
    """A seek in this container lands anywhere. Comes before the first chunk."""


class _Late(Exception):
    """The tracks in use begin so many seconds (args[0]) later than the file, and ffmpeg subtracts that from
    their time stamps: one track would depend on the use of the other. Comes before the first chunk."""


class _Resized(Exception):
    """Where pictures change their size ffmpeg makes new filters, and `fps` loses the frame that it holds."""


class FFmpegDecoder:
    """Decodes `requests` from `path` within `span`. All of one kind come from one track.

    Iterate `chunks()` once. `info` and `errors` are known when it ended, with or without an exception.
    """

    def __init__(
        self, path: Path, requests: Sequence[Request], span: Span, *, deadline: Deadline, threads: int = 0
    ) -> None:
        self._path, self._requests, self._span = path, requests, span
        self._deadline, self._threads = deadline, threads
        self._every = False
        self.info: MediaInfo | None = None
        self.errors: list[str] = []

    def chunks(self) -> Iterator[Chunk]:
        """Rows of all requests, about in step with each other, each request's in order.

        Raises:
            MediaError: after the chunks that could be had.
        """
        given = [0] * len(self._requests)
        misaligned: set[Request] = set()
        offset, late = seek_point(self._span, self._requests), 0.0
        while True:
            try:
                yield from self._run(offset, given, misaligned, late)
                return
            except _Late as e:
                late, given = e.args[0], [0] * len(self._requests)
            except _Resized:
                self._every = True
            except _Unseekable:
                offset, given = 0.0, [0] * len(self._requests)
            except MediaError:
                if self.errors and all(e.startswith(_EMPTY) for e in self.errors):
                    self.errors.clear()
                    if len({r.kind for r in self._requests}) > 1:
                        raise  # what came of the other track may be cut short
                    return
                found = set(self._misaligned()) - misaligned
                if not found:
                    raise
                misaligned |= found

    def _misaligned(self) -> Iterator[Request]:
        """Requests that the last run refused for their crop."""
        for request in self._requests:
            if isinstance(request, FrameRequest) and any(aligned_width(request) in e for e in self.errors):
                yield request

    def _run(self, offset: float, given: list[int], misaligned: Set[Request], late: float) -> Iterator[Chunk]:
        """One child; see `unseen` for `given`."""
        pipes = [_Pipe(r, self._every) for r in self._requests]
        readers = _Readers(pipes, offset)
        try:
            args = self._command(offset, pipes, misaligned, late)
            keep = [fd for p in pipes for fd in (p.data_write, p.times_write)]
            with Running(args, deadline=self._deadline, keep_open=keep) as running:
                for pipe in pipes:
                    pipe.close_write()
                known = False
                try:
                    for chunk in unseen(readers.chunks(), self._requests, given):
                        if not known and (info := parse_info(running.messages())) is not None:
                            if offset and info.container in UNSEEKABLE:
                                raise _Unseekable
                            if not late and (seconds := self._late(info, offset)):
                                raise _Late(seconds)
                            known = True
                        yield chunk
                    running.wait()
                finally:
                    messages = running.messages()
                    self.info = parse_info(messages)
                    self.errors = list(error_lines(messages))
                if jump := jump_in(self.errors):
                    raise MediaError(jump)
        finally:
            # the child is gone: the threads come to the ends of their pipes, which may be closed after that
            for pipe in pipes:
                pipe.close_write()
            readers.stop()
            for pipe in pipes:
                pipe.close()

    def _late(self, info: MediaInfo, offset: float) -> float:
        """See `_Late`."""
        kinds = {r.kind for r in self._requests}
        tracks = [t for t, kind in ((info.picture, "video"), (info.sound, "audio")) if kind in kinds]
        # a start of 0 is not named, nor is one that isn't known
        unnamed = 0.0 if info.start <= 0 else None
        named = (unnamed if t.start is None else t.start for t in tracks if t is not None)
        starts = [start for start in named if start is not None]
        if info.container not in COUNTED_FROM_TRACKS or not starts:
            return 0.0
        return max(0.0, round(min(starts) - info.start - offset, 6))

    def _lag(self, offset: float) -> str:
        """By how much frames come late: where pictures are stored in another order than they are shown, the
        first one of an AVI file leaves the decoder when some others have been read, and is stamped then."""
        if not is_avi(self._path) or not any(r.kind == "video" for r in self._requests):
            return "0"
        if not offset:
            return f"if(lte(STARTPTS*TB*FR,{MOST_LAG}),STARTPTS,0)"
        return f"{first_frame_time(self._path, self._deadline)}/TB"

    def _command(
        self, offset: float, pipes: Sequence["_Pipe"], misaligned: Set[Request], late: float
    ) -> list[str]:
        lag, end = self._lag(offset), self._span.end
        length = None if end is None else end - offset + 1.0
        source = input_node(self._path, start=offset, length=length, threads=self._threads)
        outputs = []
        for kind, track in (("video", "V:0"), ("audio", "a:0")):
            wanted = [p for p in pipes if p.request.kind == kind]
            if not wanted:
                continue
            node = source[track]
            branches: list[Any] = [node]
            if len(wanted) > 1:
                split = node.filter_multi_output("split" if kind == "video" else "asplit", len(wanted))
                branches = [split[i] for i in range(len(wanted))]
            outputs += [
                _output(branch, p, p.request in misaligned, lag, late)
                for branch, p in zip(branches, wanted, strict=True)
            ]
        return command(*outputs)


def seek_point(span: Span, requests: Sequence[Request]) -> float:
    """Where to seek to: early enough, and on the grid of every request so that a seek changes no frame.

    Sound lands where the container says: to the sample, to 1 ms in Matroska, to 16 ms in fragmented MP4.
    """
    if span.start < _SEEK_FROM:
        return 0.0
    step = lcm(1, *(r.exact_rate.denominator for r in requests if isinstance(r, FrameRequest)))
    return float((span.start - _SEEK_EARLY) // step * step)


def _output(node: Any, pipe: "_Pipe", full_chroma: bool, lag: str, late: float) -> Any:
    request = pipe.request
    for name, options in filters_for(request, full_chroma=full_chroma, lag=lag, late=late, every=pipe.every):
        node = node.filter(name, **options)
    mark = "metadata" if request.kind == "video" else "ametadata"
    node = node.filter(mark, mode="add", key="row", value="1")
    times: dict[str, Any] = {"mode": "print", "key": "row", "file": f"pipe:{pipe.times_write}", "direct": 1}
    if isinstance(request, FrameRequest):
        node = node.filter(mark, **times)
        return node.output(
            f"pipe:{pipe.data_write}",
            format="rawvideo",
            pix_fmt=pixel_format(request),
            fps_mode="passthrough",
            threads=1,
        )
    node = node.filter(mark, **times, enable="eq(n,0)")
    return node.output(f"pipe:{pipe.data_write}", format="f32le", acodec="pcm_f32le")


class _Pipe:
    """Two pipes for one request: the rows, and the time stamps that a metadata filter prints before them."""

    def __init__(self, request: Request, every: bool = False) -> None:
        self.request, self.every = request, every
        data_read, self.data_write = os.pipe()
        times_read, self.times_write = os.pipe()
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(data_read, fcntl.F_SETPIPE_SZ, _BLOCK)
        self.data: IO[bytes] = os.fdopen(data_read, "rb", buffering=0)
        self.times: IO[bytes] = os.fdopen(times_read, "rb")
        self._write_open = True

    def close_write(self) -> None:
        if self._write_open:
            self._write_open = False
            os.close(self.data_write)
            os.close(self.times_write)

    def close(self) -> None:
        self.close_write()
        self.data.close()
        self.times.close()

    def chunks(self, number: int, offset: float) -> Iterator[Chunk]:
        """Read to the end. A part of a row at the end, or a row without its time, is an error.

        Raises:
            _Resized: rows are missing.
        """
        request = self.request
        if isinstance(request, FrameRequest):
            size = request.height * request.width * request.channels
            rows = max(1, min(_BLOCK // size, _MOST_ROWS))
            grid = _Grid(request.exact_rate)
            due: int | None = None
            while block := _read_full(self.data, rows * size):
                if len(block) % size:
                    raise MediaError("the last frame is cut off")
                frames = np.frombuffer(block, np.uint8).reshape(-1, *request.row_shape)
                ticks = np.array([self._tick() for _ in range(len(frames))])
                if self.every:
                    for n, shown in grid.add(ticks, frames):
                        yield Chunk(number, offset + n / float(request.exact_rate), shown)
                    continue
                begin = int(ticks[0]) if due is None else due
                due = begin + len(ticks)
                if not np.array_equal(ticks, np.arange(begin, due)):
                    raise _Resized
                yield Chunk(number, offset + ticks / float(request.exact_rate), frames)
            for n, shown in grid.end():
                yield Chunk(number, offset + n / float(request.exact_rate), shown)
        else:
            first: float | None = None
            done = 0
            while block := _read_full(self.data, _BLOCK // 8):
                samples = np.frombuffer(block[: len(block) // 4 * 4], np.float32)
                if first is None:
                    first = offset + self._tick() / request.sample_rate
                yield Chunk(number, np.array([first + done / request.sample_rate]), samples)
                done += len(samples)

    def _tick(self) -> int:
        """The next row's time stamp in the filter's time base, 1 / rate."""
        head, mark = self.times.readline(), self.times.readline()
        parts = head.split(b"pts:")
        if len(parts) < 2 or not mark:
            raise MediaError("a row came without its time stamp")
        return int(parts[1].split()[0])


class _Grid:
    """From all frames to rows, as the filter `fps` does it: row n is the last frame that came by n / rate."""

    def __init__(self, rate: Fraction) -> None:
        self._rate = rate
        self._held: npt.NDArray[np.uint8] | None = None
        self._next = self._stamp = self._length = 0

    def add(self, stamps: npt.NDArray[np.int64], frames: npt.NDArray[np.uint8]) -> Iterator[_Rows]:
        """Take in frames [N, ...], stamps [N] in microseconds; yield numbers [K] and rows [K, H, W, C]."""
        for stamp, frame in zip(stamps.tolist(), frames, strict=True):
            if self._held is None:
                self._next = self._row(stamp)
            else:
                self._length = stamp - self._stamp
                yield from self._until(self._row(stamp))
            self._held, self._stamp = frame, stamp

    def end(self) -> Iterator[_Rows]:
        """The last frame stays as long as the one before it."""
        if self._held is not None:
            yield from self._until(self._row(self._stamp + self._length))

    def _row(self, stamp: int) -> int:
        return ceil(stamp * self._rate / 1_000_000)

    def _until(self, number: int) -> Iterator[_Rows]:
        assert self._held is not None
        while self._next < number:
            n = np.arange(self._next, min(number, self._next + _MOST_ROWS))
            yield n, np.repeat(self._held[None], len(n), axis=0)
            self._next += len(n)


def _read_full(stream: IO[bytes], size: int) -> bytes:
    parts = []
    while size and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class _Readers:
    """A thread for each pipe, all into one bounded queue: no pipe is left unread, memory stays bounded."""

    def __init__(self, pipes: Sequence[_Pipe], offset: float) -> None:
        self._queue: queue.Queue[Chunk | BaseException | None] = queue.Queue(_QUEUED)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(pipe, n, offset), daemon=True)
            for n, pipe in enumerate(pipes)
        ]

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def chunks(self) -> Iterator[Chunk]:
        """What comes, until all pipes ended; then the first error, if there was one."""
        for thread in self._threads:
            thread.start()
        open_pipes = len(self._threads)
        trouble: BaseException | None = None
        while open_pipes:
            item = self._queue.get()
            if isinstance(item, Chunk):
                yield item
            elif isinstance(item, _Resized):
                raise item
            else:
                open_pipes -= 1
                trouble = trouble or item
        if trouble is not None:
            raise trouble

    def _read(self, pipe: _Pipe, number: int, offset: float) -> None:
        end: BaseException | None = None
        try:
            for chunk in pipe.chunks(number, offset):
                if not self._put(chunk):
                    return
        except Exception as e:  # whatever it is: without a word from here the reader would wait for ever
            end = (
                e if isinstance(e, MediaError | _Resized) else MediaError(f"reading from ffmpeg failed: {e}")
            )
        self._put(end)

    def _put(self, item: Chunk | BaseException | None) -> bool:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.2)
                return True
        return False


DECODERS.add(
    "ffmpeg", DecoderEntry(load=lambda: FFmpegDecoder, about="a child process, killed where it hangs")
)
