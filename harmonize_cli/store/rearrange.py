"""Merging stores of one kind, and dividing a store."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harmonize_cli.errors import BadInput
from harmonize_cli.store.compatibility import difference
from harmonize_cli.store.output import new_folder, new_store
from harmonize_cli.store.reader import Store

Duplicates = Literal["refuse", "first", "last"]
OnSample = Callable[[], Any]


def merge(
    stores: Sequence[Store],
    out: Path,
    *,
    duplicates: Duplicates = "refuse",
    shard_samples: int = 1024,
    compression: str | None = None,
    on_sample: OnSample = lambda: None,
) -> int:
    """Write the samples of `stores`, in their order, as one store `out`; how many there are.

    Args:
        duplicates: an id that several stores have is refused, or taken from the first or last of them.
        shard_samples: samples of a shard, if `out` is a folder (not called `*.h5`).

    Raises:
        BadInput: different encoders or vocabularies, an id twice, `out` exists.
    """
    first = stores[0]
    for other in stores[1:]:
        if other.features != first.features:
            raise BadInput(
                f"{other.path}: made with other encoders or settings than {first.path} "
                f"({difference(first.features, other.features)}); they can't be merged"
            )
        if other.vocab != first.vocab:
            raise BadInput(f"{other.path}: has another vocabulary than {first.path}; they can't be merged")
    chosen = _choose(stores, duplicates)
    attrs = [store.attrs for store in stores]
    with new_store(
        out,
        list(first.features.values()),
        attrs=attrs[0] if all(value == attrs[0] for value in attrs) else {"merged_from": attrs},
        vocab=first.vocab,
        shard_samples=shard_samples,
        compression=compression,
    ) as writer:
        for number, store in enumerate(stores):
            for i, sample in enumerate(store.ids):
                if chosen[sample] == number:
                    writer.add(store.sample(i))
                    on_sample()
    return writer.samples


def _choose(stores: Sequence[Store], duplicates: Duplicates) -> dict[str, int]:
    """Id -> number of the store that it is taken from."""
    chosen: dict[str, int] = {}
    for number, store in enumerate(stores):
        for sample in store.ids:
            if sample in chosen and duplicates == "refuse":
                raise BadInput(
                    f"{store.path}: sample {sample!r} is in {stores[chosen[sample]].path} too; "
                    "--duplicates first (or last) keeps one of them"
                )
            if sample not in chosen or duplicates == "last":
                chosen[sample] = number
    return chosen


def divide(
    store: Store,
    out: Path,
    parts: Mapping[str, Sequence[int]],
    *,
    shard_samples: int | None = None,
    compression: str | None = None,
    on_sample: OnSample = lambda: None,
) -> dict[str, int]:
    """Write parts of a store into the folder `out`: `NAME.h5`, or `NAME/part-*.h5` with `shard_samples`.

    All parts appear together or not at all. Name -> number of samples.
    """
    written = {}
    with new_folder(out) as folder:
        for name, rows in parts.items():
            target = folder / (f"{name}.h5" if shard_samples is None else name)
            with new_store(
                target,
                list(store.features.values()),
                attrs=store.attrs,
                vocab=store.vocab,
                shard_samples=shard_samples or 1,
                compression=compression,
            ) as writer:
                for i in rows:
                    writer.add(store.sample(int(i)))
                    on_sample()
            written[name] = writer.samples
    return written


def parts_by_split(store: Store) -> dict[str, list[int]]:
    """One part for each value of the column split; samples without one are `none`, or `no-split`."""
    parts: dict[str, list[int]] = {}
    unknown = "no-split" if "none" in store.splits else "none"
    for i, split in enumerate(store.splits):
        parts.setdefault(_file_name(store, split or unknown), []).append(i)
    return parts


def parts_by_number(store: Store, count: int) -> dict[str, list[int]]:
    """`count` parts of equal size, in the order of samples.

    Raises:
        BadInput: fewer samples than parts.
    """
    if count > len(store):
        raise BadInput(f"{store.path}: {len(store)} samples can't make {count} parts")
    pieces = np.array_split(np.arange(len(store)), count)
    width = len(str(count - 1))
    return {f"{k:0{width}d}": piece.tolist() for k, piece in enumerate(pieces)}


def parts_by_ids(store: Store, file: Path) -> dict[str, list[int]]:
    """The samples whose ids are in a text file, one a line, and the rest.

    Raises:
        BadInput: naming the lines with ids that the store has not.
    """
    wanted = set()
    unknown = []
    for line, sample in _lines(file):
        if sample in store:
            wanted.add(store.index(sample))
        else:
            unknown.append(f"{file}:{line}: {sample!r}")
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise BadInput(f"{store.path} has no sample of these ids: {', '.join(unknown[:10])}{more}")
    rest = [i for i in range(len(store)) if i not in wanted]
    return {"listed": sorted(wanted), "rest": rest}


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"{file}: can't be read ({e})") from e
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def _file_name(store: Store, split: str) -> str:
    if split.startswith(".") or "/" in split or "\0" in split or len(split) > 100:
        raise BadInput(f"{store.path}: split {split!r} can't be the name of a file; use --ids or --parts")
    return split
