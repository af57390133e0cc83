"""The cut through the graph at the pooled vectors: the cotangents there, and what lies downstream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony.downstream import Downstream, Plain, Pulled, downstream
from harmonize_cli.harmony.graph import leaves, reached
from harmonize_cli.harmony.layers import Cotangents, add_grad
from harmonize_cli.harmony.tape import Call


@dataclass(slots=True)
class Part:
    """Pooled vectors whose graphs hang together, and the calls in these graphs."""

    pooled: list[int]
    calls: list[Call]


@dataclass(slots=True)
class Cut:
    """delta[k][m]: gradient of loss k at pooled[m], None where it doesn't reach it.

    parts: the graph upstream. head_calls, plain: see `Pulled`. behind: the graph downstream, while a gate may
    still take losses away there; None where it has no doors.
    upstream: parameters of the upstream graph. passed and leaves, per pooled vector: names of the layers and
    ids of the leaves that it was made with.
    """

    losses: list[str]
    pooled: list[Tensor]
    samples: int
    delta: list[list[Tensor | None]]
    parts: list[Part]
    upstream: list[nn.Parameter]
    passed: list[set[str]]
    leaves: list[set[int]]
    head_calls: list[tuple[Call, Cotangents]] = field(default_factory=list)
    plain: Plain = field(default_factory=list)
    behind: Downstream | None = None

    def reaching(self, part: Part) -> list[int]:
        """The losses with a cotangent at any pooled vector of `part`."""
        return [k for k, of in enumerate(self.delta) if any(of[m] is not None for m in part.pooled)]

    def weighted(self, weights: Tensor) -> list[Tensor | None]:
        """sum_k weights[i, k] delta[k][m], per pooled vector; weights [B, K]."""
        found: list[Tensor | None] = []
        for m in range(len(self.pooled)):
            total: Tensor | None = None
            for k, of in enumerate(self.delta):
                d = of[m]
                if d is not None:
                    rows = weights[:, k].repeat_interleave(len(d) // self.samples).to(d.dtype)
                    part = d * rows.view(-1, *[1] * (d.dim() - 1))
                    total = part if total is None else total + part
            found.append(total)
        return found

    def backward(self, weights: Tensor) -> None:
        """One ordinary backward pass with weighted cotangents, accumulating into `.grad`; weights [B, K]."""
        pairs = [(z, d) for z, d in zip(self.pooled, self.weighted(weights), strict=True) if d is not None]
        torch.autograd.backward([z for z, _ in pairs], [d for _, d in pairs])

    def take(self, pulled: Pulled) -> None:
        """Set what comes from downstream."""
        self.delta, self.head_calls, self.plain = pulled.delta, pulled.head_calls, pulled.plain

    def close(self, taking_part: Tensor) -> None:
        """Take losses away from samples, at the doors; `taking_part`: [B, K]. Frees the graph downstream."""
        assert self.behind is not None
        self.take(self.behind.pull_without(taking_part))
        self.behind = None

    def add_plain(self) -> None:
        """Add the gradients of parameters downstream that the weights don't touch."""
        for p, grads in self.plain:
            for grad in grads:
                if grad is not None:
                    add_grad(p, grad)


def make_cut(
    losses: Mapping[str, Tensor],
    pooled: Sequence[Tensor],
    calls: Sequence[Call],
    *,
    read_heads: bool,
    doors: Sequence[Tensor] = (),
) -> Cut:
    """Differentiate the losses down to `pooled`; frees the graph downstream unless there are `doors` in it.

    read_heads: treat recorded calls downstream layer by layer (`head_calls`) instead of plainly.

    Raises:
        BadInput: no pooled vector needs a gradient, or a parameter is used on both sides of the cut.
    """
    rooted = [z for z in pooled if z.requires_grad]
    samples = _samples(pooled, rooted)
    cut = upstream_cut(list(losses), rooted, samples, calls)
    behind = downstream(losses, rooted, samples, calls if read_heads else (), doors)
    trained = {id(p) for p in behind.leaves} | {id(p) for p, _ in behind.beyond}
    trained |= {id(p) for call in behind.heads for p in call.module.parameters()}
    if any(id(p) in trained for p in cut.upstream):
        raise BadInput(
            "a parameter is used both before and after the pooled vectors (tied weights); "
            "give pooled vectors that lie behind both uses"
        )
    cut.take(behind.pull(keep_graph=bool(doors)))
    cut.behind = behind if doors else None
    return cut


def upstream_cut(losses: list[str], pooled: list[Tensor], samples: int, calls: Sequence[Call]) -> Cut:
    """The cut seen from upstream alone, its `delta` still to be filled."""
    reach = [reached([z.grad_fn]) for z in pooled]
    own = [[call for call in calls if _on(call, nodes)] for nodes in reach]
    of_leaves = [leaves(nodes) for nodes in reach]
    pooled_ids = {id(z) for z in pooled}
    upstream = {i: leaf for found in of_leaves for i, leaf in found.items() if i not in pooled_ids}
    return Cut(
        losses=losses,
        pooled=pooled,
        samples=samples,
        delta=[],
        parts=_parts(own),
        upstream=[p for p in upstream.values() if isinstance(p, nn.Parameter)],
        passed=[{call.name for call in found} for found in own],
        leaves=[set(found) for found in of_leaves],
    )


def _parts(own: list[list[Call]]) -> list[Part]:
    """Group pooled vectors that share a call. (Under autocast all graphs share the cast weights' nodes; that
    alone does not tie them together.)"""
    parts: list[Part] = []
    for m, calls in enumerate(own):
        joined = Part([m], list(calls))
        for part in parts:
            if set(part.calls) & set(calls):
                more = [call for call in part.calls if call not in joined.calls]
                joined = Part(part.pooled + joined.pooled, joined.calls + more)
        parts = [part for part in parts if not set(part.pooled) & set(joined.pooled)] + [joined]
    return parts


def _samples(pooled: Sequence[Tensor], rooted: Sequence[Tensor]) -> int:
    if not rooted:
        raise BadInput("no pooled vector requires a gradient: is the encoder frozen, or run under no_grad?")
    samples = min(len(z) for z in pooled)
    if samples == 0 or any(len(z) % samples for z in pooled):
        raise BadInput(f"pooled vectors of {[len(z) for z in pooled]} rows: not multiples of one batch size")
    return samples


def _on(call: Call, nodes: set[torch.autograd.graph.Node]) -> bool:
    return any(edge.node in nodes for edge in call.edges)
