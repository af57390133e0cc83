"""One manifest field each: from what a table holds to what a row means, or a sentence about what is wrong."""

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from harmonize_cli.store.columns import Column

MAX_ID = 512
MAX_TEXT = 100_000
MAX_LIST = 10_000
MAX_SECONDS = 1e7  # 115 days: longer "videos" are a mistaken unit

_UNFIT = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, separators of lines


class FieldError(ValueError):
    """What is wrong with one field."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(what)
        self.field = field


def parse(row: Mapping[str, Any], name: str, column: Column) -> Any:
    """The value that a manifest's row gives for a column, None where it gives none.

    Raises:
        FieldError: it is none of the column's type.
    """
    if column.type == "texts":
        return texts_of(row, column.one, name) or None
    if column.type == "names":
        labels = texts_of(row, column.one, name, numbers=column.numbers)
        for label in labels:
            checked_name(name, label)
        return labels or None
    if column.type == "name":
        return name_of(row, name, numbers=column.numbers)
    return {"integer": integer, "seconds": seconds, "path": path_text}[column.type](row, name)


def name_of(row: Mapping[str, Any], field: str, *, numbers: bool = False) -> str | None:
    """A short name (id, split, group, label): no control characters, bounded length."""
    value = row.get(field)
    if value is None:
        return None
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        value = _integer_text(field, value)
    if not isinstance(value, str):
        raise FieldError(field, f"expected text, found {_kind(value)}")
    if not value.strip():
        raise FieldError(field, "is blank")
    return checked_name(field, value)


def checked_name(field: str, value: str) -> str:
    """`value` itself, if it is short and has no control characters or halves of characters."""
    if len(value) > MAX_ID:
        raise FieldError(field, f"{len(value)} characters; at most {MAX_ID}")
    if not (value.isascii() and value.isprintable()):
        for char in value:
            if unicodedata.category(char) in _UNFIT:
                raise FieldError(field, f"holds a control character (U+{ord(char):04X})")
    return value


def escaped_name(path: str) -> str:
    """A file's path as a name: what a name can't hold stands there as an escape, such as `\\n`."""
    if path.isascii() and path.isprintable():
        return path
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _UNFIT else char
        for char in path
    )


def mended_text(text: str) -> str:
    """A text of a data set's own lists without what can't be kept: NUL, halves of characters, more than
    `MAX_TEXT`. A manifest is its author's to mend; one bad caption of a million must not stop the rest."""
    return text[:MAX_TEXT].replace("\0", "").encode("utf-8", "replace").decode()


def path_text(row: Mapping[str, Any], field: str) -> str | None:
    """A path as written; newlines and any other character a file name can have are welcome."""
    value = row.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise FieldError(field, f"expected a path, found {_kind(value)}")
    if not value:
        raise FieldError(field, "is empty")
    _no_halves(field, value)
    return value


def seconds(row: Mapping[str, Any], field: str) -> float | None:
    """A time in seconds: finite, not negative."""
    value = row.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise FieldError(field, f"expected seconds, found {_kind(value)}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise FieldError(field, f"expected seconds, found {_shown(value)}") from None
    if not math.isfinite(number):
        raise FieldError(field, f"{_shown(value)} is not a time")
    if number < 0:
        raise FieldError(field, f"{_shown(value)} is negative")
    if number > MAX_SECONDS:
        raise FieldError(field, f"{_shown(value)} s is longer than any video; are these milliseconds?")
    return number


def integer(row: Mapping[str, Any], field: str) -> int | None:
    """A small whole number, such as a fold."""
    value = row.get(field)
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text)
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9:
        return value
    raise FieldError(field, f"expected a whole number from 0, found {_shown(value)}")


def texts_of(row: Mapping[str, Any], one: str, many: str, *, numbers: bool = False) -> tuple[str, ...]:
    """Column `one` (a text) or `many` (a list, in CSV as JSON) as a tuple; whole numbers too if `numbers`."""
    if one and one in row and many in row:
        raise FieldError(many, f"give {one} or {many}, not both")
    if one and one in row:
        return (_text(one, row[one], numbers),)
    value = row.get(many, ())
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise FieldError(
                many, f'expected a JSON list such as ["a", "b"], found {_shown(value)}'
            ) from None
    if not isinstance(value, list | tuple):
        raise FieldError(many, f"expected a list of texts, found {_kind(value)}")
    if len(value) > MAX_LIST:
        raise FieldError(many, f"{len(value)} texts; at most {MAX_LIST}")
    return tuple(_text(many, item, numbers) for item in value)


def _text(field: str, value: Any, numbers: bool) -> str:
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        value = _integer_text(field, value)
    if not isinstance(value, str):
        raise FieldError(field, f"expected text, found {_kind(value)}")
    if len(value) > MAX_TEXT:
        raise FieldError(field, f"a text of {len(value)} characters; at most {MAX_TEXT}")
    if "\0" in value:
        raise FieldError(field, "a text holds a NUL character")
    _no_halves(field, value)
    return value


def _no_halves(field: str, value: str) -> None:
    # JSON's "\ud800" is half a character: it can't be written as UTF-8 later on
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as e:
        raise FieldError(field, f"holds half a character (U+{ord(value[e.start]):04X})") from None


def _integer_text(field: str, value: int) -> str:
    if abs(value) >= 10**30:
        raise FieldError(field, "a number of more than 30 digits")
    return str(value)


_KINDS = dict.fromkeys((int, float), "a number") | {
    bool: "true/false",
    list: "a list",
    dict: "an object",
    str: "text",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
