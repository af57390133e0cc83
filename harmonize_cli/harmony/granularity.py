"""What gets weights of its own: every sample, every microbatch of n samples, or the whole batch."""

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


def any_in_unit(flags: Tensor, units: int) -> Tensor:
    """[B] -> [U] True where any sample of the unit is."""
    return flags.view(units, -1).any(1)


def spread(of_units: Tensor, samples: int) -> Tensor:
    """[U, ...] -> [B, ...], each unit's row for each of its samples."""
    return of_units.repeat_interleave(samples // len(of_units), dim=0)


def sum_units(of_samples: Tensor, units: int) -> Tensor:
    """[B, ...] -> [U, ...]"""
    return torch.stack([part.sum(0) for part in of_samples.chunk(units)])
