"""Exact per-unit Gram matrices of a layer's gradients, without the gradients.

A linear layer's gradient under loss l is G_l = sum_s x_s d_l,s^T over the tokens s of a unit, so

    <G_l, G_k> = sum_st (x_s . x_t)(d_l,s . d_k,t)

Two ways to get it, chosen by counted operations (`flops`):
- token form: M = x x^T once per input (shared by all layers that read it), then <d_l, M d_k>;
- direct form: G_l itself, unit by unit, and inner products; never more than a chunk of units at a time.
A bias adds 1 to every entry of M; for an embedding M is 1 where two tokens are the same row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harmonize_cli.harmony.flops import direct_cost, token_cost
from harmonize_cli.harmony.segments import Segment, dot


@dataclass(slots=True)
class Factors:
    """A layer's factors over all of its calls; which parameters they make gradients of."""

    segments: list[Segment]
    weight: bool
    bias: bool


def shared_gram(layers: Sequence[Factors], losses: int) -> Tensor:
    """[U, K, K], summed over layers that read the very same inputs."""
    first = layers[0].segments
    rows = first[0].x.shape[0]
    dtype = torch.float64 if _cotangent(layers).dtype == torch.float64 else torch.float32
    total = torch.zeros(rows, losses, losses, dtype=dtype, device=first[0].x.device)
    index = not first[0].x.is_floating_point()
    if index or token_cost(layers, losses) <= direct_cost(layers, losses):
        _token_form(layers, total)
    else:
        for layer in layers:
            _direct_form(layer, total)
    return total


def _token_form(layers: Sequence[Factors], total: Tensor) -> None:
    calls = len(layers[0].segments)
    for s in range(calls):
        for t in range(s, calls):
            products: dict[tuple[bool, bool], Tensor] = {}
            for layer in layers:
                one, two = layer.segments[s], layer.segments[t]
                if not (one.losses() and two.losses()):
                    continue
                key = layer.weight, layer.bias
                if key not in products:
                    products[key] = _inputs_product(one.x, two.x, *key)
                _add_pair(one, two, products[key], total, same=s == t)


def _inputs_product(x: Tensor, y: Tensor, weight: bool, bias: bool) -> Tensor:
    """M [U, n, m]: x x^T for the weight, plus 1 for the bias."""
    if not x.is_floating_point():
        return (x.unsqueeze(2) == y.unsqueeze(1)).float()
    if not weight:
        return x.new_ones(x.shape[0], x.shape[1], y.shape[1])
    product = torch.bmm(x, y.transpose(1, 2))
    return product.add_(1) if bias else product


def _add_pair(one: Segment, two: Segment, M: Tensor, total: Tensor, *, same: bool) -> None:
    """Add the terms of tokens of `one` against tokens of `two`; M [U, n, m].

    M multiplies the side that fewer losses reach. Between different calls every term stands for itself and
    for its mirror image.
    """
    left, right = one.losses(), two.losses()
    if not same and len(left) < len(right):
        one, two, M, left, right = two, one, M.transpose(1, 2), right, left
    for k in right:
        d_k = two.d[k]
        assert d_k is not None
        moved = torch.bmm(M.to(d_k.dtype), d_k)
        for l in left:  # noqa: E741
            if same and l > k:
                continue
            d_l = one.d[l]
            assert d_l is not None
            value = dot(d_l, moved)
            if not same:
                total[:, l, k] += value
                total[:, k, l] += value
            else:
                total[:, l, k] += value
                if l != k:
                    total[:, k, l] += value


def _direct_form(layer: Factors, total: Tensor) -> None:
    units = total.shape[0]
    x, d = layer.segments[0].x, _cotangent([layer])
    size = x.shape[-1] * d.shape[-1] * total.shape[1] * d.element_size()
    step = max(1, min(units, _budget(x) // max(size, 1)))
    for start in range(0, units, step):
        part = slice(start, start + step)
        grads = [_gradient(layer, k, part) for k in range(total.shape[1])]
        for l, g_l in enumerate(grads):  # noqa: E741
            for k, g_k in enumerate(grads[: l + 1]):
                for one, two in zip(g_l, g_k, strict=False):
                    value = dot(one, two)
                    total[part, l, k] += value
                    if l != k:
                        total[part, k, l] += value


def _gradient(layer: Factors, loss: int, part: slice) -> list[Tensor]:
    """Per-unit gradients of one loss, [U, in, out] and [U, out]; empty where it does not reach the layer."""
    weight: Tensor | None = None
    bias: Tensor | None = None
    for segment in layer.segments:
        d = segment.d[loss]
        if d is None:
            continue
        d = d[part]
        if layer.weight:
            xt = segment.x[part].transpose(1, 2)
            weight = torch.bmm(xt, d) if weight is None else weight.baddbmm_(xt, d)
        if layer.bias:
            column = d.sum(1)
            bias = column if bias is None else bias + column
    return [g for g in (weight, bias) if g is not None]


def _cotangent(layers: Sequence[Factors]) -> Tensor:
    return next(d for layer in layers for s in layer.segments for d in s.d if d is not None)


def _budget(x: Tensor) -> int:
    """Bytes that a chunk's temporary gradients may take: about a CPU's last-level cache, more on a GPU."""
    return (512 if x.is_cuda else 16) * 2**20
