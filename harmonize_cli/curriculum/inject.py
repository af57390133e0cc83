"""Known misalignment, injected on the way from the store to the model; the store stays as it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.data.batches import Batch, Item, StoreDataset
from harmonize_cli.errors import BadInput
from harmonize_cli.store.reader import Store

Rows = NDArray[np.int64]
Kind = Literal["caption-elsewhere", "caption-neighbour", "sound-elsewhere", "sound-shifted"]
KINDS: dict[str, tuple[str, str]] = {
    "caption-elsewhere": ("text", "the caption of another source"),
    "caption-neighbour": ("text", "the caption of the segment before or after"),
    "sound-elsewhere": ("audio", "the sound of another source"),
    "sound-shifted": ("audio", "the own sound, shifted by a third to two thirds of the clip"),
}


@dataclass(frozen=True, slots=True)
class Injection:
    """make: rows of the store -> Batch, with what was injected; wrong: the rows that were changed."""

    kind: str
    make: Callable[[Sequence[int]], Batch]
    wrong: frozenset[int]


def inject(dataset: StoreDataset, rows: Rows, kind: str, *, share: float, seed: int = 0) -> Injection:
    """Misalign a random `share` of `rows`.

    Raises:
        BadInput: an unknown kind, a modality that is not read, or no sample that it can be done to.
    """
    if kind not in KINDS:
        raise BadInput(f"kind {kind!r} of misalignment is unknown; choose from {', '.join(KINDS)}")
    modality = KINDS[kind][0]
    if modality not in dataset.specs:
        raise BadInput(f"{kind}: the run reads no {modality}")
    rng = np.random.default_rng([seed, 73])
    store = dataset.store
    able = [int(i) for i in rows if dataset.ok[modality][i] and dataset.ok["video"][i]]
    victims = [int(i) for i in rng.permutation(able)[: round(share * len(able))]]
    if kind == "sound-shifted":
        shifts = {i: float(rng.uniform(1 / 3, 2 / 3)) for i in victims}
        return Injection(
            kind, lambda chosen: _batch(dataset, chosen, {}, shifts, modality), frozenset(shifts)
        )
    donors = (
        _neighbours(store, able, victims)
        if kind.endswith("neighbour")
        else _others(store, able, victims, rng)
    )
    if not donors:
        raise BadInput(f"{kind}: no sample of these has a partner to swap with (sources of one segment?)")
    swapped = partial(_batch, dataset, donors=donors, shifts={}, modality=modality)
    return Injection(kind, swapped, frozenset(donors))


def _batch(
    dataset: StoreDataset,
    chosen: Sequence[int],
    donors: dict[int, int],
    shifts: dict[int, float],
    modality: str,
) -> Batch:
    items = []
    for i in chosen:
        item: Item = dataset[i]
        if i in donors:
            other = dataset[donors[i]]
            item = replace(
                item,
                arrays={**item.arrays, modality: other.arrays[modality]},
                real={**item.real, **({modality: other.real[modality]} if modality in other.real else {})},
                text_real=other.text_real if modality == "text" else item.text_real,
            )
        elif i in shifts:
            sound = item.arrays[modality]
            rolled = np.roll(sound, round(shifts[i] * len(sound)), axis=0)
            item = replace(item, arrays={**item.arrays, modality: rolled})
        items.append(item)
    return dataset.collate(items)


def _others(
    store: Store, able: Sequence[int], victims: Sequence[int], rng: np.random.Generator
) -> dict[int, int]:
    """For each victim a sample of another group with other words."""
    groups = store.groups
    found: dict[int, int] = {}
    for i in victims:
        for j in rng.choice(able, size=min(50, len(able)), replace=False):
            if groups[int(j)] != groups[i] and not _same_words(store, int(j), i):
                found[i] = int(j)
                break
    return found


def _neighbours(store: Store, able: Sequence[int], victims: Sequence[int]) -> dict[int, int]:
    """For each victim the segment of its group that is nearest in time and has other words."""
    groups = store.groups
    by_group: dict[str, list[int]] = {}
    for i in able:
        by_group.setdefault(groups[i], []).append(i)
    found: dict[int, int] = {}
    for i in victims:
        begin = store.span(i)[0]
        near = sorted((abs(store.span(j)[0] - begin), j) for j in by_group[groups[i]] if j != i)
        for _, j in near[:4]:
            if not _same_words(store, i, j):
                found[i] = j
                break
    return found


def _same_words(store: Store, i: int, j: int) -> bool:
    return bool(set(store.texts(i)) & set(store.texts(j)))
