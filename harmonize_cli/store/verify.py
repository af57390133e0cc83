"""Checking every byte of a store against the checksums and digests made when it was written."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize_cli.errors import BadInput
from harmonize_cli.store.compatibility import shard_paths
from harmonize_cli.store.description import description
from harmonize_cli.store.digest import sample_digest
from harmonize_cli.store.layout import index_shard
from harmonize_cli.store.reader import Store
from harmonize_cli.store.shard import CHANGED, NO_CHECKSUM, Shard


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not as it was written."""

    shard: Path
    dataset: str
    """Path of the damaged dataset; "" if it is the shard as a whole."""
    what: str
    sample: str | None = None

    def __str__(self) -> str:
        sample = f"sample {self.sample!r}: " if self.sample is not None else ""
        dataset = f"{self.dataset}: " if self.dataset else ""
        return f"{self.shard}: {dataset}{sample}{self.what}"


def verify(path: Path, on_sample: Callable[[], Any] = lambda: None) -> Iterator[Problem]:
    """Yield what is wrong with a store, shard by shard; nothing if all is well.

    `on_sample` is called after each sample, for a progress bar. Rows are read by blocks; what grows with the
    store are the ids, some 100 bytes each, kept to find one that is there twice.

    Raises:
        BadInput: there is no store at all.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    seen: Counter[str] = Counter()
    opened: list[Path] = []
    parts = shard_paths(path)
    for part in parts:
        try:
            store = Store(part, [index_shard(part)])
        except BadInput as e:
            yield Problem(part, "", str(e).removeprefix(f"{part}: "))
            continue
        yield from _shard(part, store, on_sample)
        opened.append(part)
        with suppress(BadInput):  # told above
            seen.update(store.ids)
        store.close()
    for sample, count in seen.items():
        if count > 1:
            yield Problem(path, "samples/id", f"is there {count} times", sample)
    if len(opened) == len(parts) and max(seen.values(), default=0) <= 1:
        try:
            Store.open(path)
        except BadInput as e:
            yield Problem(path, "", str(e))


def _shard(part: Path, store: Store, on_sample: Callable[[], Any]) -> Iterator[Problem]:
    shard = store.shard_at(0) if len(store) else Shard(index_shard(part))
    index = shard.index
    for name in index.extents:
        if name.endswith("/data"):
            continue
        if not shard.has_checksum(name):
            yield Problem(part, name, NO_CHECKSUM)
    for name in index.extents:
        if name.rpartition("/")[2] in ("offsets", "row_offsets"):
            try:
                shard.offsets(name)
            except BadInput as e:
                yield Problem(part, name, _plain(e, part, name))
    for i in range(index.samples):
        yield from _sample(part, store, shard, i)
        on_sample()


def _sample(part: Path, store: Store, shard: Shard, i: int) -> Iterator[Problem]:
    try:
        name = shard.text("samples/id", i)
    except BadInput as e:
        yield Problem(part, "samples/id", _plain(e, part, "samples/id"), str(i))
        return
    digests: dict[str, bytes] = {}
    for key in store.features:
        dataset = f"features/{key}/data"
        try:
            stored = shard.rows(f"features/{key}/digest", i, i + 1).tobytes()
            digests[key] = stored
            if shard.feature_digest(key, i) != stored:
                yield Problem(part, dataset, f"a row or time {CHANGED}", name)
        except BadInput as e:
            yield Problem(part, dataset, _plain(e, part, dataset), name)
    try:
        if sample_digest(description(store, i), digests) != shard.rows("samples/digest", i, i + 1).tobytes():
            yield Problem(part, "samples", f"its description {CHANGED}", name)
    except (BadInput, ValueError, TypeError) as e:
        yield Problem(part, "samples", str(e), name)


def _plain(error: BadInput, part: Path, name: str) -> str:
    return str(error).removeprefix(f"{part}: ").removeprefix(f"{name}: ")
