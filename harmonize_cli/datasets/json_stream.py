"""One large JSON object read entry by entry: HowTo100M's captions are a single object of several GB."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harmonize_cli.errors import BadInput

_BLOCK = 1 << 20
_MAX_ENTRY = 64 << 20
_OF_NUMBERS = ("", *"0123456789.eE+-")
_SPACE = re.compile(r"[ \t\r\n]*")


def stream_object(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the object that `path` holds; memory is that of its largest entry.

    Raises:
        BadInput: no JSON object, cut short, or an entry of more than 64 MiB.
    """
    reader = _Reader(path)
    with path.open(encoding="utf-8-sig") as f:
        reader.fill = lambda: f.read(_BLOCK)
        try:
            reader.expect("{")
            if reader.peek() == "}":
                return
            while True:
                key = reader.value()
                if not isinstance(key, str):
                    raise reader.error("expected a key")
                reader.expect(":")
                yield key, reader.value()
                if reader.expect(",}") == "}":
                    return
        except UnicodeDecodeError as e:
            raise BadInput(f"{path}: not UTF-8 ({e.reason})") from None


class _Reader:
    """Text with a cursor; more is read when what is there is not enough."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fill: Callable[[], str] = str
        self._text = ""
        self._at = 0
        self._passed = 0
        self._decoder = json.JSONDecoder()

    def error(self, what: str) -> BadInput:
        return BadInput(f"{self.path}: character {self._passed + self._at}: {what}; invalid JSON")

    def peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def expect(self, characters: str) -> str:
        """Step over one of `characters`."""
        found = self.peek()
        if not found or found not in characters:
            raise self.error(f"expected {' or '.join(characters)}, found {found or 'the end'}")
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        wanted = 0
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as e:
                # either damaged or not all there yet: twice as much, so that the tries stay few
                wanted = max(_BLOCK, 2 * (len(self._text) - self._at))
                if wanted > _MAX_ENTRY:
                    raise self.error(
                        f"an entry of more than {_MAX_ENTRY >> 20} MiB, or damaged ({e})"
                    ) from None
                grown = False
                while len(self._text) - self._at < wanted and self._more():
                    grown = True
                if not grown:
                    raise self.error(str(e)) from None
                continue
            # a number at the end of the text may go on: "0" of "0.5", "1" of "1e-3"
            if isinstance(value, int | float) and self._text[end : end + 1] in _OF_NUMBERS and self._more():
                continue
            self._at = end
            return value

    def _more(self) -> bool:
        block = self.fill()
        self._passed += self._at
        self._text = self._text[self._at :] + block
        self._at = 0
        return bool(block)
