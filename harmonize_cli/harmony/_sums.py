"""Sums that Gram matrices are gathered in, and buffers that their temporaries live in."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from harmonize_cli.harmony._graph import pull
from harmonize_cli.harmony._tape import Side


def wide(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything else is added up in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Buffers:
    """Temporaries by purpose, kept between layers: on a CPU fresh memory costs as much as a pass over it."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def like(self, purpose: str, t: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """An uninitialised tensor of t's type and device, valid until the purpose is asked for again."""
        shape = t.shape if shape is None else torch.Size(shape)
        key, size = (purpose, t.dtype), shape.numel()
        if key not in self._kept or self._kept[key].numel() < size:
            self._kept[key] = torch.empty(size, dtype=t.dtype, device=t.device)
        return self._kept[key][:size].view(shape)

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        """Inner products of [U, ...] and [U, ...] -> [U], added up in float32 at least."""
        axes = tuple(range(1, x.dim()))
        if x.dtype in (torch.bfloat16, torch.float16):
            x, y = x.float(), y.float()
        if not axes:  # a sum over no axis would be one over all of them
            return x * y
        # multiply and add up: three times as fast as a batched matrix product of such thin factors
        return torch.mul(x, y, out=self.like("dot", x)).sum(axes)


class Sink:
    """Where gradients are added up: in `.grad` of parameters, and per tensor for what was made from them.

    skipped: ids of parameters to leave out.
    """

    def __init__(self, skipped: Collection[int] = ()) -> None:
        self.skipped = skipped
        self._made: dict[int, tuple[Side, Tensor]] = {}

    def add(self, side: Side, grad: Tensor, *, owned: bool = True) -> None:
        """Add a gradient; owned: its memory may be kept."""
        if id(side.tensor) in self.skipped:
            return
        grad = grad.to(side.tensor.dtype).view_as(side.tensor)
        now = self._now(side)
        total = now.add_(grad) if now is not None else grad if owned else grad.clone()
        if side.made_by is None:
            side.tensor.grad = total
        else:
            self._made[id(side.tensor)] = side, total

    def add_product(self, side: Side, left: Tensor, right: Tensor) -> None:
        """Add the matrix product of two factors."""
        if id(side.tensor) in self.skipped:
            return
        now = self._now(side)
        if now is not None and now.dtype == left.dtype and now.is_contiguous():
            now.view(left.shape[0], -1).addmm_(left, right)
        else:
            self.add(side, torch.mm(left, right))

    def _now(self, side: Side) -> Tensor | None:
        if side.made_by is None:
            return side.tensor.grad
        return self._made[id(side.tensor)][1] if id(side.tensor) in self._made else None

    def pull_back(self, parameters: Sequence[nn.Parameter], *, keep_graph: bool) -> list[Tensor | None]:
        """The gradients of `parameters` through what was made from them."""
        pairs = [(side.edge, grad) for side, grad in self._made.values()]
        return pull(pairs, parameters, keep_graph=keep_graph)


class ProjectedSink(Sink):
    """Projections of the parameters' sums, in `own` by id; `.grad` is left alone. Products are not formed."""

    def __init__(self, skipped: Collection[int] = ()) -> None:
        super().__init__(skipped)
        self.own: dict[int, Tensor] = {}

    def add(self, side: Side, grad: Tensor, *, owned: bool = True) -> None:
        if side.made_by is not None:
            super().add(side, grad, owned=owned)
        elif id(side.tensor) not in self.skipped:
            self.put(id(side.tensor), projected(grad.view_as(side.tensor)))

    def add_product(self, side: Side, left: Tensor, right: Tensor) -> None:
        if side.made_by is not None or side.tensor.dim() < 2:
            self.add(side, torch.mm(left, right))
        elif id(side.tensor) not in self.skipped:
            self.put(id(side.tensor), left @ (right @ direction(right)))

    def put(self, i: int, value: Tensor) -> None:
        """Add to a parameter's projection."""
        self.own[i] = self.own[i] + value if i in self.own else value


def projected(g: Tensor) -> Tensor:
    """[n, ...] -> [n] along a fixed random direction; what has one axis stays as it is."""
    g = dense(g)
    return g if g.dim() < 2 else g.flatten(1) @ direction(g.flatten(1))


def direction(like: Tensor) -> Tensor:
    """[n] fixed normal numbers for rows of `like` [..., n]."""
    draw = torch.Generator().manual_seed(like.shape[-1])
    return torch.randn(like.shape[-1], generator=draw).to(like)


def dense(g: Tensor) -> Tensor:
    """In float32 at least, not sparse, and real: complex numbers as pairs."""
    g = g.to_dense() if g.is_sparse else g
    g = torch.view_as_real(g.resolve_conj()) if g.is_complex() else g
    return g.to(wide(g.dtype))


def inner_products(rows: Sequence[Sequence[Tensor | None]], dtype: torch.dtype) -> Tensor:
    """[K, K] of gradients, for each loss a list of them with None for zero."""
    gram: Tensor | None = None
    for of in zip(*rows, strict=True):
        flat = [None if g is None else dense(g).flatten().to(dtype) for g in of]
        for j, one in enumerate(flat):
            for k, two in enumerate(flat[: j + 1]):
                if one is not None and two is not None:
                    gram = one.new_zeros(len(rows), len(rows)) if gram is None else gram
                    gram[j, k] += torch.dot(one, two)
    gram = torch.zeros(len(rows), len(rows), dtype=dtype) if gram is None else gram
    return gram.tril() + gram.tril(-1).T


def add_grad(p: nn.Parameter, grad: Tensor | None) -> None:
    """Accumulate a gradient that autograd returned, which others may share, into `.grad`."""
    if grad is not None:
        p.grad = grad.clone() if p.grad is None else p.grad.add_(grad)
