"""`harmonize pretrain`: puts store, model, losses, harmonization and loop together."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from harmonize_cli.harmony import Harmonizer
from harmonize_cli.models.checkpoint import prune
from harmonize_cli.models.heads import FacHead
from harmonize_cli.models.vatt import Vatt
from harmonize_cli.objectives.trimodal import TriModalLoss
from harmonize_cli.store.batches import StoreDataset
from harmonize_cli.store.reader import Store
from harmonize_cli.store.windows import InputSpec, resolve_inputs
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import batches, check_modalities, training_samples
from harmonize_cli.training.harmonize import build_harmonizer
from harmonize_cli.training.loop import Job, train
from harmonize_cli.training.optim import build_optimiser
from harmonize_cli.training.order import EpochOrder, Schedule, shuffled
from harmonize_cli.training.parallel import pick_device, process_group, rank, ranks
from harmonize_cli.training.recorder import Recorder
from harmonize_cli.training.run_folder import about_this_run, create, read_run_config, rewind_metrics
from harmonize_cli.training.signals import StopOnSignal
from harmonize_cli.training.state import newest_whole, restore, save
from harmonize_cli.training.step import Gradients


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended. `steps` made of `planned`; clips and seconds of this call alone."""

    run: Path
    steps: int
    planned: int
    clips: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Parts:
    """What a config and a store make."""

    model: Vatt
    loss: TriModalLoss
    harmonizer: Harmonizer | None
    specs: dict[str, InputSpec]


def pretrain(
    store_path: Path,
    run: Path,
    config: PretrainConfig | None = None,
    *,
    recorders: Sequence[Recorder] = (),
    order: EpochOrder | None = None,
) -> Finished:
    """Train on a store into `run`. Without `config`, continue the run that is there.

    recorders watch the steps; `order` replaces the shuffled epoch (a curriculum's sampler).

    Raises:
        BadInput: whatever config, store or run folder have wrong, before the first step.
    """
    started = time.perf_counter()
    resume = config is None
    config = config or read_run_config(run)
    device = pick_device(config.device)
    store = Store.open(store_path)
    with process_group(device), StopOnSignal() as stop:
        schedule = Schedule(
            order or shuffled(training_samples(store, config.data), config.seed),
            config.batch,
            rank=rank(),
            ranks=ranks(),
        )
        steps = planned_steps(config, schedule)
        parts = build(store, config, steps, device)
        gradients = Gradients(
            parts.model,
            parts.loss,
            parts.harmonizer,
            precision=config.precision,
            observe_every=config.harmonize.log_every if config.harmonize.mode == "none" else 0,
        )
        optimiser = build_optimiser(gradients.parameters(), config.optim)
        if rank() == 0 and not resume:
            create(run, config, about_this_run(store.content_hash, ranks(), str(device)), store.vocab)
        first = 0
        if resume and (folder := newest_whole(run, warn)):
            first = restore(folder, parts.model, parts.loss, optimiser, parts.harmonizer)
        if rank() == 0 and resume:
            rewind_metrics(run, first)
        for recorder in recorders:
            recorder.rewind(first)
        about = {
            "config": config.model_dump(mode="json"),
            "inputs": {m: spec.to_dict() for m, spec in parts.specs.items()},
        }

        def save_step(step: int) -> None:
            for recorder in recorders:
                recorder.flush(step)
            if rank() == 0:
                save(run, step, parts.model, parts.loss, optimiser, parts.harmonizer, about)
                prune(run, config.checkpoint.keep)

        dataset = StoreDataset(
            store, parts.specs, seed=config.seed, cache_bytes=int(config.data.cache_gb * 2**30)
        )
        source = batches(dataset, schedule, first, steps, config.data, device)
        job = Job(
            run,
            config,
            first,
            steps,
            source,
            schedule.epoch,
            gradients,
            optimiser,
            device,
            save_step,
            recorders,
        )
        done = train(job, stop)
    return Finished(run, done, steps, (done - first) * config.batch, time.perf_counter() - started)


def build(store: Store, config: PretrainConfig, steps: int, device: torch.device) -> Parts:
    """Model, losses and harmonizer, the same on every rank for the same seed."""
    specs = resolve_inputs(store, config.inputs)
    check_modalities(specs, store, config)
    torch.manual_seed(config.seed)
    model = Vatt(config.model, specs).to(device)
    loss = TriModalLoss(config.loss).to(device)
    if isinstance(model.head, FacHead):
        model.head.carry_audio = bool(config.loss.at)
    return Parts(model, loss, build_harmonizer(model, loss, config, steps), specs)


def planned_steps(config: PretrainConfig, schedule: Schedule) -> int:
    """Length of the run in steps."""
    if config.epochs:
        return max(1, round(config.epochs * schedule.per_epoch))
    return config.steps or 1000


def warn(message: str) -> None:
    """A warning on stderr, from rank 0 alone."""
    if rank() == 0:
        print(f"warning: {message}", file=sys.stderr)
