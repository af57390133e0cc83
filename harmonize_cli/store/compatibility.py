"""Shards of one kind make a store: same features made the same way, same words."""

import re
from collections.abc import Sequence
from pathlib import Path

from harmonize_cli.errors import BadInput
from harmonize_cli.store.layout import ShardIndex
from harmonize_cli.store.schema import FeatureSpec

_PART = re.compile(r"part-\d+\.h5")


def shard_paths(path: Path) -> list[Path]:
    """The shards of a store, in order.

    Raises:
        BadInput: nothing there, or a folder without shards.
    """
    if not path.is_dir():
        return [path]
    parts = sorted(part for part in path.iterdir() if _PART.fullmatch(part.name))
    if not parts:
        unfinished = sum(1 for part in path.iterdir() if part.name.endswith(".tmp"))
        hint = f"; {unfinished} unfinished *.tmp file(s): resume the extraction" if unfinished else ""
        raise BadInput(f"{path}: no part-*.h5 in this folder, so no store{hint}")
    return parts


def check_compatible(shards: Sequence[ShardIndex]) -> None:
    """Refuse shards that were made with different encoders, settings or vocabularies.

    Raises:
        BadInput: naming the two shards and the first difference.
    """
    first = shards[0]
    for shard in shards[1:]:
        if shard.features != first.features:
            raise BadInput(
                f"{shard.path}: made with other encoders or settings than {first.path} "
                f"({difference(first.features, shard.features)}); one store has one kind"
            )
        if shard.checksums.get("vocab/bytes") != first.checksums.get("vocab/bytes"):
            raise BadInput(f"{shard.path}: has another vocabulary than {first.path}")


def difference(
    a: dict[str, FeatureSpec], b: dict[str, FeatureSpec], first: str = "the first", second: str = "the second"
) -> str:
    """The first way in which two sets of features differ, in words that call them `first` and `second`."""
    for key in sorted(a.keys() | b.keys()):
        if key not in a or key not in b:
            return f"{key} is in {first if key in a else second} only"
        one, other = a[key].to_json(), b[key].to_json()
        for name, value in one.items():
            if other[name] != value:
                return f"{key}: {name} {value!r} in {first}, {other[name]!r} in {second}"
    return "the order of features"
