"""CSV, JSONL and Parquet as one stream of (line, values), with bounds on what a stranger's file may cost."""

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from harmonize_cli.datasets.parquet_pages import DELTA_BYTE_ARRAY, Page, read_pages
from harmonize_cli.errors import BadInput, ErrorList, missing_extra

MAX_LINE_BYTES = 4 << 20
MAX_COLUMNS = 1000
# of Parquet, whose few bytes may stand for many
_MAX_ROW_GROUP_BYTES = 1 << 30
_MAX_PAGE_BYTES = 256 << 20
_MAX_VALUES = 16 << 20
_MAX_ROW_BYTES = 64 << 20
_MAX_BATCH_ROWS = 4096
_VALUE = 64

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


CheckColumns = Callable[[Path, list[str]], None]


def read_table(
    path: Path, columns: frozenset[str], errors: ErrorList, check: CheckColumns | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, {column: value}) of every readable row; unreadable rows go to `errors`.

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
        raise BadInput(f"{path}: no such file" if not path.exists() else f"{path}: is not a regular file")
    try:
        if kind == ".parquet":
            yield from _read_parquet(path, columns, check)
        else:
            with path.open("rb") as f:
                if kind in (".csv", ".tsv"):
                    yield from _read_csv(path, f, "\t" if kind == ".tsv" else ",", errors, check)
                else:
                    yield from _read_jsonl(path, f, errors)
    except PermissionError as e:
        raise BadInput(f"{path}: can't be read ({e.strerror})") from e


def read_lines(path: Path, f: BinaryIO, errors: ErrorList) -> Iterator[tuple[int, str]]:
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
            errors.add(f"{path}:{number}", "", f"not UTF-8 (byte {e.start + 1}); save the file as UTF-8")


