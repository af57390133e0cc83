"""A folder of scores: one row per sample of a store, one column per indicator.

    SCORES/scores.json        what was scored, with what, and what each column means
           part-00000.npz     columns of a part of the samples; a part that exists is complete
           added-NAME.npz     a column that was made from others, by `add_column`
           histogram.png

Every part holds `id` and `index` (row of the store), one float32 column per indicator (NaN: undefined) and
`key`, a hash of all that the numbers depend on.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harmonize_cli.errors import BadInput
from harmonize_cli.files import Arrays, atomic_path, read_arrays, read_json, shaped, write_arrays, write_json
from harmonize_cli.locks import one_writer
from harmonize_cli.printing import printable
from harmonize_cli.store.reader import Store

FORMAT = "harmonize-scores/1"
ABOUT = "scores.json"
FIXED = ("id", "index", "key")
_AGAIN = "run the scoring again"
_Name = Annotated[str, Field(pattern=r"^[\w.@+-]{1,100}$")]
"""Of a column: it becomes part of a file's name."""


@dataclass(frozen=True, slots=True)
class Scores:
    """ids [N], rows of the store [N], columns name -> float32 [N]; `noisy`: name -> "high" or "low"."""

    ids: NDArray[np.str_]
    index: NDArray[np.int64]
    columns: dict[str, NDArray[np.float32]]
    noisy: dict[str, str]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def suspicion(self, name: str) -> NDArray[np.float32]:
        """A column turned so that high means noisy; NaN stays NaN.

        Raises:
            BadInput: no such column.
        """
        if name not in self.columns:
            close = difflib.get_close_matches(name, self.columns, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise BadInput(
                f"no indicator {name!r} in these scores{hint}; there are {', '.join(self.columns)}"
            )
        column = self.columns[name]
        return column if self.noisy.get(name, "high") == "high" else -column

    def of(self, places: NDArray[np.integer]) -> "Scores":
        """The scores of some samples; places [M] within 0 .. N - 1."""
        columns = {name: column[places] for name, column in self.columns.items()}
        return replace(self, ids=self.ids[places], index=self.index[places], columns=columns)


def part_name(number: int) -> str:
    """File of a part."""
    return f"part-{number:05d}.npz"


def write_part(
    path: Path, ids: Sequence[str], index: NDArray[np.int64], columns: Mapping[str, Any], key: str
) -> None:
    """Write one part, atomically."""
    write_arrays(path, {"id": np.array(ids), "index": index, "key": np.array(key), **columns})


def part_key(path: Path) -> str:
    """What a part's numbers depend on.

    Raises:
        BadInput: the part is damaged.
    """
    return str(read_arrays(path, hint=f"remove it and {_AGAIN}")["key"])


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write scores.json: from then on the folder is complete."""
    write_json(folder / ABOUT, {"format": FORMAT, **about})


def read_about(folder: Path) -> dict[str, Any]:
    """scores.json of a folder.

    Raises:
        BadInput: no complete folder of scores.
    """
    file = folder / ABOUT
    if not file.exists():
        unfinished = any(folder.glob("part-*.npz"))
        hint = (
            "unfinished: run the same command again"
            if unfinished
            else "make it with: harmonize curriculum score"
        )
        raise BadInput(f"{folder}: no complete scores ({hint})")
    about = read_json(file, dict[str, Any], hint=_AGAIN)
    if about.get("format") != FORMAT:
        raise BadInput(f"{file}: format {about.get('format')}, this version reads {FORMAT}")
    shaped(_About, about, str(file), advice=f"; {_AGAIN}")
    return about


def read_scores(folder: Path) -> Scores:
    """All parts of a folder, in order of the store's rows.

    Raises:
        BadInput: not complete, or damaged.
    """
    about = read_about(folder)
    parts = [_read_part(folder / name) for name in about["parts"]]
    for name, part in zip(about["parts"], parts, strict=True):
        if part.keys() != parts[0].keys():
            raise BadInput(f"{folder / name}: has other columns than {about['parts'][0]}; {_AGAIN}")
    index = np.concatenate([part["index"] for part in parts])
    order = np.argsort(index, kind="stable")
    columns = {
        name: np.concatenate([part[name] for part in parts])[order] for name in parts[0] if name not in FIXED
    }
    ids = np.concatenate([part["id"] for part in parts])[order]
    noisy = {name: column["noisy"] for name, column in about["columns"].items() if name in columns}
    for name, added in about.get("added", {}).items():
        columns[name], noisy[name] = _read_added(folder, name, index[order]), added["noisy"]
    return Scores(ids, index[order], columns, noisy, about)


def scored_store(folder: Path, scores: Scores) -> Store:
    """The store that was scored. A relative path of older scores may start here, at `folder` or above it.

    Raises:
        BadInput: the scores name no store, it is gone, or its rows are other samples by now.
    """
    known = scores.about.get("store")
    if not known:
        raise BadInput(f"{folder}: does not say which store was scored; score it again")
    places = [base / known for base in (Path(), folder, *folder.resolve().parents)]
    store = Store.open(next((place for place in places if place.exists()), Path(known)))
    for i, sample in zip(scores.index.tolist(), scores.ids.tolist(), strict=True):
        if i >= len(store) or store.ids[i] != sample:
            raise BadInput(
                f"{store.path}: row {i} is not {sample!r} any more, which was scored; score it again"
            )
    return store


def trained_part(store: Store, scores: Scores, split: str | None = None) -> tuple[NDArray[np.int64], str]:
    """Places of the scored samples of a split, by default those to train on, and the split's name.

    Raises:
        BadInput: no scored sample is of the split.
    """
    wanted = split or ("train" if "train" in store.splits else "all")
    splits = np.array([store.splits[i] for i in scores.index], dtype=object)
    places = np.flatnonzero((splits == wanted) | (wanted == "all"))
    if not len(places):
        found = ", ".join(sorted(set(splits.tolist()))) or "none"
        raise BadInput(f"split {wanted!r}: no sample of it was scored; scored splits: {found}, or all")
    return places, wanted


def column_values(folder: Path, name: str) -> NDArray[np.float32]:
    """The values of one column, in any order; the other columns stay on disk.

    Raises:
        BadInput: as `read_scores`.
    """
    about = read_about(folder)
    if name in about.get("added", {}):
        return read_arrays(_added(folder, name), hint="add the column again").columns("index")["column"]
    return np.concatenate([_read_part(folder / part)[name] for part in about["parts"]])


@one_writer("folder")
def add_column(folder: Path, name: str, values: NDArray[np.float32], *, noisy: str, about: str) -> None:
    """Add a column [N], in the order of `read_scores`, to complete scores; an older one is replaced."""
    scores = read_scores(folder)
    write_arrays(_added(folder, name), {"index": scores.index, "column": values})
    added = {**scores.about.get("added", {}), name: {"noisy": noisy, "about": about}}
    write_about(folder, {**scores.about, "added": added})


def draw_histograms(folder: Path, path: Path) -> None:
    """One histogram per column of a folder of scores; the cosines' conflict side is red.

    Column by column: millions of samples in all columns at once would be much memory for a figure.
    """
    from matplotlib.figure import Figure

    about = read_about(folder)
    columns = about["columns"] | about.get("added", {})
    across = min(4, max(1, len(columns)))
    down = max(1, -(-len(columns) // across))
    figure = Figure(figsize=(3.2 * across, 2.3 * down), layout="constrained")
    for place, name in enumerate(columns):
        ax = figure.add_subplot(down, across, place + 1)
        column = column_values(folder, name)
        column = column[np.isfinite(column)]
        ax.set_title(name, fontsize=9)
        if not len(column):
            continue
        low, high = np.quantile(column, [0.001, 0.999])
        edges = np.linspace(low, high if high > low else low + 1, 41)
        counts, _ = np.histogram(column, edges)
        colors = ["#c0392b" if name.startswith("cosine") and e < 0 else "#3b6ea5" for e in edges[:-1]]
        ax.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=colors)
        ax.tick_params(labelsize=7)
        ax.set_xlabel(f"{columns[name]['noisy']} = suspect", fontsize=7)
    title = f"{about.get('samples', '?')} samples of {about.get('store', '?')}"
    figure.suptitle(printable(title, lines=False).replace("$", r"\$"), fontsize=9)
    with atomic_path(path) as tmp:
        figure.savefig(tmp, format="png", dpi=120)


@dataclass(frozen=True, slots=True)
class _Column:
    noisy: Literal["high", "low"]
    about: str


@dataclass(frozen=True, slots=True)
class _About:
    """What scores.json has to hold."""

    key: str
    parts: Annotated[list[Annotated[str, Field(pattern=r"^part-\d+\.npz$")]], Field(min_length=1)]
    columns: dict[_Name, _Column]
    added: dict[_Name, _Column] = field(default_factory=dict)
    samples: int = 0
    store: str = ""


def _read_part(path: Path) -> Arrays:
    """A part: the columns that are always there, and those of indicators, all of one length."""
    part = read_arrays(path, hint=_AGAIN)
    part.pop("key", None)
    part.columns("index")
    if part["id"].dtype.kind != "U" or any(
        part[name].dtype.kind not in "biuf" for name in part if name != "id"
    ):
        raise part.damaged("a column is of another type")
    return part


def _added(folder: Path, name: str) -> Path:
    return folder / f"added-{name}.npz"


def _read_added(folder: Path, name: str, index: NDArray[np.int64]) -> NDArray[np.float32]:
    part = read_arrays(_added(folder, name), hint="add the column again").columns("index")
    if not np.array_equal(part["index"], index) or part["column"].dtype.kind != "f":
        raise BadInput(f"{part.path}: was made for other samples; add the column again")
    return part["column"]
