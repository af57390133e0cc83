"""`harmonize curriculum compare`: what each method makes of known noise, at one budget and over seeds.

Methods that cut by scores begin as the baseline does: they branch off its checkpoint at the end of the
warm-up, which is scored once. So every method makes the same number of steps in all.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from harmonize_cli.config import dump_yaml, load_config
from harmonize_cli.curriculum.audit import AuditSettings, audit
from harmonize_cli.curriculum.methods import BASELINE, METHODS, TRUTH, Method, plan_for
from harmonize_cli.curriculum.plan import write_plan
from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.curriculum.score import ScoreSettings, score
from harmonize_cli.curriculum.scores import part_name, write_about, write_part
from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.protocols import PROTOCOLS
from harmonize_cli.evaluation.retrieval import RetrievalTask
from harmonize_cli.evaluation.sources import RunSource
from harmonize_cli.evaluation.task import Options, evaluate
from harmonize_cli.files import read_json, write_json, write_text
from harmonize_cli.locks import one_writer
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.processes import in_processes
from harmonize_cli.progress import progress
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig

SETTINGS, RESULT, INDICATOR = "compare.yaml", "compare.json", "indicator.json"


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """share: of captions to cut (default: the share that is wrong); warmup: share of the run before a cut."""

    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 5
    warmup: float = 0.2
    share: float | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One seed's work for a process."""

    store: Path
    out: Path
    config: PretrainConfig
    settings: CompareSettings
    share: float
    seed: int


@one_writer("out")
def compare(
    store_path: Path,
    truth: Path,
    out: Path,
    config: PretrainConfig,
    settings: CompareSettings,
    *,
    jobs: int = 1,
) -> dict[str, Any]:
    """Train and evaluate every method with every seed; finished ones are not repeated. Returns compare.json.

    truth: JSONL with `id` and `caption_misaligned`, as dialpad's truth.jsonl.

    Raises:
        BadInput: an unknown method, a length in epochs, a truth that knows no sample, or another comparison
            in `out`.
    """
    for name in settings.methods:
        METHODS.find(name)
    if config.epochs:
        raise BadInput("epochs: methods are compared at one number of steps; set steps instead")
    store = Store.open(store_path)
    wrong = read_truth(truth)
    rows = store.select("train" if "train" in store.splits else None)
    known = [wrong[store.ids[i]] for i in rows if store.ids[i] in wrong]
    if not known:
        raise BadInput(f"{truth}: knows no training sample of {store_path}")
    share = settings.share if settings.share is not None else float(np.mean(known))
    _claim(out, config, settings, share, store.content_hash)
    write_truth_scores(out / TRUTH, store, wrong)
    tasks = [Task(store_path, out, config, settings, share, seed) for seed in range(settings.seeds)]
    bar: tqdm[object] = progress(desc="compare", total=len(tasks) * len(settings.methods), unit="run")
    with bar:
        for done in _run(tasks, jobs):
            bar.update(done)
    found = {
        method: [_read(out / method / f"seed-{seed}" / "retrieval.json") for seed in range(settings.seeds)]
        for method in settings.methods
    }
    indicators = [_read(out / BASELINE / f"seed-{k}" / INDICATOR) for k in range(settings.seeds)]
    result = {
        "store": str(store_path),
        "wrong_share": float(np.mean(known)),
        "cut_share": share,
        "warmup": settings.warmup,
        "seeds": settings.seeds,
        "indicators": [entry.get("best") for entry in indicators],
        "methods": {
            name: {"about": METHODS[name].about, "seconds": [r["train_seconds"] for r in results],
                   "metrics": {m: [r["metrics"][m]["value"] for r in results] for m in results[0]["metrics"]}}
            for name, results in found.items()
        },
    }  # fmt: skip
    write_json(out / RESULT, result)
    return result


def read_truth(path: Path) -> dict[str, bool]:
    """id -> whether its caption is wrong.

    Raises:
        BadInput: unreadable, or a line without the two fields.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"{path}: can't be read ({e})") from e
    found: dict[str, bool] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            found[str(row["id"])] = bool(row["caption_misaligned"])
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path}:{number}: expected JSON with id and caption_misaligned") from None
    return found


def write_truth_scores(folder: Path, store: Store, wrong: Mapping[str, bool]) -> None:
    """Known noise in the form of scores, for the oracle's plan."""
    index = np.arange(len(store))
    column = np.array([wrong.get(sample, np.nan) for sample in store.ids], np.float32)
    write_part(folder / part_name(0), store.ids, index, {TRUTH: column}, "truth")
    about = {TRUTH: {"noisy": "high", "about": "1 where the caption is wrong"}}
    write_about(folder, {"key": TRUTH, "parts": [part_name(0)], "samples": len(store), "columns": about})


