"""Small copies of data sets on disk, and what a layout makes of them."""

import struct
from pathlib import Path
from typing import Any

import pytest

from harmonize_cli.datasets.layouts import LAYOUTS, Found
from harmonize_cli.errors import BadInput


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def find(name: str, root: Path, **options: Any) -> Found:
    return LAYOUTS[name].find(root, **options)


def refusal(name: str, root: Path, **options: Any) -> str:
    with pytest.raises(BadInput) as caught:
        find(name, root, **options)
    return str(caught.value)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def tf_record(name: str, labels: list[int]) -> bytes:
    """A tf.Example, written by hand from the description of the format."""
    ids = _field(1, _field(1, b"id") + _field(2, _field(1, _field(1, name.encode()))))
    packed = _field(1, b"".join(map(_varint, labels)))
    rgb = _field(1, _field(1, b"mean_rgb") + _field(2, _field(2, _field(1, struct.pack("<3f", 1, 2, 3)))))
    data = _field(1, ids + rgb + _field(1, _field(1, b"labels") + _field(2, _field(3, packed))))
    return struct.pack("<QI", len(data), 0) + data + struct.pack("<I", 0)
