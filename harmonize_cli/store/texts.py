"""A column of texts in little memory."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.store.digest import decode_text


class TextColumn(Sequence[str]):
    """Reads like a tuple of str, but keeps the bytes in one piece and 8 more a text.

    A list of str takes some 60 more, in millions of objects that every process forked from here comes to
    copy, since to count a reference is to write.
    """

    def __init__(self, raw: bytes, offsets: NDArray[np.int64]) -> None:
        """offsets [N + 1]: text i is raw[offsets[i] : offsets[i + 1]]."""
        self._raw, self._offsets = raw, offsets

    @classmethod
    def joined(cls, parts: "Sequence[TextColumn]") -> "TextColumn":
        """Columns one after another."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part._raw) for part in parts)])
        offsets = [part._offsets[:-1] + start for part, start in zip(parts, starts[:-1], strict=True)]
        return cls(b"".join(part._raw for part in parts), np.concatenate([*offsets, starts[-1:]]))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if i < 0:
            i += len(self)
        if not 0 <= i < len(self):
            raise IndexError(f"text {i} of {len(self)}")
        return decode_text(self._raw[self._offsets.item(i) : self._offsets.item(i + 1)])

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), 4096):  # as numbers of Python some at a time
            for start, stop in pairwise(self._offsets[first : first + 4097].tolist()):
                yield decode_text(self._raw[start:stop])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TextColumn({self[:10]}{', ...' if len(self) > 10 else ''})"
