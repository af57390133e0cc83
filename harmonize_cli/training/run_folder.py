"""A run's folder: config.yaml, versions.json, metrics.jsonl, vocab.json, checkpoints/, last, best."""

import json
import platform
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harmonize_cli.config import dump_yaml, load_config
from harmonize_cli.errors import BadInput
from harmonize_cli.files import atomic_path, write_json, write_text
from harmonize_cli.models.checkpoint import list_checkpoints
from harmonize_cli.training.config import PretrainConfig

CONFIG, VERSIONS, METRICS, VOCAB = "config.yaml", "versions.json", "metrics.jsonl", "vocab.json"


def create(run: Path, config: PretrainConfig, about: dict[str, Any], vocab: list[str] | None) -> None:
    """Start a new run folder; one whose run failed before its first figures is used again.

    Raises:
        BadInput: `run` holds a run already, or something else.
    """
    check_new(run)
    run.mkdir(parents=True, exist_ok=True)
    if vocab is not None:
        write_json(run / VOCAB, vocab)
    write_json(run / VERSIONS, about)
    write_text(run / CONFIG, dump_yaml(config))


def check_new(run: Path) -> None:
    """Whether a new run may begin in `run`.

    Raises:
        BadInput: as `create`.
    """
    if (run / CONFIG).exists():
        if list_checkpoints(run) or read_metrics(run):
            raise BadInput(f"{run}: holds a run already; continue it with --resume, or choose another folder")
    elif run.exists() and (not run.is_dir() or any(_strange(path) for path in run.iterdir())):
        raise BadInput(f"{run}: exists and is no run folder; choose another")


def _strange(path: Path) -> bool:
    """Not what a run leaves that was killed before its config, which is written last."""
    return path.name not in (VERSIONS, VOCAB) and path.suffix != ".tmp"


def read_run_config(run: Path) -> PretrainConfig:
    """The resolved config of a run.

    Raises:
        BadInput: no run folder.
    """
    if not (run / CONFIG).is_file():
        raise BadInput(f"{run}: no run to resume here ({CONFIG} is missing); leave --resume out to start one")
    return load_config(PretrainConfig, run / CONFIG)


def rewind_metrics(run: Path, step: int) -> None:
    """Drop the metrics after `step`: those steps are going to be made again. A cut-off line goes too."""
    path = run / METRICS
    if not path.exists():
        return
    with atomic_path(path) as tmp, path.open(encoding="utf-8") as old, tmp.open("w", encoding="utf-8") as new:
        for line in old:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                new.write(line)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All complete lines of metrics.jsonl."""
    path = run / METRICS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def about_this_run(store_hash: str, *, steps: int, processes: int, device: str) -> dict[str, Any]:
    """What makes a run repeatable besides its config."""
    packages = ("harmonize-cli", "torch", "numpy", "h5py")
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "git": _git_revision(),
        "machine": platform.machine(),
        "device": device,
        "processes": processes,
        "store_hash": store_hash,
        "planned_steps": steps,
    }


def _git_revision() -> str | None:
    """Commit of the checkout that this package runs from, with + where it has changes; None otherwise."""
    git = shutil.which("git")
    folder = Path(__file__).parents[2]
    if git is None or not (folder / ".git").exists():
        return None

    def ask(*words: str) -> str:
        done = subprocess.run([git, "-C", str(folder), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    revision = ask("rev-parse", "HEAD")
    return revision + ("+" if ask("status", "--porcelain", "--untracked-files=no") else "") or None
