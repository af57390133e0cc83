"""From class scores to values per query: what probes, prompts and fine-tuning share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.evaluation.confusion import confusion
from harmonize_cli.evaluation.metrics import Ranking, Scores, columns_of
from harmonize_cli.evaluation.ranks import score_ranks
from harmonize_cli.evaluation.relevance import Relevance
from harmonize_cli.evaluation.splits import Rows, label_column
from harmonize_cli.evaluation.task import Queries, chance_of
from harmonize_cli.store.reader import Store

Label = int | Literal["all"]
"""Which of a sample's labels is its class, from 0; "all" where a sample has several."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Test rows [N] of one part with the scores [N, C] that their windows gave on average.

    truth: class numbers [N] (-1: a class that training never saw), or bool [N, C] with several labels.
    """

    part: str
    rows: Rows
    truth: NDArray[Any]
    scores: NDArray[np.float64]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Labels:
    """Classes of all samples of a store.

    names: per sample, the names of its classes; empty where it has none.
    """

    names: Sequence[tuple[str, ...]]
    several: bool

    @classmethod
    def of(cls, store: Store, label: Label) -> "Labels":
        """The labels at a position, or all of them.

        Raises:
            BadInput: no sample has such a label.
        """
        if label != "all":
            return cls([() if name is None else (name,) for name in label_column(store, label)], False)
        if not any(store.labels):
            raise BadInput(f"{store.path}: no sample has a label")
        return cls([tuple(row) for row in store.labels], True)

    @property
    def has(self) -> NDArray[np.bool_]:
        """Samples with a label, [N]."""
        return np.asarray([bool(names) for names in self.names])

    def classes(self, rows: Rows) -> list[str]:
        """Sorted names of the classes of some samples."""
        return sorted({name for i in rows for name in self.names[i]})

    def numbered(self, classes: Sequence[str]) -> NDArray[Any]:
        """Class numbers [N], -1 for other classes and none; with several labels bool [N, C]."""
        number = {name: i for i, name in enumerate(classes)}
        if not self.several:
            return np.asarray([number.get(names[0], -1) if names else -1 for names in self.names], np.int64)
        table = np.zeros((len(self.names), len(classes)), dtype=bool)
        for i, names in enumerate(self.names):
            table[i, [number[name] for name in names if name in number]] = True
        return table


def check_finite(what: str, values: NDArray[np.floating[Any]], rows: Rows) -> None:
    """Refuse values [N, ...] that can't be compared: NaN is neither above nor below the right class.

    Raises:
        HarmonizeError: naming the first of `rows` [N] that holds one.
    """
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise HarmonizeError(
            f"{what}: {int(bad.sum())} of {len(bad)} hold NaN or infinity (first: row {rows[bad.argmax()]} "
            "of the store); accuracy among them means nothing, look at the model that made them"
        )


def classified(
    parts: Sequence[Predictions],
    classes: Sequence[Sequence[str]],
    ids: Sequence[str],
    groups: Sequence[str],
) -> Queries:
    """Accuracies, each the mean over parts, and the confusion matrix, all parts together.

    A sample that several parts test (official splits overlap) is one query.

    Args:
        classes: names of each part's classes, by number; parts may know different ones.
        ids, groups: of all samples of the store.

    Raises:
        HarmonizeError: scores that are no numbers.
    """
    rows = np.unique(np.concatenate([part.rows for part in parts]))
    values = [columns_of("classification", Scores(_checked(p).scores, p.truth)) for p in parts]
    columns = {}
    for name in (name for name in values[0] if all(name in own for own in values)):
        table = np.full((len(parts), len(rows)), np.nan)
        for i, part in enumerate(parts):
            table[i, np.searchsorted(rows, part.rows)] = values[i][name]
        # every part weighs the same, however many rows it tests
        share = np.array([1 / len(p.rows) for p in parts]) / len(parts) * len(rows)
        columns[name] = np.nansum(table * share[:, None], axis=0)
    matrix, names = confusion([(p.truth, p.scores) for p in parts], classes)
    return Queries(
        "classification",
        [ids[i] for i in rows],
        [groups[i] for i in rows],
        columns,
        chance_of("classification", max(map(len, classes))),
        {"confusion": matrix, "classes": np.asarray(names)},
    )


def multi_labelled(parts: Sequence[Predictions], classes: Sequence[str]) -> tuple[Queries, list[str]]:
    """Each class as a query that ranks the test samples by its score, mean over parts.

    Returns:
        The queries, and the classes that no test sample has, which are left out.

    Raises:
        HarmonizeError: scores that are no numbers.
    """
    tables: dict[str, NDArray[np.float64]] = {}
    chance: Mapping[str, float] = {}
    for i, part in enumerate(parts):
        asked = _checked(part).truth.any(axis=0)
        relevance = Relevance.of_mask(part.truth[:, asked].T)
        ranking = Ranking(score_ranks(part.scores[:, asked].T, relevance), relevance, len(part.rows))
        chance = chance_of("multi-label", ranking)
        for name, column in columns_of("multi-label", ranking).items():
            table = tables.setdefault(name, np.full((len(parts), len(classes)), np.nan))
            table[i, asked] = column
    known = ~np.isnan(next(iter(tables.values()))).all(axis=0)
    columns = {name: np.nanmean(table[:, known], axis=0) for name, table in tables.items()}
    names = [classes[int(i)] for i in np.flatnonzero(known)]
    return Queries("multi-label", names, None, columns, chance), sorted({*classes} - {*names})


def _checked(part: Predictions) -> Predictions:
    check_finite(f"{part.part}: scores", part.scores, part.rows)
    return part
