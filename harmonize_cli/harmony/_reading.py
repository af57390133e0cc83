"""How a model is read: where the samples lie in every operation's output, found and checked on real numbers.

On the first step, whenever operations, shapes or the graph change, and after 2, 4, 8, ... steps, one
ordinary backward pass with a random weight for every unit and loss shows where each unit's cotangents lie
(batch-first, sequence-first, flattened, or nowhere: mixed) and what the gradients must be. Parameters whose
gradients, read by units, differ from it are left to ordinary backward passes: slow, but exact.
"""

import logging
import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._gram import GramSum, Sketch
from harmonize_cli.harmony._graph import Cotangents, Graph, Upstream, weighted_sum
from harmonize_cli.harmony._kinds import BLIND, readable
from harmonize_cli.harmony._measure import (
    Choose,
    Layers,
    Measurement,
    OpRows,
    Walk,
    add_grams,
    add_up,
    cotangents,
    make_uses,
    owns,
    slow_gram,
    unit_gradients,
    walk,
)
from harmonize_cli.harmony._scope import Rows, spread
from harmonize_cli.harmony._sums import ProjectedSink, dense, projected
from harmonize_cli.harmony._tape import Op, tensors

log = logging.getLogger(__name__)

TOLERANCE = {torch.float64: (1e-8, 1e-10), torch.float32: (1e-3, 1e-5)}
"""Largest difference from the ordinary backward pass: relative to the parameter's largest entry, and to the
largest of all, for parameters whose gradient is all but rounding."""
NEAR = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference of an operation's cotangents from those that were seen, as vectors."""
LOOSE, LOOSELY_NEAR = (5e-2, 5e-4), 0.08
"""The same in 16-bit types and under autocast."""


@dataclass(slots=True)
class Known:
    """What a trial found out, to be used again.

    rows: per operation, in the order of the recording. form: of the graph. zeros: gains and weights that were
    all zero: a path that mixes samples may lie behind them. uses: how often it was asked for.
    """

    rows: list[list[Rows | None] | None]
    form: Hashable
    zeros: list[Tensor]
    uses: int = 1

    def holds(self, form: Hashable, *, again: bool) -> bool:
        """Whether it can be used once more; again: after 2, 4, 8, ... times it is found out anew."""
        self.uses += 1
        due = again and self.uses & (self.uses - 1) == 0
        return form == self.form and not due and not any(bool(t.any()) for t in self.zeros)


