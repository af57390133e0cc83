"""What a report is made from, read from run folders alone."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize_cli.config import read_yaml
from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.questions import Entry, Question
from harmonize_cli.evaluation.results import FOLDER, Result, find_results
from harmonize_cli.files import inside, read_json, read_log, shaped
from harmonize_cli.models.checkpoint import read_manifest
from harmonize_cli.models.checkpoint_folders import list_checkpoints


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure with its interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Detection:
    """How well an indicator finds injected noise, as audit.json has it."""

    auroc: Cell
    ap: Cell


@dataclass(frozen=True, slots=True)
class Audit:
    """audit.json, as far as the page shows it."""

    kinds: dict[str, dict[str, Detection]]
    samples: int
    split: str


@dataclass(frozen=True, slots=True)
class Run:
    """config: config.yaml; metrics: the lines of metrics.jsonl; results by file name; audit: audit.json.

    pictures: PNG files that an evaluation left beside its result (confusion matrices), by file name.
    """

    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    results: dict[str, Result]
    audit: Audit | None
    pictures: dict[str, Path]

    @property
    def mode(self) -> str:
        """Harmonization mode."""
        section = self.config.get("harmonize")
        return str(section.get("mode", "")) if isinstance(section, dict) else ""

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric, where it was logged."""
        points = [(line["step"], line[key]) for line in self.metrics if line.get(key) is not None]
        return [step for step, _ in points], [float(value) for _, value in points]


def read_runs(folders: Sequence[Path], results: Sequence[Path] = ()) -> list[Run]:
    """Runs in the order given; `results` are further result files, given to the runs that they name.

    Raises:
        BadInput: a folder that is no run.
    """
    extra = list(find_results(results)) if results else []
    whole = [folder.resolve() for folder in folders]
    return [
        _read(folder, name, _named(folder, whole, extra))
        for folder, name in zip(whole, _distinct(whole), strict=True)
    ]


def comparable(runs: Sequence[Run]) -> list[dict[str, dict[str, float]]]:
    """Metrics of each run by name. All values of a name answer one question, the one that most runs answer.

    Of several checkpoints the last one counts; what was evaluated with fresh weights is no result of a run.
    """
    answers: dict[str, dict[Question, dict[int, dict[str, float]]]] = {}
    for place, run in enumerate(runs):
        for result in sorted(run.results.values(), key=lambda result: result.model.get("step") or 0):
            for name, metric in result.metrics.items() if not result.untrained else ():
                answers.setdefault(name, {}).setdefault(Question.of(result), {})[place] = dict(metric)
    found: list[dict[str, dict[str, float]]] = [{} for _ in runs]
    for name, by_question in answers.items():
        order = sorted(by_question, key=lambda q: (-len(by_question[q]), q.title, q.key))
        for place, metric in by_question[order[0]].items():
            found[place][name] = metric
    return found


def _named(folder: Path, runs: Sequence[Path], results: Sequence[Entry]) -> list[Entry]:
    """The results that name a run; where several have its name, those made with its weights."""
    named = [entry for entry in results if entry[1].model.get("run") == folder.name]
    if [run.name for run in runs].count(folder.name) == 1:
        return named
    manifests = [read_manifest(checkpoint) for checkpoint in list_checkpoints(folder)]
    weights = {digest for manifest in manifests for digest in manifest.files.values()}
    return [entry for entry in named if entry[1].model_hash in weights]


def _read(folder: Path, name: str, extra: Sequence[Entry]) -> Run:
    for needed in ("config.yaml", "metrics.jsonl"):
        if not (folder / needed).exists():
            raise BadInput(f"{folder}: no run folder ({needed} is missing)")
        inside(folder, folder / needed)
    config = read_yaml(folder / "config.yaml")
    metrics = read_log(folder / "metrics.jsonl")
    for line in metrics:
        shaped(dict[str, float | None], line, f"{folder / 'metrics.jsonl'}: step {line['step']}")
    files = [inside(folder, file) for file in (folder / FOLDER).glob("*.json")]
    own = list(find_results([folder])) if files else []
    own += extra
    audit_file = folder / "audit" / "audit.json"
    audit = read_json(inside(folder, audit_file), Audit) if audit_file.exists() else None
    results = {path.stem: result for path, result in own}
    pictures = {
        picture.stem: inside(path.parent, picture)
        for path, _ in own
        for picture in sorted(path.parent.glob(f"{glob.escape(path.stem)}.*.png"))
    }
    return Run(name, config or {}, metrics, results, audit, pictures)


def _distinct(folders: Sequence[Path]) -> list[str]:
    """Names of folders, with the parent's in front where two are the same."""
    names = [folder.name for folder in folders]
    return [f"{f.parent.name}/{n}" if names.count(n) > 1 else n for f, n in zip(folders, names, strict=True)]
