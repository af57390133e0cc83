"""Manifests: one row a sample, from CSV, JSONL or Parquet."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize_cli.datasets.fields import FieldError, parse
from harmonize_cli.datasets.paths import PathGuard
from harmonize_cli.datasets.tables import read_table
from harmonize_cli.errors import BadInput, ErrorList
from harmonize_cli.store.columns import COLUMNS, declared, manifest_columns

_CONTENT = ("video", "audio", "text", "texts")


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
    more: Mapping[str, Any] = field(default_factory=dict)
    """Columns that were registered beside the built-in ones (see `store.columns`)."""


def read_manifest(
    path: Path, *, root: Path | None = None, allow_outside: bool = False, errors: ErrorList | None = None
) -> list[ManifestRow]:
    """Read a manifest; relative paths are relative to `root` (default: the manifest's folder).

    `id` and one of video, audio, text and texts are required; other columns are ignored, unless
    their name looks like a slip of the pen.

    With `errors` the invalid rows are added there, and the others returned.

    Raises:
        BadInput: with every invalid row as `file:line: field: what` (the first ones in full, all counted).
    """
    path = Path(path)
    raises = errors is None
    errors = ErrorList(str(path)) if errors is None else errors
    guard = PathGuard(root if root is not None else path.parent, allow_outside=allow_outside)
    rows: list[ManifestRow] = []
    first_line: dict[str, int] = {}
    n_seen = 0
    columns = manifest_columns()
    near: dict[str, str] = {}

    def check(path: Path, header: list[str]) -> None:
        slips = [slip for name in header if (slip := _slip(name, header, columns))]
        if slips:
            raise BadInput(f"{path}:1: {'; '.join(slips)}")
        shown = ", ".join(name[:40] for name in header[:20]) or "none"
        if "id" not in header:
            raise BadInput(f"{path}:1: id: this column is missing; found {shown}")
        if not any(name in header for name in _CONTENT):
            raise BadInput(
                f"{path}:1: video: one of the columns {', '.join(_CONTENT)} is needed; found {shown}"
            )

    for line, values in read_table(path, columns, errors, check):
        n_seen += 1
        where = f"{path}:{line}"
        for name in values.keys() - columns:
            slip = near[name] if name in near else near.setdefault(name, _slip(name, values, columns))
            if slip:
                errors.add(where, "", slip)
        row = _row(values, where, guard, errors)
        if row is None:
            continue
        if row.id in first_line:
            errors.add(where, "id", f"{row.id!r} is already on line {first_line[row.id]}")
            continue
        first_line[row.id] = line
        rows.append(row)
    if raises:
        errors.raise_if_any()
    if not n_seen:
        raise BadInput(f"{path}: no rows; expected a table with the columns id and video, audio or text")
    return rows


def _slip(name: str, present: Collection[str], columns: Collection[str]) -> str:
    """What to say of an unknown column whose name is nearly that of a known one which is not there, or ""."""
    if name in columns or len(name) > 40:
        return ""
    close = difflib.get_close_matches(name.lower(), columns, n=1, cutoff=0.8)
    if not close or close[0] in present:
        return ""
    return f"column {name!r} is unknown; did you mean {close[0]!r}? (else give it another name)"


def _row(values: Mapping[str, Any], where: str, guard: PathGuard, errors: ErrorList) -> ManifestRow | None:
    before = errors.count
    found: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        try:
            value = parse(values, name, column)
        except FieldError as e:
            errors.add(where, e.field, str(e))
            value = None
        found[name] = column.default if value is None else value
    if "id" not in values:
        errors.add(where, "id", "missing; every row needs an id of its own")
    if found["end"] is not None and found["end"] <= found["start"]:
        errors.add(where, "end", f"{found['end']:g} s is not after the start, {found['start']:g} s")
    if not any(name in values for name in _CONTENT):
        errors.add(where, "video", "missing; a row needs one of video, audio, text, texts")
    files: dict[str, Any] = {}
    for name in ("video", "audio"):
        path = guard.resolve(found[name]) if found[name] else None
        if isinstance(path, str):
            errors.add(where, name, path)
        else:
            files[name] = path
    if errors.count > before:
        return None
    known = {name: found[name] for name, column in COLUMNS.items() if column.field}
    known["group"] = found["group"] or found["video"] or found["audio"] or found["id"]
    more = {name: found[name] for name in declared() if found[name] != COLUMNS[name].default}
    return ManifestRow(**known, **files, source=where, more=more)
