"""CSV, JSONL and Parquet as one stream of (line, values), with bounds on what a stranger's file may cost."""

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from harmonize_cli.datasets.faults import Faults
from harmonize_cli.errors import BadInput, missing_extra

MAX_LINE_BYTES = 4 << 20
MAX_COLUMNS = 1000
_MAX_ROW_GROUP_BYTES = 2 << 30

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


CheckColumns = Callable[[Path, list[str]], None]


def read_table(
    path: Path, columns: frozenset[str], faults: Faults, check: CheckColumns | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, {column: value}) of every readable row; unreadable rows go to `faults`.

    CSV values are strings and empty cells are left out; JSONL and Parquet values keep their types and null
    is left out. Lines count from 1 as an editor shows them; Parquet rows count from 1. Of Parquet only
    `columns` are read. `check` sees the header of a CSV or Parquet file and raises if a column is missing.

    Raises:
        BadInput: the file can't be opened, is of an unknown kind or is damaged as a whole.
    """
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise BadInput(f"{path}: unknown kind of table; expected a name ending in {', '.join(FORMATS)}")
    if not path.is_file():
        raise BadInput(f"{path}: no such file" if not path.exists() else f"{path}: is no regular file")
    try:
        if kind == ".parquet":
            yield from _read_parquet(path, columns, check)
        else:
            with path.open("rb") as f:
                if kind in (".csv", ".tsv"):
                    yield from _read_csv(path, f, "\t" if kind == ".tsv" else ",", faults, check)
                else:
                    yield from _read_jsonl(path, f, faults)
    except PermissionError as e:
        raise BadInput(f"{path}: can't be read ({e.strerror})") from e


def read_lines(path: Path, f: BinaryIO, faults: Faults) -> Iterator[tuple[int, str]]:
    """Physical lines, decoded one by one so that a wrong byte is named by its line."""
    number = 0
    while raw := f.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise BadInput(f"{path}:{number}: line longer than {MAX_LINE_BYTES >> 20} MiB")
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw[:64]:
                raise BadInput(f"{path}: encoded as UTF-16 or UTF-32; expected UTF-8, save the file as UTF-8")
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as e:
            faults.add(f"{path}:{number}", "", f"no valid UTF-8 (byte {e.start + 1}); save the file as UTF-8")


def _read_csv(
    path: Path, f: BinaryIO, sep: str, faults: Faults, check: CheckColumns | None
) -> Iterator[tuple[int, dict[str, str]]]:
    line = 0

    def texts() -> Iterator[str]:
        nonlocal line
        for number, text in read_lines(path, f, faults):
            line = number
            yield text

    # an unclosed quote would swallow the rest of the file into one field: the csv module's own limit stops
    # it, but its default (128 KiB) is too small for long texts, and it is global
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        reader = csv.reader(texts(), delimiter=sep, strict=True)
        header: list[str] | None = None
        while True:
            csv.field_size_limit(MAX_LINE_BYTES)
            start = line + 1
            try:
                cells = next(reader, None)
            except csv.Error as e:
                _no_csv(path, start, line, e)
            if cells is None:
                return
            if not cells:
                continue
            if header is None:
                header = _header(path, cells)
                if check:
                    check(path, header)
            elif len(cells) != len(header):
                faults.add(f"{path}:{start}", "", f"{len(cells)} fields, the header has {len(header)}")
            else:
                yield start, {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
    finally:
        csv.field_size_limit(before)


def _no_csv(path: Path, start: int, line: int, e: csv.Error) -> NoReturn:
    where = f"{path}:{start}" if line <= start else f"{path}:{start}-{line}"
    raise BadInput(f"{where}: no valid CSV ({e}); look for a quote that is never closed")


def _header(path: Path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if len(header) > MAX_COLUMNS:
        raise BadInput(f"{path}:1: {len(header)} columns; at most {MAX_COLUMNS} are read")
    twice = sorted({name for name in header if header.count(name) > 1 and name})
    if twice:
        raise BadInput(f"{path}:1: column {', '.join(twice)} is there twice")
    return header


def _read_jsonl(path: Path, f: BinaryIO, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in read_lines(path, f, faults):
        if not text.strip():
            continue
        try:
            row = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as e:
            faults.add(f"{path}:{number}", "", f"no valid JSON ({e})")
            continue
        if not isinstance(row, dict):
            faults.add(f"{path}:{number}", "", f"expected an object {{...}}, found {type(row).__name__}")
            continue
        yield number, {name: value for name, value in row.items() if value is not None}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _read_parquet(
    path: Path, columns: frozenset[str], check: CheckColumns | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("pyarrow", "parquet", f"{path}: a Parquet file") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for g in range(table.metadata.num_row_groups):
                size = table.metadata.row_group(g).total_byte_size
                if size > _MAX_ROW_GROUP_BYTES:
                    raise BadInput(
                        f"{path}: row group {g} unpacks to {size >> 20} MiB; rewrite with smaller ones"
                    )
            if check:
                check(path, table.schema_arrow.names)
            wanted = [name for name in table.schema_arrow.names if name in columns]
            number = 0
            for batch in table.iter_batches(batch_size=4096, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: value for name, value in row.items() if value is not None}
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, UnicodeDecodeError) as e:
        reason = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
        raise BadInput(f"{path}: no readable Parquet file ({reason})") from e
