"""Rows from the timed captions of one video, and windows of videos without any."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harmonize_cli.datasets.captions import MOST_SECONDS, Caption, caption_segments, window_segments
from harmonize_cli.datasets.layouts import DatasetFolder, Entry
from harmonize_cli.errors import HarmonizeError


def caption_entries(
    base: Entry, captions: Sequence[Caption], video: Path, source: DatasetFolder
) -> Iterator[Entry]:
    """One entry a caption with its neighbours, or one a window; ids are the video's and a number."""
    options = source.options
    if options.window is None:
        segments = caption_segments(captions, candidates=options.candidates, min_seconds=options.min_seconds)
    else:
        length = _seconds(video, source)
        if length is None:
            yield replace(base, path=video)  # whole: the extraction will say what is wrong with it
            return
        segments = window_segments(length, options.window, captions, candidates=options.candidates)
    for number, segment in enumerate(segments):
        yield replace(
            base,
            id=f"{base.id}_{number:05d}",
            start=segment.start,
            end=segment.end,
            texts=segment.texts,
            path=video,
        )


def _seconds(video: Path, source: DatasetFolder) -> float | None:
    from harmonize_cli.media.probe import length_of

    try:
        length = length_of(video)
    except HarmonizeError as e:
        source.problems.add(str(video), "", f"can't be cut in windows: {e}")
        return None
    if not length or length > MOST_SECONDS:
        told = f"it claims to last {length:g} s" if length else "it has no packets that tell how long it is"
        source.problems.add(str(video), "", f"can't be cut in windows: {told}")
        return None
    return length
