"""What all evaluations share: options, provenance, and results that are never overwritten silently."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.evaluation.results import Result, existing, versions, write_result
from harmonize_cli.evaluation.sources import Source
from harmonize_cli.evaluation.statistics import DRAWS
from harmonize_cli.files import sha256_file, write_arrays
from harmonize_cli.locks import one_writer
from harmonize_cli.store.reader import Store

Queries = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Options:
    """What every evaluation takes beside its protocol.

    Attributes:
        draws, seed: of the bootstrap.
        clusters: resample source groups (clips of one video) instead of single queries.
        out: the result file; None chooses a name beside the model.
        overwrite: replace another result at that place.
    """

    draws: int = DRAWS
    seed: int = 0
    clusters: bool = False
    out: Path | None = None
    overwrite: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The part that numbers depend on."""
        return {"draws": self.draws, "level": 0.95, "seed": self.seed, "clusters": self.clusters}


@one_writer("path")
def finish(
    planned: Result, work: Callable[[], tuple[Result, Queries]], path: Path, *, overwrite: bool
) -> tuple[Result, Path]:
    """Do the work unless the same evaluation's result is there already.

    The values of every query are written first, the JSON that vouches for them last.
    """
    if (old := existing(path, planned.identity, overwrite=overwrite)) is not None:
        return old, path
    started = time.perf_counter()
    result, queries = work()
    file = path.with_suffix(".queries.npz")
    write_arrays(file, queries, compressed=True)
    result = replace(
        result,
        seconds=round(time.perf_counter() - started, 3),
        queries={"file": file.name, "sha256": sha256_file(file)},
        versions=versions(),
    )
    write_result(result, path)
    return result, path


def place(source: Source, options: Options, result: Result) -> Path:
    """The result's file."""
    return options.out or source.folder / f"{result.name}.json"


def provenance(source: Source, store: Store) -> dict[str, Any]:
    """The fields of a result that say whose numbers they are."""
    return {
        "model_hash": source.weights_hash,
        "store_hash": store.content_hash,
        "store": str(store.path),
        "model": source.about(),
    }
