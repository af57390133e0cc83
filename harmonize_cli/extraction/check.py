"""`harmonize extract --check`: what would go wrong, how large the store gets and how long it takes."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.encoders.registry import vocabulary
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.extraction.plan import FileGroup, plan_units
from harmonize_cli.extraction.samples import END_SLACK
from harmonize_cli.extraction.unit import Job, UnitRunner
from harmonize_cli.media.deadline import Deadline
from harmonize_cli.media.decode import NO_TRACK
from harmonize_cli.media.errors import MediaError
from harmonize_cli.media.info import MediaInfo
from harmonize_cli.media.probe import measured_length, probe
from harmonize_cli.progress import progress
from harmonize_cli.store.schema import FeatureSpec, Status

_TRIALS = 3
_TRIAL_SECONDS = 10.0
_SHORT = 1.0
_LOOK = 1.0
_MOST_READING = 600.0  # s, for the packets of one file
_GUESS = 10.0  # s, for files that don't say how long they are


@dataclass(slots=True)
class CheckReport:
    """What a look at every file told."""

    samples: int = 0
    files: int = 0
    seconds: float = 0.0
    bad: list[str] = field(default_factory=list)
    """Files that can't be opened and segments that lie outside, each with its place in the manifest."""
    failing: set[str] = field(default_factory=set)
    """Ids of the samples that will fail."""
    estimated: int = 0
    """Files that don't state their length: what depends on it is a guess."""
    without_video: int = 0
    without_audio: int = 0
    without_text: int = 0
    store_bytes: float = 0.0
    wall: float | None = None
    """Expected seconds with the given workers; None where no file could be tried."""

    @property
    def bad_samples(self) -> int:
        """How many samples will fail."""
        return len(self.failing)

    def lines(self) -> list[str]:
        """For people."""
        size = self.store_bytes / 2**30
        time_text = "unknown" if self.wall is None else _duration(self.wall)
        return [
            f"{self.samples} samples in {self.files} files, {_duration(self.seconds)} of segments",
            f"{self.bad_samples} samples will fail; {self.without_video} have no pictures, "
            f"{self.without_audio} no sound, {self.without_text} no text",
            f"expected: a store of {size:.2f} GiB in about {time_text}",
            *([f"estimated: {self.estimated} files don't state their length"] if self.estimated else []),
        ]


def check(
    rows: Sequence[ManifestRow], config: ExtractConfig, *, workers: int = 1, deep: bool = False
) -> CheckReport:
    """Probe every file once, without decoding; only three short stretches are decoded to time the work.

    `deep` also decodes the first second of each file's first sample and reads its packets to the end. All
    samples of a file are decoded where the one fails, or the other ends before they do.
    """
    groups = [group for unit in plan_units(rows, 1) for group in unit.groups]
    report = CheckReport(samples=len(rows), without_text=sum(not row.texts for row in rows))
    files = sorted({path for group in groups for path in (group.video, group.audio) if path})
    report.files = len(files)
    with ThreadPoolExecutor(max(2, workers)) as pool:
        looks = progress(pool.map(_look, files), desc="check", total=len(files), unit="file")
        seen: dict[Path, MediaInfo | str] = dict(zip(files, looks, strict=True))
    report.estimated = sum(isinstance(look, MediaInfo) and look.stated is None for look in seen.values())
    runner = UnitRunner(Job(config, vocabulary(config.encoders, config, lambda: ("word",), ()), None))
    good: list[FileGroup] = []
    for group in groups:
        if _judge_group(group, seen, report, runner.features, config.min_coverage):
            good.append(group)
    if deep:
        _decode_beginnings(good, _plain(config, runner), report, seen, workers)
    report.wall = _expected_wall(runner, good, seen, report.seconds, workers)
    return report


def _look(path: Path) -> MediaInfo | str:
    try:
        return probe(path)
    except MediaError as e:
        return str(e)


def _judge_group(
    group: FileGroup,
    seen: dict[Path, MediaInfo | str],
    report: CheckReport,
    features: Sequence[FeatureSpec],
    min_coverage: float,
) -> bool:
    """Count a group's rows; whether its file can be decoded."""
    path = group.video or group.audio
    if path is None:
        report.without_video += len(group.rows)
        report.without_audio += len(group.rows)
        report.store_bytes += sum(_bytes(row, 0.0, features, False, False) for row in group.rows)
        return False
    infos: dict[Path, MediaInfo] = {}
    for file in dict.fromkeys(p for p in (group.video, group.audio) if p):
        found = seen[file]
        if isinstance(found, str):
            where = group.rows[0].source or group.rows[0].id
            more = f" and {len(group.rows) - 1} more" if len(group.rows) > 1 else ""
            report.bad.append(f"{where}{more}: {file}: {found}")
        else:
            infos[file] = found
    info = infos.get(path)
    if info is None:
        report.failing.update(row.id for row in group.rows)
        return False
    sound_info = infos.get(group.audio) if group.audio else info
    has_video = group.video is not None and info.picture is not None
    has_audio = sound_info is not None and sound_info.sound is not None
    lost = sound_info is None and any(spec.modality == "audio" for spec in features)
    report.without_video += 0 if has_video else len(group.rows)
    report.without_audio += 0 if has_audio else len(group.rows)
    if not has_video and not has_audio:
        where = group.rows[0].source or group.rows[0].id
        report.bad.append(f"{where}: {path}: {' and '.join(NO_TRACK.values())}")
    timed = any(spec.modality != "text" for spec in features)
    for row in group.rows:
        if info.stated is not None and row.start >= info.stated:
            report.failing.add(row.id)
            where, length = row.source or row.id, info.stated
            report.bad.append(f"{where}: start: {row.start:g} s lies behind the end of {path} ({length:g} s)")
            continue
        length = _length(row, info)
        wanted = length if row.end is None else row.end - row.start
        if timed and length < min(wanted - END_SLACK, wanted * min_coverage):
            report.failing.add(row.id)
            where = row.source or row.id
            report.bad.append(
                f"{where}: end: {path} has {length / wanted:.0%} of the segment, below min_coverage"
            )
        if lost:
            report.failing.add(row.id)
        report.seconds += length
        report.store_bytes += _bytes(row, length, features, has_video, has_audio)
    return True


