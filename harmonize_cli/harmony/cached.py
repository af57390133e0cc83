"""Large contrastive batches on small memory: cached pooled vectors, and the forward pass replayed by chunks.

A contrastive loss needs the pooled vectors of the whole batch, but not their graphs. So: encode chunk by
chunk without graphs, take the losses' cotangents at all pooled vectors at once, then encode each chunk
again, with the same random numbers, and send its cotangents up. Per-sample gradients are path-anchored: they
need a sample's own forward and its cotangents, both of which are the direct step's. Realignment per sample
is thus exact here, not an approximation.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from harmonize_cli.harmony._policy import Decision
from harmonize_cli.harmony._report import HarmonyReport
from harmonize_cli.harmony.cut import Cut, upstream_cut
from harmonize_cli.harmony.granularity import any_in_unit, spread
from harmonize_cli.harmony.harmonizer import Harmonizer, defined_samples
from harmonize_cli.harmony.measure import add_grams, heads_by_module, measure, read_layers, update
from harmonize_cli.harmony.representation import representation_gram
from harmonize_cli.harmony.sums import GramSum
from harmonize_cli.ranks import sum_gradients

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
        began = time.perf_counter()
        engine = self.harmonizer
        states, parts = [], []
        for chunk in chunks:
            states.append(RandomState.now())
            with torch.no_grad():
                parts.append(dict(self.encode(chunk)))
        pooled = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}
        sizes = [min(len(z) for z in part.values()) for part in parts]
        del parts
        with engine.record():
            losses = losses_of(pooled)
        cut = engine.cut(losses, list(pooled.values()))
        units = engine.granularity.units(cut.samples)
        defined = any_in_unit(defined_samples(valid, cut), units)
        replay = _Replay(engine, self.encode, chunks, states, sizes, cut, defined, step)
        if engine.granularity.whole:
            encoded = (part for _, _, part in replay.encoded(record=False))
            gram, decision = engine.per_batch(cut, 1.0, defined, step, encoded)
        else:
            gram, weights, decision = replay.run(_head_gram(engine, cut, units))
            cut.add_plain()
            engine.update_heads(cut, weights)
            if reduce:
                sum_gradients(engine.parameters())
        return engine.report(cut, gram, decision, began)


@dataclass(slots=True)
class _Replay(Generic[ChunkT]):
    """The second pass over the chunks."""

    engine: Harmonizer
    encode: Callable[[ChunkT], Mapping[str, Tensor]]
    chunks: Sequence[ChunkT]
    states: list["RandomState"]
    sizes: list[int]
    cut: Cut
    defined: Tensor
    step: int

    def run(self, heads: Tensor | None) -> tuple[Tensor, Tensor, Decision]:
        """Measure, decide, update; returns Gram and weights of the units, and the decision.

        Decisions that look at the whole batch need another replay in between.
        """
        engine, cut = self.engine, self.cut
        at_once = engine.needs_layers and engine.policy.one_by_one
        gram = self._measured(heads, at_once) if engine.needs_layers else None
        if gram is None:
            gram = representation_gram(cut, len(self.defined))
        decision = engine.decide(gram, self.defined, self.step, cut.losses)
        weights = decision.weights.to(gram)
        if decision.rejecting and cut.behind is not None:
            weights = engine.close(cut, decision).to(gram)
        if not at_once:
            for own, _, encoded in self.encoded(record=False):
                encoded.backward(spread(weights, cut.samples)[own])
        return gram, weights, decision

    def _measured(self, heads: Tensor | None, update_at_once: bool) -> Tensor:
        """[U, K, K], chunk by chunk; where asked to, with each chunk's update."""
        engine = self.engine
        grams = []
        for own, units, encoded in self.encoded(record=True):
            found = measure(
                encoded, units.stop - units.start, engine.scope, engine.tape.names.values(), engine.sketch
            )
            if heads is not None:
                found.gram += heads[units]
            grams.append(found.gram)
            if update_at_once:
                decision = engine.policy.decide(
                    found.gram.cpu(), self.defined[units].cpu(), self.step, self.cut.losses
                )
                weights = decision.weights.to(found.gram)
                update(found, encoded, weights, spread(weights, own.stop - own.start))
        return torch.cat(grams)

    def encoded(self, *, record: bool) -> Iterator[tuple[slice, slice, Cut]]:
        """Per chunk: its samples, its units, and its part of the cut with a fresh graph."""
        engine, whole = self.engine, self.cut
        start = 0
        for chunk, state, size in zip(self.chunks, self.states, self.sizes, strict=True):
            own = slice(start, start + size)
            share = engine.granularity.share or whole.samples
            units = slice(start // share, start // share + engine.granularity.units(size))
            start += size
            with state.replayed():
                if record:
                    with engine.tape.record():
                        pooled = list(self.encode(chunk).values())
                else:
                    pooled = list(self.encode(chunk).values())
            rooted = [z for z in pooled if z.requires_grad]
            cut = upstream_cut(whole.losses, rooted, size, engine.tape.take())
            cut.delta = [[_rows(d, own, whole.samples) for d in of] for of in whole.delta]
            yield own, units, cut
            del pooled, rooted, cut  # their graph, before the next one is made


def _rows(d: Tensor | None, own: slice, samples: int) -> Tensor | None:
    if d is None:
        return None
    share = len(d) // samples
    return d[own.start * share : own.stop * share]


def _head_gram(engine: Harmonizer, cut: Cut, units: int) -> Tensor | None:
    """[U, K, K] of the heads, in scope `all`."""
    if engine.scope.name != "all" or not cut.head_calls:
        return None
    chosen = {call.name for call, _ in cut.head_calls}
    _, in_scope = read_layers(heads_by_module(cut), units, chosen)
    total = GramSum(units, len(cut.losses), cut.pooled[0])
    add_grams(in_scope, total, engine.sketch)
    return total.table()


@dataclass(frozen=True, slots=True)
class RandomState:
    """torch's random state, on the CPU and on the current GPU."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls) -> "RandomState":
        """The present one."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None)

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