@dataclass(slots=True)
class Reader:
    """Reads the graphs of one model. check: compare with the ordinary pass; rows are found in any case.

    names: per parameter id, its paths. known: per signature of a pass, what was found out of it. slow: paths
    of the parameters that took extra backward passes in the last measurement.
    """

    names: Mapping[int, Sequence[str]]
    check: bool = True
    sketch: Sketch | None = None
    known: dict[Hashable, Known] = field(default_factory=dict)
    known_heads: dict[Hashable, list[bool]] = field(default_factory=dict)
    slow: tuple[str, ...] = ()
    seconds: float = 0.0
    """What the checks have taken so far."""

    def measure(self, up: Upstream, units: int, choose: Choose, *, keep_graph: bool = False) -> Measurement:
        """Gram matrices over the scopes that `choose` picks, and what an update needs.

        Frees the graph unless told to keep it, or something is left to ordinary backward passes.

        Raises:
            BadInput: the samples can't be told apart.
        """
        signature, graph = _signature(up), Graph(up.ops)
        known = self.known.get(signature)
        if known is not None:
            rows = {op: r for op, r in zip(up.ops, known.rows, strict=True) if r is not None and readable(op)}
            seen = walk(up, graph, rows)
            if known.holds(seen.form, again=self.check):
                found = self._read(up, graph, seen, rows, units, choose, keep_graph=keep_graph)
                if found is not None:
                    return found
        return self._tried(up, graph, units, choose, signature)

    def _read(
        self,
        up: Upstream,
        graph: Graph,
        seen: Walk,
        rows: OpRows,
        units: int,
        choose: Choose,
        *,
        keep_graph: bool,
    ) -> Measurement | None:
        """As it was read before; None (the graph is kept then) where that can't be done."""
        if seen.shuffled:
            moved = Trial.make(up, [op for op in up.ops if op in seen.shuffled], units, parameters=False)
            given = cotangents(up, seen.ops, keep_graph=True)
            rows = {op: r for op, r in rows.items() if op not in moved.seen} | moved.rows(given)
            seen = walk(up, graph, rows)
        else:
            quiet = [op for op, r in rows.items() if None in r]
            ops = [{op for op in own if owns(op, set(rows))} for own in seen.ops]
            given = cotangents(up, ops, keep_graph=keep_graph or bool(seen.layers.slow) or bool(quiet))
            if any(_speaks(given, op, rows[op]) for op in quiet):
                return None
        read = {op: d for op, d in given.items() if any(op in own for own in seen.ops)}
        return self._measured(up, seen.layers, read, rows, units, choose)

    def _tried(
        self, up: Upstream, graph: Graph, units: int, choose: Choose, signature: Hashable
    ) -> Measurement:
        """Found out by a trial, and kept for the next time; keeps the graph."""
        began = time.perf_counter()
        refuse(up, graph)
        touched = [graph.walk([z.grad_fn]).ops for z in up.pooled]
        below = [op for op in up.ops if any(op in own for own in touched)]
        trial = Trial.make(up, below, units, parameters=self.check)
        self.seconds += time.perf_counter() - began
        given = cotangents(up, touched, keep_graph=True)
        began = time.perf_counter()
        rows = trial.rows(given)
        while True:
            seen = walk(up, graph, rows)
            read = {op: d for op, d in given.items() if any(op in own for own in seen.ops)}
            self.seconds += time.perf_counter() - began
            measured = self._measured(up, seen.layers, read, rows, units, choose, apart=self.check)
            began = time.perf_counter()
            wrong = trial.wrong(measured, exact=self.sketch is None) if self.check else set()
            if not wrong:
                break
            behind = measured.layers.behind
            rows = {op: r for op, r in rows.items() if not any(wrong & behind(side) for side in op.sides)}
        uses = self.known[signature].uses if signature in self.known else 1
        self.known[signature] = Known([rows.get(op) for op in up.ops], seen.form, zeros(up.ops), uses)
        self.seconds += time.perf_counter() - began
        return measured

    def _measured(
        self,
        up: Upstream,
        layers: Layers,
        given: dict[Op, Cotangents],
        rows: OpRows,
        units: int,
        choose: Choose,
        *,
        apart: bool = False,
    ) -> Measurement:
        if not any(layers.leaves):
            raise BadInput("the pooled vectors depend on no parameter of the given modules")
        inside = choose(layers.leaves)
        layers.uses = make_uses(given, rows, units)
        first = next(d for of in up.delta for d in of if d is not None)
        alone: dict[tuple[int, ...], GramSum] = {}
        grams = []
        for ids in inside:
            own: dict[tuple[int, ...], GramSum] = {}
            total = GramSum(units, len(up.delta), first, own if apart else None)
            add_grams(layers, ids, total, self.sketch)
            grams.append(total.table())
            alone |= own
        self._add_slow(up, layers, grams, inside, units)
        return Measurement(layers, grams, inside, alone)

    def heads(self, up: Upstream, ops: list[Op]) -> list[Op]:
        """Of the operations between the pooled vectors and the losses, those whose outputs have the samples
        along their first axis; the others' parameters get their plain gradient."""
        ops = [op for op in ops if _batched(op, up.samples)]
        key = tuple(op.signature() for op in ops), up.samples
        if key not in self.known_heads:
            self.known_heads[key] = [samples_lie_first(op, up) for op in ops]
            out = {
                n for op, yes in zip(ops, self.known_heads[key], strict=True) if not yes for n in self._of(op)
            }
            if out:
                log.warning(
                    "harmonize: %s are used in heads whose rows are not the samples'; they are left out of "
                    "scope all and get their plain gradients",
                    ", ".join(sorted(out)),
                )
        return [op for op, yes in zip(ops, self.known_heads[key], strict=True) if yes]

    def _of(self, op: Op) -> set[str]:
        return {self.names[id(s.tensor)][0] for s in op.sides if id(s.tensor) in self.names}

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
            params = [p for i, p in layers.parameters.items() if i in ids and i in layers.slow]
            if params:
                gram.add_(slow_gram(up, params, units))


def _speaks(given: Mapping[Op, Cotangents], op: Op, rows: Sequence[Rows | None]) -> bool:
    """Whether cotangents came to outputs of which it is not known where the units lie."""
    silent = [o for o, r in enumerate(rows) if r is None]
    return any((d := of[o]) is not None and bool(d.any()) for of in given.get(op, ()) for o in silent)


def _signature(up: Upstream) -> Hashable:
    """What decides how a pass is read: its operations, their parameters and shapes."""
    ops = tuple(op.signature() for op in up.ops)
    reached = tuple(d is not None for of in up.delta for d in of)
    return ops, reached, up.samples, tuple(z.shape for z in up.pooled), len(up.delta)


def _batched(op: Op, samples: int) -> bool:
    """Whether data entered, and came out with a first axis that may be the samples'."""
    shape = op.shapes[0]
    return (
        not op.pure
        and all(s.made_by is None for s in op.sides)
        and len(shape) > 1
        and shape[0] % samples == 0
    )


