"""Exact per-unit Gram matrices of a layer's gradients, without the gradients.

A linear layer's gradient under loss l is G_l = sum_s x_s d_l,s^T over the tokens s of a unit, so

    <G_l, G_k> = sum_st (x_s . x_t)(d_l,s . d_k,t)

Three ways to get it, chosen by counted operations; M = x x^T is made once per input and shared by all layers
that read it, a bias adds 1 to its entries, for an embedding it is 1 where two tokens are the same:
- token form, <d_l, M d_k>: one product for all losses l;
- token form, <M, d_l d_k^T>: where one pair of losses is all there is;
- direct form: G_l itself, a chunk of units at a time, and inner products.

Or estimated where these cost too much: G is projected to R^T G Q with R [in, K] and Q [out, K] of
independent N(0, 1/K) entries, whose inner products are unbiased estimates; the update stays exact.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._sums import Buffers, wide
from harmonize_cli.harmony._uses import Segment


class GramSum:
    """Sums [U] per pair of losses, kept in rows so that adding touches contiguous memory.

    key: the parameters that values come from; apart: where their own sums are kept as well, if given.
    """

    def __init__(
        self,
        units: int,
        losses: int,
        like: Tensor,
        apart: dict[tuple[int, ...], "GramSum"] | None = None,
    ) -> None:
        self.units, self.losses, self.apart = units, losses, apart
        self.key: tuple[int, ...] = ()
        self._rows = torch.zeros(losses, losses, units, dtype=wide(like.dtype), device=like.device)
        self._row = [list(of) for of in self._rows]

    def add(self, i: int, k: int, value: Tensor, part: slice = slice(None), times: int = 1) -> None:
        """Add value [U], so many times, to the entries (i, k) and (k, i) of the units in `part`."""
        self._row[max(i, k)][min(i, k)][part].add_(value, alpha=times)
        if self.apart is not None:
            if self.key not in self.apart:
                self.apart[self.key] = GramSum(self.units, self.losses, self._rows)
            self.apart[self.key].add(i, k, value, part, times)

    def add_all(self, grads: Sequence[Sequence[Tensor]], buffers: Buffers, part: slice = slice(None)) -> None:
        """Add the inner products of gradients: per loss a list of [U, ...], empty for zero."""
        for i, g_i in enumerate(grads):
            for k, g_k in enumerate(grads[: i + 1]):
                for one, two in zip(g_i, g_k, strict=False):
                    self.add(i, k, buffers.dot(one, two), part)

    @property
    def dtype(self) -> torch.dtype:
        """The type that is added up in."""
        return self._rows.dtype

    def table(self) -> Tensor:
        """[U, K, K]."""
        lower = self._rows.permute(2, 0, 1)
        return lower.tril() + lower.tril(-1).transpose(1, 2)


@dataclass(slots=True)
class Factors:
    """A layer's factors over all of its calls; which parameters they make gradients of, and their ids."""

    segments: list[Segment]
    weight: bool
    bias: bool
    ids: tuple[int, ...]


def add_shared(layers: Sequence[Factors], total: GramSum, buffers: Buffers) -> None:
    """Add the terms of layers that read the very same inputs."""
    index = not layers[0].segments[0].x.is_floating_point()
    if index or token_cost(layers, total.losses) <= direct_cost(layers, total.losses):
        _token_form(layers, total, buffers)
    else:
        for layer in layers:
            _direct_form(layer, total, buffers)


def _token_form(layers: Sequence[Factors], total: GramSum, buffers: Buffers) -> None:
    calls = len(layers[0].segments)
    for s in range(calls):
        for t in range(s, calls):
            products: dict[tuple[bool, bool], Tensor] = {}
            for layer in layers:
                one, two = layer.segments[s], layer.segments[t]
                if not (one.losses() and two.losses()):
                    continue
                total.key = layer.ids
                key = layer.weight, layer.bias
                if key not in products:
                    products[key] = _inputs_product(one.x, two.x, *key)
                _add_pair(one, two, products[key], total, buffers, same=s == t)


