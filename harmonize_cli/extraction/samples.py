"""From a segment's rows to a sample: statuses, reasons and facts for each modality."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.media.decode import TrackOutcome
from harmonize_cli.media.requests import FrameRequest, Kind, Request, SoundRequest, Span
from harmonize_cli.media.segments import MediaSegment
from harmonize_cli.store.columns import COLUMNS
from harmonize_cli.store.schema import Sample, Status

_QUIET_WINDOW = 0.1  # seconds
_QUIET_DB = -50.0
END_SLACK = 0.2  # seconds
_LOUDEST = 64.0  # times full scale: 36 dB above it


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a file when one of its segments is complete."""

    outcome: Mapping[Kind, TrackOutcome]
    ends: Mapping[int, float]
    """Request number -> time up to which rows came, s."""
    durations: Mapping[Kind, float]
    """How long the file of each kind states that it is, s."""
    digest: str
    errors: int
    first_error: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Status and reason of one modality."""

    status: Status
    reason: str = ""


def new_sample(row: ManifestRow, root: Path | None) -> Sample:
    """A sample with everything that the manifest says of it."""
    known = {name: getattr(row, name) for name, column in COLUMNS.items() if column.field}
    return Sample(**known, source=_as_written(row.video or row.audio, root), facts=dict(row.more))


def span_of(row: ManifestRow) -> Span:
    """The part of the file that a row wants."""
    return Span(row.start, row.end)


def judge(
    segment: MediaSegment, number: int, request: Request, span: Span, file: FileFacts, *, min_coverage: float
) -> Judgement:
    """Whether the rows of request `number` are enough of `span`. No rows are never a success."""
    outcome = file.outcome.get(request.kind, TrackOutcome("ok"))
    have = len(segment.rows[number])
    duration = file.durations.get(request.kind)
    want = _expected_rows(request, span, duration)
    if outcome.state == "missing":
        return Judgement(Status.MISSING, outcome.reason)
    name = "picture track" if request.kind == "video" else "sound track"
    end = file.ends.get(number)
    if not have:
        if end is None and duration is not None and duration <= span.start:
            why = f"the segment starts at {span.start:g} s, but the file ends at {duration:.2f} s"
        elif end is None:
            why = outcome.reason or file.first_error or f"the {name} is empty"
        elif end <= span.start:
            why = (
                outcome.reason
                or f"the segment starts at {span.start:g} s, but the {name} ends at {end:.2f} s"
            )
        elif want == 0 and isinstance(request, FrameRequest):
            why = f"no frame of {request.rate:g} a second falls into the segment; use a higher rate"
        else:
            why = outcome.reason or f"nothing on the {name} between {span.start:g} s and the segment's end"
        return Judgement(Status.FAILED, why)
    # tracks of one file end a little apart; that is no fault
    slack = 1 + END_SLACK * (request.sample_rate if isinstance(request, SoundRequest) else request.rate)
    if want and have < want - slack:
        why = f"{have / want:.0%} of the segment"
        if end is not None and (span.end is None or end < span.end):
            why += f", the {name} ends at {end:.2f} s"
        if outcome.reason or file.first_error:
            why += f" ({outcome.reason or file.first_error})"
        return Judgement(Status.OK if have >= want * min_coverage else Status.FAILED, why)
    return Judgement(Status.OK)


def _expected_rows(request: Request, span: Span, duration: float | None) -> int | None:
    end = span.end if span.end is not None else duration
    if end is None:
        return None
    if isinstance(request, SoundRequest):
        return max(0, round((end - span.start) * request.sample_rate))
    first = np.ceil(span.start * request.rate - 1e-6)
    return max(0, int(np.ceil(end * request.rate - 1e-6) - first))


def sound_facts(wave: npt.NDArray[np.float32], sample_rate: int) -> tuple[float, dict[str, Any]]:
    """Peak level in dB of full scale, and facts: level, and share of 0.1 s windows below -50 dB (RMS)."""
    window = max(1, round(_QUIET_WINDOW * sample_rate))
    block = window * 4096
    peak, energy, quiet, windows = 0.0, 0.0, 0, 0
    for i in range(0, len(wave), block):
        part = np.asarray(wave[i : i + block], np.float32)
        peak = max(peak, float(np.abs(part).max()))
        whole = part[: len(part) // window * window].reshape(-1, window)
        if not len(whole):
            whole = part[None]
        power = np.square(whole).mean(1)
        energy += float(power.sum())
        quiet += int((power < 10 ** (_QUIET_DB / 10)).sum())
        windows += len(power)
    level = 10 * np.log10(max(energy / max(windows, 1), 1e-12))
    facts = {"sound_db": round(float(level), 1), "silent_share": round(quiet / max(windows, 1), 4)}
    return float(20 * np.log10(max(peak, 1e-6))), facts


def sound_error(wave: npt.NDArray[np.float32], sample_rate: int, start: float) -> str:
    """What is wrong with the values of sound that begins at `start` s, or "".

    Values above full scale (1) occur in float sound, and encoders may clip them. What is no number, or so
    large that it can't be sound, would spoil every feature that it goes into.
    """
    block = sample_rate * 60
    for i in range(0, len(wave), block):
        part = np.asarray(wave[i : i + block])
        # not `>`: no comparison with NaN holds
        bad = np.flatnonzero(~(np.abs(part) <= _LOUDEST))
        if len(bad):
            value, at = float(part[bad[0]]), start + (i + int(bad[0])) / sample_rate
            what = f"{value:.3g} (full scale is 1)" if np.isfinite(value) else f"{value} instead of a number"
            return f"the sound track holds {what} at {at:.2f} s: damaged, or wrongly scaled"
    return ""


def sync_facts(
    segment: MediaSegment, requests: Sequence[Request], duration: float | None = None
) -> dict[str, Any]:
    """How sound and pictures of a segment differ in start and end, seconds; positive: sound is later.

    The end of the last frame is known to one frame of the requested rate, or the file's `duration`.
    """
    ranges: dict[Kind, tuple[float, float]] = {}
    for number, request in enumerate(requests):
        times, n = segment.times[number], len(segment.rows[number])
        if n and request.kind not in ranges:
            if isinstance(request, SoundRequest):
                ranges[request.kind] = (float(times[0]), float(times[0]) + n / request.sample_rate)
            else:
                end = float(times[-1]) + 1 / request.rate
                ranges[request.kind] = (float(times[0]), min(end, duration or end))
    if len(ranges) < 2:
        return {}
    (v0, v1), (a0, a1) = ranges["video"], ranges["audio"]
    return {"start_offset": round(a0 - v0, 4), "drift": round(a1 - v1, 4)}


def _as_written(path: Path | None, root: Path | None) -> str:
    if path is None:
        return ""
    if root is not None:
        relative = os.path.relpath(path, root)
        if not relative.startswith(".."):
            return relative
    return str(path)
