"""The little of TensorFlow's record files that YouTube-8M needs, with bounds on everything."""

import struct
from collections.abc import Iterator
from pathlib import Path

from harmonize_cli.errors import BadInput

_MAX_RECORD = 64 << 20

Fields = dict[str, list[bytes] | list[int]]
"""Name of a feature -> its byte strings or integers; lists of floats are left out."""


def read_records(path: Path) -> Iterator[tuple[int, Fields]]:
    """Yield (number, context features) of every tf.Example or tf.SequenceExample of a record file.

    Raises:
        BadInput: cut short or damaged.
    """
    number = 0
    with path.open("rb") as f:
        while head := f.read(12):
            size = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else _MAX_RECORD + 1
            if size > _MAX_RECORD:
                raise BadInput(f"{path}: record {number}: not a TFRecord file, or damaged")
            data = f.read(size + 4)
            if len(data) != size + 4:
                raise BadInput(f"{path}: record {number}: the file ends too early")
            try:
                yield number, _features(memoryview(data)[:size])
            except (ValueError, IndexError, UnicodeDecodeError) as e:
                raise BadInput(f"{path}: record {number}: damaged ({e})") from None
            number += 1


def _features(example: memoryview) -> Fields:
    # Example.features and SequenceExample.context are both field 1: a map from names to features
    found: Fields = {}
    for tag, features in _messages(example):
        for entry_tag, entry in _messages(features) if tag == 1 else ():
            parts = dict(_messages(entry)) if entry_tag == 1 else {}
            if 1 in parts and 2 in parts:
                name = bytes(parts[1]).decode("utf-8")
                for kind, values in _messages(parts[2]):
                    if kind == 1:
                        found[name] = [bytes(value) for n, value in _messages(values) if n == 1]
                    elif kind == 3:
                        found[name] = list(_integers(values))
    return found


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, content) of the length-delimited fields of a message; others are stepped over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 2:
            size, at = _varint(data, at)
            if size > len(data) - at:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, data[at : at + size]
            at += size
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"field type {kind}")


def _integers(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag == 8:  # one value
            value, at = _varint(data, at)
            yield value
        elif tag == 10:  # packed
            size, at = _varint(data, at)
            end = at + size
            if end > len(data):
                raise ValueError("a list is longer than its message")
            while at < end:
                value, at = _varint(data, at)
                yield value
        else:
            raise ValueError(f"field {tag} in a list of integers")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")
