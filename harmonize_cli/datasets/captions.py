"""Timed captions and the segments that they make of a video."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from harmonize_cli.datasets.fields import MAX_SECONDS

MOST_SECONDS = MAX_SECONDS / 100
"""A file that claims to last longer is not cut in windows."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What is said from `start` to `end` (seconds)."""

    start: float
    end: float
    text: str

    @property
    def middle(self) -> float:
        """Seconds."""
        return (self.start + self.end) / 2


@dataclass(frozen=True, slots=True)
class CaptionSegment:
    """A stretch of a video (seconds) and its text candidates, the nearest first."""

    start: float
    end: float
    texts: tuple[str, ...]


def tidy(captions: Iterable[Caption]) -> list[Caption]:
    """In order of time, without empty, impossible and repeated ones.

    Automatic captions of web video roll: each cue repeats the line before it. Such repeats are taken off.
    """
    kept: list[Caption] = []
    last: list[str] = []
    for caption in sorted(captions, key=lambda c: (c.start, c.end)):
        if not 0 <= caption.start < caption.end <= MAX_SECONDS:
            continue
        lines = [" ".join(line.split()) for line in caption.text.splitlines()]
        lines = [line for line in lines if line]
        fresh = lines
        if kept and lines and caption.start - kept[-1].end < 1.0:
            overlap = next((n for n in range(len(lines), 0, -1) if last[-n:] == lines[:n]), 0)
            fresh = lines[overlap:]
        last = lines or last
        if fresh:
            kept.append(Caption(caption.start, caption.end, " ".join(fresh)))
    return kept


def caption_segments(
    captions: Sequence[Caption], *, candidates: int = 5, min_seconds: float = 0.0
) -> list[CaptionSegment]:
    """One segment a caption, with its `candidates` nearest captions in time (its own among them, first).

    These are the positives of MIL-NCE: narration is rarely at the moment of what it names, so one of the
    neighbours may fit better (VATT, section 3.3: the five text clips nearest in time).

    Args:
        captions: in order of time, as `tidy` gives them.
        candidates: how many texts a segment has at most.
        min_seconds: shorter captions are widened evenly to both sides, not below 0.
    """
    order = sorted(range(len(captions)), key=lambda i: captions[i].middle)
    middles = [captions[i].middle for i in order]
    found: dict[int, CaptionSegment] = {}
    for rank, i in enumerate(order):
        near = (captions[order[other]].text for other in _nearest(middles, rank, candidates - 1))
        found[i] = CaptionSegment(*_widened(captions[i], min_seconds), (captions[i].text, *near))
    return [found[i] for i in range(len(captions))]


def window_segments(
    length: float, seconds: float, captions: Sequence[Caption] = (), *, candidates: int = 5
) -> list[CaptionSegment]:
    """A video of `length` seconds in windows of `seconds`; a rest of less than half a window is dropped.

    Each has the captions nearest to its middle as candidates, if some touch it; else it has no text.
    """
    if not seconds > 0 or length / seconds > 1e6:
        raise ValueError(f"windows of {seconds} seconds in a video of {length}")
    order = sorted(captions, key=lambda caption: caption.middle)
    middles = [caption.middle for caption in order]
    found = []
    for k in range(max(1, int(length / seconds + 0.5))):
        start, end = k * seconds, min(length, (k + 1) * seconds)
        first = bisect_left(middles, (start + end) / 2)
        # a few more than asked for: the nearest ones may lie just beside the window
        near = sorted(
            order[max(0, first - 4 * candidates) : first + 4 * candidates], key=_distance_to(start, end)
        )
        texts = [caption.text for caption in near if caption.start < end and caption.end > start]
        found.append(CaptionSegment(start, end, tuple(texts[:candidates])))
    return found


def _distance_to(start: float, end: float) -> Callable[[Caption], float]:
    return lambda caption: abs(caption.middle - (start + end) / 2)


def _nearest(middles: Sequence[float], own: int, count: int) -> Iterator[int]:
    left, right = own - 1, own + 1
    for _ in range(min(count, len(middles) - 1)):
        past = middles[own] - middles[left] if left >= 0 else float("inf")
        ahead = middles[right] - middles[own] if right < len(middles) else float("inf")
        if past <= ahead:
            yield left
            left -= 1
        else:
            yield right
            right += 1


def _widened(caption: Caption, seconds: float) -> tuple[float, float]:
    missing = seconds - (caption.end - caption.start)
    if missing <= 0:
        return caption.start, caption.end
    start = max(0.0, caption.start - missing / 2)
    return start, start + seconds
