"""What a checkpoint holds of the training besides the weights, and putting it back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Harmonizer
from harmonize_cli.models.checkpoint import (
    STATE,
    WEIGHTS,
    find_damage,
    list_checkpoints,
    read_manifest,
    write_checkpoint,
)
from harmonize_cli.models.vatt import Vatt
from harmonize_cli.objectives.trimodal import TriModalLoss


def save(
    run: Path,
    step: int,
    model: Vatt,
    loss: TriModalLoss,
    optimiser: torch.optim.Optimizer,
    harmonizer: Harmonizer | None,
    about: Mapping[str, Any],
) -> Path:
    """Checkpoint after `step` steps."""
    state = {"loss": loss.state_dict(), "optimiser": optimiser.state_dict()}
    if harmonizer is not None:
        state["harmonizer"] = harmonizer.state_dict()
    return write_checkpoint(run, step, model.state_dict(), state, about)


def newest_whole(run: Path, warn: Any) -> Path | None:
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


def restore(
    folder: Path,
    model: Vatt,
    loss: TriModalLoss,
    optimiser: torch.optim.Optimizer,
    harmonizer: Harmonizer | None,
) -> int:
    """Put a checkpoint's state back; returns its step."""
    model.load_state_dict(load_file(folder / WEIGHTS))
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    loss.load_state_dict(state["loss"])
    optimiser.load_state_dict(state["optimiser"])
    if harmonizer is not None:
        harmonizer.load_state_dict(state["harmonizer"])
    step: int = read_manifest(folder)["step"]
    return step
