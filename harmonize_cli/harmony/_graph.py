"""The graph of a step, cut at the pooled vectors: what they were made from, and what was made from them."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._scope import Rows
from harmonize_cli.harmony._tape import Op

Cotangents = list[list[Tensor | None]]
"""Per loss, at each of some places."""


@dataclass(slots=True)
class Reach:
    """What a walk up the graph met.

    ops: operations jumped over, or all recorded ones where none is, in no order. leaves: by id, those reached
    in another way. shuffled: operations above a step that picks rows by their values. nodes: all visited.
    form: the way taken, the same for graphs that do the same.
    """

    ops: set[Op] = field(default_factory=set)
    leaves: dict[int, Tensor] = field(default_factory=dict)
    shuffled: set[Op] = field(default_factory=set)
    nodes: set[Node] = field(default_factory=set)
    form: list[Hashable] = field(default_factory=list)


class Graph:
    """Walks up a graph with recorded operations in it."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.made_by = {edge.node: op for op in ops for edge in op.edges}

    def walk(
        self, starts: Iterable[Node | None], stops: frozenset[Node] = frozenset(), jump: set[Op] | None = None
    ) -> Reach:
        """From `starts`, these included, to `stops`, these excluded.

        jump: operations whose parameters are accounted for: from their outputs the walk goes straight on to
        their other arguments.
        """
        found = Reach()
        seen: dict[Node, bool] = {}
        todo = [(node, False) for node in starts if node is not None]
        while todo:
            node, shuffled = todo.pop()
            if node in stops or (node in seen and (seen[node] or not shuffled)):
                continue
            seen[node] = shuffled
            op = self.made_by.get(node)
            if op is not None and (jump is None or op in jump):
                found.ops.add(op)
                if shuffled:
                    found.shuffled.add(op)
                if jump is not None:
                    nexts = [edge.node for edge in op.inputs]
                    nexts += [s.edge.node for s in op.sides if s.made_by is not None and s.made_by in jump]
                    todo.extend((below, shuffled) for below in nexts)
                    continue
            name = type(node).__name__
            if name == "AccumulateGrad":
                found.leaves[id(node.variable)] = node.variable  # type: ignore[attr-defined]
                continue
            if jump is not None:
                places = PLACES if _is(name, CUTTING) else ()
                found.form.append((name, *(str(getattr(node, f"_saved_{at}", "")) for at in places)))
                shuffled = shuffled or picks_rows(node, name)
            todo.extend((below, shuffled) for below, _ in node.next_functions if below is not None)
        found.nodes = set(seen)
        return found


def picks_rows(node: Node, name: str) -> bool:
    """Whether a node may move rows between samples by values that differ from step to step."""
    if _is(name, INDEXING):
        indices = getattr(node, "_saved_indices", None)
        return indices is None or not _in_order(indices)
    return _is(name, PICKING) or (_is(name, ALONG) and getattr(node, "_saved_dim", 0) == 0)


@cache
def _is(name: str, starts: tuple[str, ...]) -> bool:
    return name.startswith(starts)


CUTTING = ("Slice", "Select", "Narrow", "Split", "Roll", "Flip", "AsStrided")
PLACES = ("dim", "dims", "start", "index", "shifts", "storage_offset")
INDEXING = ("IndexBackward", "IndexPutBackward")
PICKING = (
    *("MaskedSelect", "MaskedScatter", "IndexAdd", "IndexCopy", "IndexReduce"),
    *("PackPadded", "Take", "Unique"),
)
ALONG = ("IndexSelect", "Gather", "Scatter", "Sort", "Topk")


def _in_order(indices: Sequence[Tensor | None]) -> bool:
    """Rows stay where they are: not indexed, or by 0, 1, 2, ... as in x[arange(B), last]."""
    first = indices[0] if len(indices) else None
    if first is None:
        return True
    by_number = first.dim() == 1 and first.dtype != torch.bool
    return by_number and torch.equal(first, torch.arange(len(first)).to(first.device))


