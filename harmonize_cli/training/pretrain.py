"""`harmonize pretrain`: one run, from its start or from where it stopped."""

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize_cli.curriculum.guide import keep_guide, make_guide
from harmonize_cli.files import rewind_log
from harmonize_cli.locks import locked
from harmonize_cli.models.checkpoint import read_manifest
from harmonize_cli.printing import printable
from harmonize_cli.ranks import check_agreement, is_first, pick_device, process_group, rank, ranks
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import training_samples
from harmonize_cli.training.loop import train
from harmonize_cli.training.metrics import check_tensorboard
from harmonize_cli.training.order import EpochOrder, Schedule, shuffled
from harmonize_cli.training.recorder import Recorder
from harmonize_cli.training.run_folder import (
    METRICS,
    about_this_run,
    check_new,
    check_store,
    create,
    read_run_config,
)
from harmonize_cli.training.setup import Place, build, make_job, planned_steps, start_state
from harmonize_cli.training.signals import StopOnSignal
from harmonize_cli.training.state import newest_whole


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended. `steps` made of `planned`; clips and seconds of this call alone."""

    run: Path
    steps: int
    planned: int
    clips: int
    seconds: float
    bad_steps: int = 0


def pretrain(
    store_path: Path,
    run: Path,
    config: PretrainConfig | None = None,
    *,
    recorders: Sequence[Recorder] = (),
    order: EpochOrder | None = None,
    curriculum: Path | None = None,
) -> Finished:
    """Train on a store into `run`. Without `config`, continue the run that is there.

    recorders watch the steps; `order` replaces the shuffled epoch; `curriculum` is a plan to follow from
    here on (a run that was started with one keeps it in its folder).

    Raises:
        BadInput: whatever config, store or run folder have wrong, before the first step; another process
            trains into `run`.
    """
    # a run has one writer, whatever the number of its processes
    with locked(run) if is_first() else nullcontext():
        return _pretrain(store_path, run, config, recorders=recorders, order=order, curriculum=curriculum)


def _pretrain(
    store_path: Path,
    run: Path,
    config: PretrainConfig | None,
    *,
    recorders: Sequence[Recorder],
    order: EpochOrder | None,
    curriculum: Path | None,
) -> Finished:
    started = time.perf_counter()
    resume = config is None
    config = config or read_run_config(run)
    device = pick_device(config.device)
    store = Store.open(store_path, verifies=config.data.verify)
    if resume:
        check_store(run, store)
    else:
        check_new(run)
    if config.tensorboard:
        check_tensorboard()
    with process_group(device), StopOnSignal() as stop:
        rows = training_samples(store, config.data)
        share = {"rank": rank(), "ranks": ranks(), "parts": config.accumulate}
        schedule = Schedule(order or shuffled(rows, config.seed), config.batch, **share)
        steps = planned_steps(config, schedule)
        folder = newest_whole(run, warn) if resume else None
        first = read_manifest(folder).step if folder else 0
        guide = make_guide(
            curriculum,
            run,
            store,
            rows,
            batch=config.batch,
            steps=steps,
            seed=config.seed,
            first=first,
        )
        gated = guide is not None and guide.by_conflict
        parts = build(store, config, steps, device, gated=gated)
        state = start_state(parts, config)
        if folder:
            state.load(folder)
        if guide is not None:
            guide.check(config, parts.specs)
            schedule = Schedule(guide.order, config.batch, **share)
            state.gradients.guide, state.gradients.gated = guide, gated
        place = Place(store, run, config, device)
        job = make_job(place, parts, state, schedule, span=(first, steps), recorders=recorders)
        facts = {"store": store.content_hash, "first step": first}
        check_agreement(facts | _flat(config.model_dump(mode="json")))
        # from here on the folder is written to: whatever is wrong with the settings was said before
        if rank() == 0:
            if resume:
                rewind_log(run / METRICS, first)
            else:
                about = about_this_run(store.content_hash, steps=steps, processes=ranks(), device=str(device))
                create(run, config, about, store.vocab)
            if guide is not None:
                keep_guide(guide, run, store)
        for recorder in recorders:
            recorder.rewind(first)
        done = train(job, stop)
    seconds = time.perf_counter() - started
    return Finished(run, done, steps, (done - first) * config.batch, seconds, state.bad_steps)


def warn(message: str) -> None:
    """A warning on stderr, from rank 0 alone."""
    if rank() == 0:
        print(f"warning: {printable(message, lines=False)}", file=sys.stderr)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
