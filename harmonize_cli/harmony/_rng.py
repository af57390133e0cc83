"""torch's random state: kept before a forward pass or an operation, and drawn from again in its replay."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RandomState:
    """torch's random state, on the CPU and on the current GPU."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device | None = None) -> "RandomState":
        """The present one; device: leave the GPU's out where the work is done elsewhere."""
        gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state() if gpu else None)

    def moved_on(self) -> bool:
        """Whether numbers were drawn since."""
        if not torch.equal(self.cpu, torch.get_rng_state()):
            return True
        return self.cuda is not None and not torch.equal(self.cuda, torch.cuda.get_rng_state())

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw the same numbers again inside; afterwards go on as if nothing had been drawn."""
        before = RandomState.now()
        self._set()
        try:
            yield
        finally:
            before._set()

    def _set(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)
