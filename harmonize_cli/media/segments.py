"""Cut the rows of one decode into timed segments, which may touch, overlap or leave gaps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harmonize_cli.media.requests import Chunk, FrameRequest, Request, SoundRequest, Span
from harmonize_cli.media.rows import RowBuffer

_EPSILON = 1e-6


@dataclass(slots=True)
class MediaSegment:
    """Segment number `index` of those asked for, with its rows by request number.

    `times[r]` are the seconds of each row (frames), or of the first sample alone (sound).
    """

    index: int
    rows: dict[int, npt.NDArray[Any]] = field(default_factory=dict)
    times: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)


class Cutter:
    """Feed it chunks; it yields each segment as soon as all its requests have passed the segment's end.

    Segments come in the order of their ends, whatever the order in which the chunks of different tracks
    arrive. A frame belongs to a segment when start <= time < end; sound is cut at the nearest sample, so
    segments of equal length get equally many samples.

    `first` and `last` tell, by request, where the track began and ended (s), as far as it was decoded.
    """

    def __init__(self, requests: Sequence[Request], spans: Sequence[Span]) -> None:
        self._requests = requests
        self._lanes = [_Lane(r, spans) for r in requests]
        self._waiting = dict.fromkeys(range(len(spans)), len(requests))
        self._parts: dict[int, MediaSegment] = {}
        self._order = sorted(
            range(len(spans)), key=lambda i: (spans[i].end or np.inf, spans[i].start, i), reverse=True
        )
        self._closed: set[int] = set()
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}

    def add(self, chunk: Chunk) -> Iterator[MediaSegment]:
        """Take in a chunk; yield the segments that it completes."""
        number, request = chunk.request, self._requests[chunk.request]
        self.first.setdefault(number, float(chunk.times[0]))
        if isinstance(request, FrameRequest):
            self.last[number] = float(chunk.times[-1]) + 1 / request.rate
        else:
            self.last[number] = float(chunk.times[0]) + len(chunk.rows) / request.sample_rate
        for index in self._lanes[number].add(chunk):
            self._finish(number, index)
        yield from self._ready()

    def close(self, number: int) -> Iterator[MediaSegment]:
        """Request `number` gets no more chunks: segments don't wait for it any longer."""
        if number not in self._closed:
            self._closed.add(number)
            for index in self._lanes[number].open():
                self._finish(number, index)
        yield from self._ready()

    def end(self) -> Iterator[MediaSegment]:
        """The decode is over: yield what is left, complete or not."""
        for number in range(len(self._lanes)):
            yield from self.close(number)

    def _finish(self, number: int, index: int) -> None:
        part = self._parts.setdefault(index, MediaSegment(index))
        part.rows[number], part.times[number] = self._lanes[number].take(index)
        self._waiting[index] -= 1

    def _ready(self) -> Iterator[MediaSegment]:
        while self._order and not self._waiting[self._order[-1]]:
            yield self._parts.pop(self._order.pop())


class _Lane:
    """One request's rows on their way into the segments."""

    def __init__(self, request: Request, spans: Sequence[Span]) -> None:
        self._request, self._spans = request, spans
        self._later = sorted(range(len(spans)), key=lambda i: spans[i].start, reverse=True)
        self._active: list[int] = []
        self._rows: dict[int, RowBuffer] = {}
        self._times: dict[int, list[npt.NDArray[np.float64]]] = {}

    def add(self, chunk: Chunk) -> list[int]:
        """Deal the rows out; returns the segments that are complete now."""
        if isinstance(self._request, SoundRequest):
            rate = self._request.sample_rate
            first = round(float(chunk.times[0]) * rate)
            last_time = (first + len(chunk.rows)) / rate
        else:
            last_time = float(chunk.times[-1])
        while self._later and self._spans[self._later[-1]].start <= last_time:
            self._active.append(self._later.pop())
        done = []
        for index in list(self._active):
            span = self._spans[index]
            if isinstance(self._request, SoundRequest):
                begin = round(span.start * rate)
                stop = None if span.end is None else begin + round((span.end - span.start) * rate)
                a, b = max(0, begin - first), len(chunk.rows) if stop is None else max(0, stop - first)
                self._put(index, chunk.rows[a:b], np.array([(first + a) / rate]))
                over = stop is not None and first + len(chunk.rows) >= stop
            else:
                end = np.inf if span.end is None else span.end
                a, b = np.searchsorted(chunk.times, [span.start - _EPSILON, end - _EPSILON])
                self._put(index, chunk.rows[a:b], chunk.times[a:b])
                over = last_time + 1 / self._request.rate >= end - _EPSILON
            if over:
                self._active.remove(index)
                done.append(index)
        return done

    def open(self) -> list[int]:
        """Segments that no chunk completed."""
        return [*self._active, *reversed(self._later)]

    def take(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        rows, times = self._rows.pop(index, None), self._times.pop(index, [])
        if rows is None:
            rows = RowBuffer(self._request.row_shape, self._dtype)
        if isinstance(self._request, SoundRequest):
            times = times[:1]
        return rows.array(), np.concatenate(times) if times else np.empty(0)

    @property
    def _dtype(self) -> type[np.uint8] | type[np.float32]:
        return np.float32 if isinstance(self._request, SoundRequest) else np.uint8

    def _put(self, index: int, rows: npt.NDArray[Any], times: npt.NDArray[np.float64]) -> None:
        if not len(rows):
            return
        if index not in self._rows:
            self._rows[index] = RowBuffer(self._request.row_shape, self._dtype)
            self._times[index] = []
        # a copy, so that a short segment does not keep its whole chunk alive
        self._rows[index].append(rows.copy())
        self._times[index].append(times)
