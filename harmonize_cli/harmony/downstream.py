"""Between the pooled vectors and the losses: heads, and the doors at which a gate takes losses away.

A door is an alias of a head's output that the losses are made from. Closing it for a sample and a loss treats
that embedding as a constant. The cotangents then go back through the heads once more: BatchNorm there couples
the samples, and rows cut out behind it would lack the terms that keep its mean and variance where they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony.graph import leaves, reached
from harmonize_cli.harmony.layers import Cotangents
from harmonize_cli.harmony.tape import Call

Roots = list[list[tuple[Tensor, Tensor | None]]]
"""Per loss: tensors to start from, and their cotangents (None for the loss itself)."""


Plain = list[tuple[nn.Parameter, list[Tensor | None]]]
"""Parameters, and their gradient under each loss."""

ADVICE = (
    "make the losses from nothing but what `Harmonizer.through_gate` returns for the heads' outputs: "
    "`losses = ...(harmonizer.through_gate(heads(pooled)))`"
)


@dataclass(slots=True)
class Pulled:
    """Gradients per loss: at the pooled vectors [k][m], at the outputs of recorded head calls, and plain ones
    of the parameters that no recorded call owns."""

    delta: list[list[Tensor | None]]
    head_calls: list[tuple[Call, Cotangents]]
    plain: Plain


@dataclass(slots=True)
class Downstream:
    """The graph between `pooled` and `roots`: the losses, or the doors with the losses' cotangents.

    heads: recorded calls, read layer by layer. leaves: what they don't own. beyond: parameters between doors
    and losses, such as a learned temperature, which no gate touches.
    """

    pooled: list[Tensor]
    heads: list[Call]
    leaves: list[Tensor]
    roots: Roots
    beyond: Plain = field(default_factory=list)

    def pull(self, *, keep_graph: bool = False) -> Pulled:
        """Differentiate down to the pooled vectors; frees the graph unless told to keep it."""
        edges = [edge for call in self.heads for edge in call.edges]
        inputs = [*map(get_gradient_edge, self.pooled), *edges, *map(get_gradient_edge, self.leaves)]
        found = _gradients(self.roots, inputs, keep_graph=keep_graph)
        at, end = len(self.pooled), len(self.pooled) + len(edges)
        outputs = [iter(row[at:end]) for row in found]
        calls = [(call, [[next(of) for _ in call.edges] for of in outputs]) for call in self.heads]
        plain = _of_parameters(self.leaves, [row[end:] for row in found])
        return Pulled([row[:at] for row in found], calls, plain + self.beyond)

    def pull_without(self, taking_part: Tensor) -> Pulled:
        """`pull` with the doors closed for the samples and losses where `taking_part` [B, K] is 0."""
        B = len(taking_part)

        def open_rows(d: Tensor | None, k: int) -> Tensor | None:
            if d is None:
                return None
            rows = taking_part[:, k].repeat_interleave(len(d) // B).to(d)
            return d * rows.view(-1, *[1] * (d.dim() - 1))

        self.roots = [[(y, open_rows(d, k)) for y, d in pairs] for k, pairs in enumerate(self.roots)]
        return self.pull()


def downstream(
    losses: Mapping[str, Tensor],
    pooled: list[Tensor],
    samples: int,
    calls: Sequence[Call],
    doors: Sequence[Tensor] = (),
) -> Downstream:
    """What lies between `pooled` and `losses`. calls: recorded ones, to be read layer by layer.

    Raises:
        BadInput: losses that pass the doors by, or doors without rows for the samples.
    """
    stops = frozenset(z.grad_fn for z in pooled if z.grad_fn is not None)
    below = reached([loss.grad_fn for loss in losses.values()], stops)
    heads = [c for c in calls if any(edge.node in below for edge in c.edges)]
    heads = [c for c in heads if c.rows % samples == 0 and not couples(c.module)]
    owned = {id(p) for c in heads for p in c.module.parameters()} | {id(z) for z in pooled}
    roots: Roots = [[(loss, None)] for loss in losses.values()]
    if not doors:
        return Downstream(pooled, heads, _others(below, owned), roots)
    ends = frozenset(door.grad_fn for door in doors if door.grad_fn is not None)
    past = reached([loss.grad_fn for loss in losses.values()], ends)
    if past & stops or leaves(past).keys() & {id(z) for z in pooled}:
        raise BadInput("gate: the losses read something else made from the pooled vectors; " + ADVICE)
    if any(len(door) % samples for door in doors):
        raise BadInput(f"gate: through_gate saw {[len(d) for d in doors]} rows for {samples} samples")
    beyond = _others(past, set())
    found = _gradients(roots, [*map(get_gradient_edge, [*doors, *beyond])], keep_graph=True)
    return Downstream(
        pooled,
        heads,
        _others(reached(ends, stops), owned),
        [list(zip(doors, row[: len(doors)], strict=True)) for row in found],
        _of_parameters(beyond, [row[len(doors) :] for row in found]),
    )


def couples(module: nn.Module) -> bool:
    """Whether a sample's output depends on the other rows."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _others(nodes: Iterable[Node], owned: set[int]) -> list[Tensor]:
    return [leaf for i, leaf in leaves(nodes).items() if i not in owned]


def _of_parameters(of: list[Tensor], rows: list[list[Tensor | None]]) -> Plain:
    return [(p, [row[n] for row in rows]) for n, p in enumerate(of) if isinstance(p, nn.Parameter)]


def _gradients(
    roots: Roots, inputs: Sequence[GradientEdge], *, keep_graph: bool
) -> list[list[Tensor | None]]:
    """Per loss, at each of `inputs`."""
    rows: list[list[Tensor | None]] = []
    last = len(roots) - 1
    for k, pairs in enumerate(roots):
        pulled = [(y, d) for y, d in pairs if y.grad_fn is not None and (d is not None or y.dim() == 0)]
        row: list[Tensor | None] = [None] * len(inputs)
        if pulled and inputs:
            row = list(
                torch.autograd.grad(
                    [y for y, _ in pulled],
                    inputs,
                    [d for _, d in pulled],
                    retain_graph=keep_graph or k < last,
                    allow_unused=True,
                )
            )
        rows.append(row)
    return rows
