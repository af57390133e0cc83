"""Stores in the formats of other tools: WebDataset tar shards and Parquet."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harmonize_cli.errors import BadInput, missing_extra
from harmonize_cli.store.columns import declared, declared_values
from harmonize_cli.store.description import description
from harmonize_cli.store.digest import encode_json, encode_text
from harmonize_cli.store.output import new_folder
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Status

OnSample = Callable[[], Any]


def described(store: Store, i: int) -> dict[str, Any]:
    """All that is known of a sample beside its rows, as JSON: where it comes from and what became of it."""
    known = description(store, i)
    regular = [key for key, spec in store.features.items() if spec.regular and store.length(key)[i]]
    return {
        **known,
        **declared_values(known["facts"]),
        "source": _printable(known["source"]),
        "status": {m: Status(status).name.lower() for m, status in known["status"].items()},
        "reason": {m: text for m, text in known["reason"].items() if text},
        "start_times": {key: store.start_time(key, i) for key in regular},
        "rates": {key: spec.rate for key, spec in store.features.items() if spec.rate is not None},
        "rows": {key: int(store.length(key)[i]) for key in store.features},
        "digest": store.digest(i),
    }


def _printable(path: str) -> str:
    """A file name that is no UTF-8 with its odd bytes as escapes: JSON and Parquet hold UTF-8 alone."""
    return encode_text(path).decode("utf-8", "backslashreplace")


def to_webdataset(
    store: Store,
    out: Path,
    *,
    features: Sequence[str] | None = None,
    shard_samples: int = 1000,
    on_sample: OnSample = lambda: None,
) -> int:
    """Write `shard-000000.tar`, ...: for each sample `KEY.json`, `KEY.txt` (its first text), and for each
    feature `KEY.video_frames.npy` (rows) and `KEY.video_frames.times.npy` (not for regular features, whose
    start time and rate are in the JSON); JPEG rows as `KEY.NAME.0000.jpg`.

    How many shards there are. Keys are numbers: ids may hold characters that WebDataset splits at.
    """
    keys = chosen_features(store, features)
    check_texts(store)
    numbers = range(0, len(store), shard_samples)
    with new_folder(out) as folder:
        for shard, first in enumerate(numbers):
            with tarfile.open(folder / f"shard-{shard:06d}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
                for i in range(first, min(len(store), first + shard_samples)):
                    for name, data in _members(store, i, keys):
                        info = tarfile.TarInfo(f"{i:09d}.{name}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
                    on_sample()
    return len(numbers)


def _members(store: Store, i: int, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    store.check(i, keys)
    yield "json", encode_text(json.dumps(described(store, i), ensure_ascii=False))
    texts = store.texts(i)
    if texts:
        yield "txt", encode_text(texts[0])
    for key in keys:
        if not store.length(key)[i]:
            continue
        name = key.replace("/", "_").replace(".", "_")
        if store.features[key].kind == "jpeg":
            for row, data in enumerate(store.read_jpeg(key, i)):
                yield f"{name}.{row:04d}.jpg", data
        else:
            yield f"{name}.npy", _npy(store.read(key, i))
        if not store.features[key].regular:
            yield f"{name}.times.npy", _npy(store.times(key, i))


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def to_parquet(
    store: Store,
    out: Path,
    *,
    features: Sequence[str] | None = None,
    file_samples: int = 100_000,
    on_sample: OnSample = lambda: None,
) -> int:
    """Write `part-00000.parquet`, ...: one row a sample, its description and its features.

    A feature of rows [T, D] is a list of lists, of rows [T] a list, of JPEG rows a list of byte strings, of
    larger rows byte strings in C order (shape and dtype are in the column's metadata). How many files.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_extra("pyarrow", "parquet", "an export to Parquet") from None
    keys = chosen_features(store, features)
    check_texts(store)
    schema = _schema(pa, store, keys)
    numbers = range(0, len(store), file_samples) if len(store) else range(1)
    with new_folder(out) as folder:
        for part, first in enumerate(numbers):
            with pq.ParquetWriter(folder / f"part-{part:05d}.parquet", schema, compression="zstd") as file:
                rows: list[dict[str, Any]] = []
                size = 0
                for i in range(first, min(len(store), first + file_samples)):
                    rows.append(_parquet_row(store, i, keys))
                    size += sum(int(store.length(k)[i]) * store.features[k].row_bytes for k in keys)
                    on_sample()
                    if size > 32 << 20 or len(rows) >= 10_000:
                        file.write_table(pa.Table.from_pylist(rows, schema))
                        rows, size = [], 0
                if rows:
                    file.write_table(pa.Table.from_pylist(rows, schema))
    return len(numbers)


def _parquet_row(store: Store, i: int, keys: Sequence[str]) -> dict[str, Any]:
    store.check(i, keys)
    row = described(store, i)
    for name in ("status", "reason", "facts", "start_times"):
        row[name] = json.dumps(row[name], ensure_ascii=False)
    del row["rows"], row["rates"]
    for key in keys:
        spec = store.features[key]
        if spec.kind == "jpeg":
            row[key] = store.read_jpeg(key, i)
        else:
            rows = store.read(key, i)
            row[key] = rows if rows.ndim == 1 else [_parquet_item(item) for item in rows]
        if not spec.regular and spec.rate is not None:
            row[f"{key}.times"] = store.times(key, i)
    return row


def _parquet_item(row: Any) -> Any:
    return row if row.ndim == 1 else row.tobytes()


def _schema(pa: Any, store: Store, keys: Sequence[str]) -> Any:
    texts = dict.fromkeys(("id", "group", "split"), pa.string())
    after = dict.fromkeys(("status", "reason", "facts", "start_times", "digest"), pa.string())
    lists = dict.fromkeys(("labels", "texts"), pa.list_(pa.string()))
    place = {"source": pa.string(), "start": pa.float64(), "end": pa.float64()}
    kinds = {
        "int32": pa.int32(),
        "float64": pa.float64(),
        "list": pa.list_(pa.string()),
        "string": pa.string(),
    }
    more = {name: kinds[column.parquet()] for name, column in declared().items()}
    columns = {**texts, "fold": pa.int32(), **lists, **place, **after, **more}
    found = [pa.field(name, kind) for name, kind in columns.items()]
    for key in keys:
        spec = store.features[key]
        about = {"harmonize": json.dumps(spec.to_json())}
        found.append(pa.field(key, pa.list_(_item(pa, spec)), metadata=about))
        if not spec.regular and spec.rate is not None:
            found.append(pa.field(f"{key}.times", pa.list_(pa.float64())))
    return pa.schema(found)


def _item(pa: Any, spec: FeatureSpec) -> Any:
    if spec.kind == "jpeg" or len(spec.row_shape) > 1:
        return pa.binary()
    number = pa.from_numpy_dtype(np.dtype(spec.dtype))
    return pa.list_(number, spec.row_shape[0]) if spec.row_shape else number


def check_texts(store: Store) -> None:
    """Whether the texts of a store can be written as UTF-8, as JSON and Parquet have to be; the name of a
    source file alone may be something else, and is exported with escapes.

    Raises:
        BadInput: naming the sample and the field.
    """
    for i in range(len(store)):
        known = {name: value for name, value in description(store, i).items() if name != "source"}
        try:
            encode_json(known).decode("utf-8")
        except UnicodeDecodeError:
            field = next(n for n, value in known.items() if not _is_utf8(value))
            raise BadInput(
                f"{store.path}: sample {known['id']!r}: {field} is not UTF-8, which the format asks for; "
                "extract it again from a manifest in UTF-8, or leave it out (`harmonize store split --ids`)"
            ) from None


def _is_utf8(value: Any) -> bool:
    try:
        encode_json(value).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def chosen_features(store: Store, features: Sequence[str] | None) -> list[str]:
    """The features to export, all for None.

    Raises:
        BadInput: the store has no such feature.
    """
    for key in features or ():
        if key not in store.features:
            raise BadInput(f"{store.path}: no feature {key!r}; it has {', '.join(store.features)}")
    return list(store.features if features is None else features)