def _inputs_product(x: Tensor, y: Tensor, weight: bool, bias: bool) -> Tensor:
    """M [U, n, m]: x x^T for the weight, plus 1 for the bias."""
    if not x.is_floating_point():
        return (x.unsqueeze(2) == y.unsqueeze(1)).float()
    if not weight:
        return x.new_ones(x.shape[0], x.shape[1], y.shape[1])
    product = torch.bmm(x, y.transpose(1, 2))
    return product.add_(1) if bias else product


def _add_pair(one: Segment, two: Segment, M: Tensor, total: GramSum, buffers: Buffers, *, same: bool) -> None:
    """Add the terms of tokens of `one` against tokens of `two`; M [U, n, m].

    Between different calls every term stands for itself and for its mirror image.
    """
    left, right = one.losses(), two.losses()
    pairs = [(i, k) for k in right for i in left if not same or i <= k]
    times = {True: 1, False: 2}
    if not moves_one_side(one, two, len(pairs)):
        for i, k in pairs:
            d_i, d_k = one.cotangent(i), two.cotangent(k)
            product = torch.bmm(d_i, d_k.transpose(1, 2), out=buffers.like("pair", d_i, M.shape))
            value = buffers.dot(product, M.to(product.dtype))
            total.add(i, k, value, times=times[same or i != k])
        return
    if len(left) < len(right):
        # M multiplies the side that fewer losses reach
        one, two, M = two, one, M.transpose(1, 2)
        pairs = [(k, i) for i, k in pairs]
    for k in two.losses():
        partners = [i for i, other in pairs if other == k]
        for part in _in_cache(one.cotangent()):
            d_k, M_part = two.cotangent(k)[part], M[part]
            shape = len(d_k), M.shape[1], d_k.shape[2]
            moved = torch.bmm(M_part.to(d_k.dtype), d_k, out=buffers.like("moved", d_k, shape))
            for i in partners:
                value = buffers.dot(one.cotangent(i)[part], moved)
                total.add(i, k, value, part, times[same or i != k])


def _in_cache(d: Tensor) -> Iterator[slice]:
    """Parts of the units small enough that a product is still in a CPU's cache when it is read again."""
    parts = 1 if d.is_cuda else math.ceil(d.numel() * d.element_size() / 2**22)
    step = math.ceil(len(d) / parts)
    for start in range(0, len(d), step):
        yield slice(start, start + step)


