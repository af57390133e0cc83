"""How a model is read: where the samples lie in every operation's output, found and checked on real numbers.

On the first step, and whenever the operations or their shapes change, one ordinary backward pass with random
weights on two units shows where each unit's cotangents lie (batch-first, sequence-first, flattened, or
nowhere: mixed) and what the gradients must be. Parameters whose gradients, read by units, differ from it are
left to ordinary backward passes: slow, but exact.
"""

import logging
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._graph import Graph, Upstream
from harmonize_cli.harmony._kinds import readable
from harmonize_cli.harmony._measure import (
    Choose,
    Layers,
    Measurement,
    OpRows,
    add_grams,
    dense,
    read_uses,
    slow_gram,
    unit_gradients,
    walk,
)
from harmonize_cli.harmony._sketch import Sketch
from harmonize_cli.harmony._sums import Buffers, GramSum, Sink
from harmonize_cli.harmony._tape import Op, tensors
from harmonize_cli.harmony._units import Rows, find_rows, spread

log = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference from the ordinary backward pass, relative to the parameter's largest entry (or a
hundredth of the largest of all, for parameters whose gradient is all but rounding)."""
LOOSE = 0.15
"""The same in 16-bit types and under autocast."""
TRIALS = 8
"""Steps in which operations without any cotangent yet (behind weights that start at zero) are looked at
again."""


@dataclass(slots=True)
class Reader:
    """Reads the graphs of one model. check: see the module; without it the samples are taken to lie first.

    names: per parameter id, its paths. known: per signature of a pass, what was found in it, in the order of
    the operations. slow: paths of the parameters that took extra backward passes in the last measurement.
    """

    names: Mapping[int, Sequence[str]]
    check: bool = True
    sketch: Sketch | None = None
    known: dict[Hashable, list[list[Rows | None] | None]] = field(default_factory=dict)
    trials: dict[Hashable, int] = field(default_factory=dict)
    slow: tuple[str, ...] = ()
    seconds: float = 0.0
    """What the checks have taken so far."""

    def measure(self, up: Upstream, units: int, choose: Choose, *, keep_graph: bool = False) -> Measurement:
        """Gram matrices over the scopes that `choose` picks, and what an update needs.

        Frees the graph unless told to keep it, or something is left to ordinary backward passes.

        Raises:
            BadInput: the samples can't be told apart.
        """
        signature = _signature(up)
        graph = Graph(up.ops)
        found = self.known.get(signature)
        if found is not None:
            rows = {op: r for op, r in zip(up.ops, found, strict=True) if r is not None and readable(op)}
            return self._measure(up, graph, units, rows, choose, keep_graph=keep_graph)
        refuse(up, graph)
        if not self.check:
            rows = assumed(up)
            self.known[signature] = [rows.get(op) for op in up.ops]
            return self._measure(up, graph, units, rows, choose, keep_graph=keep_graph)
        began = time.perf_counter()
        trial = Trial.make(up, graph, units)
        rows = trial.rows
        while True:
            self.seconds += time.perf_counter() - began
            measured = self._measure(up, graph, units, rows, choose, keep_graph=True)
            began = time.perf_counter()
            wrong = trial.wrong(measured, exact=self.sketch is None)
            if not wrong:
                break
            behind = measured.layers.behind
            rows = {op: r for op, r in rows.items() if not any(wrong & behind(side) for side in op.sides)}
        self.trials[signature] = self.trials.get(signature, 0) + 1
        if not trial.silent or self.trials[signature] >= TRIALS:
            self.known[signature] = [rows.get(op) for op in up.ops]
        self.seconds += time.perf_counter() - began
        return measured

    def _measure(
        self, up: Upstream, graph: Graph, units: int, rows: OpRows, choose: Choose, *, keep_graph: bool
    ) -> Measurement:
        layers, ops, shuffled = walk(up, graph, rows)
        if shuffled:
            moved = unsteady(up, [op for op in up.ops if op in shuffled], rows)
            if moved:
                rows = {op: r for op, r in rows.items() if op not in moved}
                layers, ops, _ = walk(up, graph, rows)
        inside = choose(layers.leaves)
        layers.uses = read_uses(up, ops, rows, units, keep_graph=keep_graph or bool(layers.slow))
        if not layers.leaves or not any(layers.leaves):
            raise BadInput("the pooled vectors depend on no parameter of the given modules")
        first = next(d for of in up.delta for d in of if d is not None)
        members = {frozenset(n for n, ids in enumerate(inside) if i in ids) for i in layers.parameters}
        totals = {each: GramSum(units, len(up.delta), first) for each in members}
        add_grams(layers, inside, totals, self.sketch)
        quick = [sum_tables(totals, n) for n in range(len(inside))]
        grams = [gram.clone() for gram in quick]
        self._add_slow(up, layers, grams, inside, units)
        return Measurement(layers, grams, quick, inside)

    def _add_slow(
        self, up: Upstream, layers: Layers, grams: list[Tensor], inside: list[set[int]], units: int
    ) -> None:
        slow = set[int]().union(*inside) & layers.slow
        names = tuple(sorted(self.names[i][0] if i in self.names else "?" for i in slow))
        if slow and names != self.slow:
            log.warning(
                "harmonize: %s are used in a way that can't be read by samples, so their Gram matrices take "
                "%d backward passes a step; leave them out of the scope, or use scope representation",
                ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else ""),
                units * len(up.delta),
            )
        self.slow = names
        for gram, ids in zip(grams, inside, strict=True):
            params = [layers.parameters[i] for i in ids & layers.slow]
            if params:
                gram.add_(slow_gram(up, params, units))


def _signature(up: Upstream) -> Hashable:
    """What decides how a pass is read: its operations, their parameters and shapes."""
    ops = tuple(
        (op.func, op.pure, *(id(s.tensor) if s.made_by is None else 0 for s in op.sides), *op.shapes)
        for op in up.ops
    )
    reached = tuple(d is not None for of in up.delta for d in of)
    return ops, reached, up.samples, tuple(z.shape for z in up.pooled), len(up.delta)


def assumed(up: Upstream) -> OpRows:
    """Samples first wherever data entered, or parameters were expanded to rows."""
    rows: OpRows = {}
    for op in up.ops:
        expanded = op.func in EXPANSIONS or any(s.made_by in rows for s in op.sides if s.made_by is not None)
        if readable(op) and (not op.pure or expanded):
            fits = [len(shape) > 0 and shape[0] % up.samples == 0 for shape in op.shapes]
            if all(fits):
                rows[op] = [Rows() for _ in fits]
    return rows


EXPANSIONS = (Tensor.expand, Tensor.expand_as, Tensor.repeat, torch.broadcast_to, Tensor.broadcast_to)


def sum_tables(totals: Mapping[frozenset[int], GramSum], scope: int) -> Tensor:
    """[U, K, K] of the parameters that are in a scope."""
    tables = [total.table() for member, total in totals.items() if scope in member]
    return torch.stack(tables).sum(0) if len(tables) > 1 else tables[0]


def refuse(up: Upstream, graph: Graph) -> None:
    """Raise for graphs in which a sample has no gradient of its own, or which can't be passed twice.

    Raises:
        BadInput: batch statistics in the encoder, or a reentrant checkpoint.
    """
    nodes = graph.walk([z.grad_fn for z in up.pooled]).nodes
    if any(edge.node in nodes for edge in up.couplings) or any("SyncBatchNorm" in n.name() for n in nodes):
        raise BadInput(
            "BatchNorm couples the samples of a batch, so no per-sample gradient exists through it; use "
            "LayerNorm or GroupNorm, put it in eval mode, or use scope representation, or granularity batch"
        )
    if any(t.is_nested for op in up.ops for t in tensors((op.args, op.kwargs))):
        raise BadInput("nested tensors have no row per sample; pad them, or use scope representation")
    if any(n.name().startswith("CheckpointFunction") for n in nodes):
        raise BadInput(
            "activation checkpointing with use_reentrant=True hides the layers inside it; use "
            "checkpoint(..., use_reentrant=False)"
        )


@dataclass(slots=True)
class Trial:
    """One backward pass with random weights on two units. chosen: these; weights [U, K]; rows: where the
    samples lie in the outputs of the operations; want: gradients by parameter id; loose: 16-bit types are
    among the cotangents; silent: operations that no cotangent came to, so that nothing could be seen of them.
    """

    chosen: list[int]
    weights: Tensor
    rows: OpRows
    want: dict[int, Tensor | None]
    loose: bool
    silent: set[Op]

    @classmethod
    def make(cls, up: Upstream, graph: Graph, units: int) -> "Trial":
        """Run it; keeps the graph."""
        reach = graph.walk([z.grad_fn for z in up.pooled])
        ops = [op for op in up.ops if op in reach.ops]
        params = [p for p in reach.leaves.values() if isinstance(p, nn.Parameter)]
        chosen = _two_units(up, units)
        draw = torch.Generator().manual_seed(units)
        weights = torch.zeros(units, len(up.delta))
        weights[chosen] = torch.rand(len(chosen), len(up.delta), generator=draw) + 0.5
        weights = weights.to(up.pooled[0].device)
        edges = [edge for op in ops for edge in op.edges]
        found = up.gradients([*edges, *params], spread(weights, up.samples), keep_graph=True)
        queue = iter(found)
        mask = torch.zeros(units, dtype=torch.bool, device=weights.device)
        mask[chosen] = True
        mask = spread(mask, up.samples)
        rows: OpRows = {}
        loose, silent = False, set()
        for op in ops:
            given = [
                d if d is not None and d.any() else None for d in op.shaped([next(queue) for _ in op.edges])
            ]
            loose |= any(d is not None and d.dtype not in TOLERANCE for d in given)
            lie = [None if d is None else find_rows(d, mask) for d in given]
            if not any(d is not None for d in given):
                silent.add(op)
            elif readable(op) and all(d is None or r is not None for d, r in zip(given, lie, strict=True)):
                rows[op] = lie
        want = {id(p): g for p, g in zip(params, queue, strict=True)}
        return cls(chosen, weights, rows, want, loose, silent)

    def wrong(self, measured: Measurement, *, exact: bool) -> set[int]:
        """Ids of the parameters whose gradients, read by units, are not those of the pass; exact: the Gram
        matrices are, so they must be those of the units' gradients."""
        layers = measured.layers
        quick = layers.quick()
        part = torch.tensor(self.chosen, device=self.weights.device)
        sink, buffers = Sink(direct=False, skipped=layers.slow), Buffers()
        for use in layers.uses:
            use.add_to(sink, self.weights, buffers, part)
        got = {id(side.tensor): g for side, g in sink.own()}
        for p, g in zip(quick, sink.pull_back(quick, keep_graph=True), strict=True):
            if g is not None:
                got[id(p)] = got[id(p)] + g if id(p) in got else g
        wrong = self._different(quick, got)
        by_units = self._by_units(layers, quick)
        summed: dict[int, Tensor] = {}
        for (u, k), found in by_units.items():
            for i, g in found.items():
                each = g[0] * self.weights[u, k].to(g.dtype)
                summed[i] = summed[i] + each if i in summed else each
        wrong |= self._different(quick, summed)
        if exact and not wrong and any(self._gram_differs(measured, by_units)):
            wrong = {id(p) for p in quick}
        return wrong

    def _by_units(
        self, layers: Layers, quick: list[nn.Parameter]
    ) -> dict[tuple[int, int], dict[int, Tensor]]:
        """Per chosen unit and loss: gradients [1, *shape] by parameter id."""
        ids = {id(p) for p in quick}
        losses = range(self.weights.shape[1])
        return {
            (u, k): unit_gradients(layers, ids, layers.uses, k, slice(u, u + 1))
            for u in self.chosen
            for k in losses
        }

    def _gram_differs(
        self, measured: Measurement, by_units: dict[tuple[int, int], dict[int, Tensor]]
    ) -> Iterator[bool]:
        losses = range(self.weights.shape[1])
        for gram, ids in zip(measured.quick_grams, measured.inside, strict=True):
            for u in self.chosen:
                rows = [{i: g for i, g in by_units[u, k].items() if i in ids} for k in losses]
                want = torch.tensor([[_inner(one, two) for two in rows] for one in rows], dtype=torch.float64)
                length = want.diagonal().sqrt()
                error = (gram[u].double().cpu() - want).abs() - self._tolerance(gram.dtype) * length.outer(
                    length
                )
                yield not bool((error <= 1e-300).all())

    def _tolerance(self, dtype: torch.dtype) -> float:
        return LOOSE if self.loose else TOLERANCE.get(dtype, LOOSE)

    def _different(self, params: list[nn.Parameter], got: Mapping[int, Tensor]) -> set[int]:
        sizes = {id(p): _largest(self.want.get(id(p))) for p in params}
        floor = 1e-2 * max(sizes.values(), default=0.0)
        wrong = set()
        for p in params:
            want, have = self.want.get(id(p)), got.get(id(p))
            if want is None and have is None:
                continue
            want = torch.zeros_like(p) if want is None else dense(want)
            have = torch.zeros_like(want) if have is None else have.to(want.dtype)
            error = (have - want).abs().max().item() if want.numel() else 0.0
            if not error <= self._tolerance(p.dtype) * max(sizes[id(p)], floor):
                wrong.add(id(p))
        return wrong


