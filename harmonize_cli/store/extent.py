"""Where the rows of a dataset lie in the file, and reading them from there.

HDF5 tells once where the chunks of an uncompressed dataset are; after that rows are read with plain `pread`:
no HDF5 handle to share between processes, no process-wide lock between threads, the speed of a memory map.
"""

import os
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput

_MAX_CHUNK = 512 << 20
_LZF = "lzf"
# lzf packs at most 264 bytes into 3; what claims more is made up
_MAX_LZF_RATIO = 88


@dataclass(frozen=True)
class Extent:
    """The rows [R, *row_shape] of one dataset."""

    name: str
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    rows: int
    chunk_rows: int
    """Rows of one block; `rows` if the dataset lies in one piece."""
    addresses: NDArray[np.int64] | None
    """Byte offset of each block in the file; None if the rows are compressed and HDF5 must unpack them."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    def run_ends(self) -> NDArray[np.int64]:
        """For each block the row up to which the file goes on without a gap."""
        if self.addresses is None:
            return np.empty(0, np.int64)
        count = len(self.addresses)
        last = np.ones(count, bool)  # of its run
        last[:-1] = np.diff(self.addresses) != self.chunk_rows * self.row_bytes
        ends = np.flatnonzero(last)
        run = np.searchsorted(ends, np.arange(count))
        return (ends[run] + 1) * self.chunk_rows if count else np.empty(0, np.int64)

    def read(self, fd: int, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) from the file open as `fd`. The caller has checked the bounds.

        Raises:
            EOFError: the file ends before.
        """
        out = np.empty((stop - start, *self.row_shape), self.dtype)
        if self.addresses is None:
            raise TypeError(f"{self.name} is compressed")
        if out.size:
            self._fill(fd, out.data.cast("B"), start, stop)
        return out

    def _fill(self, fd: int, out: memoryview, start: int, stop: int) -> None:
        assert self.addresses is not None
        row_bytes, size = self.row_bytes, self.chunk_rows
        done, chunk = 0, start // size
        skip = start - chunk * size
        while done < len(out):
            # blocks that follow each other in the file are read in one go
            last = chunk
            span = size - skip
            while span * row_bytes < len(out) - done and self._follows(last):
                last += 1
                span += size
            n = min(span * row_bytes, len(out) - done)
            at = int(self.addresses[chunk]) + skip * row_bytes
            while n:
                got = os.preadv(fd, [out[done : done + n]], at)
                if not got:
                    raise EOFError
                done, at, n = done + got, at + got, n - got
            chunk, skip = last + 1, 0

    def _follows(self, chunk: int) -> bool:
        assert self.addresses is not None
        return bool(self.addresses[chunk + 1] - self.addresses[chunk] == self.chunk_rows * self.row_bytes)


def locate(dataset: h5py.Dataset, file_size: int) -> Extent:
    """Find a dataset's rows, refusing what no store of ours has.

    Raises:
        BadInput: other filters, external or virtual storage, pieces outside the file, sizes that can't be.
    """
    name = dataset.name.lstrip("/")

    def refuse(what: str) -> BadInput:
        return BadInput(f"{name}: {what}")

    if dataset.external or dataset.is_virtual:
        raise refuse("its data lies in other files; stores hold their own")
    if dataset.dtype.kind not in "uif" or dataset.dtype.byteorder == ">" or not dataset.shape:
        raise refuse(f"type {dataset.dtype} {dataset.shape}; expected rows of little-endian numbers")
    filters = dataset.id.get_create_plist().get_nfilters()
    if filters and (filters != 1 or dataset.compression != _LZF):
        raise refuse("packed with a filter other than lzf")
    rows, *row_shape = dataset.shape
    row_bytes = int(np.prod(row_shape, dtype=object)) * dataset.dtype.itemsize
    if rows and rows * row_bytes > file_size * (_MAX_LZF_RATIO if filters else 1):
        raise refuse(f"claims {rows} rows of {row_bytes} bytes, more than the file has")
    addresses: NDArray[np.int64] | None
    chunk_rows = max(1, rows)
    if dataset.chunks is None:
        addresses = np.array([dataset.id.get_offset() or 0] if rows else [], np.int64)
    else:
        chunk_rows, *whole = dataset.chunks
        if whole != row_shape or chunk_rows * row_bytes > _MAX_CHUNK:
            raise refuse(f"chunks of {dataset.chunks}; expected blocks of whole rows")
        addresses = None if filters else _chunk_addresses(dataset, -(-rows // chunk_rows))
    if addresses is not None and rows * row_bytes:
        block = chunk_rows * row_bytes
        if addresses.min() <= 0 or addresses.max() + block > file_size or len(addresses) * block > file_size:
            raise refuse("a piece of its data is missing or lies outside the file")
    return Extent(name, dataset.dtype, tuple(row_shape), rows, chunk_rows, addresses)


def _chunk_addresses(dataset: h5py.Dataset, count: int) -> NDArray[np.int64]:
    addresses = np.zeros(count, np.int64)
    size = dataset.chunks[0]

    def note(info: Any) -> None:
        index, rest = divmod(info.chunk_offset[0], size)
        if not rest and index < count and not info.filter_mask and not any(info.chunk_offset[1:]):
            addresses[index] = info.byte_offset

    if count:
        dataset.id.chunk_iter(note)
    return addresses
