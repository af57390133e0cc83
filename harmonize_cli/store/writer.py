"""Writing one shard: complete or not there; in memory are a few blocks of each dataset, and the ids."""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

import harmonize_cli
from harmonize_cli.errors import BadInput
from harmonize_cli.files import atomic_path
from harmonize_cli.store.digest import (
    ascii_json,
    encode_text,
    feature_digest,
    sample_digest,
    text_checksum,
)
from harmonize_cli.store.growing import BULK_CHUNK, GrowingDataset, GrowingTexts
from harmonize_cli.store.schema import (
    FORMAT,
    SCHEMA_VERSION,
    TEXT_COLUMNS,
    FeatureSpec,
    Sample,
    modalities_of,
)
from harmonize_cli.store.validate import Checked, check_sample

_MAX_ATTRS = 1 << 20


class ShardWriter:
    """Writes samples to one HDF5 shard.

        with ShardWriter(path, features) as shard:
            shard.add(sample)

    The shard is written beside `path` as `*.tmp`, synced, and renamed on a clean exit; after an error nothing
    is left. Samples are checked before anything of them is written, so a refused one can be skipped.

    Args:
        path: where the shard will be; refused if something is there, unless `overwrite`.
        features: what every sample holds.
        attrs: provenance of the store (JSON, up to 1 MiB), such as the extraction's settings.
        vocab: the words that token ids stand for, if there are token features.
        compression: None, or "lzf" for the features' rows (smaller, slower to read).

    Raises:
        BadInput: `path` exists.
        OSError: with errno and file name where the disk is full.
    """

    def __init__(
        self,
        path: Path,
        features: Sequence[FeatureSpec],
        *,
        attrs: Mapping[str, Any] | None = None,
        vocab: Sequence[str] | None = None,
        compression: str | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.features = list(features)
        self._attrs = ascii_json(dict(attrs or {}))
        self._vocab = vocab
        self._compression = compression
        if len({spec.key for spec in features}) != len(features) or not features:
            raise ValueError("a store needs features, each with a key of its own")
        if compression not in (None, "lzf"):
            raise ValueError(f"compression {compression!r}: expected None or 'lzf'")
        if len(self._attrs) > _MAX_ATTRS:
            raise ValueError(f"attrs of {len(self._attrs)} bytes; at most {_MAX_ATTRS}")
        if not overwrite and self.path.exists():
            raise BadInput(f"{self.path}: exists already, and stores are never changed; name another file")
        self._ids: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            tmp = stack.enter_context(atomic_path(self.path))
            self._tmp = tmp
            # 1.10's format has checksums on its own structures; no lock: the name is ours alone; blocks start
            # at a page of memory, so that a reader touches no more pages than it must
            with self._explained():
                self._file = h5py.File(
                    tmp,
                    "w",
                    libver=("v110", "v110"),
                    locking=False,
                    alignment_threshold=64 << 10,
                    alignment_interval=4096,
                )
            stack.push(self._close)
            with self._explained():
                self._lay_out()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._explained():
                    self._finish()
        except BaseException as e:
            self._stack.__exit__(type(e), e, e.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, sample: Sample, digests: Mapping[str, str] | None = None) -> None:
        """Append one sample; `digests` (hex, by feature) are those of a copy that was compared with them.

        Raises:
            ValueError: the sample does not fit the features; nothing of it was written.
            OSError: the disk is full; leave the `with` block.
        """
        if sample.id in self._ids:
            raise ValueError(f"sample {sample.id!r} is in this shard already")
        checked = check_sample(sample, self.features)
        with self._explained():
            self._append(sample, checked, digests or {})
        self._ids.add(sample.id)

    def _lay_out(self) -> None:
        samples = self._file.create_group("samples")
        self._texts = {name: GrowingTexts(samples, name) for name in TEXT_COLUMNS}
        self._numbers = {
            "fold": GrowingDataset(samples, "fold", "int32"),
            "start": GrowingDataset(samples, "start", "float64"),
            "end": GrowingDataset(samples, "end", "float64"),
            "digest": GrowingDataset(samples, "digest", "uint8", (16,)),
        }
        self._status: dict[str, GrowingDataset] = {}
        for modality in modalities_of(self.features):
            group = self._file.create_group(f"status/{modality}")
            self._status[modality] = GrowingDataset(group, "status", "uint8")
            self._texts[f"reason:{modality}"] = GrowingTexts(group, "reason")
        self._columns = {
            spec.key: _FeatureColumn(self._file, spec, self._compression) for spec in self.features
        }

    def _append(self, sample: Sample, checked: Checked, known: Mapping[str, str]) -> None:
        digests = {
            key: self._columns[key].append(*parts, digest=known.get(key))
            for key, parts in checked.features.items()
        }
        for name, raw in checked.texts.items():
            self._texts[name].append(raw)
        self._numbers["fold"].append(np.array([-1 if sample.fold is None else sample.fold], np.int32))
        self._numbers["start"].append(np.array([sample.start]))
        self._numbers["end"].append(np.array([np.nan if sample.end is None else sample.end]))
        for modality, status in checked.status.items():
            self._status[modality].append(np.array([status], np.uint8))
        digest = sample_digest(checked.facts, digests)
        self._numbers["digest"].append(np.frombuffer(digest, np.uint8)[None])

    def _finish(self) -> None:
        checksums: dict[str, str | None] = {}
        texts = list(self._texts.values())
        if self._vocab is not None:
            words = GrowingTexts(self._file, "vocab")
            for word in self._vocab:
                words.append(encode_text(word))
            texts.append(words)
        for text in texts:
            checksums.update(text.finish())
        for part in (*self._numbers.values(), *self._status.values()):
            checksums[part.path] = part.finish()
        for column in self._columns.values():
            for part in column.parts:
                checksums[part.path] = part.finish()
        described = {
            "features": ascii_json([spec.to_json() for spec in self.features]),
            "attrs": self._attrs,
        }
        checksums |= {f"@{name}": text_checksum(text) for name, text in described.items()}
        head = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "tool_version": harmonize_cli.__version__,
            "n_samples": len(self._ids),
            **described,
            "checksums": ascii_json({path: sha for path, sha in checksums.items() if sha}),
        }
        for name, value in head.items():
            self._file.attrs[name] = value
        self._file.flush()

    def _close(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with self._explained():
                    self._file.close()
                return
        except (OSError, RuntimeError):
            self._abandon()
            raise
        self._abandon()

    def _abandon(self) -> None:
        # HDF5 would try to write what it still holds when the file is closed and, on a full disk, fail, keep
        # it open and crash at the interpreter's exit. The file is to be dropped: let HDF5 write to nowhere.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, self._file.id.get_vfd_handle())
            os.close(nowhere)
        with suppress(OSError, RuntimeError):
            self._file.close()

    def _explained(self) -> "_NamesTheFile":
        return _NamesTheFile(self.path)


class _FeatureColumn:
    """The datasets of one feature."""

    def __init__(self, file: h5py.File, spec: FeatureSpec, compression: str | None) -> None:
        group = file.create_group(f"features/{spec.key}")
        self._jpeg = spec.kind == "jpeg"
        row_shape = () if self._jpeg else spec.row_shape
        packed = None if self._jpeg else compression
        self._regular = spec.regular
        self._data = GrowingDataset(group, "data", spec.dtype, row_shape, bulk=True, compression=packed)
        self._offsets = GrowingDataset(group, "offsets", "int64")
        self._times = GrowingDataset(group, "start_times" if spec.regular else "times", "float64")
        self._digest = GrowingDataset(group, "digest", "uint8", (16,))
        self.parts = [self._data, self._offsets, self._times, self._digest]
        self._rows = 0
        self._offsets.append(np.zeros(1, np.int64))
        if self._jpeg:
            self._row_offsets = GrowingDataset(group, "row_offsets", "int64")
            self._row_offsets.append(np.zeros(1, np.int64))
            self.parts.append(self._row_offsets)

    def append(
        self,
        data: NDArray[Any],
        times: NDArray[np.float64],
        row_sizes: NDArray[np.int64] | None,
        digest: str | None = None,
    ) -> bytes:
        """Add one sample's rows and times (one start time if regular); their digest, made if not given."""
        made = bytes.fromhex(digest) if digest else feature_digest([data], times, row_sizes)
        if row_sizes is not None:
            self._row_offsets.append(self._data.rows + np.cumsum(row_sizes))
        self._rows += len(data) if row_sizes is None else len(row_sizes)
        # by blocks: rows of an hour of video are mapped from a file and must not be copied as a whole
        step = max(1, BULK_CHUNK // max(1, data[:1].nbytes))
        for first in range(0, len(data), step):
            self._data.append(data[first : first + step])
        self._times.append(times)
        self._offsets.append(np.array([self._rows]))
        self._digest.append(np.frombuffer(made, np.uint8)[None])
        return made


class _NamesTheFile:
    """HDF5's errors say "file write failed": name the file, keep the errno that says why."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError) and error.filename == str(self._path):
            return
        # h5py raises one or the other, at times with the errno in the text only
        if isinstance(error, OSError | RuntimeError):
            told = re.search(r"errno = (\d+)", str(error))
            code = getattr(error, "errno", None) or (int(told[1]) if told else errno.EIO)
            raise OSError(code, os.strerror(code), str(self._path)) from error
