"""A run's folder: config.yaml, versions.json, metrics.jsonl, vocab.json, checkpoints/, last, best."""

import platform
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harmonize_cli.config import dump_yaml, load_config
from harmonize_cli.errors import BadInput
from harmonize_cli.files import read_json, read_log, write_json, write_text
from harmonize_cli.locks import is_lock
from harmonize_cli.models.checkpoint_folders import list_checkpoints
from harmonize_cli.store.reader import Store
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
    return path.name not in (VERSIONS, VOCAB) and path.suffix != ".tmp" and not is_lock(path)


def read_run_config(run: Path) -> PretrainConfig:
    """The resolved config of a run.

    Raises:
        BadInput: no run folder.
    """
    if not (run / CONFIG).is_file():
        raise BadInput(f"{run}: no run to resume here ({CONFIG} is missing); leave --resume out to start one")
    return load_config(PretrainConfig, run / CONFIG)


def check_store(run: Path, store: Store) -> None:
    """Whether a store is the one that a run was started with: what a run keeps of samples are their rows.

    Raises:
        BadInput: it is another one.
    """
    try:
        started = read_versions(run).get("store_hash")
    except BadInput:
        return  # nobody can tell any more
    if started not in (None, store.content_hash):
        raise BadInput(
            f"{store.path}: holds other samples than the store that {run} was started with (see {VERSIONS}); "
            "name that one, or start a new run"
        )


def read_versions(run: Path) -> dict[str, Any]:
    """What a run was started with.

    Raises:
        BadInput: missing or damaged.
    """
    return read_json(run / VERSIONS, dict[str, Any])


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All complete lines of metrics.jsonl."""
    return read_log(run / METRICS)


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
