"""Which samples are trained on and which are tested."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """One way to split: rows to train on, rows to test. `name` as in "fold 3" or "split 1"."""

    name: str
    train: Rows
    test: Rows


def rows_of(store: Store, split: str | None) -> tuple[Rows, str]:
    """Samples of a split, and the split's name for the result.

    Args:
        split: one name or several with commas; "all" for everything; None for "test" where the store has
            one, else everything.

    Raises:
        BadInput: naming the splits that there are, or a store without samples.
    """
    if not len(store):
        raise BadInput(f"{store.path}: has no samples to evaluate")
    names = store.splits
    known = sorted(set(names))
    if split is None:
        split = "test" if "test" in known else "all"
    if split == "all":
        return np.arange(len(store), dtype=np.int64), "all"
    wanted = split.split(",")
    unknown = [w for w in wanted if w not in known]
    if unknown:
        shown = ", ".join(k or "(none)" for k in known)
        raise BadInput(f"split {', '.join(unknown)!r}: the store has {shown}; --split all takes everything")
    return np.flatnonzero(np.isin(np.asarray(names), wanted)).astype(np.int64), split


def listed_rows(store: Store, split: str | None, listed: Collection[str] = ()) -> tuple[Rows, str]:
    """`rows_of`, and of these only what an official list names, where there is one.

    Raises:
        BadInput: as `rows_of`, or where the store holds no sample of the list.
    """
    rows, name = rows_of(store, split)
    if not listed:
        return rows, name
    kept = np.asarray([i for i in rows if store.ids[i] in listed], dtype=np.int64)
    if not len(kept):
        raise BadInput(
            f"split {name}: none of the {len(listed)} ids of the list is in the store; ids there look like "
            f"{min(listed)!r}, ids here like {store.ids[0]!r}"
        )
    return kept, name


def train_and_test(store: Store, train: str, test: str) -> tuple[Rows, Rows, str]:
    """Samples to train on and samples to test, and the name of these.

    Raises:
        BadInput: as `rows_of`, or where they share samples.
    """
    (inside, inside_name), (outside, name) = rows_of(store, train), rows_of(store, test)
    if len(shared := np.intersect1d(inside, outside)):
        raise BadInput(f"train {inside_name} and test {name} share samples ({len(shared)} of them)")
    return inside, outside, name


def parts_of(
    store: Store, labelled: NDArray[np.bool_], *, train: str = "train", test: str = "test"
) -> tuple[list[Part], str]:
    """How to cross: over the store's folds where it has some, else one training and one test split.

    Args:
        labelled: bool [N], samples that have the label asked for.

    Raises:
        BadInput: where there is neither, or a part would be empty.
    """
    folds = store.folds
    numbers = sorted({f for f in folds if f is not None})
    if len(numbers) > 1:
        fold = np.asarray([-1 if f is None else f for f in folds])
        parts = [
            Part(
                f"fold {n}",
                np.flatnonzero(labelled & (fold != n) & (fold >= 0)),
                np.flatnonzero(labelled & (fold == n)),
            )
            for n in numbers
        ]
        name = f"{len(numbers)} folds"
    else:
        inside, outside, name = train_and_test(store, train, test)
        parts = [Part(name, inside[labelled[inside]], outside[labelled[outside]])]
    for part in parts:
        if not len(part.train) or not len(part.test):
            raise BadInput(
                f"{part.name}: {len(part.train)} training and {len(part.test)} test samples with this label; "
                "a probe needs both (columns label, split and fold of the manifest)"
            )
    return parts, name


def official_parts(
    store: Store, divisions: Mapping[str, Mapping[str, str]], labelled: NDArray[np.bool_]
) -> list[Part]:
    """Parts by official lists: name of the division -> id -> "train", "test" or anything else (left out).

    Raises:
        BadInput: where the store has no training or test sample of a division.
    """
    row = {name: i for i, name in enumerate(store.ids)}
    parts = []
    for name, division in divisions.items():
        sides = {
            side: np.asarray(
                [row[i] for i, part in division.items() if part == side and i in row and labelled[row[i]]],
                dtype=np.int64,
            )
            for side in ("train", "test")
        }
        parts.append(Part(name, sides["train"], sides["test"]))
        if not len(sides["train"]) or not len(sides["test"]):
            raise BadInput(
                f"{name}: the store has {len(sides['train'])} training and {len(sides['test'])} test samples "
                f"of the {len(division)} in the list; ids there look like {next(iter(division), '')!r}, "
                f"ids here like {store.ids[0]!r}"
            )
    return parts


def label_column(store: Store, position: int) -> list[str | None]:
    """The label at `position` of every sample, None where a sample has fewer.

    Raises:
        BadInput: where no sample has it.
    """
    column = [row[position] if len(row) > position else None for row in store.labels]
    if all(name is None for name in column):
        most = max((len(row) for row in store.labels), default=0)
        raise BadInput(f"label {position}: the samples of this store have at most {most} label(s)")
    return column


def coverage(
    store: Store, rows: Rows, modalities: Sequence[str], expected: Collection[str] = ()
) -> dict[str, object]:
    """Ids asked for, ids that have all of `modalities`, and the status counts of each modality.

    Args:
        expected: ids of the official list, where there is one; else the samples of the store are all.
    """
    complete = np.ones(len(rows), dtype=bool)
    counts: dict[str, dict[str, int]] = {}
    for modality in modalities:
        status = store.status(modality)[rows]
        complete &= status == int(Status.OK)
        counts[modality] = {s.name.lower(): int((status == int(s)).sum()) for s in Status}
    ids = store.ids
    missing = sorted(set(expected) - {ids[i] for i in rows})
    return {
        "expected": len(rows) + len(missing),
        "present": int(complete.sum()),
        "modalities": counts,
        **({"missing": missing[:20]} if missing else {}),
    }