@dataclass(slots=True)
class Upstream:
    """What some pooled vectors were made from, and their cotangents.

    pooled: those that need a gradient. delta[k][m]: gradient of loss k at pooled[m], None where it does not
    reach it. samples: B. ops: the recorded operations of the pass. couplings: outputs of operations that mix
    samples by batch statistics.
    """

    pooled: list[Tensor]
    samples: int
    ops: list[Op]
    couplings: list[GradientEdge]
    delta: Cotangents = field(default_factory=list)

    def losses_at(self) -> list[set[int]]:
        """Per pooled vector, the losses that reach it."""
        return [{k for k, of in enumerate(self.delta) if of[m] is not None} for m in range(len(self.pooled))]

    def weighted(self, weights: Tensor, only: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """Pooled vectors and sum_k weights[i, k] delta[k]; weights [B, K]; only: the one loss that has
        any."""
        losses = range(len(self.delta)) if only is None else [only]
        found = ([self.delta[k][m] for k in losses] for m in range(len(self.pooled)))
        columns = weights if only is None else weights[:, only, None]
        sums = ((z, weighted_sum(of, columns)) for z, of in zip(self.pooled, found, strict=True))
        return [(z, d) for z, d in sums if d is not None]

    def backward(self, weights: Tensor) -> None:
        """One ordinary backward pass with weighted cotangents, accumulating into `.grad`; weights [B, K]."""
        pairs = self.weighted(weights)
        torch.autograd.backward([z for z, _ in pairs], [d for _, d in pairs])

    def gradients(
        self,
        inputs: Sequence[Tensor | GradientEdge],
        weights: Tensor,
        *,
        keep_graph: bool,
        only: int | None = None,
    ) -> list[Tensor | None]:
        """The gradient under weights [B, K] at `inputs`, by one ordinary backward pass; only: as there."""
        return pull(self.weighted(weights, only), inputs, keep_graph=keep_graph)


def pull(
    pairs: Sequence[tuple[Tensor | GradientEdge, Tensor | None]],
    inputs: Sequence[Tensor | GradientEdge],
    *,
    keep_graph: bool,
) -> list[Tensor | None]:
    """Gradients at `inputs` from tensors with their cotangents; None where nothing comes."""
    if not pairs or not inputs:
        return [None] * len(inputs)
    edges = [get_gradient_edge(x) if isinstance(x, Tensor) else x for x in inputs]
    roots: Any = [y for y, _ in pairs]
    given = [d for _, d in pairs]
    return list(torch.autograd.grad(roots, edges, given, retain_graph=keep_graph, allow_unused=True))


def weighted_sum(delta: Sequence[Tensor | None], weights: Tensor, rows: Rows | None = None) -> Tensor | None:
    """sum_k weights[i, k] delta[k] for samples or units i, in a new tensor; None where no loss has any."""
    total: Tensor | None = None
    for k, d in enumerate(delta):
        if d is not None:
            part = (rows or Rows()).scale(d, weights[:, k])
            total = part if total is None else total.add_(part)
    return total


def upstream(pooled: Sequence[Tensor], ops: list[Op], couplings: list[GradientEdge]) -> Upstream:
    """The graph above `pooled`, its `delta` still to be filled.

    Raises:
        BadInput: no pooled vector needs a gradient, or they have no common batch size.
    """
    rooted = [z for z in pooled if z.requires_grad]
    if not rooted:
        raise BadInput("no pooled vector requires a gradient: is the encoder frozen, or run under no_grad?")
    if any(z.dim() == 0 for z in pooled):
        raise BadInput("pooled: a scalar; expected vectors with a row for each sample, [B, ...]")
    samples = min(len(z) for z in pooled)
    if samples == 0 or any(len(z) % samples for z in pooled):
        raise BadInput(f"pooled vectors of {[len(z) for z in pooled]} rows: not multiples of one batch size")
    return Upstream(rooted, samples, ops, couplings)


Chunks = Callable[[bool], Iterable[tuple[slice, Upstream]]]
"""The batch's parts in order: their samples, and the graphs that their pooled vectors were made in; recorded
where layers are going to be read (True)."""
