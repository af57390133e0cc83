"""One shard, read lazily: nothing is opened before it is needed, nothing open travels to another process."""

import hashlib
import os
import resource
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.files import parse_json
from harmonize_cli.store.digest import decode_text, feature_digest
from harmonize_cli.store.layout import ShardIndex, file_stamp
from harmonize_cli.store.texts import TextColumn

_MAX_TEXT = 256 << 20
_BLOCK = 16 << 20
CHANGED, NO_CHECKSUM = "is not as it was written", "does not have its checksum"


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
        self.lock = threading.Lock()
        _LIVE.add(self)

    def __getstate__(self) -> ShardIndex:
        return self.index

    def __setstate__(self, index: ShardIndex) -> None:
        self.index = index
        self._reset()

    def close(self) -> None:
        """Give back the file descriptors; the next read opens them again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            _KEPT_OPEN.give_back()
        handle, self._h5 = self._h5, None
        if handle is not None:
            handle[1].close()
            _KEPT_OPEN.give_back()

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()

    def kept_descriptor(self) -> int | None:
        """The open file, opened now if it may stay open; None if it can't."""
        if self._fd is None and _KEPT_OPEN.any_left():
            fd = self._open()
            if fd != self._fd:  # another thread took the last place
                os.close(fd)
        return self._fd

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows [start, stop) of a dataset; the bounds are the caller's to check."""
        extent = self.index.extents[name]
        stop = extent.rows if stop is None else stop
        if extent.addresses is None:
            return self._unpack(name, start, stop)
        fd = self._fd
        if fd is None:
            fd = self._open()
        try:
            return extent.read(fd, start, stop)
        except (EOFError, OSError) as e:
            raise self.damaged(name, str(e) or "the file ends too early") from e
        finally:
            if fd != self._fd:
                os.close(fd)

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

    def blocks(self, name: str, first: int, last: int) -> Iterator[NDArray[Any]]:
        """Rows [first, last) of a dataset, some MiB at a time."""
        step = max(1, _BLOCK // max(1, self.index.extents[name].row_bytes))
        for start in range(first, last, step):
            yield self.rows(name, start, min(last, start + step))

    def feature_digest(self, key: str, i: int) -> bytes:
        """Digest of a feature of sample `i`, made from its rows and times as they are in the file now."""
        first, last = self.offsets(f"features/{key}/offsets")[i : i + 2].tolist()
        if self.index.features[key].regular:
            times = self.rows(f"features/{key}/start_times", i, i + 1)
        else:
            times = self.rows(f"features/{key}/times", first, last)
        sizes = None
        if f"features/{key}/row_offsets" in self.index.extents:
            ends = self.offsets(f"features/{key}/row_offsets")[first : last + 1]
            sizes, first, last = np.diff(ends), int(ends[0]), int(ends[-1])
        return feature_digest(self.blocks(f"features/{key}/data", first, last), times, sizes)

    def check_feature(self, key: str, i: int) -> None:
        """Compare a feature of sample `i` with the digest made when it was written.

        Raises:
            BadInput: they differ.
        """
        if self.feature_digest(key, i) != self.rows(f"features/{key}/digest", i, i + 1).tobytes():
            sample = self.text("samples/id", i)
            raise self.damaged(f"features/{key}/data", f"sample {sample!r}: a row or time {CHANGED}")

    def has_checksum(self, name: str) -> bool:
        """Whether a whole dataset has the checksum that it was written with."""
        sha = hashlib.sha256()
        for block in self.blocks(name, 0, self.index.extents[name].rows):
            sha.update(block.data)
        return sha.hexdigest() == self.index.checksums.get(name)

    def text(self, column: str, i: int) -> str:
        """Text `i` of a text column such as "samples/texts"."""
        offsets = self.offsets(f"{column}/offsets")
        start, stop = int(offsets[i]), int(offsets[i + 1])
        if stop - start > _MAX_TEXT:
            raise self.damaged(column, f"a text of {stop - start} bytes")
        return decode_text(self.rows(f"{column}/bytes", start, stop).tobytes())

    def all_texts(self, column: str) -> TextColumn:
        """A whole text column."""
        return TextColumn(self.rows(f"{column}/bytes").tobytes(), self.offsets(f"{column}/offsets"))

    def json(self, column: str, text: str, kind: type) -> Any:
        """A text of a JSON column as a `kind` (list of texts, or object)."""
        try:
            value = parse_json(text)
        except ValueError as e:
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

    def _open(self) -> int:
        with self.lock:
            if self._fd is not None:
                return self._fd
            self._check_unchanged()
            fd = os.open(self.index.path, os.O_RDONLY | os.O_CLOEXEC)
            if _KEPT_OPEN.take():
                self._fd = fd
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
        with self.lock:
            if self._h5 is not None and self._h5[0] != os.getpid():
                self._h5 = None  # inherited by a fork: dropping it closes this process's copy only
                _KEPT_OPEN.give_back()
            kept = self._h5[1] if self._h5 is not None else None
            if kept is None:
                self._check_unchanged()
                kept = h5py.File(self.index.path, "r", locking=False)
                if _KEPT_OPEN.take():
                    self._h5 = (os.getpid(), kept)
            try:
                rows: NDArray[Any] = kept[name][start:stop]
            except (OSError, RuntimeError) as e:
                raise self.damaged(name, str(e)) from e
            finally:
                if self._h5 is None:
                    kept.close()
            return rows


class _Quota:
    """How many shards of this process keep their file open; the others open it for each read."""

    def __init__(self, most: int) -> None:
        self._left = most
        self.lock = threading.RLock()
        """Reentrant: the garbage collector may close a shard while this very thread holds it."""

    def take(self) -> bool:
        with self.lock:
            self._left -= 1
            if self._left >= 0:
                return True
            self._left += 1
            return False

    def any_left(self) -> bool:
        return self._left > 0

    def give_back(self) -> None:
        with self.lock:
            self._left += 1


def _fresh_locks() -> None:
    # another thread may hold a lock at the moment of a fork; nobody in the child would ever release it
    _KEPT_OPEN.lock = threading.RLock()
    for shard in _LIVE:
        shard.lock = threading.Lock()


_LIVE: weakref.WeakSet[Shard] = weakref.WeakSet()
os.register_at_fork(after_in_child=_fresh_locks)
_KEPT_OPEN = _Quota(min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