def _direct_form(layer: Factors, total: GramSum, buffers: Buffers) -> None:
    total.key = layer.ids
    x, d = layer.segments[0].x, next(s.cotangent() for s in layer.segments if s.losses())
    size = x.shape[-1] * d.shape[-1] * total.losses * d.element_size()
    step = max(1, min(total.units, _budget(x) // max(size, 1)))
    for start in range(0, total.units, step):
        part = slice(start, start + step)
        grads = [_gradient(layer, k, part, buffers) for k in range(total.losses)]
        total.add_all(grads, buffers, part)


def _gradient(layer: Factors, loss: int, part: slice, buffers: Buffers) -> list[Tensor]:
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
            if weight is None:
                shape = (len(d), xt.shape[1], d.shape[2])
                weight = torch.bmm(xt, d, out=buffers.like(f"gradient {loss}", d, shape))
            else:
                weight.baddbmm_(xt, d)
        if layer.bias:
            column = d.sum(1)
            bias = column if bias is None else bias + column
    return [g for g in (weight, bias) if g is not None]


def _budget(x: Tensor) -> int:
    """Bytes that a chunk's temporary gradients may take: about a CPU's last-level cache, more on a GPU."""
    return (512 if x.is_cuda else 16) * 2**20


DOT = 8
"""What a multiply-add of an inner product costs in those of a matrix product: memory binds it."""


def moves_one_side(one: Segment, two: Segment, pairs: int) -> bool:
    """True where <d_l, M d_k> is cheaper than <M, d_l d_k^T> for the `pairs` of losses of two calls."""
    n, m, width = one.tokens, two.tokens, one.cotangent().shape[-1]
    left, right = len(one.losses()), len(two.losses())
    longer = n if left >= right else m
    moved = n * m * width * min(left, right) + DOT * pairs * longer * width
    return moved < pairs * n * m * (width + DOT)


def token_cost(layers: Sequence[Factors], losses: int) -> int:
    """Token form for layers with one input: x x^T once, then M d per layer."""
    total = 0
    calls = len(layers[0].segments)
    for s in range(calls):
        for t in range(s, calls):
            shared = False
            for layer in layers:
                one, two = layer.segments[s], layer.segments[t]
                if not one.losses() or not two.losses():
                    continue
                if layer.weight and not shared:
                    shared = True
                    total += 2 * one.units * one.tokens * two.tokens * one.x.shape[-1]
                total += _pair_cost(one, two, same=s == t)
    return total


def _pair_cost(one: Segment, two: Segment, *, same: bool) -> int:
    n, m, width = one.tokens, two.tokens, one.cotangent().shape[-1]
    left, right = len(one.losses()), len(two.losses())
    pairs = left * (left + 1) // 2 if same else left * right
    if moves_one_side(one, two, pairs):
        longer = n if left >= right else m
        return 2 * one.units * width * (n * m * min(left, right) + DOT * pairs * longer)
    return 2 * one.units * pairs * n * m * (width + DOT)


def direct_cost(layers: Sequence[Factors], losses: int) -> int:
    """Direct form: x^T d per loss and call, then the inner products."""
    total = 0
    for layer in layers:
        first = layer.segments[0]
        width = next(s.cotangent().shape[-1] for s in layer.segments if s.losses())
        size = first.x.shape[-1] * width * layer.weight + width * layer.bias
        total += sum(2 * first.units * s.tokens * size * len(s.losses()) for s in layer.segments)
        total += DOT * first.units * size * losses * (losses + 1)
    return total


@dataclass(slots=True)
class Sketch:
    """Two-sided projections to `size` x `size` numbers per unit, layer and loss, fixed by `seed`."""

    size: int
    seed: int = 0
    always: bool = False
    """Estimate wherever possible, also where the exact Gram takes fewer operations."""
    _maps: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    def pays(self, layers: Sequence[Factors]) -> bool:
        """True where the estimate takes fewer operations than the exact Gram."""
        if not layers[0].segments[0].x.is_floating_point():
            return False
        losses = len(layers[0].segments[0].d)
        return self.always or self._cost(layers) < min(
            token_cost(layers, losses), direct_cost(layers, losses)
        )

    def _cost(self, layers: Sequence[Factors]) -> int:
        total, K = 0, self.size
        for n, layer in enumerate(layers):
            for s in layer.segments:
                for k in s.losses():
                    d = s.d[k]
                    assert d is not None
                    total += 2 * d.numel() * K + 2 * d.shape[0] * d.shape[1] * K * K
                if n == 0:
                    total += 2 * s.x.numel() * K
        return total

    def add_gram(self, layers: Sequence[Factors], total: GramSum, buffers: Buffers) -> None:
        """Add the estimated terms of layers with one input to `total`."""
        inputs = [s.x @ self._map("in", 0, s.x.shape[-1], s.x) for s in layers[0].segments]
        for n, layer in enumerate(layers):
            small = [
                Segment(x, [None if d is None else d @ self._map("out", n, d.shape[-1], d) for d in s.d])
                for x, s in zip(inputs, layer.segments, strict=True)
            ]
            _direct_form(replace(layer, segments=small), total, buffers)

    def _map(self, side: str, n: int, width: int, like: Tensor) -> Tensor:
        """Fixed projection [width, size]; one per side, width and place among layers of one input."""
        key = side, n, width, like.dtype, like.device
        if key not in self._maps:
            draw = torch.Generator().manual_seed(self.seed * 7919 + width * 31 + n * 2 + (side == "in"))
            values = torch.randn(width, self.size, generator=draw) / self.size**0.5
            self._maps[key] = values.to(like)
        return self._maps[key]


def parse_gram(text: str, seed: int = 0) -> Sketch | None:
    """`exact` -> None, `sketch:K` -> a sketch of K x K numbers per layer."""
    kind, _, number = text.partition(":")
    if kind == "exact" and not number:
        return None
    if kind == "sketch" and number.isdecimal() and int(number) > 0:
        return Sketch(int(number), seed)
    raise BadInput(f"gram: {text!r}; choose exact or sketch:K (such as sketch:32)")
