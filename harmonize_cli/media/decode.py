"""Decode one file whatever it is: a missing or broken track never takes the other one down."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harmonize_cli.media.deadline import Deadline
from harmonize_cli.media.decoders import DecoderFactory
from harmonize_cli.media.errors import DeadlinePassed, MediaError
from harmonize_cli.media.ffmpeg_decoder import FFmpegDecoder, seek_point
from harmonize_cli.media.info import MediaInfo
from harmonize_cli.media.requests import Chunk, Kind, Request, Span, unseen
from harmonize_cli.media.source import check_file

NO_TRACK: dict[Kind, str] = {"video": "no picture track", "audio": "no sound track"}


# A file may last so long whatever its size, and longer by its bits at the lowest rate that real ones have:
# pictures that hardly change, silence.
_FREE_SECONDS = 300.0
_LEAST_BIT_RATE = 32.0


@dataclass(frozen=True, slots=True)
class TrackOutcome:
    """How decoding one kind of track ended."""

    state: Literal["ok", "missing", "failed"]
    reason: str = ""


class FileDecode:
    """Decode `requests` from `path`: iterate `chunks()` once, then look at `outcome`, `info`, `errors`.

    All wanted tracks are decoded in one go. Only when that fails (a track is missing or empty, its codec
    unknown) the decode goes on with each track on its own, so that none depends on the other.

    `deadline` is in seconds of decoding; the time between two chunks that the caller takes does not count.
    `spent` are those that earlier decodes of the file took, and in the end those of this one as well.

    Some files can't be seeked in: where nothing is found they are decoded from the start.
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
        self._given = [0] * len(self._requests)
        self.info: MediaInfo | None = None
        self.errors: list[str] = []
        self.outcome: dict[Kind, TrackOutcome] = {}

    def chunks(self) -> Iterator[Chunk]:
        """Rows of the requests. Never raises MediaError: see `outcome`."""
        kinds = sorted({r.kind for r in self._requests})
        try:
            self._size = check_file(self._path)
        except MediaError as e:
            self._end(kinds, "failed", str(e))
            return
        self._most_seconds = _FREE_SECONDS + self._size * 8 / _LEAST_BIT_RATE
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
        requests, given = [self._requests[n] for n in numbers], [self._given[n] for n in numbers]
        decoder = self._decoder(
            self._path,
            requests,
            self._span,
            deadline=self._deadline,
            threads=self._threads,
        )
        error: MediaError | None = None
        try:
            for chunk in unseen(decoder.chunks(), requests, given):
                seconds = given[chunk.request] / requests[chunk.request].per_second
                if seconds > self._most_seconds:
                    raise MediaError(
                        f"more than {self._most_seconds:.0f} s come out of {self._size} bytes: not credible"
                    )
                with self._deadline.paused():
                    yield Chunk(numbers[chunk.request], chunk.times, chunk.rows)
        except MediaError as e:
            error = e
        for n, rows in zip(numbers, given, strict=True):
            self._given[n] = rows
        self.info = decoder.info or self.info
        yield from self._after(kinds, error, decoder.errors)

    def _after(
        self, kinds: Sequence[Kind], error: MediaError | None, errors: Sequence[str]
    ) -> Iterator[Chunk]:
        """How an attempt ended, or another one."""
        tracks = {"video": self.info.picture, "audio": self.info.sound} if self.info else {}
        missing = [kind for kind in kinds if error and tracks and tracks[kind] is None]
        for kind in missing:
            cover = kind == "video" and self.info and self.info.video
            self._end([kind], "missing", NO_TRACK[kind] + (", only cover art" if cover else ""))
        left = [kind for kind in kinds if kind not in missing]
        empty = [kind for kind in left if not self._rows(kind)]
        if missing and left:
            yield from self._attempt(left)
        elif error and tracks and len(left) > 1 and not isinstance(error, DeadlinePassed):
            for kind in left:
                yield from self._attempt([kind])
        elif empty and tracks and not isinstance(error, DeadlinePassed) and self._seeks(empty):
            self._end([kind for kind in left if kind not in empty], "ok")
            whole, self._span = self._span, Span(0.0, self._span.end)
            yield from self._attempt(empty)
            self._span = whole
        elif left:
            self.errors += [e for e in errors if e not in self.errors]
            self._end(left, "failed" if error else "ok", str(error or ""))

    def _rows(self, kind: Kind) -> int:
        return sum(rows for rows, r in zip(self._given, self._requests, strict=True) if r.kind == kind)

    def _seeks(self, kinds: Sequence[Kind]) -> bool:
        return seek_point(self._span, [r for r in self._requests if r.kind in kinds]) > 0

    def _end(
        self, kinds: Sequence[Kind], state: Literal["ok", "missing", "failed"], reason: str = ""
    ) -> None:
        for kind in kinds:
            self.outcome[kind] = TrackOutcome(state, reason)
