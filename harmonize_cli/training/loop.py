"""The training loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from harmonize_cli.errors import HarmonizeError
from harmonize_cli.objectives.gather import sum_over_ranks
from harmonize_cli.progress import progress
from harmonize_cli.store.batches import Batch
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.metrics import MetricsLog, Pace
from harmonize_cli.training.optim import learning_rate
from harmonize_cli.training.parallel import any_rank, rank
from harmonize_cli.training.recorder import Recorder
from harmonize_cli.training.signals import StopOnSignal
from harmonize_cli.training.step import Gradients, Outcome


@dataclass
class Job:
    """Everything the loop turns over."""

    run: Path
    config: PretrainConfig
    first: int
    steps: int
    batches: Iterator[Batch]
    epoch: Callable[[int], int]
    gradients: Gradients
    optimiser: torch.optim.Optimizer
    device: torch.device
    save: Callable[[int], None]
    recorders: Sequence[Recorder] = ()
    bad: "list[dict[str, Any]]" = field(default_factory=list)


def train(job: Job, stop: StopOnSignal) -> int:
    """Run steps `first` .. `steps`; returns how many steps the run has made when it ends."""
    config, log, pace = job.config, MetricsLog(job.run, write=rank() == 0), Pace()
    bar: tqdm[Any] = tqdm(disable=True)
    if rank() == 0:
        bar = progress(desc=job.run.name, total=job.steps, initial=job.first, unit="step")
    done = saved = job.first
    with bar:
        for step in range(job.first, job.steps):
            asked = time.perf_counter()
            batch = next(job.batches).to(job.device)
            waited = time.perf_counter() - asked

            rate = learning_rate(step, job.steps, config)
            seed_step(config.seed, step)
            job.optimiser.zero_grad(set_to_none=True)
            outcome = job.gradients(batch, step)
            norm = clip_gradients(job.gradients, config.optim.clip)
            if torch.isfinite(norm):
                for group in job.optimiser.param_groups:
                    group["lr"] = rate
                job.optimiser.step()
            done = step + 1
            for recorder in job.recorders:
                recorder.record(done, job.epoch(step), batch, outcome.terms, outcome.report)

            pace.count(config.batch, waited)
            if done % config.log_every == 0 or done == job.steps:
                figures = describe(outcome) | {"lr": rate, "grad_norm": float(norm)} | pace.lap()
                log.write(done, {"epoch": job.epoch(step), **figures})
                bar.set_postfix_str(shown(figures), refresh=False)
            bar.update()
            if done % config.checkpoint.every == 0:
                job.save(done)
                saved = done
            if any_rank(stop.asked, job.device):
                break
    log.close()
    if saved != done:
        job.save(done)
    return done


def seed_step(seed: int, step: int) -> None:
    """Random state of a step: a function of (seed, step, rank), so a resume needs no saved generators."""
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + rank())


def clip_gradients(gradients: Gradients, most: float) -> Tensor:
    """Norm of the whole gradient, after scaling it down to at most `most` (0: as it is)."""
    parameters = [p for p in gradients.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if most:
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def describe(outcome: Outcome) -> dict[str, Any]:
    """Losses over all ranks' rows, each as it is before its weight, and the conflict's figures."""
    figures: dict[str, Any] = {"loss": float(sum_over_ranks(outcome.total))}
    for name, term in outcome.terms.items():
        both = sum_over_ranks(torch.stack([term.per_sample.sum(), term.valid.sum()]))
        figures[f"loss_{name}"] = float(both[0] / both[1]) if both[1] else None
    if outcome.report is not None:
        seen = outcome.report.scalars()
        figures |= {"harmony_seconds": seen.pop("seconds"), **seen}
    return figures


def shown(figures: dict[str, Any]) -> str:
    """The bar's text."""
    conflict = figures.get("conflict_share")
    return (
        f"loss {figures['loss']:.3f}"
        + (f", conflict {conflict:.0%}" if conflict is not None else "")
        + f", {figures['clips_per_s']:.0f} clips/s"
    )


class NotFinite(HarmonizeError):
    """Too many steps without a finite gradient."""
