"""One JSON per evaluation: what was measured, on what, how, and with which doubt.

Tables, comparisons and the report are made from these files alone.
"""

import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import harmonize_cli
from harmonize_cli.errors import BadInput
from harmonize_cli.files import (
    Arrays,
    read_arrays,
    read_bytes,
    read_json,
    sha256_file,
    sha256_json,
    shaped,
    write_json,
)

FORMAT = "harmonize-result/1"
FOLDER = "eval"
UNNAMED = {f"R@{k} 1" for k in (1, 5, 10, 50)} | {"MedR 1", "MeanR 1", "mAP 1", "nDCG@10 1"}
UNNAMED |= {"top-1 1", "top-5 1", "mean per class 1"}
"""Metrics and versions that results had before they named them: with these alone, identities are as then."""


@dataclass(frozen=True, slots=True)
class Result:
    """An evaluation's outcome.

    Attributes:
        task: "retrieval", "probe", "zeroshot" or "finetune".
        protocol: every setting that the numbers depend on, with its "name".
        split: which samples were evaluated, in words.
        coverage: "expected" and "present" ids, and what is missing by modality.
        metrics: name -> value with interval; retrieval names read "text-to-video/R@10".
        chance: what guessing would give, where that is known.
        model_hash: of the weights that were evaluated ("" where there is no model: plain features).
        store_hash: of the store's content.
        model: run folder, step, seed and the settings that tell runs apart, as far as known; "features" are
            those of the store where there is no run.
        queries: name of the file beside the JSON with the values of every query, and its checksum.
        versions: of packages, and under "metrics" of the code of each metric.
    """

    task: str
    protocol: Mapping[str, Any]
    split: str
    coverage: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float]]
    chance: Mapping[str, float]
    model_hash: str
    store_hash: str
    store: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = field(default_factory=list)
    seconds: float = 0.0
    queries: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    format: str = FORMAT

    @property
    def identity(self) -> str:
        """Hash of all that the numbers depend on: same identity, same numbers."""
        parts = [self.task, self.protocol, self.split, self.model_hash, self.store_hash]
        if "features" in self.model:  # of the store itself: several may come from the same weights, or none
            parts.append(self.model["features"])
        if further := sorted(
            {f"{name} {version}" for name, version in self.metric_versions.items()} - UNNAMED
        ):
            parts.append(further)
        return sha256_json(json.loads(json.dumps(parts)))

    @property
    def metric_versions(self) -> dict[str, str]:
        """Version of the code of each metric; of results before they named them, none."""
        named = [text.rpartition(" ") for text in self.versions.get("metrics", "").split(", ") if text]
        return {name: version for name, _, version in named}

    @property
    def untrained(self) -> bool:
        """Whether it evaluates a randomly initialised model (`--untrained`)."""
        harmonize = self.model.get("harmonize")
        return isinstance(harmonize, dict) and harmonize.get("mode") == "untrained"

    def model_name(self, otherwise: str) -> str:
        """For people: the run (`otherwise` where none is known), or its untrained model."""
        return str(self.model.get("run") or otherwise) + (" untrained" if self.untrained else "")

    @property
    def name(self) -> str:
        """File name without suffix: readable, and another one for other weights, stores or settings."""
        label = re.sub(r"[^A-Za-z0-9_-]+", "_", str(self.protocol.get("name", "custom")))
        return f"{self.task}-{label}-{re.sub(r'[^A-Za-z0-9]+', '_', self.split)}-{self.identity[:10]}"


@dataclass(frozen=True, slots=True)
class _Coverage:
    """`Result.coverage`, as far as tables show it."""

    present: int
    expected: int
    modalities: dict[str, dict[str, int]] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Of everything whose change can move a number."""
    found = {"harmonize": harmonize_cli.__version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scikit-learn", "open_clip_torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def existing(path: Path, identity: str, *, overwrite: bool) -> Result | None:
    """The result already at `path` if it has this identity; None where the way is free.

    Raises:
        BadInput: where another evaluation's result is there and `overwrite` was not said.
    """
    if overwrite or not path.exists():
        return None
    old = read_result(path)
    if old.identity != identity:
        raise BadInput(
            f"{path}: holds another result ({old.task}, {old.protocol.get('name')}, {old.split}); "
            "give another -o, or --overwrite to replace it"
        )
    return old


def write_result(result: Result, path: Path) -> None:
    """Write the JSON atomically. What may be replaced is decided before the work, by `existing`."""
    write_json(path, asdict(result))


def read_result(path: Path) -> Result:
    """Read one result.

    Raises:
        BadInput: naming the file and what is wrong with it.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such result; `harmonize eval retrieval RUN STORE` makes one")
    values: Any = read_json(path, object)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise BadInput(f'{path}: not a result of `harmonize eval` (its "format" should be {FORMAT})')
    known = {f.name for f in fields(Result)}
    needed = {f.name for f in fields(Result) if f.default is MISSING and f.default_factory is MISSING}
    unknown, missing = set(values) - known, needed - set(values)
    if unknown or missing:
        raise BadInput(f"{path}: fields unknown: {sorted(unknown)}, missing: {sorted(missing)}")
    result = shaped(Result, values, str(path))
    for name, metric in result.metrics.items():
        if not {"value", "low", "high"} <= metric.keys():
            raise BadInput(f"{path}: metrics: {name}: expected value, low and high")
    shaped(_Coverage, result.coverage, f"{path}: coverage")
    # a file beside this one, and no other file of the machine
    if result.queries and Path(result.queries.get("file", "/")).name != result.queries.get("file"):
        raise BadInput(f"{path}: queries: expected the name of a file beside it and its sha256")
    return result


def find_results(places: Sequence[Path]) -> Iterator[tuple[Path, Result]]:
    """Results from files, run folders (their eval/) and folders of run folders.

    Raises:
        BadInput: for a place without any result.
    """
    for place in places:
        if place.is_file():
            yield place, read_result(place)
            continue
        if not place.is_dir():
            raise BadInput(f"{place}: neither a result file nor a run folder")
        files = [
            file
            for pattern in ("*.json", f"{FOLDER}/*.json", f"*/{FOLDER}/*.json")
            for file in sorted(place.glob(pattern))
            if _is_result(file)
        ]
        if not files:
            raise BadInput(f"{place}: no results here; `harmonize eval retrieval {place} STORE` makes one")
        for file in files:
            yield file, read_result(file)


def query_arrays(path: Path, result: Result) -> Arrays:
    """The values of every query of a result.

    Raises:
        BadInput: it has none, they are missing, damaged or were changed since.
    """
    file = verified_sidecar(path, result)
    if file is None:
        raise BadInput(f"{path}: has no values of single queries; evaluate again")
    return read_arrays(file, hint="evaluate again")


def verified_sidecar(path: Path, result: Result) -> Path | None:
    """The file with every query's values; None where the result has none.

    Raises:
        BadInput: where it is missing or was changed since.
    """
    if not result.queries:
        return None
    file = path.parent / result.queries["file"]
    if not file.is_file():
        raise BadInput(f"{file}: missing; it holds the values of every query of {path.name}: evaluate again")
    if sha256_file(file) != result.queries.get("sha256"):
        raise BadInput(f"{file}: does not belong to {path.name} any more (checksum differs): evaluate again")
    return file


def _is_result(file: Path) -> bool:
    try:
        return FORMAT.encode() in read_bytes(file)
    except BadInput:
        return False
