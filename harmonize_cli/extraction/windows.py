"""Long videos of a manifest in windows of fixed length."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from harmonize_cli.datasets.captions import MOST_SECONDS, window_segments
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.errors import ErrorList
from harmonize_cli.media.errors import MediaError
from harmonize_cli.media.probe import length_of


def cut_in_windows(rows: Sequence[ManifestRow], seconds: float, *, workers: int = 4) -> list[ManifestRow]:
    """Rows longer than `seconds` become several, with the ids ID_00000, ID_00001, ... and the row's texts.

    A row without an end is as long as its file says; one whose file can't be looked at, or claims to last for
    days, stays whole, and the extraction says what is wrong with it.

    Raises:
        BadInput: more than a million windows of one row, or one with the id of another row.
    """
    files = sorted({path for row in rows if row.end is None and (path := row.video or row.audio)})
    with ThreadPoolExecutor(workers) as pool:
        lengths = dict(zip(files, pool.map(_length, files), strict=True))
    errors = ErrorList(f"windows of {seconds:g} s")
    cut: list[ManifestRow] = []
    for row in rows:
        path = row.video or row.audio
        end = row.end if row.end is not None else lengths.get(path) if path else None
        if end is None or end - row.start <= seconds:
            cut.append(row)
            continue
        try:
            parts = window_segments(end - row.start, seconds)
        except ValueError as e:
            errors.add(row.source, "end", f"too many {e}")
            continue
        for number, part in enumerate(parts):
            start, stop = row.start + part.start, row.start + part.end
            cut.append(replace(row, id=f"{row.id}_{number:05d}", start=start, end=stop))
    seen: set[str] = set()
    for row in cut:
        if row.id in seen:
            errors.add(row.source, "id", f"{row.id!r} is a window of one row and the name of another")
        seen.add(row.id)
    errors.raise_if_any()
    return cut


def _length(path: Path) -> float | None:
    try:
        length = length_of(path)
    except MediaError:
        return None
    return length if length is not None and length <= MOST_SECONDS else None
