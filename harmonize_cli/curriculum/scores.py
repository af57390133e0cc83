"""A folder of scores: one row per sample of a store, one column per indicator.

    SCORES/scores.json        what was scored, with what, and what each column means
           part-00000.npz     columns of a part of the samples; a part that exists is complete
           added-NAME.npz     a column that was made from others, by `add_column`
           histogram.png

Every part holds `id` and `index` (row of the store), one float32 column per indicator (NaN: undefined) and
`key`, a hash of all that the numbers depend on.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.files import atomic_path, write_json
from harmonize_cli.locks import one_writer
from harmonize_cli.store.reader import Store

FORMAT = "harmonize-scores/1"
ABOUT = "scores.json"
FIXED = ("id", "index", "key")


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
            raise BadInput(f"no indicator {name!r} in these scores; there are {', '.join(self.columns)}")
        column = self.columns[name]
        return column if self.noisy.get(name, "high") == "high" else -column


def write_part(
    path: Path, ids: Sequence[str], index: NDArray[np.int64], columns: Mapping[str, Any], key: str
) -> None:
    """Write one part, atomically."""
    with atomic_path(path) as tmp, tmp.open("wb") as f:
        np.savez(f, id=np.array(ids), index=index, key=np.array(key), **columns)


def part_key(path: Path) -> str | None:
    """What a part's numbers depend on; None where it can't be read."""
    try:
        with np.load(path, allow_pickle=False) as part:
            return str(part["key"])
    except (OSError, ValueError, KeyError):
        return None


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write scores.json: from then on the folder is complete."""
    write_json(folder / ABOUT, {"format": FORMAT, **about})


def read_about(folder: Path) -> dict[str, Any]:
    """scores.json of a folder.

    Raises:
        BadInput: no complete folder of scores.
    """
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        unfinished = any(folder.glob("part-*.npz"))
        hint = (
            "unfinished: run the same command again"
            if unfinished
            else "make it with: harmonize curriculum score"
        )
        raise BadInput(f"{folder}: no complete scores ({hint})") from None
    except (OSError, ValueError) as e:
        raise BadInput(f"{folder / ABOUT}: can't be read ({e})") from e
    if about.get("format") != FORMAT:
        raise BadInput(f"{folder / ABOUT}: format {about.get('format')}, this version reads {FORMAT}")
    return about


def read_scores(folder: Path) -> Scores:
    """All parts of a folder, in order of the store's rows.

    Raises:
        BadInput: not complete, or damaged.
    """
    about = read_about(folder)
    parts = []
    for name in about["parts"]:
        with _reading(folder / name) as part:
            parts.append(dict(part))
    index = np.concatenate([part["index"] for part in parts])
    order = np.argsort(index, kind="stable")
    columns = {
        name: np.concatenate([part[name] for part in parts])[order] for name in parts[0] if name not in FIXED
    }
    ids = np.concatenate([part["id"] for part in parts])[order]
    noisy = {name: column["noisy"] for name, column in about["columns"].items()}
    for name, added in about.get("added", {}).items():
        columns[name], noisy[name] = _read_added(folder, name, index[order]), added["noisy"]
    return Scores(ids, index[order], columns, noisy, about)


def check_rows(scores: Scores, store: Store) -> None:
    """Whether the rows of a store are still the samples that were scored.

    Raises:
        BadInput: it was made anew since, or is another one.
    """
    for i, sample in zip(scores.index.tolist(), scores.ids.tolist(), strict=True):
        if i >= len(store) or store.ids[i] != sample:
            raise BadInput(
                f"{store.path}: row {i} is not {sample!r} any more, which was scored; score it again"
            )


def column_values(folder: Path, name: str) -> NDArray[np.float32]:
    """The values of one column, in any order; the other columns stay on disk.

    Raises:
        BadInput: as `read_scores`.
    """
    about = read_about(folder)
    if name in about.get("added", {}):
        with _reading(_added(folder, name)) as arrays:
            return arrays["column"]
    pieces = []
    for part in about["parts"]:
        with _reading(folder / part) as arrays:
            pieces.append(arrays[name])
    return np.concatenate(pieces)


@one_writer("folder")
def add_column(folder: Path, name: str, values: NDArray[np.float32], *, noisy: str, about: str) -> None:
    """Add a column [N], in the order of `read_scores`, to complete scores; an older one is replaced."""
    scores = read_scores(folder)
    with atomic_path(_added(folder, name)) as tmp, tmp.open("wb") as f:
        np.savez(f, index=scores.index, column=values)
    added = {**scores.about.get("added", {}), name: {"noisy": noisy, "about": about}}
    write_about(folder, {**scores.about, "added": added})


@contextmanager
def _reading(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    try:
        with np.load(path, allow_pickle=False) as part:
            yield part
    except (OSError, ValueError, KeyError) as e:
        raise BadInput(f"{path}: missing or damaged ({e}); run the scoring again") from e


def _added(folder: Path, name: str) -> Path:
    return folder / f"added-{name}.npz"


def _read_added(folder: Path, name: str, index: NDArray[np.int64]) -> NDArray[np.float32]:
    path = _added(folder, name)
    try:
        with np.load(path, allow_pickle=False) as part:
            if np.array_equal(part["index"], index):
                column: NDArray[np.float32] = part["column"]
                return column
    except (OSError, ValueError, KeyError) as e:
        raise BadInput(f"{path}: missing or damaged ({e}); add the column again") from e
    raise BadInput(f"{path}: was made for other samples; add the column again")
