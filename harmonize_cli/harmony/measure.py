"""Gram matrices per unit over the layers in scope, by cotangent-only passes; then one update."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony.cut import Cut, Part
from harmonize_cli.harmony.generic import GenericLayer
from harmonize_cli.harmony.gram import add_shared
from harmonize_cli.harmony.layers import (
    Cotangents,
    OuterLayer,
    RowLayer,
    SettledLayer,
    add_grad,
    reader_of,
)
from harmonize_cli.harmony.scope import Scope
from harmonize_cli.harmony.segments import drop_dead_tokens
from harmonize_cli.harmony.sketch import Sketch
from harmonize_cli.harmony.sums import Buffers, GramSum
from harmonize_cli.harmony.tape import Call, owned

Measured = OuterLayer | SettledLayer | GenericLayer


@dataclass(slots=True)
class Measurement:
    """gram [U, K, K] over the scope; layers: everything upstream, ready for the update.

    names: the layers in scope. loose: upstream parameters that no recorded per-sample call owns.
    """

    gram: Tensor
    layers: list[Measured]
    names: list[str]
    loose: list[nn.Parameter] = field(default_factory=list)


def measure(
    cut: Cut,
    units: int,
    scope: Scope,
    names: Iterable[str],
    sketch: Sketch | None,
    *,
    keep_graph: bool = False,
) -> Measurement:
    """The cotangent passes and the Gram; frees the graph unless told to keep it, or parameters are loose.

    Raises:
        BadInput: a layer in scope has no gradient per sample.
    """
    per_sample = {call for part in cut.parts for call in part.calls if call.rows % cut.samples == 0}
    covered = {id(p) for call in per_sample for p in owned(call.module)}
    loose = [p for p in cut.upstream if id(p) not in covered]
    _refuse_shared_rows(cut, scope, per_sample)
    chosen = scope.choose([passed & {call.name for call in per_sample} for passed in cut.passed], list(names))
    by_module: dict[nn.Module, list[tuple[Call, Cotangents]]] = defaultdict(list)
    for part in cut.parts:
        calls = [call for call in part.calls if call in per_sample]
        for call, cotangents in _cotangents(cut, part, calls, keep_graph=keep_graph or bool(loose)):
            if any(d is not None for of in cotangents for d in of):
                by_module[call.module].append((call, cotangents))
    if scope.name == "all":
        chosen |= {call.name for call, _ in cut.head_calls}
        by_module |= heads_by_module(cut)
    layers, in_scope = read_layers(by_module, units, chosen)
    first = next(d for of in cut.delta for d in of if d is not None)
    total = GramSum(units, len(cut.losses), first)
    add_grams(in_scope, total, sketch)
    return Measurement(total.table(), layers, [layer.name for layer in in_scope], loose)


def heads_by_module(cut: Cut) -> dict[nn.Module, list[tuple[Call, Cotangents]]]:
    """The recorded calls downstream of the cut."""
    found: dict[nn.Module, list[tuple[Call, Cotangents]]] = {}
    for call, cotangents in cut.head_calls:
        found.setdefault(call.module, []).append((call, cotangents))
    return found


def read_layers(
    by_module: dict[nn.Module, list[tuple[Call, Cotangents]]], units: int, chosen: set[str]
) -> tuple[list[Measured], list[Measured]]:
    """All layers, and those of them whose names are `chosen`. Consumes `by_module`."""
    read: list[OuterLayer | RowLayer] = []
    layers: list[Measured] = []
    while by_module:
        module = next(iter(by_module))
        calls = by_module.pop(module)
        reader, name = reader_of(module), calls[0][0].name
        if reader is None:
            layers.append(GenericLayer(name, module, calls, units))
        else:
            read.append(reader(name, module, calls, units))
    drop_dead_tokens([segment for layer in read for segment in layer.segments])
    buffers = Buffers()
    layers.extend(layer.settle(buffers) if isinstance(layer, RowLayer) else layer for layer in read)
    return layers, [layer for layer in layers if layer.name in chosen]


def add_grams(layers: Iterable[Measured], total: GramSum, sketch: Sketch | None) -> None:
    """Add the Gram terms of `layers` to `total`."""
    buffers = Buffers()
    sharing: dict[tuple[object, ...], list[OuterLayer]] = defaultdict(list)
    for layer in layers:
        if isinstance(layer, OuterLayer):
            sharing[tuple((s.x.data_ptr(), s.x.shape, s.x.stride()) for s in layer.segments)].append(layer)
        else:
            layer.add_gram(total, buffers)
    for group in sharing.values():
        factors = [layer.factors for layer in group]
        if sketch is not None and sketch.pays(factors):
            sketch.add_gram(factors, total, buffers)
        else:
            add_shared(factors, total, buffers)


def update(found: Measurement, cut: Cut, unit_weights: Tensor, sample_weights: Tensor) -> None:
    """Fill `.grad` upstream of the cut with sum_i sum_k weights[i, k] g[k, i]; weights [U, K] and [B, K]."""
    buffers = Buffers()
    while found.layers:
        found.layers.pop().update(unit_weights, buffers)
    if found.loose:
        pairs = [
            (z, d) for z, d in zip(cut.pooled, cut.weighted(sample_weights), strict=True) if d is not None
        ]
        grads = torch.autograd.grad(
            [z for z, _ in pairs], found.loose, [d for _, d in pairs], allow_unused=True
        )
        for p, grad in zip(found.loose, grads, strict=True):
            if grad is not None:
                add_grad(p, grad)


def _cotangents(
    cut: Cut, part: Part, calls: list[Call], *, keep_graph: bool
) -> list[tuple[Call, Cotangents]]:
    """One input-gradient pass per loss that reaches `part`; autograd then skips the weight gradients."""
    edges = [edge for call in calls for edge in call.edges]
    reaching = cut.reaching(part)
    empty: list[Tensor | None] = [None] * len(edges)
    found = dict.fromkeys(range(len(cut.losses)), empty)
    for k in reaching if edges else ():
        pairs = [(cut.pooled[m], cut.delta[k][m]) for m in part.pooled if cut.delta[k][m] is not None]
        found[k] = list(
            torch.autograd.grad(
                [z for z, _ in pairs],
                edges,
                [d for _, d in pairs],
                retain_graph=keep_graph or k != reaching[-1],
                allow_unused=True,
            )
        )
    gathered, at = [], 0
    for call in calls:
        stop = at + len(call.edges)
        gathered.append((call, [found[k][at:stop] for k in range(len(cut.losses))]))
        at = stop
    return gathered


def _refuse_shared_rows(cut: Cut, scope: Scope, per_sample: set[Call]) -> None:
    for part in cut.parts:
        for call in part.calls:
            if call not in per_sample and scope.covers(call.name):
                raise BadInput(
                    f"{call.name}: its output of shape {list(call.shapes[0])} has no rows of {cut.samples} "
                    "samples, so no gradient per sample; let the module return a row per sample, or leave "
                    "it out of the scope"
                )
