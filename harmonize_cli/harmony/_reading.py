"""How a model is read: where the samples lie in every operation's output, found and checked on real numbers.

On the first step, whenever operations, shapes or the graph change, and after 2, 4, 8, ... steps, one
ordinary backward pass with a random weight for every unit and loss shows where each unit's cotangents lie
(batch-first, sequence-first, flattened, or nowhere: mixed) and what the gradients must be. Parameters whose
gradients, read by units, differ from it are left to ordinary backward passes: slow, but exact.
"""

import logging
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._gram import GramSum, Sketch
from harmonize_cli.harmony._graph import Cotangents, Graph, Upstream, pull
from harmonize_cli.harmony._kinds import BLIND, readable
from harmonize_cli.harmony._measure import (
    Choose,
    Measurement,
    OpRows,
    Walk,
    cotangents,
    gram_of,
    make_uses,
    owns,
    slow_gram,
    walk,
)
from harmonize_cli.harmony._scope import Rows
from harmonize_cli.harmony._sums import dense
from harmonize_cli.harmony._tape import Op, tensors
from harmonize_cli.harmony._trial import Trial

Settle = Callable[..., Measurement]
"""`Reader._measured` of one pass."""

log = logging.getLogger(__name__)


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

        Frees the graph unless `keep_graph`, or something is left to ordinary backward passes.

        Raises:
            BadInput: the samples can't be told apart.
        """
        signature, graph = _signature(up), Graph(up.ops)
        settle = partial(self._measured, up, units, choose)
        known = self.known.get(signature)
        if known is not None:
            rows = {op: r for op, r in zip(up.ops, known.rows, strict=True) if r is not None and readable(op)}
            way = walk(up, graph, rows)
            if known.holds(way.form, again=self.check):
                found = self._read(up, graph, way, rows, units, settle, keep_graph=keep_graph)
                if found is not None:
                    return found
        return self._tried(up, graph, units, settle, signature)

    def _read(
        self,
        up: Upstream,
        graph: Graph,
        way: Walk,
        rows: OpRows,
        units: int,
        settle: Settle,
        *,
        keep_graph: bool,
    ) -> Measurement | None:
        """As it was read before; None (the graph is kept then) where that can't be done."""
        if way.shuffled:
            moved = Trial.make(up, [op for op in up.ops if op in way.shuffled], units, parameters=False)
            given = cotangents(up, way.ops, keep_graph=True)
            rows = {op: r for op, r in rows.items() if op not in moved.arrived} | moved.rows(given)
            return settle(given, walk(up, graph, rows), rows)
        quiet = [op for op, r in rows.items() if None in r]
        ops = [{op for op in own if owns(op, set(rows))} for own in way.ops]
        given = cotangents(up, ops, keep_graph=keep_graph or bool(way.layers.slow) or bool(quiet))
        return None if any(_speaks(given, op, rows[op]) for op in quiet) else settle(given, way, rows)

    def _tried(
        self, up: Upstream, graph: Graph, units: int, settle: Settle, signature: Hashable
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
        rows, wrong = trial.rows(given), {0}
        while wrong:
            way = walk(up, graph, rows)
            self.seconds += time.perf_counter() - began
            measured = settle(given, way, rows, apart=self.check)
            began = time.perf_counter()
            wrong = trial.wrong(measured, exact=self.sketch is None) if self.check else set()
            behind = measured.layers.behind
            rows = {op: r for op, r in rows.items() if not any(wrong & behind(side) for side in op.sides)}
        uses = self.known[signature].uses if signature in self.known else 1
        self.known[signature] = Known([rows.get(op) for op in up.ops], way.form, zeros(up.ops), uses)
        self.seconds += time.perf_counter() - began
        return measured

    def _measured(
        self,
        up: Upstream,
        units: int,
        choose: Choose,
        given: Mapping[Op, Cotangents],
        way: Walk,
        rows: OpRows,
        *,
        apart: bool = False,
    ) -> Measurement:
        layers = way.layers
        if not any(layers.leaves):
            raise BadInput("the pooled vectors depend on no parameter of the given modules")
        inside = choose(layers.leaves)
        read = {op: d for op, d in given.items() if any(op in own for own in way.ops)}
        layers.uses = make_uses(read, rows, units)
        grams, alone = [], dict[tuple[int, ...], GramSum]()
        self._name_slow(layers.slow & set[int]().union(*inside), units * len(up.delta))
        for ids in inside:
            own: dict[tuple[int, ...], GramSum] = {}
            gram = gram_of(layers, ids, units, up.delta, self.sketch, own if apart else None)
            slow = [p for i, p in layers.parameters.items() if i in ids and i in layers.slow]
            grams.append(gram + slow_gram(up, slow, units) if slow else gram)
            alone |= own
        return Measurement(layers, grams, inside, alone)

    def heads(self, up: Upstream, ops: list[Op]) -> list[Op]:
        """Of the operations between the pooled vectors and the losses, those whose outputs have the samples
        along their first axis; the others' parameters get their plain gradient."""
        key = tuple(op.signature() for op in ops), up.samples
        if key not in self.known_heads:
            self.known_heads[key] = [samples_lie_first(op, up) for op in ops]
            plain = {
                id(s.tensor)
                for op, yes in zip(ops, self.known_heads[key], strict=True)
                if not yes
                for s in op.sides
            }
            if names := sorted(self.names[i][0] for i in plain & self.names.keys()):
                log.warning(
                    "harmonize: %s are used in heads whose rows are not the samples'; they are left out of "
                    "scope all and get their plain gradients",
                    ", ".join(names),
                )
        return [op for op, yes in zip(ops, self.known_heads[key], strict=True) if yes]

    def _name_slow(self, slow: set[int], passes: int) -> None:
        names = tuple(sorted(self.names[i][0] if i in self.names else "?" for i in slow))
        if names and names != self.slow:
            log.warning(
                "harmonize: %s are used in a way that can't be read by samples, so their Gram matrices take "
                "%d backward passes a step; leave them out of the scope, or use scope representation",
                ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else ""),
                passes,
            )
        self.slow = names


