"""The interface of a noise indicator: one small file that calls `register`.

An indicator gives one number per sample. `noisy` says which end of it speaks of a misaligned sample. It is
NaN where it is not defined (a missing modality, a zero gradient), never a made-up number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harmonize_cli.curriculum.view import BatchView

Measure = Callable[[BatchView], Tensor]


@dataclass(frozen=True, slots=True)
class Indicator:
    """name: column of the scores. pairs: pairs of modalities that it needs. needs: "gram:SCOPE",
    "agreement" or "bank", what has to be computed for it. measure: view -> [B]. costly: only where asked for
    by name."""

    name: str
    noisy: Literal["high", "low"]
    about: str
    measure: Measure
    pairs: tuple[str, ...]
    needs: str = ""
    costly: bool = False

    @property
    def online(self) -> bool:
        """Whether a training step can be gated by it: embeddings and losses, or a cosine of the engine."""
        return not self.needs or (self.needs.startswith("gram:") and self.name.startswith("cosine_"))


REGISTRY: dict[str, Indicator] = {}


def register(
    name: str,
    *,
    noisy: Literal["high", "low"],
    about: str,
    pairs: tuple[str, ...],
    needs: str = "",
    costly: bool = False,
) -> Callable[[Measure], Measure]:
    """Decorator: `measure(view) -> [B]` becomes the indicator `name`."""

    def put(measure: Measure) -> Measure:
        if name in REGISTRY:
            raise ValueError(f"indicator {name} is registered twice")
        REGISTRY[name] = Indicator(name, noisy, about, measure, pairs, needs, costly)
        return measure

    return put
