"""Kinds of operations whose per-unit gradients have a closed form. To add one, add a reader to `READERS`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harmonize_cli.harmony._graph import Cotangents
from harmonize_cli.harmony._scope import Rows
from harmonize_cli.harmony._sums import wide
from harmonize_cli.harmony._tape import Op, Side
from harmonize_cli.harmony._uses import OuterUse, ReplayedUse, Segment, SettledUse, Use, find_batched

Reader = Callable[[Op, list[Side], Cotangents, Rows, int], "Use | None"]


def read(op: Op, cotangents: Cotangents, rows: list[Rows | None], inner: set[Op], units: int) -> Use:
    """The use of an operation whose outputs have a row per sample.

    cotangents: per loss and output. rows: per output. inner: operations that are read themselves, whose
    results are data to this one.
    """
    sides = list({id(s): s for s in op.sides if s.made_by is None or s.made_by not in inner}.values())
    reader = READERS.get(op.func)
    if reader is not None and rows[0] is not None and len(op.edges) == 1:
        use = reader(op, sides, cotangents, rows[0], units)
        if use is not None:
            return use
    use = ReplayedUse(op, sides, cotangents, rows, units)
    use.batched = find_batched(use)
    return use


def readable(op: Op) -> bool:
    """Whether the operation's arguments are still as they were; sums and expansions don't depend on them."""
    if op.func is F.embedding and (_arg(op, 3, "max_norm") is not None or _arg(op, 6, "sparse", False)):
        return False
    return op.func in BLIND or not (op.changed or op.in_place)


def read_linear(op: Op, sides: list[Side], d: Cotangents, rows: Rows, units: int) -> Use | None:
    """x W^T + b."""
    return _outer(op, sides, d, rows, units, _arg(op, 1, "weight"), _arg(op, 2, "bias"), out_first=True)


def read_matmul(op: Op, sides: list[Side], d: Cotangents, rows: Rows, units: int) -> Use | None:
    """x @ W, W [in, out]."""
    W = _arg(op, 1, "other") if "mat2" not in op.kwargs else op.kwargs["mat2"]
    return None if W is None or W.dim() != 2 else _outer(op, sides, d, rows, units, W, None, out_first=False)


def _outer(
    op: Op,
    sides: list[Side],
    d: Cotangents,
    rows: Rows,
    units: int,
    W: Tensor,
    b: Tensor | None,
    *,
    out_first: bool,
) -> Use | None:
    x = _arg(op, 0, "input")
    by_id = {id(side.tensor): side for side in sides}
    if not isinstance(x, Tensor) or id(x) in by_id or x.shape[:-1] != op.shapes[0][:-1]:
        return None
    if rows.axis >= x.dim() - 1:
        return None
    cotangents = [None if of[0] is None else tokens(working(of[0]), rows, units) for of in d]
    segment = Segment(_match(tokens(x.detach(), rows, units), cotangents), cotangents)
    return OuterUse(op, segment, by_id.get(id(W)), by_id.get(id(b)), out_first)


def read_embedding(op: Op, sides: list[Side], d: Cotangents, rows: Rows, units: int) -> Use | None:
    """Rows of a table; padding rows get no gradient."""
    index, W = _arg(op, 0, "input"), _arg(op, 1, "weight")
    if _arg(op, 5, "scale_grad_by_freq", False):
        return ReplayedUse(
            op, sides, d, [rows], units
        )  # the batch's frequencies scale it: not to be taken apart
    if rows.axis >= index.dim() or [id(side.tensor) for side in sides] != [id(W)]:
        return None
    chosen = rows.split(index, units).reshape(units, -1).long()
    cotangents = [None if of[0] is None else tokens(working(of[0]), rows, units) for of in d]
    padding = _arg(op, 2, "padding_idx")
    if padding is not None:
        hidden = (chosen == padding % len(W)).unsqueeze(-1)
        cotangents = [None if each is None else each.masked_fill(hidden, 0) for each in cotangents]
    return OuterUse(op, Segment(chosen, cotangents), sides[0], None, out_first=False)


def read_norm(op: Op, sides: list[Side], d: Cotangents, rows: Rows, units: int) -> Use | None:
    """Layer and RMS norms: scale and shift act on each token alone."""
    x, shape = _arg(op, 0, "input"), tuple(_arg(op, 1, "normalized_shape"))
    weight, bias = _arg(op, 2, "weight"), _arg(op, 3, "bias") if op.func in LAYER_NORMS else None
    by_id = {id(side.tensor): side for side in sides}
    if id(x) in by_id or rows.axis >= x.dim() - len(shape):
        return None
    x = tokens(x.detach().flatten(-len(shape)), rows, units)
    scale, shift = (
        torch.zeros(units, len(d), x.shape[2], dtype=wide(x.dtype), device=x.device) for _ in range(2)
    )
    normed = _normalise(op, x) if id(weight) in by_id else None
    for k, (given,) in enumerate(d):
        if given is not None:
            each = tokens(working(given).flatten(-len(shape)), rows, units)
            if normed is not None:
                scale[:, k] += (each * normed).sum(1)
            shift[:, k] += each.sum(1, dtype=shift.dtype)
    found = [(by_id[id(p)], g) for p, g in ((weight, scale), (bias, shift)) if id(p) in by_id]
    grads = [g.view(*g.shape[:2], *side.tensor.shape) for side, g in found]
    return SettledUse(op, [side for side, _ in found], grads)


def _normalise(op: Op, x: Tensor) -> Tensor:
    """The norm without scale and shift, of tokens [U, n, D]."""
    x = x.to(wide(x.dtype))
    if op.func in LAYER_NORMS:
        return F.layer_norm(x, x.shape[-1:], eps=_arg(op, 4, "eps", 1e-5))
    return F.rms_norm(x, x.shape[-1:], eps=_arg(op, 3, "eps"))


def read_broadcast(op: Op, sides: list[Side], d: Cotangents, rows: Rows, units: int) -> Use | None:
    """Sums, differences, products and expansions with a parameter: the cotangent, summed over what it
    spans."""
    if len(sides) != 1 or any(name not in ("other", "input") for name in op.kwargs):
        return None
    side, shape = sides[0], op.shapes[0]
    own = (1,) * (len(shape) - side.tensor.dim()) + tuple(side.tensor.shape)
    if own[rows.axis] != 1 or any(n not in (1, shape[axis]) for axis, n in enumerate(own)):
        return None  # it has rows of its own, or is repeated
    factor = _factor(op, side)
    spanned = [axis + 1 for axis, n in enumerate(own) if n == 1]
    grads = None
    for k, (given,) in enumerate(d):
        if given is None:
            continue
        each = working(given)
        if isinstance(factor, Tensor) or factor != 1:
            each = each * factor
        summed = rows.split(each, units).sum(spanned, dtype=wide(each.dtype))
        if grads is None:
            grads = summed.new_zeros(units, len(d), *side.tensor.shape)
        grads[:, k] = summed.reshape(units, *side.tensor.shape)
    return None if grads is None else SettledUse(op, [side], [grads])


def _factor(op: Op, side: Side) -> Tensor | float:
    """What the parameter is multiplied by on its way to the output."""
    first = _arg(op, 0, "input") is side.tensor
    if op.func in PRODUCTS:
        other = _arg(op, 1, "other") if first else _arg(op, 0, "input")
        return other.detach() if isinstance(other, Tensor) else float(other)
    return -1.0 if op.func in DIFFERENCES and not first else 1.0


def tokens(t: Tensor, rows: Rows, units: int) -> Tensor:
    """[..., D] -> [U, n, D]"""
    return rows.split(t, units).reshape(units, -1, t.shape[-1])


def working(d: Tensor) -> Tensor:
    """The cotangent in the type to compute in: float32 at least, except bfloat16 on a GPU, whose matrix
    products add up in float32 and cover float32's range."""
    if d.dtype == torch.float16 or (d.dtype == torch.bfloat16 and not d.is_cuda):
        return d.float()
    return d