def samples_lie_first(op: Op, up: Upstream) -> bool:
    """Whether a row of an operation's output depends on its own sample more than on any other one.

    Seen where random cotangents of up to eight samples' rows, one sample at a time, arrive at the pooled
    vectors. BatchNorm below mixes the samples a little; a row counts for its own there too.
    """
    draw, found = torch.Generator().manual_seed(0), False
    meta = op.edges[0].node._input_metadata[op.edges[0].output_nr]
    edges = [get_gradient_edge(z) for z in up.pooled]
    for u in range(0, up.samples, math.ceil(up.samples / 8)):
        d = torch.randn(op.shapes[0], generator=draw)
        one = torch.zeros(up.samples).index_fill_(0, torch.tensor(u), 1)
        d = Rows().scale(d, one).reshape(meta.shape).to(meta.device, meta.dtype)
        grads = torch.autograd.grad(op.edges[:1], edges, [d], retain_graph=True, allow_unused=True)
        rows = [dense(g).reshape(up.samples, -1).square().sum(1) for g in grads if g is not None]
        energy = torch.stack(rows).sum(0).tolist() if rows else [0.0]
        if sum(energy) > 0:
            found = True
            if energy[u] <= max([*energy[:u], *energy[u + 1 :], 0.0]):
                return False
    return found


def zeros(ops: Sequence[Op]) -> list[Tensor]:
    """Gains and weights that are all zero at the moment; biases aside, which nothing lies behind."""
    found = {}
    for op in ops:
        biases = {id(op.kwargs.get("bias")), *(id(a) for a in op.args[2:3] if op.func in WITH_BIAS)}
        for side in op.sides:
            if op.func not in BLIND and id(side.tensor) not in biases and not bool(side.tensor.any()):
                found[id(side.tensor)] = side.tensor
    return [t.detach() for t in found.values() if isinstance(t, nn.Parameter)]


