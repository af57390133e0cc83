"""Large contrastive batches on small memory: cached pooled vectors, and the forward pass replayed by chunks.

A contrastive loss needs the pooled vectors of the whole batch, but not their graphs. So: encode chunk by
chunk without graphs, take the losses' cotangents at all pooled vectors at once, then encode each chunk
again, with the same random numbers, and send its cotangents up. Per-sample gradients are path-anchored: they
need a sample's own forward and its cotangents, both of which are the direct step's. Realignment per sample
is thus exact here, not an approximation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from harmonize_cli.harmony._graph import Upstream, upstream
from harmonize_cli.harmony._harmonizer import Harmonizer
from harmonize_cli.harmony._report import HarmonyReport
from harmonize_cli.harmony._tape import RandomState
from harmonize_cli.harmony._wrapped import explained

ChunkT = TypeVar("ChunkT")


class CachedStep(Generic[ChunkT]):
    """A harmonized step over a batch given as chunks.

        step = CachedStep(harmonizer, model.encode)
        report = step(chunks, lambda pooled: losses(model.heads(pooled)), step=n)

    encode: chunk -> pooled vectors by name, [b, ...] each; the same names for all chunks. It must be a pure
    function of chunk, parameters and torch's random numbers (no BatchNorm statistics in the encoder).
    With a gate: `losses(harmonizer.through_gate(model.heads(pooled)))`.
    The size of microbatches divides every chunk's. Granularity `batch` keeps one full gradient per loss.
    """

    def __init__(self, harmonizer: Harmonizer, encode: Callable[[ChunkT], Mapping[str, Tensor]]) -> None:
        self.harmonizer, self.encode = harmonizer, encode

    def __call__(
        self,
        chunks: Sequence[ChunkT],
        losses_of: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
        *,
        step: int = 0,
        valid: Mapping[str, Tensor] | None = None,
        reduce: bool = True,
    ) -> HarmonyReport:
        """As `Harmonizer.backward`, for the chunks' samples in order; valid: [B] over all chunks."""
        engine = self.harmonizer
        states, parts = [], []
        for chunk in chunks:
            states.append(RandomState.now())
            with torch.no_grad():
                parts.append(dict(self.encode(chunk)))
        pooled = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}
        sizes = [min(len(z) for z in part.values()) for part in parts]
        del parts
        with explained():
            with engine.record():
                losses = losses_of(pooled)
            cut = engine.cut(losses, pooled)
            replayed = Replayed(engine, self.encode, chunks, states, sizes, cut.up)
            return engine.run(cut, replayed, step=step, valid=valid, reduce=reduce)


@dataclass(slots=True)
class Replayed(Generic[ChunkT]):
    """The chunks of a batch, encoded anew each time that they are gone through."""

    engine: Harmonizer
    encode: Callable[[ChunkT], Mapping[str, Tensor]]
    chunks: Sequence[ChunkT]
    states: list[RandomState]
    sizes: list[int]
    whole: Upstream

    def __call__(self, record: bool) -> Iterator[tuple[slice, Upstream]]:
        """See `Chunks`."""
        start = 0
        for chunk, state, size in zip(self.chunks, self.states, self.sizes, strict=True):
            own = slice(start, start + size)
            start += size
            yield own, self._encoded(chunk, state, own, record=record)

    def _encoded(self, chunk: ChunkT, state: RandomState, own: slice, *, record: bool) -> Upstream:
        with state.replayed():
            if record:
                with self.engine.record():
                    pooled = self.encode(chunk)
            else:
                pooled = self.encode(chunk)
        up = upstream(list(pooled.values()), *self.engine.take())
        up.delta = [[_rows(d, own, self.whole.samples) for d in of] for of in self.whole.delta]
        return up


def _rows(d: Tensor | None, own: slice, samples: int) -> Tensor | None:
    if d is None:
        return None
    share = len(d) // samples
    return d[own.start * share : own.stop * share]
