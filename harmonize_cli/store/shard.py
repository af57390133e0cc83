"""One shard, read lazily: nothing is opened before it is needed, nothing open travels to another process."""

import json
import os
import threading
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.store.digest import decode_text
from harmonize_cli.store.layout import ShardIndex, file_stamp

_MAX_TEXT = 256 << 20


class Shard:
    """Columns and rows of one shard.

    Uncompressed data is read with `pread` on a plain file descriptor, which forked processes and threads may
    share. Compressed data needs an h5py file: opened lazily per process, never used across a fork.
    """

    def __init__(self, index: ShardIndex) -> None:
        self.index = index
        self._reset()

    def _reset(self) -> None:
        self._fd: int | None = None
        self._offsets: dict[str, NDArray[np.int64]] = {}
        self._h5: tuple[int, h5py.File] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> ShardIndex:
        return self.index

    def __setstate__(self, index: ShardIndex) -> None:
        self.index = index
        self._reset()

    def close(self) -> None:
        """Give back the file descriptor; the next read opens it again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        handle, self._h5 = self._h5, None
        if handle is not None:
            handle[1].close()

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd)  # type: ignore[arg-type]
            self._fd = None

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows [start, stop) of a dataset; the bounds are the caller's to check."""
        extent = self.index.extents[name]
        stop = extent.rows if stop is None else stop
        try:
            if extent.addresses is None:
                return self._unpack(name, start, stop)
            return extent.read(self._descriptor(), start, stop)
        except (EOFError, OSError, RuntimeError) as e:
            raise self.damaged(name, str(e) or "the file ends too early") from e

    def offsets(self, name: str) -> NDArray[np.int64]:
        """Offsets [N + 1] of a dataset, checked once: from 0 to the number of rows, never falling."""
        found = self._offsets.get(name)
        if found is None:
            found = self.rows(name)
            end = self._rows_behind(name)
            if not len(found) or found[0] != 0 or found[-1] != end or (np.diff(found) < 0).any():
                raise self.damaged(name, f"the offsets do not run from 0 to {end}")
            self._offsets[name] = found
        return found

    def raw_text(self, column: str, i: int) -> bytes:
        """Bytes of text `i` of a text column such as "samples/texts"."""
        offsets = self.offsets(f"{column}/offsets")
        start, stop = int(offsets[i]), int(offsets[i + 1])
        if stop - start > _MAX_TEXT:
            raise self.damaged(column, f"a text of {stop - start} bytes")
        return self.rows(f"{column}/bytes", start, stop).tobytes()

    def text(self, column: str, i: int) -> str:
        """Text `i` of a text column."""
        try:
            return decode_text(self.raw_text(column, i))
        except UnicodeDecodeError as e:
            raise self.damaged(column, str(e)) from e

    def all_texts(self, column: str) -> list[str]:
        """A whole text column."""
        offsets = self.offsets(f"{column}/offsets").tolist()
        raw = self.rows(f"{column}/bytes").tobytes()
        try:
            return [decode_text(raw[a:b]) for a, b in pairwise(offsets)]
        except UnicodeDecodeError as e:
            raise self.damaged(column, str(e)) from e

    def json(self, column: str, text: str, kind: type) -> Any:
        """A text of a JSON column as a `kind` (list of texts, or object)."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise self.damaged(column, str(e)) from e
        plain = isinstance(value, kind)
        if plain and kind is list:
            plain = all(isinstance(item, str) for item in value)
        if not plain:
            raise self.damaged(column, f"expected a JSON {kind.__name__}")
        return value

    def damaged(self, name: str, what: str) -> BadInput:
        """The error for a shard whose content can't be right."""
        return BadInput(f"{self.index.path}: {name}: damaged ({what}); copy or extract it again")

    def _rows_behind(self, name: str) -> int:
        folder, _, part = name.rpartition("/")
        if part == "row_offsets" or f"{folder}/data" not in self.index.extents:
            target = "bytes" if part == "offsets" else "data"
            return self.index.extents[f"{folder}/{target}"].rows
        if f"{folder}/row_offsets" in self.index.extents:
            return self.index.extents[f"{folder}/row_offsets"].rows - 1
        return self.index.extents[f"{folder}/data"].rows

    def _descriptor(self) -> int:
        fd = self._fd
        if fd is None:
            with self._lock:
                if self._fd is None:
                    self._check_unchanged()
                    self._fd = os.open(self.index.path, os.O_RDONLY | os.O_CLOEXEC)
                fd = self._fd
        return fd

    def _check_unchanged(self) -> None:
        try:
            same = file_stamp(self.index.path) == self.index.stamp
        except OSError:
            raise BadInput(f"{self.index.path}: is gone; it was there when the store was opened") from None
        if not same:
            raise BadInput(
                f"{self.index.path}: was replaced since the store was opened; open the store again"
            )

    def _unpack(self, name: str, start: int, stop: int) -> NDArray[Any]:
        with self._lock:
            if self._h5 is None or self._h5[0] != os.getpid():
                # dropping an inherited handle closes this process's copy only
                self._h5 = None
                self._check_unchanged()
                self._h5 = (os.getpid(), h5py.File(self.index.path, "r", locking=False))
            rows: NDArray[Any] = self._h5[1][name][start:stop]
            return rows
