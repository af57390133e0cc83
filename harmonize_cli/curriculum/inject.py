"""Known misalignment, injected on the way from the store to the model; the store stays as it is."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.registry import Registry

if TYPE_CHECKING:
    from harmonize_cli.data.batches import Batch, StoreDataset
    from harmonize_cli.store.reader import Store

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Misalignment:
    """A way to misalign a modality of samples.

    partners: (store, able samples, random numbers) -> a function from a sample to those that may lend it
    theirs, best first. None: the sample keeps its own, shifted in time.
    """

    modality: str
    about: str
    partners: "Callable[[Store, Rows, np.random.Generator], Callable[[int], Iterator[int]]] | None"


def _elsewhere(store: "Store", able: Rows, rng: np.random.Generator) -> Callable[[int], Iterator[int]]:
    groups = store.groups

    def partners(i: int) -> Iterator[int]:
        drawn = rng.choice(able, size=min(50, len(able)), replace=False)
        return (int(j) for j in drawn if groups[int(j)] != groups[i])

    return partners


def _neighbour(store: "Store", able: Rows, _rng: np.random.Generator) -> Callable[[int], Iterator[int]]:
    groups, by_group = store.groups, defaultdict(list)
    for i in able.tolist():
        by_group[groups[i]].append(i)

    def partners(i: int) -> Iterator[int]:
        begin = store.span(i)[0]
        near = sorted((abs(store.span(j)[0] - begin), j) for j in by_group[groups[i]] if j != i)
        return (j for _, j in near[:4])

    return partners


MISALIGNMENTS: Registry[Misalignment] = Registry("kind of misalignment")
for _name, _entry in {
    "caption-elsewhere": Misalignment("text", "the caption of another source", _elsewhere),
    "caption-neighbour": Misalignment("text", "the caption of the segment before or after", _neighbour),
    "audio-elsewhere": Misalignment("audio", "the audio of another source", _elsewhere),
    "audio-shifted": Misalignment(
        "audio", "the own audio, shifted by a third to two thirds of the clip", None
    ),
}.items():
    MISALIGNMENTS.add(_name, _entry)


@dataclass(frozen=True, slots=True)
class Injection:
    """make: rows of the store -> Batch, with what was injected; wrong: the rows that were changed."""

    make: "Callable[[Sequence[int]], Batch]"
    wrong: frozenset[int]


def inject(dataset: "StoreDataset", rows: Rows, kind: str, *, share: float, seed: int = 0) -> Injection:
    """Misalign a random `share` of `rows`.

    Raises:
        BadInput: an unknown kind, a modality that is not read, or no sample that it can be done to.
    """
    way = MISALIGNMENTS.find(kind)
    modality, store = way.modality, dataset.store
    if modality not in dataset.specs:
        raise BadInput(f"{kind}: the run reads no {modality}")
    rng = np.random.default_rng([seed, 73])
    able = np.array([i for i in rows if dataset.ok[modality][i] and dataset.ok["video"][i]], np.int64)
    victims = [int(i) for i in rng.permutation(able)[: round(share * len(able))]]
    shifts: dict[int, float] = {}
    donors: dict[int, int] = {}
    if way.partners is None:
        shifts = {i: float(rng.uniform(1 / 3, 2 / 3)) for i in victims}
    else:
        partners = way.partners(store, able, rng)
        for i in victims:
            words = set(store.texts(i))
            donor = next((j for j in partners(i) if not words & set(store.texts(j))), None)
            if donor is not None:
                donors[i] = donor
    if not donors and not shifts:
        raise BadInput(f"{kind}: no sample of these has a partner to swap with (sources of one segment?)")

    def make(chosen: Sequence[int]) -> "Batch":
        items = []
        for i in chosen:
            item = dataset[i]
            if i in donors:
                other = dataset[donors[i]]
                real = {modality: other.real[modality]} if modality in other.real else {}
                item = replace(
                    item,
                    arrays={**item.arrays, modality: other.arrays[modality]},
                    real={**item.real, **real},
                    text_real=other.text_real if modality == "text" else item.text_real,
                )
            elif i in shifts:
                own = item.arrays[modality]
                shifted = np.roll(own, round(shifts[i] * len(own)), axis=0)
                item = replace(item, arrays={**item.arrays, modality: shifted})
            items.append(item)
        return dataset.collate(items)

    return Injection(make, frozenset(donors) | frozenset(shifts))
