"""What a report is made from, read from run folders alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.results import FOLDER, Result, find_results


@dataclass(frozen=True, slots=True)
class Run:
    """config: config.yaml; metrics: the lines of metrics.jsonl; results by file name; audit: audit.json.

    pictures: PNG files that an evaluation left beside its result (confusion matrices), by file name.
    """

    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    results: dict[str, Result]
    audit: dict[str, Any]
    pictures: dict[str, Path]

    @property
    def mode(self) -> str:
        """Harmonization mode."""
        return str(self.config.get("harmonize", {}).get("mode", ""))

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric, where it was logged."""
        points = [(line["step"], line[key]) for line in self.metrics if line.get(key) is not None]
        return [step for step, _ in points], [float(value) for _, value in points]


def read_runs(folders: Sequence[Path], results: Sequence[Path] = ()) -> list[Run]:
    """Runs in the order given; `results` are further result files, given to the runs they name.

    Raises:
        BadInput: a folder that is no run.
    """
    extra = list(find_results(results)) if results else []
    names = _distinct([folder.resolve() for folder in folders])
    return [_read(folder, name, extra) for folder, name in zip(folders, names, strict=True)]


def _read(folder: Path, name: str, extra: Sequence[tuple[Path, Result]]) -> Run:
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as e:
        raise BadInput(f"{folder}: no run folder ({e.strerror}: {Path(e.filename).name})") from e
    metrics = [json.loads(line) for line in lines if line.endswith("\n")]
    own = list(find_results([folder])) if any((folder / FOLDER).glob("*.json")) else []
    own += [(path, result) for path, result in extra if result.model.get("run") == folder.name]
    audit_file = folder / "audit" / "audit.json"
    audit = json.loads(audit_file.read_text(encoding="utf-8")) if audit_file.exists() else {}
    results = {path.stem: result for path, result in own}
    pictures = {p.stem: p for path, _ in own for p in sorted(path.parent.glob(f"{path.stem}.*.png"))}
    return Run(name, config or {}, metrics, results, audit, pictures)


def _distinct(folders: Sequence[Path]) -> list[str]:
    """Names of folders, with the parent's in front where two are the same."""
    names = [folder.name for folder in folders]
    return [f"{f.parent.name}/{n}" if names.count(n) > 1 else n for f, n in zip(folders, names, strict=True)]
