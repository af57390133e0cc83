"""The rows of one feature in one shard: the hot path of training, so nothing is looked up twice."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.store.shard import Shard


class FeatureRows:
    """Reads rows of any sample of a shard. Offsets and addresses are at hand as arrays."""

    __slots__ = (
        "_addresses",
        "_chunk_rows",
        "_dtype",
        "_name",
        "_run_ends",
        "_shape",
        "_shard",
        "offsets",
        "verified",
    )

    def __init__(self, shard: Shard, key: str) -> None:
        self._shard = shard
        self._name = f"features/{key}/data"
        self.offsets = shard.offsets(f"features/{key}/offsets")
        """Rows of sample j: offsets[j] to offsets[j + 1]."""
        self.verified = np.zeros(len(self.offsets) - 1, bool)
        """Samples whose rows were compared with their digest."""
        extent = shard.index.extents[self._name]
        self._dtype, self._shape, self._chunk_rows = extent.dtype, extent.row_shape, extent.chunk_rows
        self._addresses = extent.addresses
        self._run_ends = extent.run_ends()

    def span(self, j: int) -> tuple[int, int]:
        """First row of sample `j` and the one after its last."""
        return self.offsets.item(j), self.offsets.item(j + 1)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) of the shard, which the caller took from `span`."""
        shard = self._shard
        fd = shard.kept_descriptor()
        if fd is None or self._addresses is None or start == stop:
            return shard.rows(self._name, start, stop)
        chunk, skip = divmod(start, self._chunk_rows)
        if stop > self._run_ends.item(chunk):
            return shard.rows(self._name, start, stop)
        # all in one piece, as most samples are: a single system call
        out = np.empty((stop - start, *self._shape), self._dtype)
        at = self._addresses.item(chunk) + skip * (out.nbytes // (stop - start))
        if os.preadv(fd, [out.data], at) != out.nbytes:  # interrupted, or the file ends: the slow way tells
            return shard.rows(self._name, start, stop)
        return out
