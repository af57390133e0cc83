"""Dividing a manifest into units: one unit is one shard, and a video is decoded in one unit only."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.errors import BadInput

# seconds that a seek must skip to be quicker than decoding on: it starts a decoder and lands a little early
_GAP = 30.0


@dataclass(frozen=True, slots=True)
class FileGroup:
    """All rows that come from the same file(s)."""

    video: Path | None
    audio: Path | None
    rows: tuple[ManifestRow, ...]

    def stretches(self) -> list["FileGroup"]:
        """The rows in parts, each for one decode: between the parts lies much that no row wants."""
        parts: list[list[ManifestRow]] = []
        reach = -inf
        for row in sorted(self.rows, key=lambda row: row.start):
            if row.start > reach + _GAP:
                parts.append([])
            parts[-1].append(row)
            reach = max(reach, inf if row.end is None else row.end)
        return [FileGroup(self.video, self.audio, tuple(part)) for part in parts]


@dataclass(frozen=True, slots=True)
class Unit:
    """Number `index` of the plan and the groups that go into its shard."""

    index: int
    groups: tuple[FileGroup, ...]

    @property
    def ids(self) -> list[str]:
        """Ids of all its samples."""
        return [row.id for group in self.groups for row in group.rows]

    def without(self, done: set[str]) -> "Unit | None":
        """What is left of it when the samples of `done` are there already."""
        groups = []
        for group in self.groups:
            rows = tuple(row for row in group.rows if row.id not in done)
            if rows:
                groups.append(FileGroup(group.video, group.audio, rows))
        return Unit(self.index, tuple(groups)) if groups else None


def plan_units(rows: Sequence[ManifestRow], size: int) -> list[Unit]:
    """Units of at least `size` samples (the last may have fewer), in the order of the manifest.

    The plan depends on the manifest and on `size` alone, so that every worker, machine and later run
    comes to the same one.
    """
    by_file: dict[tuple[Path | None, Path | None], list[ManifestRow]] = {}
    for row in rows:
        by_file.setdefault((row.video, row.audio), []).append(row)
    units: list[Unit] = []
    groups: list[FileGroup] = []
    count = 0

    def close() -> None:
        nonlocal groups, count
        if groups:
            units.append(Unit(len(units), tuple(groups)))
        groups, count = [], 0

    for (video, audio), found in by_file.items():
        # rows without a file need no decode that they would share
        parts = [found] if video or audio else [found[i : i + size] for i in range(0, len(found), size)]
        for part in parts:
            groups.append(FileGroup(video, audio, tuple(part)))
            count += len(part)
            if count >= size:
                close()
    close()
    return units


def parse_share(text: str) -> tuple[int, int]:
    """ "2/8" as (2, 8): this job is number 2 of 8, counted from 0.

    Raises:
        BadInput: anything else.
    """
    number, _, total = text.partition("/")
    if not (number.isdecimal() and total.isdecimal() and int(number) < int(total)):
        raise BadInput(f"--shard {text}: expected I/N with 0 <= I < N, for example 0/8 up to 7/8")
    return int(number), int(total)
