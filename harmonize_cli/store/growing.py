"""HDF5 datasets that grow by blocks: rows are buffered up to a block, so memory stays constant."""

import hashlib
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

BULK_CHUNK = 1 << 20
_SMALL_CHUNK = 64 << 10


class GrowingDataset:
    """One dataset [R, *row_shape], appended to at its end.

    Rows that never fill a block are written contiguously, in their exact size. Larger ones are chunked along
    the first axis: one chunk is what the first append brought (one sample) if that is a sensible size.
    """

    def __init__(
        self,
        group: h5py.Group,
        name: str,
        dtype: str,
        row_shape: tuple[int, ...] = (),
        *,
        bulk: bool = False,
        compression: str | None = None,
    ) -> None:
        self.rows = 0
        self.path = f"{group.name}/{name}".lstrip("/")
        self._group, self._name = group, name
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._row_shape = row_shape
        self._row_bytes = int(np.prod(row_shape, dtype=np.int64)) * self._dtype.itemsize
        self._target = BULK_CHUNK if bulk else _SMALL_CHUNK
        self._compression = compression
        self._chunk = 0
        self._waiting = bytearray()
        self._dataset: h5py.Dataset | None = None
        self._sha = None if bulk else hashlib.sha256()

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows [n, *row_shape]; they are copied or written before the call returns."""
        if not len(rows):
            return
        rows = np.ascontiguousarray(rows, dtype=self._dtype)
        if self._sha is not None:
            self._sha.update(rows.data)
        if not self._chunk:
            self._chunk = self._chunk_rows(len(rows))
        self.rows += len(rows)
        if self._dataset is not None and not self._waiting and len(rows) % self._chunk == 0:
            self._write(self.rows - len(rows), rows.data.cast("B"))  # whole chunks need no copy
            return
        self._waiting += rows.data.cast("B")
        block = max(1, 4 * self._target // (self._chunk * self._row_bytes)) * self._chunk
        n = len(self._waiting) // self._row_bytes
        if n >= block:
            self._flush(n - n % self._chunk)

    def finish(self) -> str | None:
        """Write what waits; the SHA-256 of all rows in order (None for bulk data, which has digests)."""
        n = len(self._waiting) // self._row_bytes
        if self._dataset is None and not (self._compression and n):
            self._dataset = self._group.create_dataset(self._name, (n, *self._row_shape), self._dtype)
            if n:
                self._dataset[...] = self._rows(n)
        elif n:
            self._flush(n)
        self._waiting = bytearray()
        return self._sha.hexdigest() if self._sha is not None else None

    def _chunk_rows(self, first: int) -> int:
        size = first * self._row_bytes
        if self._target // 4 <= size <= 4 * self._target:
            return first
        return max(1, self._target // self._row_bytes)

    def _flush(self, n: int) -> None:
        if self._dataset is None:
            self._dataset = self._group.create_dataset(
                self._name,
                (0, *self._row_shape),
                self._dtype,
                maxshape=(None, *self._row_shape),
                chunks=(self._chunk, *self._row_shape),
                compression=self._compression,
            )
        size = n * self._row_bytes
        with memoryview(self._waiting) as waiting:
            self._write(self.rows - len(waiting) // self._row_bytes, waiting[:size])
        del self._waiting[:size]

    def _write(self, start: int, data: memoryview) -> None:
        """Put rows at `start`, which is the edge of a chunk."""
        assert self._dataset is not None
        self._dataset.resize(start + len(data) // self._row_bytes, axis=0)
        if self._compression:
            self._dataset[start:] = np.frombuffer(data, self._dtype).reshape(-1, *self._row_shape)
            return
        # past HDF5's cache of chunks: it would copy every byte once more
        size = self._chunk * self._row_bytes
        corner = (0,) * len(self._row_shape)
        for at in range(0, len(data), size):
            part = data[at : at + size]
            chunk = part if len(part) == size else bytes(part).ljust(size, b"\0")
            self._dataset.id.write_direct_chunk((start + at // self._row_bytes, *corner), chunk)

    def _rows(self, n: int) -> NDArray[Any]:
        count = n * self._row_bytes // self._dtype.itemsize
        return np.frombuffer(self._waiting, self._dtype, count).reshape(n, *self._row_shape)


class GrowingTexts:
    """Texts of any length as flat UTF-8 bytes and offsets [N + 1]."""

    def __init__(self, parent: h5py.Group, name: str) -> None:
        group = parent.create_group(name)
        self._bytes = GrowingDataset(group, "bytes", "uint8")
        self._offsets = GrowingDataset(group, "offsets", "int64")
        self._offsets.append(np.zeros(1, np.int64))
        self._end = 0

    def append(self, raw: bytes) -> None:
        """Add one text, already encoded."""
        self._end += len(raw)
        self._bytes.append(np.frombuffer(raw, np.uint8))
        self._offsets.append(np.array([self._end], np.int64))

    def finish(self) -> dict[str, str | None]:
        """Write what waits; path -> checksum."""
        return {part.path: part.finish() for part in (self._bytes, self._offsets)}
