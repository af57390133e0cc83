"""Which gallery items answer which query: one or several positives per query."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import HarmonizeError


@dataclass(frozen=True, slots=True)
class Relevance:
    """Positives as one flat list: those of query q are `items[offsets[q]:offsets[q + 1]]`.

    Attributes:
        offsets: int64 [Q + 1].
        items: int64 [P], columns of the gallery, each at most once per query.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int64]

    @classmethod
    def paired(cls, n: int) -> "Relevance":
        """Query i is answered by gallery item i alone."""
        return cls(np.arange(n + 1, dtype=np.int64), np.arange(n, dtype=np.int64))

    @classmethod
    def by_key(cls, queries: Sequence[Hashable], gallery: Sequence[Hashable]) -> "Relevance":
        """Query q is answered by every gallery item of the same key.

        Raises:
            HarmonizeError: where a query has no positive at all (its rank is undefined).
        """
        columns: dict[Hashable, list[int]] = {}
        for column, key in enumerate(gallery):
            columns.setdefault(key, []).append(column)
        lonely = next((key for key in queries if key not in columns), None)
        if lonely is not None:
            raise HarmonizeError(
                f"the query {lonely!r} has no positive in the gallery: its rank is undefined"
            )
        found = [columns[key] for key in queries]
        offsets = np.concatenate(([0], np.cumsum([len(c) for c in found], dtype=np.int64))).astype(np.int64)
        items = np.asarray([column for c in found for column in c], dtype=np.int64)
        return cls(offsets, items)

    @classmethod
    def of_mask(cls, right: NDArray[np.bool_]) -> "Relevance":
        """From bool [Q, G]: which items answer which query, at least one each."""
        offsets = np.concatenate(([0], np.cumsum(right.sum(axis=1), dtype=np.int64)))
        return cls(offsets.astype(np.int64), np.nonzero(right)[1].astype(np.int64))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Positives per query, int64 [Q]."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The query of every entry of `items`, int64 [P]."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def rows_between(self, start: int, stop: int) -> NDArray[np.int64]:
        """As `rows`, for the queries start to stop, counted from `start`."""
        return np.repeat(np.arange(stop - start), self.counts[start:stop])

    def __len__(self) -> int:
        return len(self.offsets) - 1