WITH_BIAS = (F.linear, torch.conv1d, torch.conv2d, torch.conv3d)


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
    """One ordinary backward pass with random weights [U, K], to which everything read by units must add up.

    seen: per operation, the cotangents of its outputs. want: gradients by parameter id. silent: operations
    that no cotangent came to, of which nothing can be said yet. loose: 16-bit types are among the cotangents.
    """

    weights: Tensor
    seen: dict[Op, list[Tensor | None]]
    want: dict[int, Tensor | None]
    loose: bool = False

    @classmethod
    def make(cls, up: Upstream, ops: Sequence[Op], units: int, *, parameters: bool = True) -> "Trial":
        """Run it; keeps the graph. parameters: with their gradients."""
        leaves = Graph([]).walk([z.grad_fn for z in up.pooled]).leaves if parameters else {}
        params = [p for p in leaves.values() if isinstance(p, nn.Parameter)]
        draw = torch.Generator().manual_seed(units)
        # far apart, so that even cotangents of 16 bits tell two units from each other
        K = len(up.delta)
        powers = (torch.randperm(units, generator=draw)[:, None] + torch.arange(K)) % 5 - 2
        weights = (2.0**powers * (0.8 + 0.4 * torch.rand(units, K, generator=draw))).to(up.pooled[0].device)
        edges = [edge for op in ops for edge in op.edges]
        queue = iter(up.gradients([*edges, *params], spread(weights, up.samples), keep_graph=True))
        seen = {op: op.shaped([next(queue) for _ in op.edges]) for op in ops}
        return cls(weights, seen, {id(p): g for p, g in zip(params, queue, strict=True)})

    def rows(self, given: Mapping[Op, Cotangents]) -> OpRows:
        """Where the units lie in the outputs of the operations; those of which it can't be said are left out.

        None for outputs that no cotangent came to: nothing can be said of them yet, and nothing need be.
        """
        found: OpRows = {}
        # under autocast those in float32 were made from ones in 16 bits
        seen = (d for outputs in self.seen.values() for d in outputs)
        self.loose |= any(d is not None and d.dtype not in TOLERANCE for d in seen)
        for op, outputs in self.seen.items():
            heard = [d is not None and op in given and bool(d.any()) for d in outputs]
            lie = [
                self._lie(d, [of[o] for of in given[op]]) if here and d is not None else None
                for o, (d, here) in enumerate(zip(outputs, heard, strict=True))
            ]
            if readable(op) and all(r is not None for r, here in zip(lie, heard, strict=True) if here):
                found[op] = lie
        return found

    def _lie(self, seen: Tensor, given: list[Tensor | None]) -> Rows | None:
        """Where the units lie: there, weighted cotangents are those that were seen; None: the units mix."""
        tolerance = LOOSELY_NEAR if self.loose else NEAR.get(seen.dtype, LOOSELY_NEAR)
        seen, units = dense(seen), len(self.weights)
        given = [None if d is None else dense(d) for d in given]
        for axis, n in enumerate(seen.shape):
            for outer in (o for o in range(1, n // units + 1) if n and n % (units * o) == 0):
                rows = Rows(axis, outer)
                off = weighted_sum(given, self.weights, rows)
                if off is None:
                    return None
                # unit by unit: two of many that are swapped hide in the norm of all
                length = rows.split(seen, units).flatten(1).norm(dim=1)
                error = rows.split(off.sub_(seen), units).flatten(1).norm(dim=1)
                if bool((error <= tolerance * (length + 0.1 * length.square().mean().sqrt())).all()):
                    return rows
        return None

    def wrong(self, measured: Measurement, *, exact: bool) -> set[int]:
        """Ids of the parameters whose gradients, read by units, are not those of the pass, along a random
        direction each; exact: the Gram matrices are, so they must be those of the units' gradients."""
        layers, quick = measured.layers, measured.layers.quick()
        wanted = {i: projected(g) for i, g in self.want.items() if g is not None}
        wrong = self._different(quick, self._added_up(layers, quick, self.weights), wanted)
        # two units alone, read in the way of a Gram matrix
        two, ids = sorted({0, len(self.weights) - 1}), {id(p) for p in quick}
        part = torch.tensor(two, device=self.weights.device)
        some = torch.zeros_like(self.weights).index_copy_(0, part, self.weights[part])
        losses = range(self.weights.shape[1])
        single = [[unit_gradients(layers, ids, layers.uses, k, slice(u, u + 1)) for k in losses] for u in two]
        sums = ProjectedSink()
        for u, rows in zip(two, single, strict=True):
            for k, row in enumerate(rows):
                for i, g in row.items():
                    sums.put(i, self.weights[u, k] * projected(g[0]))
        wrong |= self._different(quick, sums.own, self._added_up(layers, quick, some, part))
        for u, rows in zip(two, single, strict=True) if exact else ():
            wrong |= self._gram_differs(measured.apart, u, rows)
        return wrong

    @staticmethod
    def _added_up(
        layers: Layers, quick: list[nn.Parameter], weights: Tensor, part: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Projected gradients under weights, by parameter id."""
        sink = ProjectedSink(layers.slow)
        add_up(list(layers.uses), sink, weights, part)
        for p, g in zip(quick, sink.pull_back(quick, keep_graph=True), strict=True):
            if g is not None:
                sink.put(id(p), projected(g))
        return sink.own

    def _gram_differs(
        self, apart: Mapping[tuple[int, ...], GramSum], u: int, rows: list[dict[int, Tensor]]
    ) -> set[int]:
        """Ids of the parameters whose share of unit u's Gram matrix is not that of its gradients."""
        found = {ids: total.table()[u].double().cpu() for ids, total in apart.items()}
        wanted = {ids: _gram_of([[row[i] for i in ids if i in row] for row in rows]) for ids in apart}
        wrong: set[int] = set()
        if not wanted:
            return wrong
        whole = torch.stack(list(wanted.values())).sum(0).diagonal()
        for ids, want in wanted.items():
            tolerance, _ = self._tolerance(apart[ids].dtype)
            rounding = 10 * torch.finfo(apart[ids].dtype).eps
            length, all_lengths = want.diagonal().sqrt(), whole.sqrt()
            limit = tolerance * length.outer(length) + rounding * all_lengths.outer(all_lengths)
            if not bool(((found[ids] - want).abs() <= limit).all()):
                wrong |= set(ids)
        return wrong

    def _tolerance(self, dtype: torch.dtype) -> tuple[float, float]:
        return LOOSE if self.loose else TOLERANCE.get(dtype, LOOSE)

    def _different(
        self, params: list[nn.Parameter], got: Mapping[int, Tensor], want: Mapping[int, Tensor]
    ) -> set[int]:
        sizes = {id(p): _largest(want.get(id(p))) for p in params}
        largest = max(sizes.values(), default=0.0)
        wrong = set()
        for p in params:
            found, expected = got.get(id(p)), want.get(id(p))
            if found is None or expected is None:
                error = max(_largest(found), _largest(expected))
            else:
                error = _largest(found.to(expected) - expected)
            tolerance, rounding = self._tolerance(p.dtype)
            if not error <= tolerance * sizes[id(p)] + rounding * largest:
                wrong.add(id(p))
        return wrong


def _gram_of(rows: list[list[Tensor]]) -> Tensor:
    """[K, K], for each loss a list of gradients."""
    flat = [torch.cat([dense(g).flatten() for g in row]) if row else None for row in rows]
    inner = [[0.0 if a is None or b is None else torch.dot(a, b).item() for b in flat] for a in flat]
    return torch.tensor(inner, dtype=torch.float64)


def _largest(g: Tensor | None) -> float:
    return g.abs().max().item() if g is not None and g.numel() else 0.0
