"""The Gram estimated from random projections, for sizes where the exact one costs too much.

A layer's gradient G = x^T d is seen through S = R^T G Q with R [in, K] and Q [out, K] of independent
N(0, 1/K) entries: <S_l, S_k> is an unbiased estimate of <G_l, G_k>. x R is made once per input. Weights come
from the estimate; the update is still exactly sum_i alpha_i g_va,i + beta_i g_vt,i.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._gram import Factors, direct_cost, token_cost
from harmonize_cli.harmony._sums import Buffers, GramSum


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
        inputs: list[Tensor] | None = None
        for n, layer in enumerate(layers):
            if layer.weight and inputs is None:
                inputs = [s.x @ self._map("in", n, s.x.shape[-1], s.x) for s in layer.segments]
            self._add_layer(layer, inputs, n, total, buffers)

    def _add_layer(
        self, layer: Factors, inputs: list[Tensor] | None, n: int, total: GramSum, buffers: Buffers
    ) -> None:
        seen: list[list[Tensor]] = []
        for k in range(total.losses):
            weight: Tensor | None = None
            bias: Tensor | None = None
            for i, s in enumerate(layer.segments):
                d = s.d[k]
                if d is None:
                    continue
                small = d @ self._map("out", n, d.shape[-1], d)
                if layer.bias:
                    column = small.sum(1)
                    bias = column if bias is None else bias + column
                if layer.weight and inputs is not None:
                    xt = inputs[i].transpose(1, 2)
                    weight = torch.bmm(xt, small) if weight is None else weight.baddbmm_(xt, small)
            seen.append([g for g in (weight, bias) if g is not None])
        total.add_all(seen, buffers)

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
