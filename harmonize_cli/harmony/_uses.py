"""Uses of parameters by kind: how an operation's arguments and cotangents become per-unit gradients.

A use answers two questions about the parameters (or what was made from them) that enter one operation: the
gradient of each unit under one loss, and the sum over all units under given weights. Outer products (linear
maps, patches, embeddings) and norms have closed forms; anything else is replayed. `_kinds` says which is
which.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, product

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from harmonize_cli.harmony._graph import Cotangents, pull, weighted_sum
from harmonize_cli.harmony._scope import Rows
from harmonize_cli.harmony._sums import Buffers, Sink
from harmonize_cli.harmony._tape import Op, Side, tensors


@dataclass(eq=False, slots=True)
class Segment:
    """One call of an outer-product layer. x: [U, n, in], or [U, n] integer for an embedding; d: per loss
    [U, n, out], None for zero."""

    x: Tensor
    d: list[Tensor | None]

    @property
    def tokens(self) -> int:
        """n, tokens per unit."""
        return self.x.shape[1]

    @property
    def units(self) -> int:
        """U."""
        return self.x.shape[0]

    def cotangent(self, loss: int | None = None) -> Tensor:
        """The cotangent of a loss that reaches this call; of the first one by default."""
        d = self.d[self.losses()[0] if loss is None else loss]
        assert d is not None
        return d

    def losses(self) -> list[int]:
        """Indices of the losses that reach this call."""
        return [k for k, d in enumerate(self.d) if d is not None]


@dataclass(eq=False, slots=True)
class OuterUse:
    """The weight gradient is a sum of outer products over tokens, x^T d [in, out]."""

    op: Op
    segment: Segment
    weight: Side | None
    bias: Side | None
    out_first: bool = True
    """The weight is [out, in]; an embedding's, or W in x @ W, is [in, out]."""

    @property
    def sides(self) -> list[Side]:
        """What it gives gradients of."""
        return [side for side in (self.weight, self.bias) if side is not None]

    def unit_gradients(self, loss: int, part: slice) -> list[Tensor] | None:
        """Per side [n, *shape] for the units in `part`; None where the loss does not reach it."""
        d = self.segment.d[loss]
        if d is None:
            return None
        x, d = self.segment.x[part], d[part]
        found = []
        if self.weight is not None:
            found.append(self._oriented(self._outer(x, d, self.weight.tensor), self.weight.tensor))
        if self.bias is not None:
            found.append(d.sum(1).reshape(len(d), *self.bias.tensor.shape))
        return found

    def _outer(self, x: Tensor, d: Tensor, weight: Tensor) -> Tensor:
        """[n, in, out]"""
        if x.is_floating_point():
            return torch.bmm(x.transpose(1, 2), d)
        found = torch.zeros(len(x), weight.shape[0], d.shape[2], dtype=d.dtype, device=d.device)
        return found.scatter_add_(1, x.unsqueeze(2).expand(-1, -1, d.shape[2]), d)

    def _oriented(self, grad: Tensor, weight: Tensor) -> Tensor:
        return (grad.transpose(1, 2) if self.out_first else grad).reshape(len(grad), *weight.shape)

    def add_to(self, sink: Sink, weights: Tensor, buffers: Buffers, part: Tensor | None = None) -> None:
        """Add the sum over units under weights [U, K]; part: units outside of which all weights are 0."""
        x, ds = self.segment.x, self.segment.d
        if part is not None:
            x, ds, weights = x[part], [None if d is None else d[part] for d in ds], weights[part]
        combined = _combine(ds, weights, buffers)
        if combined is None:
            return
        d, x = combined.flatten(0, 1), x.flatten(0, 1)
        if self.bias is not None:
            sink.add(self.bias, d.sum(0))
        if self.weight is None:
            return
        if x.is_floating_point():
            sink.add_product(self.weight, *((d.t(), x) if self.out_first else (x.t(), d)))
        else:
            rows = torch.zeros(self.weight.tensor.shape, dtype=d.dtype, device=d.device)
            sink.add(self.weight, rows.index_add_(0, x, d))


@dataclass(eq=False, slots=True)
class SettledUse:
    """Norms and broadcast operands: per-unit gradients are small, so they are kept in place of cotangents.

    grads: per side [U, K, *shape].
    """

    op: Op
    sides: list[Side]
    grads: list[Tensor]

    def unit_gradients(self, loss: int, part: slice) -> list[Tensor] | None:
        return [g[part, loss] for g in self.grads]

    def add_to(self, sink: Sink, weights: Tensor, buffers: Buffers, part: Tensor | None = None) -> None:
        for side, g in zip(self.sides, self.grads, strict=True):
            sink.add(side, torch.einsum("uk,ukp->p", weights.to(g.dtype), g.reshape(*g.shape[:2], -1)))


