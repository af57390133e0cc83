"""What the ffmpeg program does to frames between decoder and filters, for those that PyAV decodes.

libavcodec hands out what the container says: frames without time stamps, in wrong order, rounded, without a
length. The program repairs that (fftools/ffmpeg_dec.c), and tells the filters what comes beside the frames.
"""

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from harmonize_cli.media.filters import MOST_GAP, jump_to

Filters = list[tuple[str, Any]]


class FrameTimes:
    """Gives every video frame of a stream a `pts` that counts from `start` (s), and a `duration`."""

    def __init__(self, stream: Any, start: float, first: float) -> None:
        """`first` is where a stream without time stamps begins, s."""
        self._stream, self._start, self._first = stream, start, first
        self._last: int | None = None
        self._length = 1
        self._last_pts = self._last_dts = -math.inf
        self._wrong_pts = self._wrong_dts = 0

    def set(self, frame: Any) -> str:
        """Repair one frame, in the order of the decoder; a gap before it that is too large is returned."""
        pts = self._best(frame.pts, frame.dts)
        if pts is not None:
            pts -= round(self._start / frame.time_base)
        elif self._last is not None:
            pts = self._last + self._length
        else:
            pts = round(self._first / frame.time_base)
        gap = 0 if self._last is None else (pts - self._last) * frame.time_base
        self._length = self._duration(frame, pts)
        self._last = frame.pts = pts
        frame.duration = self._length
        return jump_to(frame.time) if gap > MOST_GAP else ""

    def _best(self, pts: int | None, dts: int | None) -> int | None:
        """`pts`, or `dts` where that one was out of order less often (libavcodec's best effort)."""
        if dts is not None:
            self._wrong_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._wrong_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        return pts if pts is not None and (self._wrong_pts <= self._wrong_dts or dts is None) else dts

    def _duration(self, frame: Any, pts: int) -> int:
        if frame.duration > 0:
            return int(frame.duration)
        if self._last is not None and pts > self._last:
            return pts - self._last
        for rate in (self._stream.codec_context.framerate, self._stream.average_rate):
            ticks = round(1 / (rate * frame.time_base)) if rate else 0
            if ticks > 0:
                return int(ticks)
        return max(self._length, 1)


class SampleTimes:
    """Gives every audio frame of a stream a `pts` in samples that counts from `start` (s).

    Samples are counted where stamps are missing, or are as good as the count can be told from them.
    """

    def __init__(self, start: float, first: float) -> None:
        """`first` is where a stream without time stamps begins, s."""
        self._start, self._first = start, first
        self._next: int | None = None
        self._rate = 0

    def set(self, frame: Any) -> str:
        """Repair one frame, in the order of the decoder; a gap before it that is too large is returned."""
        rate = frame.sample_rate
        if self._next is not None and rate != self._rate:
            self._next = round(Fraction(self._next * rate, self._rate))
        self._rate = rate
        if frame.pts is None:
            pts = self._next if self._next is not None else round(self._first * rate)
        else:
            ticks = frame.pts - round(self._start / frame.time_base)
            pts = self._counted(ticks, frame.time_base * rate)
        gap = 0 if self._next is None else pts - self._next
        self._next = pts + frame.samples
        frame.time_base = Fraction(1, rate)
        frame.pts = pts
        return jump_to(frame.time) if gap > MOST_GAP * rate else ""

    def _counted(self, ticks: int, samples_per_tick: Fraction) -> int:
        """The sample at `ticks`: the one that comes next by count, if it rounds to that tick (libavutil's
        av_rescale_delta)."""
        if samples_per_tick >= 1 and self._next is not None:
            low = math.floor((2 * ticks - 1) * samples_per_tick) >> 1
            high = (math.ceil((2 * ticks + 1) * samples_per_tick) + 1) >> 1
            if 2 * low - high <= self._next <= 2 * high - low:
                return min(max(self._next, low), high)
        return round(ticks * samples_per_tick)


def upright(matrix: bytes | None) -> Filters:
    """Filters that show a frame as its display matrix (nine int32, 16.16) says, mirrored or turned."""
    m: Sequence[int] = struct.unpack("<9i", matrix[:36]) if matrix else (0,) * 9
    across, down = math.hypot(m[0], m[3]), math.hypot(m[1], m[4])
    if not across or not down:
        return []
    angle = round(math.degrees(math.atan2(m[1] / down, m[0] / across))) % 360
    if angle == 90:
        return [("transpose", "cclock_flip" if m[3] > 0 else "clock")]
    if angle == 270:
        return [("transpose", "clock_flip" if m[3] < 0 else "cclock")]
    if angle % 180:
        return [("rotate", f"{math.radians(angle):.6f}")]
    mirrors = (("hflip", angle and m[0] < 0), ("vflip", m[4] < 0))
    return [(name, None) for name, wanted in mirrors if wanted]


def mix_levels(info: bytes | None) -> dict[str, float]:
    """Options of `aresample` for mixing channels as the stream says (AVDownmixInfo, AC-3 has it)."""
    if info is None or len(info) < 48:
        return {}
    kind, centre, centre_matrix, surround, surround_matrix, low = struct.unpack("<i4x5d", info[:48])
    if kind in (2, 3):  # Lt/Rt, Dolby Pro Logic II
        centre, surround = centre_matrix, surround_matrix
    return {"clev": centre, "slev": surround, "lfe_mix_level": low}
