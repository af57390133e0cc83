"""Counted operations of the ways to a Gram matrix: what the choices between them rest on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harmonize_cli.harmony.segments import Segment

if TYPE_CHECKING:
    from harmonize_cli.harmony.gram import Factors

DOT = 8
"""What a multiply-add of an inner product costs in those of a matrix product: memory binds it."""


def moves_one_side(one: Segment, two: Segment, pairs: int) -> bool:
    """True where <d_l, M d_k> is cheaper than <M, d_l d_k^T> for the `pairs` of losses of two calls."""
    n, m, width = one.tokens, two.tokens, one.cotangent().shape[-1]
    left, right = len(one.losses()), len(two.losses())
    longer = n if left >= right else m
    moved = n * m * width * min(left, right) + DOT * pairs * longer * width
    return moved < pairs * n * m * (width + DOT)


def token_cost(layers: Sequence["Factors"], losses: int) -> int:
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


def direct_cost(layers: Sequence["Factors"], losses: int) -> int:
    """Direct form: x^T d per loss and call, then the inner products."""
    total = 0
    for layer in layers:
        first = layer.segments[0]
        width = next(s.cotangent().shape[-1] for s in layer.segments if s.losses())
        size = first.x.shape[-1] * width * layer.weight + width * layer.bias
        total += sum(2 * first.units * s.tokens * size * len(s.losses()) for s in layer.segments)
        total += DOT * first.units * size * losses * (losses + 1)
    return total