@dataclass(eq=False, slots=True)
class ReplayedUse:
    """Any other operation: its per-unit gradients by running it again, on the rows of each unit.

    Where the operation can't be taken apart by units (it drew random numbers, or an argument's rows are not
    found), it is run as a whole, and each unit's cotangents are sent through that.
    """

    op: Op
    sides: list[Side]
    cotangents: Cotangents
    rows: list[Rows | None]
    units: int
    batched: dict[int, Rows] | None = field(default=None)
    """Arguments that have rows, by id; None: not taken apart."""

    def unit_gradients(self, loss: int, part: slice) -> list[Tensor] | None:
        found = [
            (o, d, r)
            for o, (d, r) in enumerate(zip(self.cotangents[loss], self.rows, strict=True))
            if d is not None and r is not None
        ]
        if not found:
            return None
        if self.batched is not None:
            try:
                return self._apart(found, part)
            except (RuntimeError, NotImplementedError, ValueError):
                self.batched = None
        return self._whole(found, part)

    def add_to(self, sink: Sink, weights: Tensor, buffers: Buffers, part: Tensor | None = None) -> None:
        outputs = range(len(self.op.edges))
        combined = [weighted_sum([of[o] for of in self.cotangents], weights, self.rows[o]) for o in outputs]
        if any(d is not None for d in combined):
            own, ys = self._replayed()
            pairs = [(y, d.to(y.dtype)) for y, d in zip(ys, combined, strict=True) if d is not None]
            for side, grad in zip(self.sides, pull(pairs, own, keep_graph=False), strict=True):
                if grad is not None:
                    sink.add(side, grad, owned=False)

    def _replayed(self) -> tuple[list[Tensor], list[Tensor]]:
        own = [side.tensor.detach().requires_grad_() for side in self.sides]
        with torch.enable_grad():
            ys = self.op.replay({id(s.tensor): t for s, t in zip(self.sides, own, strict=True)})
        return own, [y for y in ys if y.requires_grad]

    def _whole(self, found: list[tuple[int, Tensor, Rows]], part: slice) -> list[Tensor]:
        own, ys = self._replayed()
        grads: list[list[Tensor]] = [[] for _ in own]
        for u in range(*part.indices(self.units)):
            one = torch.zeros(self.units, device=own[0].device).index_fill_(
                0, torch.tensor(u, device=own[0].device), 1
            )
            pairs = [(ys[o], rows.scale(d, one).to(ys[o].dtype)) for o, d, rows in found]
            for of, g, t in zip(grads, pull(pairs, own, keep_graph=True), own, strict=True):
                of.append(torch.zeros_like(t) if g is None else g)
        return [torch.stack(of) for of in grads]

    def _apart(self, found: list[tuple[int, Tensor, Rows]], part: slice) -> list[Tensor]:
        assert self.batched is not None
        units, batched, own = self.units, self.batched, [side.tensor.detach() for side in self.sides]
        given = [t for t in unique(tensors((self.op.args, self.op.kwargs))) if id(t) in batched]
        cut = [batched[id(t)].split(t.detach(), units)[part] for t in given]
        split = [rows.split(d, units)[part] for _, d, rows in found]

        def one(inputs: list[Tensor], cotangents: list[Tensor]) -> list[Tensor]:
            placed = {id(t): x for t, x in zip(given, inputs, strict=True)}

            def run(sides: list[Tensor]) -> list[Tensor]:
                ys = self.op.replay(
                    placed | {id(s.tensor): t for s, t in zip(self.sides, sides, strict=True)}
                )
                return [ys[o] for o, *_ in found]

            ys, back = vjp(run, own)  # type: ignore[misc]
            grads: list[Tensor] = back([c.to(y.dtype) for c, y in zip(cotangents, ys, strict=True)])[0]
            return grads

        # MATH is the only attention that vmap takes apart
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            try:
                grads: list[Tensor] = vmap(one)(cut, split)
            except (RuntimeError, NotImplementedError, ValueError):  # one unit at a time
                each = [one([x[u] for x in cut], [d[u] for d in split]) for u in range(len(split[0]))]
                grads = [torch.stack(of) for of in zip(*each, strict=True)]
        return grads


Use = OuterUse | SettledUse | ReplayedUse


