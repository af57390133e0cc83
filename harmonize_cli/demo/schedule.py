"""Which number is shown, dialled and said when: the whole data set as a plan, before any picture."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.demo.numbers import SPLITS, Scans, endings, split_numbers
from harmonize_cli.demo.settings import DialpadSettings

_FILE_SECONDS = (40.0, 115.0)  # long files, as web video is: the segments have to be cut out


@dataclass(frozen=True)
class Segment:
    """One number in a file; `start` in frames of the file."""

    id: str
    start: int
    number: int
    """What the picture shows."""
    sound: int
    """What the tones dial."""
    caption: int
    """What the caption says."""
    ending: int
    scans: tuple[int, ...]
    """The row of the scan that shows each digit."""
    caption_from: str
    """"" for the right caption, else "neighbour" or "elsewhere"."""


@dataclass(frozen=True)
class FilePlan:
    """One mp4 file: `frames` long, with its segments in order of time."""

    index: int
    name: str
    split: str
    frames: int
    segments: tuple[Segment, ...]


def plan_files(settings: DialpadSettings, scans: Scans) -> list[FilePlan]:
    """The whole data set; the same settings give the same plan."""
    numbers = split_numbers(settings.digits, settings.seed)
    clips = {"train": settings.clips, "val": settings.val_clips, "test": settings.test_clips}
    files: list[FilePlan] = []
    for index, split in enumerate(SPLITS):
        rng = np.random.default_rng([settings.seed, 3, index])
        shown = _rounds(numbers[split], clips[split], rng)
        noisy = split == "train"
        sizes = list(_file_sizes(clips[split], settings, rng))
        starts = np.cumsum([0, *sizes])
        said, origin = _captions(shown, starts, settings if noisy else None, rng)
        dialled = _sounds(shown, settings.misaligned_sound if noisy else 0.0, rng)
        for position, size in enumerate(sizes):
            rows = range(starts[position], starts[position] + size)
            name = f"{split}-{position:03d}"
            segments, frame = [], 0
            for place, row in enumerate(rows):
                frame += int(rng.integers(1, max(2, settings.frame_rate // 2)))  # a pause between numbers
                digits = [int(d) for d in f"{shown[row]:0{settings.digits}d}"]
                segments.append(
                    Segment(
                        id=f"{name}-{place:02d}",
                        start=frame,
                        number=int(shown[row]),
                        sound=int(dialled[row]),
                        caption=int(said[row]),
                        ending=int(rng.integers(endings())),
                        scans=tuple(int(rng.choice(scans.rows[split][d])) for d in digits),
                        caption_from=origin[row],
                    )
                )
                frame += settings.number_frames
            tail = max(settings.frame_rate, 1)
            files.append(FilePlan(len(files), name, split, frame + tail, tuple(segments)))
    return files


def _rounds(numbers: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` numbers in random order, each used equally often: a pool as large as the list has no repeat."""
    times = -(-count // len(numbers))
    return np.concatenate([rng.permutation(numbers) for _ in range(times)])[:count]


def _file_sizes(count: int, settings: DialpadSettings, rng: np.random.Generator) -> Iterator[int]:
    """Numbers per file, so that each file lasts 30 to 120 s (the last one of a small set may be shorter)."""
    seconds = (settings.number_frames / settings.frame_rate) + 0.25
    low, high = (max(2, int(limit / seconds)) for limit in _FILE_SECONDS)
    while count > 0:
        size = int(rng.integers(low, high + 1))
        if count - size < low:  # no stub of a file at the end
            size = count if count <= high else count // 2
        yield size
        count -= size


def _captions(
    shown: NDArray[np.int64],
    starts: NDArray[np.int64],
    noise: DialpadSettings | None,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], list[str]]:
    """What each caption says, and where a wrong one was taken from."""
    said, origin = shown.copy(), [""] * len(shown)
    if noise is None:
        return said, origin
    wrong = rng.choice(len(shown), size=round(noise.misaligned * len(shown)), replace=False)
    for row in np.sort(wrong):
        kind = noise.misaligned_from
        if kind == "both":
            kind = "neighbour" if rng.random() < 0.5 else "elsewhere"
        file = int(np.searchsorted(starts, row, side="right")) - 1
        near = [
            r for r in (row - 1, row + 1) if starts[file] <= r < starts[file + 1] and shown[r] != shown[row]
        ]
        if kind == "neighbour" and near:
            said[row], origin[row] = shown[near[int(rng.integers(len(near)))]], "neighbour"
        else:
            said[row], origin[row] = _another(shown, int(shown[row]), rng), "elsewhere"
    return said, origin


def _sounds(shown: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    dialled = shown.copy()
    for row in np.sort(rng.choice(len(shown), size=round(share * len(shown)), replace=False)):
        dialled[row] = _another(shown, int(shown[row]), rng)
    return dialled


def _another(shown: NDArray[np.int64], number: int, rng: np.random.Generator) -> int:
    while True:
        found = int(shown[rng.integers(len(shown))])
        if found != number:
            return found