def _run(tasks: Sequence[Task], jobs: int) -> Iterator[int]:
    """Make every method of every task; yields how many got done."""
    if jobs == 1:
        for task in tasks:
            for method in task.settings.methods:
                make(task, method)
                yield 1
        return
    make_all = partial(_make_all, max(1, torch.get_num_threads() // jobs))
    killed = "run the same command again; finished runs are kept"
    yield from in_processes(make_all, tasks, jobs, killed=killed)


def _make_all(threads: int, task: Task) -> int:
    torch.set_num_threads(threads)
    return sum(_run([task], 1))


def make(task: Task, name: str) -> None:
    """Train and evaluate one method with one seed, unless that was done."""
    method, folder = METHODS[name], task.out / name / f"seed-{task.seed}"
    if (folder / "retrieval.json").exists():
        return
    run = folder / "run"
    began = time.perf_counter()
    scores = task.out / TRUTH
    if method.plan == "cut:best":
        scores = task.out / BASELINE / f"seed-{task.seed}" / "scores"
    plan = plan_for(
        method,
        share=task.share,
        warmup=task.settings.warmup,
        indicator=_indicator(task) if method.plan == "cut:best" else "",
        scores=str(scores.resolve()),
    )
    if plan is not None:
        write_plan(plan, folder / "plan.yaml")
    plan_file = folder / "plan.yaml" if plan is not None else None
    if method.plan in ("cut:best", "cut:random"):
        _branch(task, run)
        done = pretrain(task.store, run, curriculum=plan_file)
    else:
        shutil.rmtree(run, ignore_errors=True)  # of an interrupted call
        done = pretrain(task.store, run, _config(task, method), curriculum=plan_file)
    if done.steps < done.planned:  # SIGTERM: the run is no result
        raise KeyboardInterrupt
    seconds = time.perf_counter() - began
    store = Store.open(task.store, verifies=True)
    retrieval = RetrievalTask(RunSource(load_model(run)), store, PROTOCOLS["vatt"], split=task.settings.split)
    result, _ = evaluate(retrieval, Options(draws=200, out=folder / "eval.json", overwrite=True))
    metrics = {m: dict(v) for m, v in result.metrics.items()}
    write_json(folder / "retrieval.json", {"metrics": metrics, "train_seconds": seconds})


def _config(task: Task, method: Method) -> PretrainConfig:
    steps = task.config.steps or 1000
    warm = max(1, round(task.settings.warmup * steps))
    return task.config.model_copy(
        update={
            "seed": task.seed,
            "steps": steps,
            "harmonize": task.config.harmonize.model_copy(
                update={"mode": method.harmonize, "control": method.control}
            ),
            "checkpoint": task.config.checkpoint.model_copy(update={"every": warm, "keep": 1000}),
        }
    )


def _warm(task: Task) -> str:
    every = _config(task, METHODS[BASELINE]).checkpoint.every
    return f"step-{every:08d}"


def _branch(task: Task, run: Path) -> None:
    """A run folder that is the baseline's at the end of the warm-up."""
    base = task.out / BASELINE / f"seed-{task.seed}" / "run"
    if not (base / "checkpoints" / _warm(task)).is_dir():
        make(task, BASELINE)
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    for file in base.iterdir():
        if file.is_file() and not file.is_symlink():
            shutil.copy2(file, run / file.name)
    shutil.copytree(base / "checkpoints" / _warm(task), run / "checkpoints" / _warm(task))


def _indicator(task: Task) -> str:
    """Audit and score the baseline at the end of the warm-up; the best single indicator."""
    folder = task.out / BASELINE / f"seed-{task.seed}"
    if not (folder / INDICATOR).exists():
        make(task, BASELINE)
        kind, warm = "caption-elsewhere", _warm(task)
        settings = AuditSettings(kinds=(kind,), checkpoint=warm, draws=20, seed=task.seed)
        audited = audit(folder / "run", task.store, folder / "audit", settings).found[kind]
        area = {n: d.metrics["auroc"][0] for n, d in audited.items() if n != "combined"}
        score(folder / "run", task.store, folder / "scores", ScoreSettings(checkpoint=warm))
        best = max(area, key=lambda n: np.nan_to_num(area[n]))
        write_json(folder / INDICATOR, {"best": best, "auroc": area})
    return str(_read(folder / INDICATOR)["best"])


def _claim(out: Path, config: PretrainConfig, settings: CompareSettings, share: float, store: str) -> None:
    asked = f"# warmup {settings.warmup}, share {share}, split {settings.split}, store {store}\n"
    text, marker = dump_yaml(config) + asked, out / SETTINGS
    if marker.exists() and marker.read_text(encoding="utf-8") != text:
        raise BadInput(
            f"{marker}: this folder holds a comparison of other settings or of another store; "
            "choose another -o"
        )
    if not marker.exists():
        write_text(marker, text)
    load_config(PretrainConfig, marker)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    return read_json(path, dict[str, Any], hint=f"remove {path.parent} to make it again")