def _combine(d: Sequence[Tensor | None], weights: Tensor, buffers: Buffers) -> Tensor | None:
    """sum_k weights[:, k] d[k], [U, n, out], in a buffer; None where all are zero.

    Captured cotangents may share memory with each other, so they are never written to.
    """
    out: Tensor | None = None
    for k, each in enumerate(d):
        if each is not None:
            column = weights[:, k].to(each.dtype).view(-1, 1, 1)
            if out is None:
                out = torch.mul(each, column, out=buffers.like("combined", each))
            else:
                out.addcmul_(each, column)
    return out


def find_batched(use: ReplayedUse) -> dict[int, Rows] | None:
    """Which arguments have rows for the samples: those for which the first and last unit's rows, alone, give
    the same rows of the output. None where no choice does, or numbers were drawn for the whole."""
    op, units = use.op, use.units
    if op.random is not None or op.pure:
        return None
    own = {id(side.tensor) for side in use.sides}
    given = [t for t in unique(tensors((op.args, op.kwargs))) if id(t) not in own and t.dim() > 0]
    known = [(shape, r) for shape, r in zip(op.shapes, use.rows, strict=True) if r is not None]
    sizes, first = {shape[r.axis] for shape, r in known}, known[0][1]
    choices: list[list[Rows | None]] = []
    for t in given:
        fit: list[Rows | None] = [Rows(a, first.outer) for a, n in enumerate(t.shape) if n in sizes]
        choices.append([*sorted(fit, key=lambda c: c != first), None])
    with torch.no_grad():
        whole = op.replay({})
        for choice in islice(product(*choices), 64):
            batched = {id(t): c for t, c in zip(given, choice, strict=True) if c is not None}
            if all(_same(use, whole, given, batched, u) for u in {0, units - 1}):
                return batched
    return None


def _same(
    use: ReplayedUse, whole: list[Tensor], given: list[Tensor], batched: dict[int, Rows], u: int
) -> bool:
    """Whether unit u's rows, alone, give its rows of the whole output."""
    placed = {id(t): batched[id(t)].split(t.detach(), use.units)[u] for t in given if id(t) in batched}
    try:
        alone = use.op.replay(placed)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return False
    for y, full, rows in zip(alone, whole, use.rows, strict=False):
        if rows is not None:  # no cotangent comes to the others
            want = rows.split(full, use.units)[u]
            scale = full.abs().max() if full.numel() else full.new_zeros(())
            loose = 1e-2 if full.dtype in (torch.bfloat16, torch.float16) else 1e-5
            if y.shape != want.shape or bool((y - want).abs().max() > loose * scale + 1e-12):
                return False
    return True


def unique(found: Sequence[Tensor]) -> list[Tensor]:
    """Tensors without repetition."""
    return list({id(t): t for t in found}.values())


def drop_dead_tokens(segments: Sequence[Segment]) -> None:
    """Narrow segments, in place, to the tokens with a cotangent under any loss.

    Only the AGG token of a clip is pooled, so in the last block everything after the attention has exactly
    zero cotangents on all other tokens. A look at one feature of a few units rules most layers out; the
    others are looked at whole, so the result stays exact.
    """
    suspects = _alive(segments, probe=True)
    chosen = [(s, alive) for s, alive in zip(segments, suspects, strict=True) if 4 * sum(alive) <= s.tokens]
    for (segment, _), alive in zip(chosen, _alive([s for s, _ in chosen], probe=False), strict=True):
        kept = [t for t, lives in enumerate(alive) if lives]
        if len(kept) * 2 <= segment.tokens:
            segment.x = _pick(segment.x, kept)
            segment.d = [None if d is None else _pick(d, kept) for d in segment.d]


def _alive(segments: Sequence[Segment], *, probe: bool) -> list[list[bool]]:
    """Per segment and token: is there a cotangent. One transfer from the device for all segments."""
    flags = []
    for segment in segments:
        total = torch.zeros(segment.tokens, dtype=torch.bool, device=segment.x.device)
        for d in segment.d:
            if d is not None:  # two reductions, without a temporary of d's size
                there = (
                    d[:: max(1, len(d) // 4), :, 0].ne(0) if probe else d.amax(-1).ne(0) | d.amin(-1).ne(0)
                )
                total |= there.any(0)
        flags.append(total)
    flat = iter(torch.cat(flags).tolist() if flags else [])
    return [[next(flat) for _ in range(segment.tokens)] for segment in segments]


def _pick(t: Tensor, kept: list[int]) -> Tensor:
    whole = kept and kept[-1] - kept[0] + 1 == len(kept)
    return t[:, kept[0] : kept[-1] + 1] if whole else t[:, kept]