def _inner(one: Mapping[int, Tensor], two: Mapping[int, Tensor]) -> float:
    return sum(
        (dense(one[i]).double() * dense(two[i]).double()).sum().item() for i in one.keys() & two.keys()
    )


def _largest(g: Tensor | None) -> float:
    return dense(g).abs().max().item() if g is not None and g.numel() else 0.0


def _two_units(up: Upstream, units: int) -> list[int]:
    """Two units (of less than three, one) for which every loss has something to say, where there are such."""
    told = torch.ones(units, dtype=torch.bool, device=up.pooled[0].device)
    for of in up.delta:
        for d in of:
            if d is not None:
                told &= (d.reshape(units, -1) != 0).any(1)
    able = told.nonzero().flatten().tolist() or list(range(units))
    count = 2 if units > 2 else 1
    return sorted({able[len(able) // 3], able[-1]})[:count] if len(able) > 1 else able[:1]


def unsteady(up: Upstream, ops: Sequence[Op], rows: OpRows) -> set[Op]:
    """Of operations above a step that picks rows by their values: those whose samples lie elsewhere now.

    One pass with a random factor for each sample shows it; keeps the graph.
    """
    ops = [op for op in ops if op in rows]
    edges = [edge for op in ops for edge in op.edges]
    draw = torch.Generator().manual_seed(up.samples)
    code = torch.randn(up.samples, generator=draw).to(up.pooled[0].device)
    ones = torch.ones(up.samples, len(up.delta), device=code.device)
    plain = up.gradients(edges, ones, keep_graph=True)
    coded = up.gradients(edges, ones * code[:, None], keep_graph=True)
    moved, queue = set(), iter(zip(plain, coded, strict=True))
    for op in ops:
        pairs = [next(queue) for _ in op.edges]
        given = zip(op.shaped([d for d, _ in pairs]), op.shaped([e for _, e in pairs]), strict=True)
        for r, (d, e) in zip(rows[op], given, strict=True):
            if d is None or e is None or r is None:
                continue
            difference = (r.scale(d, code) - e).abs().max()
            loose = 1e-3 if d.dtype in TOLERANCE else LOOSE
            if not bool(difference <= loose * e.abs().max() + 1e-12):
                moved.add(op)
    return moved
