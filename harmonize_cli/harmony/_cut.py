"""A step's graph, cut at the pooled vectors; below it the heads, and the detach mask of a gate."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._graph import Cotangents, Graph, Reach, Upstream, pull
from harmonize_cli.harmony._scope import Rows
from harmonize_cli.harmony._tape import Op
from harmonize_cli.harmony._wrapped import SHARDED_HEADS, Wrapped

Pooled = Tensor | Mapping[str, Tensor] | Iterable[Tensor]

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
    """Gradients per loss: at the pooled vectors, at the outputs of recorded operations of the heads, and
    plain ones of all other parameters."""

    delta: Cotangents
    at_heads: dict[Op, Cotangents]
    plain: Plain


@dataclass(slots=True)
class Downstream:
    """The graph between `pooled` and `roots`: the losses, or the detach mask with the losses' cotangents.

    The detach mask is an alias of each head's output, which the losses are made from. Taking a loss away from
    a sample there treats that embedding as a constant. The cotangents then go back through the heads once
    more: BatchNorm there couples the samples, and rows cut out behind it would lack the terms that keep its
    mean and variance where they are.

    heads: recorded operations, read one by one. leaves: the parameters that they don't account for. beyond:
    parameters between the mask and the losses, such as a learned temperature, which no gate touches.
    """

    pooled: list[Tensor]
    heads: list[Op]
    leaves: list[nn.Parameter]
    roots: Roots
    beyond: Plain = field(default_factory=list)

    def pull(self, *, keep_graph: bool) -> Pulled:
        """Differentiate down to the pooled vectors; frees the graph unless `keep_graph`."""
        edges = [edge for op in self.heads for edge in op.edges]
        inputs = [*map(get_gradient_edge, self.pooled), *edges, *map(get_gradient_edge, self.leaves)]
        found = _gradients(self.roots, inputs, keep_graph=keep_graph)
        at, end = len(self.pooled), len(self.pooled) + len(edges)
        outputs = [iter(row[at:end]) for row in found]
        heads = {op: [op.shaped([next(of) for _ in op.edges]) for of in outputs] for op in self.heads}
        plain = [(p, [row[end + n] for row in found]) for n, p in enumerate(self.leaves)]
        return Pulled([row[:at] for row in found], heads, plain + self.beyond)

    def pull_without(self, taking_part: Tensor) -> Pulled:
        """`pull` with losses detached from the samples where `taking_part` [B, K] is 0; frees the graph."""
        self.roots = [
            [(y, None if d is None else Rows().scale(d, taking_part[:, k])) for y, d in pairs]
            for k, pairs in enumerate(self.roots)
        ]
        return self.pull(keep_graph=False)


@dataclass(slots=True)
class Cut:
    """A step's graph, cut at the pooled vectors.

    up: all samples, with their cotangents. down: the graph below, kept while a gate may take losses away
    there. pulled: what came from below. above, below: the tensors trained on either side, by id.
    """

    losses: list[str]
    up: Upstream
    down: Downstream | None
    pulled: Pulled
    above: dict[int, Tensor]
    below: dict[int, Tensor]

    def refuse_unknown(self, names: Mapping[int, Sequence[str]], wrapped: Wrapped) -> None:
        """names: paths of the parameters of the modules, by id.

        Raises:
            BadInput: the losses train others, or one on both sides; sharded heads, or reduced by DDP.
        """
        # with FSDP the graph above has gathered copies, which are nobody's parameters
        above = {} if wrapped.shards else {i: p for i, p in self.above.items() if isinstance(p, nn.Parameter)}
        if any(wrapped.owns(path) for i in self.below for path in names.get(i, ())):
            raise BadInput(SHARDED_HEADS)
        if not names.keys() >= {*self.below, *above}:
            raise BadInput(
                SHARDED_HEADS
                if wrapped.shards
                else "the losses train parameters outside the given modules; pass all of them, "
                'such as Harmonizer({"": model, "loss": loss})'
            )
        both = [names[i][0] for i in self.above if i in self.below]
        if both:
            raise BadInput(
                f"{both[0]}: a parameter is used both before and after the pooled vectors (tied weights, or "
                "a loss that reads something else than the pooled vectors); give pooled vectors that lie "
                "behind both uses"
            )
        wrapped.refuse_reduced({*self.above, *self.below})


def make_cut(
    losses: Mapping[str, Tensor],
    up: Upstream,
    mask: Sequence[Tensor],
    readable: Callable[[Upstream, list[Op]], list[Op]] | None,
) -> Cut:
    """mask, readable: see `downstream`.

    Raises:
        BadInput: see `downstream`; or no loss depends on the pooled vectors, or one of these on another.
    """
    down = downstream(losses, up, mask, readable)
    below = {id(p): p for p in [*down.leaves, *(p for p, _ in down.beyond)]}
    below |= {id(s.tensor): s.tensor for op in down.heads for s in op.sides}  # type: ignore[misc]
    pulled = down.pull(keep_graph=bool(mask))
    up.delta = pulled.delta
    if not any(d is not None for of in up.delta for d in of):
        raise BadInput(
            "no loss depends on the pooled vectors; give `backward` the very tensors that the losses were "
            "made from"
        )
    above: dict[int, Tensor] = {}
    for z in up.pooled:
        reach = Graph([]).walk([z.grad_fn])
        above |= reach.leaves
        others = (y for y in up.pooled if y is not z and y.grad_fn is not z.grad_fn)
        if len({id(y) for y in up.pooled}) < len(up.pooled) or any(y.grad_fn in reach.nodes for y in others):
            raise BadInput(
                "pooled: one vector is another, or was made from it, so its path would count twice; give "
                "each once, and only the last of a chain"
            )
    return Cut(list(losses), up, down if mask else None, pulled, above, dict(below))


def downstream(
    losses: Mapping[str, Tensor],
    up: Upstream,
    mask: Sequence[Tensor],
    readable: Callable[[Upstream, list[Op]], list[Op]] | None,
) -> Downstream:
    """What lies between the pooled vectors and `losses`. mask: the outputs of `through_gate`.

    readable: picks the recorded operations of the heads to account for one by one; none by default.

    Raises:
        BadInput: losses that are no scalars or have no graph, that pass the detach mask by, or a mask without
            rows for the samples.
    """
    _check_losses(losses)
    stops = frozenset(z.grad_fn for z in up.pooled if z.grad_fn is not None)
    graph, own = Graph(up.ops), {id(z) for z in up.pooled}

    def parameters(reach: Reach) -> list[nn.Parameter]:
        return [p for i, p in reach.leaves.items() if isinstance(p, nn.Parameter) and i not in own]

    ends = [loss.grad_fn for loss in losses.values()]
    below = graph.walk(ends, stops)
    heads = readable(up, [op for op in up.ops if op in below.ops]) if readable is not None else []
    rest = graph.walk(ends, stops, set(heads))
    clear = [op for op in heads if not any(id(s.tensor) in rest.leaves for s in op.sides)]
    if len(clear) < len(heads):  # a parameter that is used in another way too gets its plain gradient
        heads, rest = clear, graph.walk(ends, stops, set(clear))
    roots: Roots = [[(loss, None)] for loss in losses.values()]
    if not mask:
        return Downstream(up.pooled, heads, parameters(rest), roots)
    gates = frozenset(y.grad_fn for y in mask if y.grad_fn is not None)
    past = graph.walk(ends, gates)
    if past.nodes & stops or past.leaves.keys() & own:
        raise BadInput("gate: the losses read something else made from the pooled vectors; " + ADVICE)
    if any(len(y) % up.samples for y in mask):
        raise BadInput(f"gate: through_gate was given {[len(y) for y in mask]} rows for {up.samples} samples")
    beyond = parameters(past)
    found = _gradients(roots, [*map(get_gradient_edge, [*mask, *beyond])], keep_graph=True)
    return Downstream(
        up.pooled,
        heads,
        parameters(graph.walk(gates, stops, set(heads))),
        [list(zip(mask, row[: len(mask)], strict=True)) for row in found],
        [(p, [row[len(mask) + n] for row in found]) for n, p in enumerate(beyond)],
    )


def _check_losses(losses: Mapping[str, Tensor]) -> None:
    if not isinstance(losses, Mapping) or not losses:
        kind = "none given" if isinstance(losses, Mapping) else type(losses).__name__
        raise BadInput(f"losses: {kind}; expected scalars by name, such as {{'va': ..., 'vt': ...}}")
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            shape = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise BadInput(f"losses[{name!r}]: {shape}; expected a scalar tensor: take its mean or sum first")
    if not any(loss.requires_grad for loss in losses.values()):
        raise BadInput(
            f"losses {', '.join(losses)}: none depends on a parameter (detached, or under no_grad)"
        )


def _gradients(
    roots: Roots, inputs: Sequence[GradientEdge], *, keep_graph: bool
) -> list[list[Tensor | None]]:
    """Per loss, at each of `inputs`."""
    reached = [[(y, d) for y, d in pairs if y.grad_fn and (d is not None or y.dim() == 0)] for pairs in roots]
    last = len(roots) - 1
    return [pull(pairs, inputs, keep_graph=keep_graph or k < last) for k, pairs in enumerate(reached)]


def listed(pooled: Pooled) -> list[Tensor]:
    """The pooled vectors in order.

    Raises:
        BadInput: something else than tensors.
    """
    if isinstance(pooled, Tensor):
        return [pooled]
    found = list(pooled.values()) if isinstance(pooled, Mapping) else list(pooled)
    if not found or not all(isinstance(z, Tensor) for z in found):
        kinds = sorted({type(z).__name__ for z in found}) or ["nothing"]
        raise BadInput(f"pooled: {', '.join(kinds)}; expected tensors [B, ...], one or by name")
    return found


def defined_samples(valid: Mapping[str, Tensor] | None, cut: Cut) -> Tensor:
    """[B] True for the samples that have the pairs of all losses."""
    samples = cut.up.samples
    flags = torch.ones(samples, dtype=torch.bool, device=cut.up.pooled[0].device)
    for name, of in (valid or {}).items():
        if name not in cut.losses or of.shape != flags.shape:
            raise BadInput(f"valid[{name!r}]: expected one of the losses {cut.losses} and shape [{samples}]")
        flags &= of.to(flags)
    return flags
