"""Large contrastive batches on small memory: cached pooled vectors, and the forward pass replayed by chunks.

A contrastive loss needs the pooled vectors of the whole batch, but not their graphs. So: encode chunk by
chunk without graphs, take the losses' cotangents at all pooled vectors at once, then encode each chunk
again, with the same random numbers, and send its cotangents up. Per-sample gradients are path-anchored: they
need a sample's own forward and its cotangents, both of which are the direct step's. Realignment per sample
is thus exact here, not an approximation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
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
            share = {name: len(z) // cut.up.samples for name, z in pooled.items() if z.requires_grad}

            def replayed(record: bool) -> Iterator[tuple[slice, Upstream]]:
                """The chunks, encoded anew."""
                start = 0
                for chunk, state, size in zip(chunks, states, sizes, strict=True):
                    with state.replayed(), engine.record() if record else nullcontext():
                        again = self.encode(chunk)
                    up = upstream(list(again.values()), *engine.take())
                    own, start = slice(start, start + size), start + size
                    up.delta = [
                        [
                            None if d is None else d[own.start * n : own.stop * n]
                            for d, n in zip(of, share.values(), strict=True)
                        ]
                        for of in cut.up.delta
                    ]
                    yield own, up

            return engine.run(cut, replayed, step=step, valid=valid, reduce=reduce)
