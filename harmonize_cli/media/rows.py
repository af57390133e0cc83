"""Growing arrays: in memory while small, in an unnamed temporary file beyond that."""

import mmap
import tempfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

SPOOL_BYTES = 64 << 20


class RowBuffer:
    """Collects rows of one shape and type; `array()` gives them as one array [N, *row_shape].

    Beyond `limit` bytes the rows go to a temporary file and `array()` maps it, so that an hour of frames
    costs disk, not memory.
    """

    def __init__(self, row_shape: tuple[int, ...], dtype: npt.DTypeLike, *, limit: int = SPOOL_BYTES) -> None:
        self._row_shape, self._dtype, self._limit = row_shape, np.dtype(dtype), limit
        self._parts: list[npt.NDArray[Any]] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._mapped: mmap.mmap | None = None
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows [n, *row_shape]."""
        if not len(rows):
            return
        self._rows += len(rows)
        self._bytes += rows.nbytes
        if self._file is None and self._bytes > self._limit:
            self._file = tempfile.TemporaryFile(prefix="harmonize-rows-")  # noqa: SIM115 (lives with the rows)
            for part in self._parts:
                self._file.write(part.data)
            self._parts = []
        if self._file is None:
            self._parts.append(rows)
        else:
            self._file.write(np.ascontiguousarray(rows, self._dtype).data)

    def array(self) -> npt.NDArray[Any]:
        """All rows, once all are appended; read-only where they are mapped from the file."""
        shape = (self._rows, *self._row_shape)
        if self._file is not None:
            if self._mapped is None:
                self._file.flush()
                self._mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
                self._file.close()
            return np.frombuffer(self._mapped, self._dtype).reshape(shape)
        if not self._parts:
            return np.empty(shape, self._dtype)
        return self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)


def release(rows: npt.NDArray[Any]) -> None:
    """Give memory of mapped rows back to the system; they stay readable. Nothing happens to other arrays."""
    base: Any = rows
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