def _plain(config: ExtractConfig, runner: UnitRunner) -> UnitRunner:
    """Decodes what `runner` needs, without its models."""
    kinds = {request.kind for request in runner.requests}
    names = tuple(name for name, kind in (("raw", "video"), ("waveform", "audio")) if kind in kinds)
    return UnitRunner(Job(config.model_copy(update={"encoders": names}), None, None, threads=1))


def _decode_beginnings(
    groups: Sequence[FileGroup],
    runner: UnitRunner,
    report: CheckReport,
    seen: Mapping[Path, MediaInfo | str],
    workers: int,
) -> None:
    with ThreadPoolExecutor(max(2, workers)) as pool:
        looks = pool.map(lambda group: _failing(runner, group, seen), groups)
        for group, failed in zip(groups, progress(looks, desc="decode", total=len(groups)), strict=True):
            new = {id: reason for id, reason in failed.items() if id not in report.failing}
            if not new:
                continue
            first = next(row for row in group.rows if row.id in new)
            more = f" and {len(new) - 1} more" if len(new) > 1 else ""
            path = group.video or group.audio
            report.bad.append(f"{first.source or first.id}{more}: {path}: {new[first.id]}")
            report.failing.update(new)


def _failing(runner: UnitRunner, group: FileGroup, seen: Mapping[Path, MediaInfo | str]) -> dict[str, str]:
    """Samples of a file that fail, with their reasons."""
    first = group.rows[0]
    end = first.start + _LOOK if first.end is None else min(first.end, first.start + _LOOK)
    beginning = FileGroup(group.video, group.audio, (replace(first, end=end),))
    if any(_ends_early(path, group, seen) for path in (group.video, group.audio) if path):
        return _failures(runner, group)
    if _failures(runner, beginning):
        return _failures(runner, group)  # a track may begin later
    return {}


def _ends_early(path: Path, group: FileGroup, seen: Mapping[Path, MediaInfo | str]) -> bool:
    """Whether the packets end before what the rows want."""
    info = seen[path]
    stated = info.stated if isinstance(info, MediaInfo) else None
    ends = [end for row in group.rows if (end := row.end if row.end is not None else stated) is not None]
    measured = measured_length(path, Deadline(_MOST_READING))
    return measured is None or measured < max(ends, default=0.0) - _LOOK


def _failures(runner: UnitRunner, group: FileGroup) -> dict[str, str]:
    found: dict[str, str] = {}
    for sample in runner.samples([group]):
        for modality, status in sample.status.items():
            if status == Status.FAILED:
                found[sample.id] = f"{modality}: {sample.reason.get(modality, '')}"
    return found


def _bytes(
    row: ManifestRow, seconds: float, features: Sequence[FeatureSpec], video: bool, audio: bool
) -> float:
    total = 200.0 + sum(len(text) for text in row.texts)
    for spec in features:
        if spec.modality == "text":
            total += len(row.texts) * spec.row_bytes
        elif (video if spec.modality == "video" else audio) and spec.rate is not None:
            share = 0.1 if spec.kind == "jpeg" else 1.0
            total += seconds * spec.rate * (spec.row_bytes * share + (0 if spec.regular else 8))
    return total


def _expected_wall(
    runner: UnitRunner,
    groups: Sequence[FileGroup],
    seen: Mapping[Path, MediaInfo | str],
    seconds: float,
    workers: int,
) -> float | None:
    """Decode and encode a short and a longer piece of some files from all over the manifest, and extrapolate.

    A file costs a fixed time and some more for each second of its segments; what is paid once, such as the
    first run of a model, is kept out by a first piece that is not timed.
    """
    if not groups:
        return None
    chosen = groups[:: max(1, len(groups) // _TRIALS)][:_TRIALS]
    lengths = [_length(group.rows[0], seen[group.video or group.audio]) for group in chosen]  # type: ignore[index]
    _trial(runner, chosen[0], min(_SHORT, lengths[0]))
    short = [min(_SHORT, length) for length in lengths]
    fixed = [_trial(runner, group, length) for group, length in zip(chosen, short, strict=True)]
    more = longer = 0.0
    for group, length, begin, known in zip(chosen, lengths, short, fixed, strict=True):
        if length > 1.5 * begin:
            longer += min(_TRIAL_SECONDS, length) - begin
            more += max(0.0, _trial(runner, group, min(_TRIAL_SECONDS, length)) - known)
    rate = more / longer if longer else 0.0
    a_file = max(0.0, sum(fixed) - rate * sum(short)) / len(chosen)
    return (a_file * len(groups) + rate * seconds) / workers


def _length(row: ManifestRow, look: MediaInfo | str) -> float:
    """Seconds of a row's segment that its file has."""
    stated = look.stated if isinstance(look, MediaInfo) else None
    ends = [end for end in (row.end, stated) if end is not None]
    return max(0.0, min(ends, default=row.start + _GUESS) - row.start)


def _trial(runner: UnitRunner, group: FileGroup, seconds: float) -> float:
    """Seconds that the first `seconds` of a file's first row take."""
    row = group.rows[0]
    started = time.monotonic()
    for _ in runner.samples([FileGroup(group.video, group.audio, (replace(row, end=row.start + seconds),))]):
        pass
    return time.monotonic() - started


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
