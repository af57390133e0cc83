"""Opening a shard that may come from a stranger: only what docs/store-format.md describes is touched."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from harmonize_cli.errors import BadInput
from harmonize_cli.files import parse_json
from harmonize_cli.store.digest import text_checksum
from harmonize_cli.store.extent import Extent, locate
from harmonize_cli.store.schema import FORMAT, SCHEMA_VERSION, TEXT_COLUMNS, FeatureSpec, modalities_of

_MAX_ATTRIBUTE = 16 << 20
_MAX_FEATURES = 256

Stamp = tuple[int, int, int]
"""inode, size, time of change: a shard that differs from what was indexed is not read."""


@dataclass(frozen=True)
class ShardIndex:
    """All that is known of a shard without its rows."""

    path: Path
    stamp: Stamp
    samples: int
    tool_version: str
    features: dict[str, FeatureSpec]
    attrs: dict[str, Any]
    checksums: dict[str, str]
    extents: dict[str, Extent]
    """Dataset path -> where its rows are."""


def file_stamp(path: Path) -> Stamp:
    """Identity of the file that is at `path` now."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def index_shard(path: Path) -> ShardIndex:
    """Read a shard's description and find its datasets.

    Raises:
        BadInput: no such file, no store, another schema version, damaged, or made to mislead.
    """
    with opened(path) as file, _named(path):
        if "format" not in file.attrs or _attribute(file, "format") != FORMAT:
            raise BadInput("is an HDF5 file, but no feature store; make one with `harmonize extract`")
        if (version := _attribute(file, "schema_version")) != SCHEMA_VERSION:
            # what else another version calls for, or leaves out, is not known here
            tool = f" ({_attribute(file, 'tool_version')!r})" if "tool_version" in file.attrs else ""
            raise BadInput(
                f"has schema version {version!r}, this program reads {SCHEMA_VERSION}; "
                f"extract it again, or use the version of harmonize that made it{tool}"
            )
        samples = _attribute(file, "n_samples")
        if not isinstance(samples, int) or samples < 0:
            raise BadInput(f"n_samples {samples!r} is no count")
        features = _features(_json_attribute(file, "features", list))
        size = file_stamp(path)[1]
        names = _dataset_names(list(features.values())) + (_text("vocab") if "vocab" in file else [])
        tree = _Tree(file)
        extents = {name: locate(tree.dataset(name), size) for name in names}
        index = ShardIndex(
            path=path,
            stamp=file_stamp(path),
            samples=samples,
            tool_version=str(_attribute(file, "tool_version")),
            features=features,
            attrs=_json_attribute(file, "attrs", dict),
            checksums=_json_attribute(file, "checksums", dict),
            extents=extents,
        )
        _check_shapes(index)
        for name in ("features", "attrs"):  # shards of earlier versions have no checksum of them
            if index.checksums.get(f"@{name}") not in (None, text_checksum(_attribute(file, name))):
                raise BadInput(f"attribute {name} is not as it was written; copy or extract it again")
        return index


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The shard as an h5py file, read-only and without a lock (network and read-only disks have none)."""
    try:
        if not path.is_file():
            raise BadInput(f"{path}: {'is no regular file' if path.exists() else 'no such file'}")
        file = h5py.File(path, "r", locking=False)
    except PermissionError as e:
        raise BadInput(f"{path}: can't be read ({os.strerror(e.errno or 0)})") from e
    except (OSError, RuntimeError) as e:
        raise BadInput(f"{path}: no HDF5 file, or cut short; copy or extract it again") from e
    with file:
        yield file


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except BadInput as e:
        raise BadInput(f"{path}: {e}") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as e:
        reason = str(e).strip("'\"").splitlines() or [type(e).__name__]
        raise BadInput(f"{path}: damaged ({reason[0][:200]}); copy or extract it again") from e


def _attribute(file: h5py.File, name: str) -> Any:
    if name not in file.attrs:
        raise BadInput(f"has no attribute {name}; copy or extract it again")
    kind = file.attrs.get_id(name)
    text = h5py.check_string_dtype(kind.dtype) is not None
    if kind.shape != () or not (text or kind.dtype.kind in "iu") or kind.get_storage_size() > _MAX_ATTRIBUTE:
        raise BadInput(f"attribute {name} is neither a text nor a number")
    value = file.attrs[name]
    if isinstance(value, np.integer):
        return int(value)
    return value.decode() if isinstance(value, bytes) else value


def _json_attribute(file: h5py.File, name: str, kind: type) -> Any:
    try:
        value = parse_json(_attribute(file, name))
    except (ValueError, TypeError) as e:
        raise BadInput(f"attribute {name} is damaged ({e})") from None
    if not isinstance(value, kind):
        raise BadInput(f"attribute {name} is damaged (expected a JSON {kind.__name__})")
    return value


def _features(values: list[Any]) -> dict[str, FeatureSpec]:
    if not 0 < len(values) <= _MAX_FEATURES:
        raise BadInput(f"attribute features lists {len(values)} features")
    try:
        specs = [FeatureSpec.from_json(value) for value in values]
    except (ValueError, TypeError) as e:
        raise BadInput(f"attribute features is damaged ({e})") from None
    features = {spec.key: spec for spec in specs}
    if len(features) != len(specs):
        raise BadInput("attribute features lists a feature twice")
    return features


def _text(name: str) -> list[str]:
    return [f"{name}/bytes", f"{name}/offsets"]


def _dataset_names(features: list[FeatureSpec]) -> list[str]:
    names = [f"samples/{name}" for name in ("fold", "start", "end", "digest")]
    for column in TEXT_COLUMNS:
        names += _text(f"samples/{column}")
    for modality in modalities_of(features):
        names += [f"status/{modality}/status", *_text(f"status/{modality}/reason")]
    for spec in features:
        parts = ["data", "offsets", "digest", "start_times" if spec.regular else "times"]
        names += [f"features/{spec.key}/{part}" for part in parts]
        if spec.kind == "jpeg":
            names.append(f"features/{spec.key}/row_offsets")
    return names


class _Tree:
    """Datasets of a file, found by hard links alone; each group on the way is looked up once."""

    def __init__(self, file: h5py.File) -> None:
        self._groups: dict[str, h5py.Group] = {"": file}

    def dataset(self, name: str) -> h5py.Dataset:
        folder, _, last = name.rpartition("/")
        node = self._child(self._group(folder), last, name)
        if not isinstance(node, h5py.Dataset):
            raise BadInput(f"{name} is no dataset")
        return node

    def _group(self, path: str) -> h5py.Group:
        found = self._groups.get(path)
        if found is None:
            folder, _, last = path.rpartition("/")
            found = self._child(self._group(folder), last, path)
            if not isinstance(found, h5py.Group):
                raise BadInput(f"{path} is no group")
            self._groups[path] = found
        return found

    @staticmethod
    def _child(group: h5py.Group, part: str, name: str) -> Any:
        link = group.get(part, getlink=True)
        if link is None:
            raise BadInput(f"{name} is missing; the shard is damaged")
        if not isinstance(link, h5py.HardLink):
            raise BadInput(f"{name} is a link; stores hold their own data")
        return group[part]


def _check_shapes(index: ShardIndex) -> None:
    n = index.samples
    wanted: dict[str, tuple[str, tuple[int, ...], int | None]] = {
        "samples/fold": ("<i4", (), n),
        "samples/start": ("<f8", (), n),
        "samples/end": ("<f8", (), n),
        "samples/digest": ("|u1", (16,), n),
    }
    for name in index.extents:
        if name.endswith("/bytes"):
            wanted[name] = ("|u1", (), None)
        elif name.endswith("/offsets"):
            wanted[name] = ("<i8", (), None if name == "vocab/offsets" else n + 1)
        elif name.startswith("status/"):
            wanted[name] = ("|u1", (), n)
    for key, spec in index.features.items():
        jpeg = spec.kind == "jpeg"
        data = np.dtype(spec.dtype).newbyteorder("<").str
        wanted[f"features/{key}/data"] = (data, () if jpeg else spec.row_shape, None)
        wanted[f"features/{key}/digest"] = ("|u1", (16,), n)
        if spec.regular:
            wanted[f"features/{key}/start_times"] = ("<f8", (), n)
        else:
            counted = "row_offsets" if jpeg else "data"
            times = index.extents[f"features/{key}/{counted}"].rows - jpeg
            wanted[f"features/{key}/times"] = ("<f8", (), times)
        if jpeg:
            wanted[f"features/{key}/row_offsets"] = ("<i8", (), None)
    for name, (dtype, row_shape, rows) in wanted.items():
        extent = index.extents[name]
        found = (extent.dtype.newbyteorder("<").str, extent.row_shape, extent.rows)
        if found[:2] != (dtype, row_shape) or (rows is not None and rows != extent.rows):
            raise BadInput(
                f"{name} is {found[0]} {found[1]} x {found[2]}, expected {dtype} {row_shape} x {rows}"
            )
        if extent.addresses is None and not (name.startswith("features/") and name.endswith("/data")):
            raise BadInput(f"{name} is packed; only features' rows may be")
