"""Long videos of a manifest in windows of fixed length."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from harmonize_cli.datasets.captions import window_segments
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.media.errors import MediaError
from harmonize_cli.media.probe import probe


def cut_in_windows(rows: Sequence[ManifestRow], seconds: float, *, workers: int = 4) -> list[ManifestRow]:
    """Rows longer than `seconds` become several, with the ids ID_00000, ID_00001, ... and the row's texts.

    A row without an end is as long as its file says; one whose file can't be looked at stays whole, and the
    extraction says what is wrong with it.
    """
    files = sorted({path for row in rows if row.end is None and (path := row.video or row.audio)})
    with ThreadPoolExecutor(workers) as pool:
        lengths = dict(zip(files, pool.map(_length, files), strict=True))
    cut = []
    for row in rows:
        path = row.video or row.audio
        end = row.end if row.end is not None else lengths.get(path) if path else None
        if end is None or end - row.start <= seconds:
            cut.append(row)
            continue
        for number, part in enumerate(window_segments(end - row.start, seconds)):
            start, stop = row.start + part.start, row.start + part.end
            cut.append(replace(row, id=f"{row.id}_{number:05d}", start=start, end=stop))
    return cut


def _length(path: Path) -> float | None:
    try:
        return probe(path).duration
    except MediaError:
        return None
