"""One chunk of a step: from cotangents at the pooled vectors to Gram matrices, and to gradients under
weights."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._gram import Factors, GramSum, Sketch, add_shared
from harmonize_cli.harmony._graph import Cotangents, Graph, Upstream, pull
from harmonize_cli.harmony._kinds import read
from harmonize_cli.harmony._scope import Rows, spread, sum_units
from harmonize_cli.harmony._sums import Buffers, Sink, add_grad, dense, inner_products, wide
from harmonize_cli.harmony._tape import Op, Side
from harmonize_cli.harmony._uses import OuterUse, Use, drop_dead_tokens

OpRows = dict[Op, list[Rows | None]]
"""Operations that are read, and where the samples lie in their outputs."""

Choose = Callable[[list[set[int]]], list[set[int]]]
"""From the parameters that each pooled vector depends on to those in each scope, by id."""


@dataclass(slots=True)
class Layers:
    """The parameters above some pooled vectors (or of heads), and the uses that account for them.

    leaves: per pooled vector the ids of the parameters that it depends on. slow: parameters that are also
    used in ways that can't be read by samples; they get their gradients from ordinary backward passes.
    """

    uses: list[Use]
    parameters: dict[int, nn.Parameter]
    leaves: list[set[int]]
    slow: set[int]
    made_from: dict[int, set[int]] = field(default_factory=dict)
    """Per side: the parameters that it was made from."""

    def behind(self, side: Side) -> set[int]:
        """The parameters that a side was made from; itself, for a parameter."""
        if side.made_by is None:
            return {id(side.tensor)}
        if id(side) not in self.made_from:
            found = Graph([]).walk([side.edge.node]).leaves
            self.made_from[id(side)] = set(found)
            self.parameters.update((i, p) for i, p in found.items() if isinstance(p, nn.Parameter))
        return self.made_from[id(side)]

    def quick(self) -> list[nn.Parameter]:
        """The parameters that the uses account for."""
        own = set[int]().union(*(self.behind(side) for use in self.uses for side in use.sides))
        return [p for i, p in self.parameters.items() if i in own - self.slow]


@dataclass(slots=True)
class Measurement:
    """grams: per scope [U, K, K]; inside: per scope the ids of the parameters compared; apart: the sums of
    each parameter that is read by units on its own (a weight with its bias), where they were asked for."""

    layers: Layers
    grams: list[Tensor]
    inside: list[set[int]]
    apart: dict[tuple[int, ...], GramSum]


@dataclass(slots=True)
class Walk:
    """What the pooled vectors were made from.

    layers: without their uses yet. ops: per pooled vector, the operations read. shuffled: those above a step
    that picks rows by their values. form: of the graph.
    """

    layers: Layers
    ops: list[set[Op]]
    shuffled: set[Op]
    form: Hashable


def walk(up: Upstream, graph: Graph, rows: OpRows) -> Walk:
    """Up from each pooled vector, over the operations in `rows`."""
    reaches = [graph.walk([z.grad_fn], jump=set(rows)) for z in up.pooled]
    pooled = {id(z) for z in up.pooled}
    layers = Layers([], {}, [], set())
    for reach in reaches:
        outside = {i: p for i, p in reach.leaves.items() if i not in pooled and isinstance(p, nn.Parameter)}
        layers.parameters.update(outside)
        layers.slow |= outside.keys()
        # in the order of the recording: sums must not depend on where objects lie in memory
        reached = [op for op in up.ops if op in reach.ops]
        inner = [s for op in reached for s in op.sides if s.made_by is None or s.made_by not in rows]
        for side in inner:
            if side.made_by is None and isinstance(side.tensor, nn.Parameter):
                layers.parameters[id(side.tensor)] = side.tensor
        found = set(outside).union(*(layers.behind(side) for side in inner))
        layers.leaves.append(found)
    shuffled = set[Op]().union(*(reach.shuffled for reach in reaches))
    return Walk(layers, [r.ops for r in reaches], shuffled, hash(tuple(tuple(r.form) for r in reaches)))


def cotangents(up: Upstream, ops: Sequence[set[Op]], *, keep_graph: bool) -> dict[Op, Cotangents]:
    """The input-gradient passes: cotangents at the outputs of the operations read for each pooled vector, in
    the order of the recording; frees the graph unless `keep_graph`. Pooled vectors that share an operation
    are passed together, one pass for each loss that reaches them."""
    found: dict[Op, Cotangents] = {}
    for pooled in _overlapping(ops):
        reached = set[Op]().union(*(ops[m] for m in pooled))
        own = [op for op in up.ops if op in reached]
        edges = [edge for op in own for edge in op.edges]
        last = max((k for k, of in enumerate(up.delta) if any(of[m] is not None for m in pooled)), default=0)
        rows = []
        for k, of in enumerate(up.delta):
            pairs = [(up.pooled[m], of[m]) for m in pooled if of[m] is not None]
            # autograd skips the weight gradients, which nobody asks for
            rows.append(iter(pull(pairs, edges, keep_graph=keep_graph or k != last)))
        found |= {op: [op.shaped([next(row) for _ in op.edges]) for row in rows] for op in own}
    return {op: d for op, d in found.items() if any(x is not None for of in d for x in of)}


def make_uses(found: dict[Op, Cotangents], rows: OpRows, units: int) -> list[Use]:
    """Uses of operations with their cotangents, which are let go of as they are read."""
    inner = set(rows)
    uses = []
    while found:
        op = next(iter(found))
        d = found.pop(op)
        if owns(op, inner) and any(rows[op]):
            uses.append(read(op, d, rows[op], inner, units))
    drop_dead_tokens([use.segment for use in uses if isinstance(use, OuterUse)])
    return uses


def owns(op: Op, inner: set[Op]) -> bool:
    """Whether parameters enter it themselves, not only what operations in `inner` made of them."""
    return any(side.made_by is None or side.made_by not in inner for side in op.sides)


def read_heads(at_heads: Mapping[Op, Cotangents], units: int) -> Layers | None:
    """The parameters of the heads, where they are read, with uses of the present cotangents."""
    if not at_heads:
        return None
    uses = make_uses(dict(at_heads), {op: [Rows() for _ in op.edges] for op in at_heads}, units)
    sides = {id(s.tensor): s.tensor for use in uses for s in use.sides}
    parameters = {i: p for i, p in sides.items() if isinstance(p, nn.Parameter)}
    return Layers(uses, parameters, [set(parameters)], set())


def gram_of(
    layers: Layers,
    inside: Collection[int],
    units: int,
    delta: Cotangents,
    sketch: Sketch | None,
    apart: dict[tuple[int, ...], GramSum] | None = None,
) -> Tensor:
    """[U, K, K] of the parameters in `inside`, slow ones aside; apart: gets each one's own sum.

    delta: at the pooled vectors, for the type and the number of losses.
    """
    total = GramSum(units, len(delta), next(d for of in delta for d in of if d is not None), apart)
    uses_of: dict[int, list[Use]] = defaultdict(list)
    order = {i: n for n, i in enumerate(layers.parameters)}
    for use in layers.uses:
        behind = set[int]().union(*(layers.behind(side) for side in use.sides))
        for i in sorted(behind & order.keys(), key=order.__getitem__):
            uses_of[i].append(use)
    wanted = [i for i in uses_of if i in inside and i not in layers.slow]
    outer = {i: _outer_uses(layers, i, uses_of[i]) for i in wanted}
    buffers = Buffers()
    rest = [i for i in wanted if outer[i] is None]
    for part in _overlapping([{id(use) for use in uses_of[i]} for i in rest]):
        params = [rest[n] for n in part]
        uses = {id(use): use for i in params for use in uses_of[i]}
        _add_component(layers, params, list(uses.values()), total, buffers)
    sharing: dict[Hashable, list[Factors]] = defaultdict(list)
    for factors in _factors({i: found for i, found in outer.items() if found}):
        sharing[tuple((s.x.data_ptr(), s.x.shape, s.x.stride()) for s in factors.segments)].append(factors)
    for group in sharing.values():
        if sketch is not None and sketch.pays(group):
            sketch.add_gram(group, total, buffers)
        else:
            add_shared(group, total, buffers)
    return total.table()


OuterUses = list[tuple[OuterUse, bool]]
"""Calls of one parameter, and whether it is their weight (else their bias)."""


def _outer_uses(layers: Layers, i: int, uses: list[Use]) -> OuterUses | None:
    """The calls of a parameter that is a weight, or a bias, of outer-product layers alone and of one form."""
    found: OuterUses = []
    for use in uses:
        if not isinstance(use, OuterUse):
            return None
        roles = [s for s in use.sides if i in layers.behind(s)]
        if len(roles) != 1 or roles[0].made_by is not None:
            return None
        found.append((use, roles[0] is use.weight))
    first, weight = found[0]
    same = all(
        w == weight and u.out_first == first.out_first and u.segment.x.dtype == first.segment.x.dtype
        for u, w in found
    )
    return found if same else None


def _factors(outer: dict[int, OuterUses]) -> Iterable[Factors]:
    """Factors of weights, each with the bias of the same calls where there is one, and of biases alone."""
    calls = {i: tuple(id(use) for use, _ in found) for i, found in outer.items()}
    biases = {calls[i]: i for i, found in outer.items() if not found[0][1]}
    for i, found in outer.items():
        if found[0][1]:
            bias = biases.pop(calls[i], None)
            ids = (i,) if bias is None else (i, bias)
            yield Factors([use.segment for use, _ in found], True, bias is not None, ids)
    for i in biases.values():
        yield Factors([use.segment for use, _ in outer[i]], False, True, (i,))


def _overlapping(sets: Sequence[set[Any]]) -> list[list[int]]:
    """Indices of sets that have elements in common, directly or through others, together."""
    parts: list[tuple[list[int], set[Any]]] = []
    for n, own in enumerate(sets):
        joined = [part for part in parts if part[1] & own]
        parts = [part for part in parts if not part[1] & own]
        parts.append(
            (sorted([n, *(m for part in joined for m in part[0])]), own.union(*(p[1] for p in joined)))
        )
    return [indices for indices, _ in parts]


def _add_component(
    layers: Layers, params: list[int], uses: list[Use], total: GramSum, buffers: Buffers
) -> None:
    size = 4 * total.losses * sum(layers.parameters[i].numel() for i in params)
    size += 4 * sum(side.tensor.numel() for use in uses for side in use.sides)
    step = max(1, min(total.units, 2**28 // max(size, 1)))
    for start in range(0, total.units, step):
        part = slice(start, min(start + step, total.units))
        rows = [unit_gradients(layers, params, uses, k, part) for k in range(total.losses)]
        for i in params:
            total.key = (i,)
            total.add_all([[row[i]] if i in row else [] for row in rows], buffers, part)


def unit_gradients(
    layers: Layers, params: Collection[int], uses: list[Use], loss: int, part: slice
) -> dict[int, Tensor]:
    """Gradients [n, *shape] of the units in `part` under one loss, by parameter id; absent for zero."""
    sums: dict[int, tuple[Side, Tensor]] = {}
    for use in uses:
        for side, grad in zip(use.sides, use.unit_gradients(loss, part) or (), strict=False):
            known = sums.get(id(side.tensor))
            sums[id(side.tensor)] = side, grad if known is None else known[1] + grad
    found = {i: g for i, (side, g) in sums.items() if side.made_by is None and i in params}
    made = [(side, g) for side, g in sums.values() if side.made_by is not None]
    own = [layers.parameters[i] for i in params if any(i in layers.behind(side) for side, _ in made)]
    if own:
        for p, g in zip(own, _pull_back(made, own), strict=True):
            if g is not None:
                found[id(p)] = found[id(p)] + g if id(p) in found else g
    return found


def _pull_back(made: list[tuple[Side, Tensor]], own: list[nn.Parameter]) -> list[Tensor | None]:
    """[n, ...] per unit, from what was made from parameters to these."""
    outputs = [side.tensor for side, _ in made]
    grads = [g.to(side.tensor.dtype) for side, g in made]
    options = {"retain_graph": True, "allow_unused": True}
    try:
        return list(torch.autograd.grad(outputs, own, grads, is_grads_batched=True, **options))
    except RuntimeError:  # an operation that vmap can't take
        rows = ([g[u] for g in grads] for u in range(len(grads[0])))
        each = [torch.autograd.grad(outputs, own, row, **options) for row in rows]
        return [None if of[0] is None else torch.stack(of) for of in zip(*each, strict=True)]


def slow_gram(up: Upstream, params: list[nn.Parameter], units: int) -> Tensor:
    """[U, K, K] over `params` by a backward pass for every unit and loss; keeps the graph."""
    K = len(up.delta)
    # one pass with random weights shows those that get nothing at all, as behind weights that start at zero
    some = torch.rand(up.samples, K, generator=torch.Generator().manual_seed(1)).to(params[0].device) + 0.5
    found = up.gradients(params, some, keep_graph=True)
    params = [p for p, g in zip(params, found, strict=True) if g is not None and bool(dense(g).any())]
    rows = ([single_unit(up, params, units, u, k) for k in range(K)] for u in range(units))
    grams = [inner_products(of, wide(up.pooled[0].dtype)) for of in rows]
    return torch.stack(grams).to(up.pooled[0].device)


def single_unit(
    up: Upstream, params: Sequence[nn.Parameter], units: int, u: int, k: int
) -> list[Tensor | None]:
    """The gradient of one unit under one loss; keeps the graph."""
    one = torch.zeros(units, len(up.delta), device=up.pooled[0].device)
    one[u, k] = 1
    return up.gradients(params, spread(one, up.samples), keep_graph=True, only=k)


def add_up(uses: list[Use], sink: Sink, weights: Tensor, part: Tensor | None = None) -> None:
    """Add sum_i sum_k weights[i, k] g[k, i] of the uses to `sink`, and let go of them.

    part: units outside of which the weights are 0.
    """
    buffers = Buffers()
    while uses:
        uses.pop().add_to(sink, weights, buffers, part)


def update(layers: Layers, up: Upstream, unit_weights: Tensor) -> None:
    """Fill `.grad` upstream with sum_i sum_k weights[i, k] g[k, i]; weights [U, K]."""
    sink, quick = Sink(skipped=layers.slow), layers.quick()
    add_up(layers.uses, sink, unit_weights)
    # under autocast the copies of parameters in 16 bits are shared with what the slow ones need
    made = sink.pull_back(quick, keep_graph=bool(layers.slow))
    slow = [p for i, p in layers.parameters.items() if i in layers.slow]
    rest = up.gradients(slow, spread(unit_weights, up.samples), keep_graph=False)
    for p, grad in zip([*quick, *slow], [*made, *rest], strict=True):
        add_grad(p, grad)


def representation_gram(up: Upstream, units: int) -> Tensor:
    """[U, K, K] from the cotangents of the pooled vectors that at least two losses reach.

    With L_va and L_vt that is the video vector; the audio and text vectors know one loss only and would
    leave b as it is while inflating a and c. Where one loss alone is there, it is that of all it reaches.

    Raises:
        BadInput: no pooled vector is reached by two losses.
    """
    K = len(up.delta)
    first = next(d for of in up.delta for d in of if d is not None)
    gram = torch.zeros(up.samples, K, K, dtype=wide(first.dtype), device=first.device)
    buffers = Buffers()
    alone = len(set[int]().union(*up.losses_at())) < 2
    met = False
    for m in range(len(up.pooled)):
        here = {k: d.reshape(up.samples, -1) for k, of in enumerate(up.delta) if (d := of[m]) is not None}
        if len(here) < 2 and not alone:
            continue
        met = True
        for k, d in here.items():
            for other, e in here.items():
                gram[:, k, other] += buffers.dot(d, e)
    if not met:
        raise BadInput("scope representation: no pooled vector is reached by two losses; use scope all")
    return sum_units(gram, units)