def _speaks(given: Mapping[Op, Cotangents], op: Op, rows: Sequence[Rows | None]) -> bool:
    """Whether cotangents came to outputs of which it is not known where the units lie."""
    silent = [o for o, r in enumerate(rows) if r is None]
    return any((d := of[o]) is not None and bool(d.any()) for of in given.get(op, ()) for o in silent)


def _signature(up: Upstream) -> Hashable:
    """What decides how a pass is read: its operations, their parameters and shapes."""
    ops = tuple(op.signature() for op in up.ops)
    reached = tuple(d is not None for of in up.delta for d in of)
    return ops, reached, up.samples, tuple(z.shape for z in up.pooled), len(up.delta)


def samples_lie_first(op: Op, up: Upstream) -> bool:
    """Whether a row of an operation's output depends on its own sample more than on any other one.

    Seen where random cotangents of up to eight samples' rows, one sample at a time, arrive at the pooled
    vectors. BatchNorm below mixes the samples a little; a row counts for its own there too.
    """
    shape, found = op.shapes[0], False
    if op.pure or any(s.made_by for s in op.sides) or len(shape) < 2 or shape[0] % up.samples:
        return False
    draw = torch.Generator().manual_seed(0)
    meta = op.edges[0].node._input_metadata[op.edges[0].output_nr]
    edges = [get_gradient_edge(z) for z in up.pooled]
    for u in range(0, up.samples, math.ceil(up.samples / 8)):
        d = torch.randn(shape, generator=draw)
        one = torch.zeros(up.samples).index_fill_(0, torch.tensor(u), 1)
        d = Rows().scale(d, one).reshape(meta.shape).to(meta.device, meta.dtype)
        grads = pull([(op.edges[0], d)], edges, keep_graph=True)
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