def _read_csv(
    path: Path, f: BinaryIO, sep: str, errors: ErrorList, check: CheckColumns | None
) -> Iterator[tuple[int, dict[str, str]]]:
    line = 0

    def texts() -> Iterator[str]:
        nonlocal line
        for number, text in read_lines(path, f, errors):
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
                errors.add(f"{path}:{start}", "", f"{len(cells)} fields, the header has {len(header)}")
            else:
                yield start, {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
    finally:
        csv.field_size_limit(before)


def _no_csv(path: Path, start: int, line: int, e: csv.Error) -> NoReturn:
    where = f"{path}:{start}" if line <= start else f"{path}:{start}-{line}"
    raise BadInput(f"{where}: invalid CSV ({e}); look for a quote that is never closed")


def _header(path: Path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if len(header) > MAX_COLUMNS:
        raise BadInput(f"{path}:1: {len(header)} columns; at most {MAX_COLUMNS} are read")
    twice = sorted({name for name in header if header.count(name) > 1 and name})
    if twice:
        raise BadInput(f"{path}:1: column {', '.join(twice)} appears twice")
    return header


def _read_jsonl(path: Path, f: BinaryIO, errors: ErrorList) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in read_lines(path, f, errors):
        if not text.strip():
            continue
        try:
            row = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as e:
            errors.add(f"{path}:{number}", "", f"invalid JSON ({e})")
            continue
        if not isinstance(row, dict):
            errors.add(f"{path}:{number}", "", f"expected an object {{...}}, found {type(row).__name__}")
            continue
        yield number, {name: value for name, value in row.items() if value is not None}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


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
            names = table.schema_arrow.names
            if check:
                check(path, names)
            wanted = [name for name in names if name in columns]
            pages = _pages(path, table.metadata, columns)
            groups = [_group_rows(path, table.metadata.row_group(g), g, pages[g]) for g in range(len(pages))]
            # pyarrow can't read these as dictionaries
            plain = {
                name for group in pages for name, some in group.items() for page in some
                if page.encoding == DELTA_BYTE_ARRAY
            }  # fmt: skip
            texts = [
                column.path
                for column in map(table.schema.column, range(len(table.schema)))
                if column.physical_type == "BYTE_ARRAY"
                and column.path.partition(".")[0] in columns
                and column.path not in plain
            ]
            # texts stay as numbers of dictionary entries until a row is made of them: a text of megabytes may
            # stand in every one of a million rows and take a few bytes in the file
            with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as coded:
                number = 0
                for g, (many, fewer) in enumerate(groups):
                    rows = fewer if plain else many
                    options = {"row_groups": [g], "columns": wanted, "use_threads": False}
                    for batch in coded.iter_batches(batch_size=rows, **options):
                        for row in _rows(path, batch, number):
                            number += 1
                            yield number, row
    except BadInput:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError, UnicodeDecodeError) as e:
        reason = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
        raise BadInput(f"{path}: not a readable Parquet file ({reason})") from e


def _pages(path: Path, metadata: Any, columns: frozenset[str]) -> list[dict[str, list[Page]]]:
    """By row group, the pages of each column that is read."""
    found: list[dict[str, list[Page]]] = []
    with path.open("rb") as file:
        for g in range(metadata.num_row_groups):
            group = metadata.row_group(g)
            found.append({})
            for chunk in (group.column(c) for c in range(group.num_columns)):
                if chunk.path_in_schema.partition(".")[0] not in columns:
                    continue
                start = chunk.data_page_offset
                if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
                    start = chunk.dictionary_page_offset
                pages = read_pages(file, start, chunk.total_compressed_size, chunk.num_values)
                found[-1][chunk.path_in_schema] = list(pages)
    return found


def _group_rows(path: Path, group: Any, number: int, columns: dict[str, list[Page]]) -> tuple[int, int]:
    """How many rows of a row group to read at a time: with texts as numbers of entries, and as they are.

    What counts are the headers of the pages, by which they are unpacked; the footer may say less.

    Raises:
        BadInput: a row group that would take too much memory in any case.
    """
    pages = [page for column in columns.values() for page in column]
    largest = max((page.size for page in pages), default=0)
    if largest > _MAX_PAGE_BYTES:
        raise BadInput(
            f"{path}: row group {number} has a page that unpacks to {largest >> 20} MiB; "
            "rewrite with smaller ones"
        )
    size = sum(page.size for page in pages)
    values = max((sum(page.values for page in column) for column in columns.values()), default=0)
    if size > _MAX_ROW_GROUP_BYTES:
        raise BadInput(f"{path}: row group {number} unpacks to {size >> 20} MiB; rewrite with smaller ones")
    if values > group.num_rows and values > _MAX_VALUES:
        raise BadInput(f"{path}: row group {number} has lists of {values} values; rewrite with smaller ones")
    a_row = max(1, values // max(1, group.num_rows))
    coded = max(1, 16 * _MAX_BATCH_ROWS // a_row)
    # each value may be as long as all that is there
    plain = max(1, _MAX_ROW_GROUP_BYTES // (a_row * max(1, size)))
    return min(coded, _MAX_BATCH_ROWS), min(plain, coded, _MAX_BATCH_ROWS)


def _rows(path: Path, batch: Any, before: int) -> Iterator[dict[str, Any]]:
    for piece in _pieces(path, batch, before):
        for row in piece.to_pylist():
            yield {name: value for name, value in row.items() if value is not None}


def _pieces(path: Path, batch: Any, before: int) -> Iterator[Any]:
    """A batch in parts that unpack to a few MiB each. before: rows that came before the batch."""
    import numpy as np

    sizes = sum((_row_bytes(column) for column in batch.columns), np.zeros(batch.num_rows, np.int64))
    if batch.num_rows and sizes.max() > _MAX_ROW_BYTES:
        row = int(sizes.argmax())
        raise BadInput(
            f"{path}: row {before + row + 1} unpacks to {int(sizes[row]) >> 20} MiB; at most "
            f"{_MAX_ROW_BYTES >> 20} MiB are read"
        )
    ends = np.cumsum(sizes)
    start = 0
    while start < batch.num_rows:
        reached = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, reached + _MAX_ROW_BYTES, side="right")))
        yield batch.slice(start, stop - start)
        start = stop


def _row_bytes(column: Any) -> Any:
    """About how many bytes each value of an Arrow array takes as a Python value, int64 [N]."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        entries = _row_bytes(column.dictionary)
        codes = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return entries[codes] if len(entries) else np.full(len(column), _VALUE, np.int64)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        offsets = column.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        values = column.keys if pa.types.is_map(kind) else column.values
        inner = _row_bytes(values.slice(offsets[0], offsets[-1] - offsets[0]))
        ends = np.concatenate([[0], np.cumsum(inner)])[offsets - offsets[0]]
        return np.diff(ends) + _VALUE
    if pa.types.is_struct(kind):
        fields = (_row_bytes(column.field(k)) for k in range(kind.num_fields))
        return sum(fields, np.full(len(column), _VALUE, np.int64))
    if any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)):
        return pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64) + _VALUE
    return np.full(len(column), column.nbytes // max(1, len(column)) + _VALUE, np.int64)
