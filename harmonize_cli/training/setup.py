"""From a config and a store to everything that the loop turns over."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._functorch.config

from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.data.windows import resolve_inputs
from harmonize_cli.harmony import Harmonizer
from harmonize_cli.models.base import Model, make_model
from harmonize_cli.models.checkpoint import point, prune
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.objectives.config import SPACES
from harmonize_cli.objectives.objective import Objective
from harmonize_cli.ranks import barrier, rank, ranks
from harmonize_cli.store.reader import Store
from harmonize_cli.training.augment import Augmentation
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import batches, check_modalities, training_samples
from harmonize_cli.training.ema import Ema
from harmonize_cli.training.harmonize import build_harmonizer
from harmonize_cli.training.loop import Job
from harmonize_cli.training.norm_statistics import applied, measure, spread
from harmonize_cli.training.optim import build_optimiser
from harmonize_cli.training.order import Schedule
from harmonize_cli.training.recorder import Recorder
from harmonize_cli.training.standardise import fit_inputs
from harmonize_cli.training.state import TrainingState
from harmonize_cli.training.step import Gradients
from harmonize_cli.training.validate import Validator, validation_samples


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run reads, writes and computes."""

    store: Store
    run: Path
    config: PretrainConfig
    device: torch.device


@dataclass(frozen=True, slots=True)
class Parts:
    """What a config and a store make."""

    model: Model
    loss: Objective
    harmonizer: Harmonizer | None
    specs: dict[str, InputSpec]


def build(
    store: Store, config: PretrainConfig, steps: int, device: torch.device, *, gated: bool = False
) -> Parts:
    """Model, losses and harmonizer, the same on every rank for the same seed; `gated` as there."""
    specs = resolve_inputs(store, config.inputs)
    check_modalities(specs, store, config)
    model, loss = build_model(specs, config, device)
    fit_inputs(model, store, specs, config, device)
    harmonizer = build_harmonizer(model, loss, config, steps, gated=gated)
    if harmonizer is not None:
        harmonizer.policy.check(config.loss.fed_by(specs))
    return Parts(model, loss, harmonizer, specs)


def build_model(
    specs: dict[str, InputSpec], config: PretrainConfig, device: torch.device
) -> tuple[Model, Objective]:
    """Model and losses before the first step; the seed decides their weights."""
    torch.manual_seed(config.seed)
    model = make_model(config.model, specs).to(device)
    model.needs({space for term in config.loss.terms for space in SPACES[term.on]})
    return model, Objective(config.loss).to(device)


def start_state(parts: Parts, config: PretrainConfig) -> TrainingState:
    """Gradients, optimiser and average before the first step."""
    if config.compile:
        # the harmonizer goes through the compiled backward twice: it may not reuse its inputs' memory
        torch._functorch.config.donated_buffer = False
    parts.model.prepare(checkpointing=config.checkpoint_activations, compiled=config.compile)
    gradients = Gradients(
        parts.model,
        parts.loss,
        parts.harmonizer,
        precision=config.precision,
        accumulate=config.accumulate,
        chunk=config.chunk and max(1, config.chunk // ranks()),
        engine_every=config.harmonize.log_every if config.harmonize.mode == "none" else 1,
    )
    optimiser = build_optimiser(gradients.parameters(), config.optim)
    return TrainingState(gradients, optimiser, Ema(parts.model, config.ema) if config.ema else None)


def make_job(
    place: Place,
    parts: Parts,
    state: TrainingState,
    schedule: Schedule,
    *,
    span: tuple[int, int],
    recorders: Sequence[Recorder],
) -> Job:
    """The loop's job for steps span[0] .. span[1]."""
    store, run, config = place.store, place.run, place.config
    about = {
        "config": config.model_dump(mode="json"),
        "inputs": {m: spec.to_dict() for m, spec in parts.specs.items()},
    }
    rows = validation_samples(store, config.validation)
    validator = Validator(store, rows, parts.specs, config, run)

    def save(step: int) -> Path:
        for recorder in recorders:
            recorder.flush(step)
        barrier(place.device)  # no checkpoint before every rank's records are on disk
        folder = run
        if rank() == 0:
            folder = state.save(run, step, about)
            prune(run, config.checkpoint.keep)
        return folder

    def mark_best(folder: Path) -> None:
        if rank() == 0:
            point(run, "best", folder)
            prune(run, config.checkpoint.keep)

    def validate(step: int) -> dict[str, float]:
        with applied(state.evaluated, state.statistics):
            return validator(state.evaluated, step)

    plain = StoreDataset(store, parts.specs)
    parts_of_data = spread(training_samples(store, config.data), config.batch)

    def measure_norms() -> None:
        rows_of_data = (plain.batch([int(i) for i in part]) for part in parts_of_data)
        state.statistics = measure(state.evaluated, rows_of_data, place.device)

    dataset = StoreDataset(
        store,
        parts.specs,
        seed=config.seed,
        augment=Augmentation(config.augment) if config.augment.any else None,
        cache_bytes=int(config.data.cache_gb * 2**30),
    )
    return Job(
        run=run,
        config=config,
        first=span[0],
        steps=span[1],
        batches=batches(dataset, schedule, span, config.data, pin=place.device.type == "cuda"),
        epoch=schedule.epoch,
        state=state,
        device=place.device,
        save=save,
        mark_best=mark_best,
        validate=validate,
        measure=measure_norms,
        validates=len(rows) > 0,
        recorders=recorders,
    )


def planned_steps(config: PretrainConfig, schedule: Schedule) -> int:
    """Length of the run in steps."""
    if config.epochs:
        return max(1, round(config.epochs * schedule.per_epoch))
    return config.steps or 1000
