"""What gets a weight of its own (a unit), and where a unit's rows lie in a tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harmonize_cli.errors import BadInput


@dataclass(frozen=True, slots=True)
class Granularity:
    """`sample`, `microbatch:N` (N neighbours in the batch) or `batch` (classic PCGrad).

    Weights of samples and microbatches are local to a rank; those of `batch` come from the gradients summed
    over all ranks.
    """

    share: int
    """Samples per unit; 0 for the whole batch."""

    @classmethod
    def parse(cls, text: str) -> "Granularity":
        """From what a user writes."""
        kind, _, number = text.partition(":")
        if kind == "sample" and not number:
            return cls(1)
        if kind == "batch" and not number:
            return cls(0)
        if kind == "microbatch" and number.isdecimal() and int(number) > 0:
            return cls(int(number))
        raise BadInput(f"granularity: {text!r}; choose sample, microbatch:N (such as microbatch:8) or batch")

    @property
    def whole(self) -> bool:
        """One unit for the batches of all ranks."""
        return self.share == 0

    def units(self, samples: int) -> int:
        """Units in a batch of `samples` on this rank."""
        if self.whole:
            return 1
        if samples % self.share:
            raise BadInput(f"granularity: microbatches of {self.share} don't divide a batch of {samples}")
        return samples // self.share


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the samples lie in a tensor: along `axis`, of size outer x samples x inner.

    Batch-first is axis 0 with outer = 1; sequence-first axis 1; a flattened [T, B] axis 0 with outer = T.
    """

    axis: int = 0
    outer: int = 1

    def split(self, t: Tensor, units: int) -> Tensor:
        """[..., outer * U * n, ...] -> [U, ..., outer * n, ...]: the rows of each unit, in order."""
        if self.axis == 0 and self.outer == 1:
            return t.reshape(units, t.shape[0] // units, *t.shape[1:])
        before, after = t.shape[: self.axis], t.shape[self.axis + 1 :]
        rows = t.reshape(*before, self.outer, units, -1, *after).movedim(self.axis + 1, 0)
        return rows.flatten(1 + self.axis, 2 + self.axis)

    def scale(self, t: Tensor, weights: Tensor) -> Tensor:
        """t with the rows of sample or unit i times weights[i]; a new tensor."""
        inner = t.shape[self.axis] // (self.outer * len(weights))
        rows = weights.to(t.dtype).repeat_interleave(inner).repeat(self.outer)
        return t * rows.view(-1, *[1] * (t.dim() - 1 - self.axis))


def any_in_unit(flags: Tensor, units: int) -> Tensor:
    """[B] -> [U] True where any sample of the unit is."""
    return flags.view(units, -1).any(1)


def spread(of_units: Tensor, samples: int) -> Tensor:
    """[U, ...] -> [B, ...], each unit's row for each of its samples."""
    return of_units.repeat_interleave(samples // len(of_units), dim=0)


def sum_units(of_samples: Tensor, units: int) -> Tensor:
    """[B, ...] -> [U, ...]"""
    return torch.stack([part.sum(0) for part in of_samples.chunk(units)])
