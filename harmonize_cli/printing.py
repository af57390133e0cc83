"""Text of strangers on a terminal: nothing in it may move the cursor, hide a line or reverse the reading.

And values as JSON holds them.
"""

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

# these change the direction of what follows; other format characters of Unicode join letters and emoji
_TURNING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
_UNFIT = ("Cc", "Cs", "Zl", "Zp", "Cn")


def printable(text: str, *, lines: bool = True) -> str:
    """`text` with control characters as escapes such as `\\u001b`, which JSON reads as what they were.

    lines: keep ends of lines and tabs, as a text of several lines has them.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(char if char in kept or not _unfit(char) else _escaped(char) for char in text)


def _unfit(char: str) -> bool:
    return unicodedata.category(char) in _UNFIT or ord(char) in _TURNING


def _escaped(char: str) -> str:
    raw = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{raw[i : i + 4]}" for i in range(0, len(raw), 4))


def plain(value: Any) -> Any:
    """`value` as JSON holds it: dataclasses and arrays taken apart, NaN and infinity null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
