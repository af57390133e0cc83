"""Steps whose gradient isn't finite: left out, counted, written down with the ids of their clips."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from harmonize_cli.data.batches import Batch
from harmonize_cli.errors import HarmonizeError
from harmonize_cli.ranks import gather_objects, rank

FILE = "bad_steps.jsonl"


class NotFinite(HarmonizeError):
    """More steps without a finite gradient than allowed."""


class Statistics:
    """BatchNorm's running statistics before a step: a forward pass with NaN would spoil them for good."""

    def __init__(self, model: nn.Module) -> None:
        self._live = [b for b in model.buffers() if b.is_floating_point()]
        self._kept = [b.clone() for b in self._live]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are."""
        if self._live:
            torch._foreach_copy_(self._kept, self._live)

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        if self._live:
            torch._foreach_copy_(self._live, self._kept)


def note_bad_step(run: Path, step: int, batch: Batch, loss: Tensor, norm: Tensor) -> None:
    """A line of RUN/bad_steps.jsonl with the ids of all ranks. Every rank calls it, or none."""
    names = [name for part in gather_objects(batch.ids) for name in part]
    if rank() == 0:
        line = {"step": step, "loss": str(float(loss)), "grad_norm": str(float(norm)), "ids": names}
        with (run / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