def _match(x: Tensor, cotangents: list[Tensor | None]) -> Tensor:
    """x in the type of the cotangents (autocast casts inside the operation, so it may differ)."""
    return next((x.to(d.dtype) for d in cotangents if d is not None), x)


def _arg(op: Op, position: int, name: str, default: Any = None) -> Any:
    return op.args[position] if len(op.args) > position else op.kwargs.get(name, default)


LAYER_NORMS = (F.layer_norm, torch.layer_norm)
PRODUCTS = (Tensor.mul, torch.mul)
DIFFERENCES = (Tensor.sub, Tensor.sub_, torch.sub)
EXPANSIONS = (Tensor.expand, Tensor.expand_as, Tensor.repeat, torch.broadcast_to, Tensor.broadcast_to)
BLIND = (*EXPANSIONS, Tensor.add, torch.add, Tensor.add_, *DIFFERENCES)
"""Operations whose gradient does not depend on their arguments."""

READERS: dict[Callable[..., Any], Reader] = {
    F.linear: read_linear,
    **dict.fromkeys((Tensor.matmul, torch.matmul, Tensor.mm, torch.mm), read_matmul),
    F.embedding: read_embedding,
    **dict.fromkeys((*LAYER_NORMS, F.rms_norm), read_norm),
    **dict.fromkeys((*BLIND, *PRODUCTS), read_broadcast),
}
