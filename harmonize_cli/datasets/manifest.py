"""Manifests: one row a sample, from CSV, JSONL or Parquet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize_cli.datasets.fields import (
    FieldError,
    checked_name,
    integer,
    name_of,
    path_text,
    seconds,
    texts_of,
)
from harmonize_cli.datasets.paths import PathGuard
from harmonize_cli.datasets.tables import read_table
from harmonize_cli.errors import BadInput, ErrorList

_CONTENT = ("video", "audio", "text", "texts")
COLUMNS = frozenset(("id", "start", "end", "label", "labels", "split", "fold", "group", *_CONTENT))


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One sample to extract: where its pictures, sound and words are, and how it is used."""

    id: str
    """Unique in the manifest."""
    video: Path | None = None
    """File with pictures (and sound, unless `audio` is given)."""
    start: float = 0.0
    """Start of the segment in seconds from the start of the file."""
    end: float | None = None
    """End of the segment in seconds; None is the end of the file."""
    audio: Path | None = None
    """A separate sound file; None is the video's own track."""
    texts: tuple[str, ...] = ()
    """Text candidates, the sample's own first (MIL-NCE takes any as positive)."""
    labels: tuple[str, ...] = ()
    split: str = ""
    """"" is unknown."""
    fold: int | None = None
    group: str = ""
    """Samples of one source; they stay together in splits. By default the video path as written."""
    source: str = ""
    """`file:line` that the row comes from."""


def read_manifest(path: Path, *, root: Path | None = None, allow_outside: bool = False) -> list[ManifestRow]:
    """Read a manifest; relative paths are relative to `root` (default: the manifest's folder).

    `id` and one of video, audio, text and texts are required; other columns are ignored.

    Raises:
        BadInput: with every invalid row as `file:line: field: what` (the first ones in full, all counted).
    """
    path = Path(path)
    errors = ErrorList(str(path))
    guard = PathGuard(root if root is not None else path.parent, allow_outside=allow_outside)
    rows: list[ManifestRow] = []
    first_line: dict[str, int] = {}
    n_seen = 0
    for line, values in read_table(path, COLUMNS, errors, _check_columns):
        n_seen += 1
        where = f"{path}:{line}"
        row = _row(values, where, guard, errors)
        if row is None:
            continue
        if row.id in first_line:
            errors.add(where, "id", f"{row.id!r} is already on line {first_line[row.id]}")
            continue
        first_line[row.id] = line
        rows.append(row)
    errors.raise_if_any()
    if not n_seen:
        raise BadInput(f"{path}: no rows; expected a table with the columns id and video, audio or text")
    return rows


def _check_columns(path: Path, header: list[str]) -> None:
    shown = ", ".join(name[:40] for name in header[:20]) or "none"
    if "id" not in header:
        raise BadInput(f"{path}:1: id: this column is missing; found {shown}")
    if not any(name in header for name in _CONTENT):
        raise BadInput(f"{path}:1: video: one of the columns {', '.join(_CONTENT)} is needed; found {shown}")


def _row(values: Mapping[str, Any], where: str, guard: PathGuard, errors: ErrorList) -> ManifestRow | None:
    before = errors.count

    def field(parse: Any, *args: Any, **options: Any) -> Any:
        try:
            return parse(values, *args, **options)
        except FieldError as e:
            errors.add(where, e.field, str(e))
            return None

    sample = field(name_of, "id", numbers=True)
    if sample is None and "id" not in values:
        errors.add(where, "id", "missing; every row needs an id of its own")
    video, audio = field(path_text, "video"), field(path_text, "audio")
    start, end = field(seconds, "start") or 0.0, field(seconds, "end")
    if end is not None and end <= start:
        errors.add(where, "end", f"{end:g} s is not after the start, {start:g} s")
    texts, labels = field(texts_of, "text", "texts") or (), field(texts_of, "label", "labels") or ()
    try:
        for label in labels:
            checked_name("labels", label)
    except FieldError as e:
        errors.add(where, e.field, str(e))
    if not any(name in values for name in _CONTENT):
        errors.add(where, "video", "missing; a row needs one of video, audio, text, texts")
    written = {"video": video, "audio": audio}
    found = {name: guard.resolve(text) for name, text in written.items() if text is not None}
    for name, outcome in found.items():
        if isinstance(outcome, str):
            errors.add(where, name, outcome)
    split, fold = field(name_of, "split"), field(integer, "fold")
    group = field(name_of, "group", numbers=True)
    if errors.count > before:
        return None
    return ManifestRow(
        id=sample,
        video=found.get("video"),  # type: ignore[arg-type]  # texts were reported as errors above
        start=start,
        end=end,
        audio=found.get("audio"),  # type: ignore[arg-type]
        texts=texts,
        labels=labels,
        split=split or "",
        fold=fold,
        group=group or video or audio or sample,
        source=where,
    )
