"""The headers of a Parquet file's pages: what decoding each of them will take, which the footer may belie.

pyarrow does not hand them out. They are Thrift structs in the compact protocol, see
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift (PageHeader).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

DELTA_BYTE_ARRAY = 7
"""An encoding in which a text of any length takes a few bits, where it begins like the one before it."""
_FIRST_READ, _MOST_HEADER = 1 << 12, 1 << 24
_MOST_PAGES = 1 << 20
# kind of page: where its own header stands, and where in there its encoding
_DATA_PAGES: dict[int, tuple[int, int]] = {0: (5, 2), 3: (8, 4)}
_DEEPEST = 8
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 7, 8, 12


@dataclass(frozen=True, slots=True)
class Page:
    """size: bytes once it is unpacked; values: how many it holds, nulls and empty lists among them (0 for a
    dictionary); encoding: as parquet.thrift numbers them."""

    size: int
    values: int
    encoding: int


def read_pages(file: BinaryIO, start: int, length: int, values: int) -> Iterator[Page]:
    """The pages of a column chunk at `start`, as far as a reader goes that wants so many `values` of it.

    Raises:
        ValueError: no such headers.
    """
    at, end, seen = start, start + length, 0
    while values > 0 and at < end:
        fields, at = _header(file, at, end)
        # only the header that belongs to the page's kind counts; others have none of the chunk's values
        kind = fields.get(1)
        about, encoding = _DATA_PAGES.get(kind if isinstance(kind, int) else -1, (0, 0))
        held = fields.get(about, {}) if about else {1: 0}
        numbers = [fields.get(2), fields.get(3), held.get(1) if isinstance(held, dict) else None]
        size, stored, count = (_size(number) for number in numbers)
        seen += 1
        if seen > _MOST_PAGES:
            raise ValueError(f"more than {_MOST_PAGES} pages")
        yield Page(size, count, held.get(encoding, 0))
        values -= count
        at += stored


def _size(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < 1 << 31:
        raise ValueError("a page without its size")
    return number


def _header(file: BinaryIO, at: int, end: int) -> tuple[dict[int, Any], int]:
    """The fields of the header at `at`, and where it ends."""
    most = _FIRST_READ
    while True:
        file.seek(at)
        raw = file.read(min(most, end - at))
        reader = _Thrift(raw)
        try:
            return reader.struct(), at + reader.at
        except IndexError:
            if most >= min(_MOST_HEADER, end - at):
                raise ValueError("the header of a page is cut off or too long") from None
            most *= 16


class _Thrift:
    """Reads structs; IndexError at the end of the bytes."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self.at = raw, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise ValueError("the header of a page is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in (_BYTE, _DOUBLE, _BINARY):
            return self._skip(self._unsigned() if kind == _BINARY else 8 if kind == _DOUBLE else 1)
        if _BYTE < kind < _DOUBLE:
            return self._integer()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise ValueError("the header of a page holds what none has")  # lists, sets and maps

    def _byte(self) -> int:
        self.at += 1
        return self._raw[self.at - 1]

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self._raw):
            raise IndexError

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("the header of a page holds no number where one belongs")

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
