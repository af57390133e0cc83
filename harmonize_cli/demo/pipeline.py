"""`harmonize demo run`: from nothing to a compared result, by the commands that a user would type."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harmonize_cli.demo.config import DemoConfig
from harmonize_cli.demo.make_data import MANIFEST
from harmonize_cli.demo.steps import JOURNAL, Journal, Step
from harmonize_cli.demo.summary import Row, read_row, write_summary
from harmonize_cli.errors import BadInput
from harmonize_cli.files import read_log, write_text
from harmonize_cli.locks import is_lock, one_writer

_MADE = ("configs", "data", "store.h5", "runs", "scores", "results", "summary.json", "summary.png", JOURNAL)


@dataclass(frozen=True, slots=True)
class DemoReport:
    """rows: one per run, in order. table: what was printed."""

    rows: list[Row]
    table: str


@one_writer("out")
def run_demo(
    out: Path, config: DemoConfig, *, fresh: bool = False, jobs: int = 2, say: Callable[[str], None] = print
) -> DemoReport:
    """Make data, features, runs, scores and results under `out`; finished steps are not repeated.

    Raises:
        BadInput: `out` holds something else, or steps made with other settings.
        HarmonizeError: a step failed.
    """
    _claim(out, fresh=fresh)
    paths = _write_configs(out, config)
    journal = Journal.read(out)
    data, store = out / "data", out / "store.h5"
    words = ["demo", "make-data", str(data), "--config", str(paths["data"]), "--workers", str(jobs)]
    made = journal.make(Step("data", words, data / MANIFEST, [config.data.model_dump(mode="json")]), "", say)
    words = ["extract", str(data / MANIFEST), "-o", str(store)]
    words += ["--config", str(paths["extract"]), "--workers", str(jobs)]
    extracted = journal.make(Step("extract", words, store, [config.extract]), made, say)
    trained = {
        name: journal.make(_pretrain(out, name, paths[name], config), extracted, say) for name in config.runs
    }
    last = list(config.runs)[-1]
    words = ["curriculum", "score", str(out / "runs" / last), str(store), "-o", str(out / "scores")]
    journal.make(Step("score", words, out / "scores" / "scores.json"), trained[last], say)
    rows = []
    for name in config.runs:
        results = []
        for task in ("retrieval", "probe"):
            result = out / "results" / f"{name}-{task}.json"
            words = ["eval", task, str(out / "runs" / name), str(store), "-o", str(result), "--overwrite"]
            journal.make(Step(f"{task}-{name}", words, result), trained[name], say)
            results.append(result)
        rows.append(read_row(name, results, journal.seconds(f"pretrain-{name}")))
    table = write_summary(out, rows, _curves(out, config))
    return DemoReport(rows, table)


def _pretrain(out: Path, name: str, config_file: Path, config: DemoConfig) -> Step:
    run = out / "runs" / name
    store = str(out / "store.h5")
    return Step(
        f"pretrain-{name}",
        ["pretrain", store, "-o", str(run), "--config", str(config_file)],
        run / "last",
        [config.pretrain, config.runs[name]],
        resume=["pretrain", store, "-o", str(run), "--resume"],
        started=run / "config.yaml",
    )


def _claim(out: Path, *, fresh: bool) -> None:
    """Make `out` ours; `fresh` removes what an earlier demo made there, and nothing else."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out}: is a file; the demo needs a folder")
    ours = (out / JOURNAL).exists() or (out / "configs").exists()
    if out.exists() and not all(map(is_lock, out.iterdir())) and not ours:
        raise BadInput(f"{out}: exists and holds no demo; choose a new or empty folder")
    if fresh:
        for name in _MADE:
            path = out / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _write_configs(out: Path, config: DemoConfig) -> dict[str, Path]:
    """The stages' configs as files, so that every command can be typed again.

    Raises:
        BadInput: the folder was made with other settings.
    """
    contents: dict[str, dict[str, Any]] = {
        "data": config.data.model_dump(mode="json"),
        "extract": config.extract,
        **{name: {**config.pretrain, **changes} for name, changes in config.runs.items()},
    }
    paths = {name: out / "configs" / f"{name}.yaml" for name in contents}
    for name, path in paths.items():
        text = yaml.safe_dump(contents[name], sort_keys=False)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise BadInput(f"{path}: made with other settings; --overwrite starts anew, or choose another -o")
        if not path.exists():
            write_text(path, text)
    return paths


def _curves(out: Path, config: DemoConfig) -> dict[str, list[dict[str, Any]]]:
    """metrics.jsonl of each run."""
    return {name: read_log(out / "runs" / name / "metrics.jsonl") for name in config.runs}
