"""The training loop."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from harmonize_cli.data.batches import Batch
from harmonize_cli.harmony import HarmonyReport
from harmonize_cli.progress import progress
from harmonize_cli.ranks import any_rank, gather, rank, ranks, sum_over_ranks
from harmonize_cli.training.bad_steps import FILE, NotFinite, Statistics, note_bad_step
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.metrics import MeanLosses, MetricsLog, Pace
from harmonize_cli.training.optim import learning_rate
from harmonize_cli.training.recorder import Recorder
from harmonize_cli.training.signals import StopOnSignal
from harmonize_cli.training.state import TrainingState
from harmonize_cli.training.step import Outcome
from harmonize_cli.training.validate import SCORE


@dataclass
class Job:
    """Everything the loop turns over. Steps `first` .. `steps` are to be made."""

    run: Path
    config: PretrainConfig
    first: int
    steps: int
    batches: Iterator[Batch]
    epoch: Callable[[int], int]
    state: TrainingState
    device: torch.device
    save: Callable[[int], Path]
    mark_best: Callable[[Path], None]
    validate: Callable[[int], dict[str, float]]
    measure: Callable[[], None]
    """Takes BatchNorm's statistics for evaluation; before every validation and every `save`."""
    validates: bool = False
    recorders: Sequence[Recorder] = ()


def train(job: Job, stop: StopOnSignal) -> int:
    """Make the steps; returns how many the run has when it ends, fewer than `steps` after SIGTERM."""
    config, state, pace = job.config, job.state, Pace()
    log = MetricsLog(job.run, write=rank() == 0, tensorboard=config.tensorboard)
    statistics, losses = Statistics(state.gradients.model), MeanLosses()
    bar: tqdm[Any] = tqdm(disable=True)
    if rank() == 0:
        bar = progress(desc=job.run.name, total=job.steps, initial=job.first, unit="step")
    done = saved = job.first
    report: HarmonyReport | None = None
    with bar, log:
        for step in range(job.first, job.steps):
            if any_rank(stop.asked, job.device):
                break
            asked = time.perf_counter()
            batch = next(job.batches).to(job.device)
            waited = time.perf_counter() - asked

            statistics.keep()
            seed_step(config.seed, step)
            state.optimiser.zero_grad(set_to_none=True)
            outcome = state.gradients(batch, step)
            rate = learning_rate(step, job.steps, config)
            norm = update(state, rate, config.optim.clip)
            done = step + 1
            if torch.isfinite(norm):
                losses.add(outcome)
                state.average(done)
                for recorder in job.recorders:
                    recorder.record(done, job.epoch(step), batch, outcome.terms, outcome.report)
            else:
                statistics.restore()
                leave_out(job, done, batch, outcome, norm)
                if torch.isfinite(sum_over_ranks(outcome.total)):  # fp16's search for a scale
                    losses.add(outcome)

            pace.count(config.batch, waited)
            report = outcome.report or report
            if done % config.log_every == 0 or done == job.steps:
                figures = losses.lap() | seen(report) | {"lr": rate, "grad_norm": float(norm)} | pace.lap()
                report = None
                log.write(done, {"epoch": job.epoch(step), **figures})
                bar.set_postfix_str(shown(figures), refresh=False)
            bar.update()
            with pace.pause():
                saved = look_after(job, done, saved, log, losses)
        if saved != done or done == 0:
            job.measure()
            job.save(done)
    return done


def look_after(job: Job, step: int, saved: int, log: MetricsLog, losses: MeanLosses) -> int:
    """Validate and save after a step, where it is time to; returns the step last saved."""
    last = step == job.steps
    validates = job.validates and (step % job.config.validation.every == 0 or last)
    saves = step % job.config.checkpoint.every == 0
    if validates or saves or last:
        job.measure()
    if validates:
        saved = validated(job, step, log)
    if saves:
        if saved != step:
            job.save(step)
        saved = step
        losses.reset()  # so that a resumed run logs the same means
    return saved


def seed_step(seed: int, step: int) -> None:
    """Random state of a step: a function of (seed, step, rank), so a resume needs no saved generators."""
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + rank())


def update(state: TrainingState, rate: float, clip: float) -> Tensor:
    """Clip (0: don't) and take the optimiser's step, unless the gradient isn't finite; returns its norm."""
    scaler, optimiser = state.gradients.scaler, state.optimiser
    parameters = [p for p in state.gradients.parameters() if p.grad is not None]
    if scaler.is_enabled():
        scaler.unscale_(optimiser)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if torch.isfinite(norm):
        if clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
    if scaler.is_enabled():
        scaler.update()
    return norm


def leave_out(job: Job, step: int, batch: Batch, outcome: Outcome, norm: Tensor) -> None:
    """Count a bad step and write it down; fp16's search for a scale is no fault until it fails.

    Raises:
        NotFinite: one too many.
    """
    scaler = job.state.gradients.scaler
    if scaler.is_enabled() and scaler.get_scale() >= 1:
        return
    job.state.bad_steps += 1
    note_bad_step(job.run, step, batch, sum_over_ranks(outcome.total), norm)
    if job.state.bad_steps > job.config.max_bad_steps:
        raise NotFinite(
            f"{job.run}: {job.state.bad_steps} steps without a finite gradient, the last one is step {step}; "
            f"{FILE} has the ids of their clips. Look at these, lower optim.lr, set optim.clip, or allow "
            "more with --set max_bad_steps=N"
        )


def validated(job: Job, step: int, log: MetricsLog) -> int:
    """Validate on rank 0 and log it; a new best is saved and marked. Returns the step last saved."""
    better = False
    if rank() == 0:
        figures = job.validate(step)
        log.write(step, figures)
        tqdm.write(f"step {step}: {told(figures)}", file=sys.stderr)
        better = job.state.best is None or figures[SCORE] > job.state.best
        if better:
            job.state.best = figures[SCORE]
    if any_rank(better, job.device):
        job.mark_best(job.save(step))
        return step
    return -1


def told(figures: dict[str, float]) -> str:
    """A validation in one line."""
    r10 = {k.split("/")[1]: v for k, v in figures.items() if k.endswith("/R@10")}
    each = ", ".join(f"{direction} {value:.3f}" for direction, value in r10.items())
    return f"validation R@10 {figures[SCORE]:.3f} ({each})"


def seen(report: HarmonyReport | None) -> dict[str, Any]:
    """What harmonization saw in a step, on all ranks."""
    if report is None:
        return {}
    if ranks() > 1:
        report = replace(
            report,
            gram=gather(report.gram),
            cosine=gather(report.cosine),
            weights=gather(report.weights),
            kept=gather(report.kept),
        )
    figures: dict[str, Any] = report.scalars()
    return {"harmony_seconds": figures.pop("seconds"), **figures}


def shown(figures: dict[str, Any]) -> str:
    """The bar's text."""
    conflict = figures.get("conflict_share")
    share = f", conflict {conflict:.0%}" if conflict is not None else ""
    loss = "not finite" if figures["loss"] is None else f"{figures['loss']:.3f}"
    return f"loss {loss}{share}, {figures['clips_per_s']:.0f} clips/s"
