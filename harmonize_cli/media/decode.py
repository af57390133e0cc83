"""Decode one file whatever it is: a missing or broken track never takes the other one down."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from harmonize_cli.media.deadline import Deadline
from harmonize_cli.media.errors import DeadlinePassed, MediaError
from harmonize_cli.media.ffmpeg_decoder import FFmpegDecoder
from harmonize_cli.media.info import MediaInfo
from harmonize_cli.media.requests import Chunk, Kind, Request, Span
from harmonize_cli.media.source import check_file

NO_TRACK: dict[Kind, str] = {"video": "no picture track", "audio": "no sound track"}


class Decoder(Protocol):
    """One decode of one file. `info` and `errors` are final once `chunks()` ended."""

    info: MediaInfo | None
    errors: list[str]

    def chunks(self) -> Iterator[Chunk]:
        """Rows of all requests, about in step; raises MediaError after what could be had."""
        ...


class DecoderFactory(Protocol):
    """How to make a decoder; `threads` 0 lets it choose."""

    def __call__(
        self, path: Path, requests: Sequence[Request], span: Span, *, deadline: Deadline, threads: int
    ) -> Decoder: ...


@dataclass(frozen=True, slots=True)
class TrackOutcome:
    """How decoding one kind of track ended."""

    state: Literal["ok", "missing", "failed"]
    reason: str = ""


class FileDecode:
    """Decode `requests` from `path`: iterate `chunks()` once, then look at `outcome`, `info`, `errors`.

    All wanted tracks are decoded in one go. Only when that fails before the first row (a track is missing, or
    its codec unknown) it starts again with what is there, each track on its own.

    `deadline` is in seconds of decoding; the time between two chunks that the caller takes does not count.
    `spent` are those that earlier decodes of the file took, and in the end those of this one as well.

    A file without time stamps can't be seeked in: where nothing is found it is decoded from its start.
    """

    def __init__(
        self,
        path: Path,
        requests: Sequence[Request],
        span: Span,
        *,
        deadline: float = 600.0,
        spent: float = 0.0,
        threads: int = 0,
        decoder: DecoderFactory = FFmpegDecoder,
    ) -> None:
        self._path, self._requests, self._span = path, list(requests), span
        self._threads, self._decoder = threads, decoder
        self._seconds, self.spent = deadline, spent
        self.info: MediaInfo | None = None
        self.errors: list[str] = []
        self.outcome: dict[Kind, TrackOutcome] = {}

    def chunks(self) -> Iterator[Chunk]:
        """Rows of the requests. Never raises MediaError: see `outcome`."""
        kinds = sorted({r.kind for r in self._requests})
        try:
            check_file(self._path)
        except MediaError as e:
            self._end(kinds, "failed", str(e))
            return
        self._deadline = Deadline(self._seconds, self.spent)
        try:
            yield from self._attempt(kinds)
        finally:
            self.spent = self._seconds - self._deadline.left()

    def _attempt(self, kinds: Sequence[Kind]) -> Iterator[Chunk]:
        numbers = [n for n, r in enumerate(self._requests) if r.kind in kinds]
        if not numbers or self._deadline.left() <= 0:
            self._end(kinds, "failed", f"not done after {self._seconds:g} s")
            return
        decoder = self._decoder(
            self._path,
            [self._requests[n] for n in numbers],
            self._span,
            deadline=self._deadline,
            threads=self._threads,
        )
        started: set[Kind] = set()
        error: MediaError | None = None
        try:
            for chunk in decoder.chunks():
                started.add(self._requests[numbers[chunk.request]].kind)
                with self._deadline.paused():
                    yield Chunk(numbers[chunk.request], chunk.times, chunk.rows)
        except MediaError as e:
            error = e
        self.info = decoder.info or self.info
        self.errors += [e for e in decoder.errors if e not in self.errors]
        if error is None and not started and self._span.start and self.info and not self.info.duration:
            self._span = Span(0.0, self._span.end)
            yield from self._attempt(kinds)
        elif error is None:
            self._end(kinds, "ok")
        elif started or self.info is None or isinstance(error, DeadlinePassed):
            self._end(kinds, "failed", str(error))
        else:
            yield from self._with_what_is_there(kinds, self.info, error)

    def _with_what_is_there(
        self, kinds: Sequence[Kind], info: MediaInfo, error: MediaError
    ) -> Iterator[Chunk]:
        tracks = {"video": info.picture, "audio": info.sound}
        missing = [k for k in kinds if tracks[k] is None]
        there = [k for k in kinds if k not in missing]
        for kind in missing:
            cover = kind == "video" and bool(info.video)
            self._end([kind], "missing", NO_TRACK[kind] + (", only cover art" if cover else ""))
        self.errors.clear()  # of the attempt that asked for what is not there
        if missing and there:
            yield from self._attempt(there)
        elif len(there) > 1:
            for kind in there:
                yield from self._attempt([kind])
        else:
            self._end(there, "failed", str(error))

    def _end(
        self, kinds: Sequence[Kind], state: Literal["ok", "missing", "failed"], reason: str = ""
    ) -> None:
        for kind in kinds:
            self.outcome[kind] = TrackOutcome(state, reason)
