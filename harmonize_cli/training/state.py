"""What a checkpoint holds of the training besides the weights, and putting it back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from harmonize_cli.errors import BadInput
from harmonize_cli.models.base import Model
from harmonize_cli.models.checkpoint import (
    STATE,
    WEIGHTS,
    find_damage,
    list_checkpoints,
    put_weights,
    read_manifest,
    read_state,
    read_weights,
    write_checkpoint,
)
from harmonize_cli.training.ema import Ema
from harmonize_cli.training.step import Gradients


@dataclass
class TrainingState:
    """Everything that changes while a run goes on. Data order and randomness follow from the step alone."""

    gradients: Gradients
    optimiser: torch.optim.Optimizer
    ema: Ema | None = None
    best: float | None = None
    """Best validation score so far."""
    bad_steps: int = 0
    statistics: dict[str, Tensor] = field(default_factory=dict)
    """BatchNorm's statistics that belong to the weights as they are evaluated."""

    @property
    def evaluated(self) -> Model:
        """The model with the weights that are validated and saved; `statistics` go with it."""
        model = self.gradients.model
        return cast(Model, self.ema.module) if self.ema is not None else model

    def average(self, step: int) -> None:
        """Let the average of the weights, where there is one, follow optimiser step `step` (from 1)."""
        if self.ema is not None:
            self.ema.update(self.gradients.model, step)

    def save(self, run: Path, step: int, about: Mapping[str, Any]) -> Path:
        """Checkpoint after `step` steps."""
        model = self.gradients.model
        state: dict[str, Any] = {
            "loss": self.gradients.loss.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.gradients.scaler.state_dict(),
            "best": self.best,
            "bad_steps": self.bad_steps,
        }
        if self.gradients.harmonizer is not None:
            state["harmonizer"] = self.gradients.harmonizer.state_dict()
        own = model.state_dict()
        if self.ema is not None:
            state["weights"] = own
        else:
            state["statistics"] = {name: own[name] for name in self.statistics}
        weights = {**self.evaluated.state_dict(), **self.statistics}
        return write_checkpoint(run, step, weights, state, about)

    def load(self, folder: Path) -> int:
        """Put a checkpoint's state back; returns its step.

        Raises:
            BadInput: damaged files, or those of another model than the config describes.
        """
        weights = read_weights(folder / WEIGHTS)
        state = read_state(folder / STATE)
        try:
            own = state.get("weights", weights) | state.get("statistics", {})
            put_weights(self.gradients.model, own, folder / WEIGHTS)
            if self.ema is not None:
                put_weights(self.evaluated, weights, folder / WEIGHTS)
            self.gradients.loss.load_state_dict(state["loss"])
            self.gradients.scaler.load_state_dict(state["scaler"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.gradients.harmonizer is not None:
                self.gradients.harmonizer.load_state_dict(state.get("harmonizer", {}))
            best = state["best"]
            self.best, self.bad_steps = None if best is None else float(best), int(state["bad_steps"])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as e:
            raise BadInput(
                f"{folder / STATE}: is not the state of this run ({type(e).__name__}: {e}); remove {folder} "
                "to go on from the checkpoint before"
            ) from e
        return read_manifest(folder).step


def newest_whole(run: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest undamaged checkpoint; `warn` is told of damaged ones that are passed over."""
    for folder in reversed(list_checkpoints(run)):
        try:
            damage = find_damage(folder, read_manifest(folder))
        except BadInput as e:
            damage = str(e)
        if damage is None:
            return folder
        warn(f"{folder}: damaged checkpoint ({damage}), going back to the one before")
    return None
