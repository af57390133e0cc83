"""A run of pre-training: everything that it owns, its steps, and its folder."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from harmonize_cli.data.batches import Batch, StoreDataset
from harmonize_cli.data.windows import resolve_inputs
from harmonize_cli.errors import BadInput
from harmonize_cli.files import rewind_log
from harmonize_cli.harmony import HarmonyReport
from harmonize_cli.locks import locked
from harmonize_cli.models.base import Model
from harmonize_cli.models.checkpoint import (
    STATE,
    WEIGHTS,
    LoadedModel,
    newest_whole,
    point,
    prune,
    put_weights,
    read_manifest,
    read_state,
    read_weights,
    write_checkpoint,
)
from harmonize_cli.progress import progress
from harmonize_cli.ranks import (
    any_rank,
    barrier,
    check_agreement,
    is_first,
    pick_device,
    process_group,
    rank,
    ranks,
    sum_over_ranks,
)
from harmonize_cli.store.reader import Store
from harmonize_cli.training.augment import Augmentation
from harmonize_cli.training.bad_steps import FILE, NotFinite, Statistics, note_bad_step
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import (
    Schedule,
    batches,
    check_modalities,
    shuffled,
    training_samples,
    validation_samples,
)
from harmonize_cli.training.hooks import MakeGuide, Recorder, Validator
from harmonize_cli.training.loggers import LOGGERS, Loggers
from harmonize_cli.training.metrics import (
    SCORE,
    MeanLosses,
    Pace,
    format_progress,
    format_validation,
    harmony_figures,
)
from harmonize_cli.training.norm_statistics import applied, measure, spread
from harmonize_cli.training.optim import learning_rate
from harmonize_cli.training.run_folder import (
    METRICS,
    about_this_run,
    check_new,
    check_store,
    create,
    read_run_config,
)
from harmonize_cli.training.signals import StopOnSignal
from harmonize_cli.training.step import Outcome, TrainStep

FITTED = 512
"""Samples that the inputs' statistics come from: enough for two digits of a mean."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended. `steps` made of `planned`; clips and seconds of this call alone."""

    run: Path
    steps: int
    planned: int
    clips: int
    seconds: float
    bad_steps: int = 0


