"""Damage for files: bytes that flip, vanish, repeat; values of JSON that become others."""

import copy
import json
import random
from typing import Any

ODD: list[Any] = [
    None, True, -1, 0, 1 << 40, 10**40, 0.5, "", "evil", "../../etc/passwd", "step-evil", [], {}, [[]],
    {"a": []}, "\u0000", "\ud800", "x" * 5000,
]  # fmt: skip


def damaged_bytes(raw: bytes, seed: int) -> bytes:
    """Some bytes of a file changed, cut off, doubled or dropped."""
    rng = random.Random(seed)
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        size = rng.choice((1, 1, 2, 7, 64, 1000))
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + size] = rng.randbytes(size)
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                del data[at:]
            case _:
                data[at:at] = rng.choice(
                    (b"\0", b"\xff" * 4, b'"', b"{", b"[" * 500, b"NaN", b"1e999", b"\n")
                )
    return bytes(data)


def damaged_json(raw: bytes, seed: int) -> bytes:
    """One to three values of a JSON file replaced by others, dropped, nested or doubled."""
    rng = random.Random(seed)
    value = copy.deepcopy(json.loads(raw))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        _places(value, places)
        if not places:
            break
        parent, key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                del parent[key]
            case 1:
                deep: Any = parent[key]
                for _ in range(rng.choice((1, 40, 300))):
                    deep = [deep]
                parent[key] = deep
            case 2 if isinstance(parent, dict):
                parent[rng.choice(("evil", "", "../x"))] = parent.pop(key)
            case _:
                parent[key] = copy.deepcopy(rng.choice(ODD))  # what is put in now may be damaged next
    if rng.random() < 0.05:
        value = rng.choice(ODD)
    return json.dumps(value).encode()


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found.append((value, key))
        _places(value[key], found)