class Run:
    """Model, losses, harmonizer, optimizer, data and checkpoints of a run.

    Nothing is written before `start`. Data order and randomness of a step follow from its number alone, so
    what changes while the run goes on is what a checkpoint holds.

    Args:
        checkpoint: go on from here, else from the first step.
        make_guide, validator, recorders: see `training.hooks`.

    Raises:
        BadInput: whatever config, store or checkpoint have wrong.
    """

    def __init__(
        self,
        store: Store,
        config: PretrainConfig,
        folder: Path,
        *,
        device: torch.device | None = None,
        checkpoint: Path | None = None,
        make_guide: MakeGuide | None = None,
        validator: Validator | None = None,
        recorders: Sequence[Recorder] = (),
    ) -> None:
        self.store, self.config, self.folder = store, config, folder
        self.device = device or pick_device(config.device)
        self.validator, self.recorders = validator, recorders
        self.rows = training_samples(store, config.data)
        share = {"rank": rank(), "ranks": ranks(), "parts": config.accumulate}
        self.schedule = Schedule(shuffled(self.rows, config.seed), config.batch, **share)
        self.steps = config.steps or 1000
        if config.epochs:
            self.steps = max(1, round(config.epochs * self.schedule.per_epoch))
        self.first = read_manifest(checkpoint).step if checkpoint else 0
        self.guide = make_guide(self) if make_guide else None
        self.specs = resolve_inputs(store, config.inputs)
        check_modalities(self.specs, store, config)
        self.train_step = TrainStep.build(
            self.specs,
            config,
            self.device,
            steps=self.steps,
            guide=self.guide,
            fit_inputs=self._fit_inputs,
        )
        self.best: float | None = None
        """Best validation score so far."""
        self.bad_steps = 0
        self.statistics: dict[str, Tensor] = {}
        """BatchNorm's statistics that belong to the weights as they are evaluated."""
        if checkpoint:
            self._load(checkpoint)
        if self.guide is not None:
            self.guide.check(config, self.specs)
            self.schedule = Schedule(self.guide.order, config.batch, **share)
        self.validated = validation_samples(store, config.validation)
        self.dataset = StoreDataset(
            store,
            self.specs,
            seed=config.seed,
            augment=Augmentation(config.augment) if config.augment.any else None,
            cache_bytes=int(config.data.cache_gb * 2**30),
        )
        self._buffers = Statistics(self.model)

    @classmethod
    def open(
        cls,
        store_path: Path,
        folder: Path,
        config: PretrainConfig | None = None,
        *,
        make_guide: MakeGuide | None = None,
        validator: Validator | None = None,
        recorders: Sequence[Recorder] = (),
    ) -> "Run":
        """A new run in `folder`, or without `config` the one that is there, from its newest whole checkpoint.

        Raises:
            BadInput: as the class, or the folder has another run (or none to go on with).
        """
        resume = config is None
        config = config or read_run_config(folder)
        store = Store.open(store_path, verifies=config.data.verify)
        for name in config.loggers:
            LOGGERS.find(name).check()
        if resume:
            check_store(folder, store)
            if make_guide is None and (folder / "curriculum").exists():
                raise BadInput(f"{folder}: follows a plan of `harmonize curriculum`; go on with its command")
        else:
            check_new(folder)
        run = cls(
            store,
            config,
            folder,
            checkpoint=newest_whole(folder) if resume else None,
            make_guide=make_guide,
            validator=validator,
            recorders=recorders,
        )
        if validator is None and run.validates:
            raise BadInput(
                "validation: nothing to validate with; pass a validator, or set validation.every=0"
            )
        facts = {"store": store.content_hash, "first step": run.first}
        check_agreement(facts | _flat(config.model_dump(mode="json")))
        return run

    @property
    def model(self) -> Model:
        """The model that is trained."""
        return self.train_step.model

    @property
    def evaluated(self) -> Model:
        """The model with the weights that are validated and saved; `statistics` go with it."""
        ema = self.train_step.ema
        return cast(Model, ema.module) if ema is not None else self.model

    @property
    def validates(self) -> bool:
        """Whether there is something to validate on."""
        return len(self.validated) > 0

    def batches(self, last: int | None = None) -> Iterator[Batch]:
        """This rank's batches from the run's first step on, to before step `last`."""
        span = (self.first, self.steps if last is None else last)
        pin = self.device.type == "cuda"
        return batches(self.dataset, self.schedule, span, self.config.data, pin=pin)

    def step(self, step: int, batch: Batch) -> tuple[Outcome, Tensor]:
        """Optimizer step `step` (from 0) on this rank's batch; what it saw, and the gradient's norm.

        A step whose gradient isn't finite changes nothing and is written down.

        Raises:
            NotFinite: one too many.
        """
        batch = batch.to(self.device)
        self._buffers.keep()
        seed_step(self.config.seed, step)
        outcome = self.train_step(batch, step)
        norm = self.train_step.update(learning_rate(step, self.steps, self.config))
        if torch.isfinite(norm):
            if self.train_step.ema is not None:
                self.train_step.ema.update(self.model, step + 1)
            for recorder in self.recorders:
                recorder.record(step + 1, self.schedule.epoch(step), batch, outcome.terms, outcome.report)
        else:
            self._buffers.restore()
            self._leave_out(step + 1, batch, outcome, norm)
        return outcome, norm

    def start(self, *, resume: bool) -> None:
        """Make the folder, or rewind it to the step that the run goes on from."""
        if rank() == 0:
            if resume:
                rewind_log(self.folder / METRICS, self.first)
            else:
                about = about_this_run(
                    self.store.content_hash, steps=self.steps, processes=ranks(), device=str(self.device)
                )
                create(self.folder, self.config, about, self.store.vocab)
            if self.guide is not None:
                self.guide.keep(self.folder, self.store)
        for recorder in self.recorders:
            recorder.rewind(self.first)

    def train(self, stop: StopOnSignal) -> int:
        """Make the steps; returns how many the run has when it ends, fewer than `steps` after SIGTERM."""
        config, pace, losses = self.config, Pace(), MeanLosses()
        bar: tqdm[Any] = tqdm(disable=True)
        if rank() == 0:
            bar = progress(desc=self.folder.name, total=self.steps, initial=self.first, unit="step")
        done = saved = self.first
        report: HarmonyReport | None = None
        coming = self.batches()
        with bar, Loggers(config.loggers if rank() == 0 else None, self.folder) as log:
            for step in range(self.first, self.steps):
                if any_rank(stop.asked, self.device):
                    break
                asked = time.perf_counter()
                batch = next(coming)
                waited = time.perf_counter() - asked
                outcome, norm = self.step(step, batch)
                done = step + 1
                if torch.isfinite(norm) or torch.isfinite(sum_over_ranks(outcome.total)):
                    losses.add(outcome)  # the latter is fp16's search for a scale
                pace.count(config.batch, waited)
                report = outcome.report or report
                if done % config.log_every == 0 or done == self.steps:
                    rate = learning_rate(step, self.steps, config)
                    figures = losses.lap() | harmony_figures(report)
                    figures |= {"lr": rate, "grad_norm": float(norm)} | pace.lap()
                    report = None
                    log.write(done, {"epoch": self.schedule.epoch(step), **figures})
                    bar.set_postfix_str(format_progress(figures), refresh=False)
                bar.update()
                with pace.pause():
                    saved = self._look_after(done, saved, log, losses)
            if saved != done or done == 0:
                self.measure()
                self.save(done)
        return done

    def measure(self) -> None:
        """Take BatchNorm's statistics for evaluation; before every validation and every `save`."""
        parts = spread(self.rows, self.config.batch)
        plain = self._plain_dataset
        rows = (plain.batch([int(i) for i in part]) for part in parts)
        self.statistics = measure(self.evaluated, rows, self.device)

    def validate(self, step: int) -> dict[str, float]:
        """Metrics of the validation samples, `val/...`."""
        assert self.validator is not None
        model, config = self.evaluated, self.config.model_dump(mode="json")
        loaded = LoadedModel(model, config, self.specs, "", self.folder, step, self.folder)
        training = model.training
        model.eval()
        try:
            with applied(model, self.statistics), torch.random.fork_rng(devices=[]):
                figures = self.validator(loaded, self.store, self.validated)
        finally:
            model.train(training)
        return {f"val/{name}": value for name, value in figures.items()}

    def save(self, step: int) -> Path:
        """Checkpoint after `step` steps, of which older ones than `checkpoint.keep` go."""
        for recorder in self.recorders:
            recorder.flush(step)
        barrier(self.device)  # no checkpoint before every rank's records are on disk
        if rank() != 0:
            return self.folder
        own = self.model.state_dict()
        state = self.train_step.state() | {"best": self.best, "bad_steps": self.bad_steps}
        if self.train_step.ema is not None:
            state["weights"] = own
        else:
            state["statistics"] = {name: own[name] for name in self.statistics}
        about = {
            "config": self.config.model_dump(mode="json"),
            "inputs": {m: spec.to_dict() for m, spec in self.specs.items()},
        }
        weights = {**self.evaluated.state_dict(), **self.statistics}
        saved = write_checkpoint(self.folder, step, weights, state, about)
        self._prune()
        return saved

    def _look_after(self, step: int, saved: int, log: Loggers, losses: MeanLosses) -> int:
        """Validate and save after a step, where it is time to; returns the step last saved."""
        config, last = self.config, step == self.steps
        validates = self.validates and (step % config.validation.every == 0 or last)
        saves = step % config.checkpoint.every == 0 or step in config.checkpoint.keep_steps
        if validates or saves or last:
            self.measure()
        if validates:
            better = False
            if rank() == 0:
                figures = self.validate(step)
                log.write(step, figures)
                tqdm.write(f"step {step}: {format_validation(figures)}", file=sys.stderr)
                better = self.best is None or figures[SCORE] > self.best
                if better:
                    self.best = figures[SCORE]
            saved = -1
            if any_rank(better, self.device):
                checkpoint = self.save(step)
                if rank() == 0:
                    point(self.folder, "best", checkpoint)
                    self._prune()
                saved = step
        if saves:
            if saved != step:
                self.save(step)
            saved = step
            losses.reset()  # so that a resumed run logs the same means
        return saved

    def _leave_out(self, step: int, batch: Batch, outcome: Outcome, norm: Tensor) -> None:
        """Count a bad step and write it down; fp16's search for a scale is none until it fails."""
        scaler = self.train_step.scaler
        if scaler.is_enabled() and scaler.get_scale() >= 1:
            return
        self.bad_steps += 1
        note_bad_step(self.folder, step, batch, sum_over_ranks(outcome.total), norm)
        if self.bad_steps > self.config.max_bad_steps:
            raise NotFinite(
                f"{self.folder}: {self.bad_steps} steps without a finite gradient, the last is step {step}; "
                f"{FILE} has the ids of their clips. Look at these, lower optim.lr, set optim.clip, or allow "
                "more with --set max_bad_steps=N"
            )

    def _prune(self) -> None:
        settings = self.config.checkpoint
        prune(self.folder, settings.keep, always=settings.keep_steps)

    def _fit_inputs(self, model: Model) -> None:
        """Statistics of samples that have the modality, evenly spread; the same ones on every rank."""
        if not len(self.rows):
            return
        some = self.rows[np.unique(np.linspace(0, len(self.rows) - 1, FITTED).astype(int))]

        def rows_of(modality: str) -> Iterator[Tensor]:
            dataset = StoreDataset(self.store, {modality: self.specs[modality]})
            for batch in dataset.batches(some, 64):
                yield batch.inputs[modality][batch.present[modality]].to(self.device)

        model.fit_inputs(rows_of)

    @cached_property
    def _plain_dataset(self) -> StoreDataset:
        return StoreDataset(self.store, self.specs)

    def _load(self, folder: Path) -> None:
        weights = read_weights(folder / WEIGHTS)
        state = read_state(folder / STATE)
        try:
            own = state.get("weights", weights) | state.get("statistics", {})
            put_weights(self.model, own, folder / WEIGHTS)
            if self.train_step.ema is not None:
                put_weights(self.evaluated, weights, folder / WEIGHTS)
            self.train_step.load_state(state)
            best = state["best"]
            self.best, self.bad_steps = None if best is None else float(best), int(state["bad_steps"])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as e:
            raise BadInput(
                f"{folder / STATE}: is not the state of this run ({type(e).__name__}: {e}); remove {folder} "
                "to go on from the checkpoint before"
            ) from e


def train_run(
    store_path: Path,
    folder: Path,
    config: PretrainConfig | None = None,
    *,
    recorders: Sequence[Recorder] = (),
    make_guide: MakeGuide | None = None,
    validator: Validator | None = None,
) -> Finished:
    """Open a run (see `Run.open`) and train it, as the only process group that writes into `folder`.

    Raises:
        BadInput: whatever is wrong, before the first step; another process trains into `folder`.
    """
    # a run has one writer, whatever the number of its processes
    with locked(folder) if is_first() else nullcontext():
        started = time.perf_counter()
        settings = config or read_run_config(folder)
        with process_group(pick_device(settings.device)), StopOnSignal() as stop:
            run = Run.open(
                store_path, folder, config, make_guide=make_guide, validator=validator, recorders=recorders
            )
            run.start(resume=config is None)
            done = run.train(stop)
        clips = (done - run.first) * settings.batch
        return Finished(folder, done, run.steps, clips, time.perf_counter() - started, run.bad_steps)


def seed_step(seed: int, step: int) -> None:
    """Random state of a step: a function of (seed, step, rank), so a resume needs no saved generators."""
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + rank())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
