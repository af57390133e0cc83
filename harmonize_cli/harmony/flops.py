"""Counted multiply-adds (times two) of the ways to a Gram matrix; what choices and the floor rest on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harmonize_cli.harmony.gram import Factors


def token_cost(layers: Sequence["Factors"], losses: int) -> int:
    """Token form for layers with one input: x x^T once, then M d per layer."""
    total = 0
    calls = len(layers[0].segments)
    for s in range(calls):
        for t in range(s, calls):
            shared = False
            for layer in layers:
                one, two = layer.segments[s], layer.segments[t]
                left, right = len(one.losses()), len(two.losses())
                if not left or not right:
                    continue
                pairs = one.x.shape[0] * one.tokens * two.tokens
                if layer.weight and not shared:
                    shared = True
                    total += 2 * pairs * one.x.shape[-1]
                total += 2 * pairs * _width(layer) * (right if s == t else min(left, right))
                moved = one.x.shape[0] * one.tokens * _width(layer)
                total += 2 * moved * left * right  # the inner products
    return total


def direct_cost(layers: Sequence["Factors"], losses: int) -> int:
    """Direct form: x^T d per loss and call, then the inner products."""
    total = 0
    for layer in layers:
        size = layer.segments[0].x.shape[-1] * _width(layer) * layer.weight + _width(layer) * layer.bias
        units = layer.segments[0].x.shape[0]
        total += sum(2 * units * s.tokens * size * len(s.losses()) for s in layer.segments)
        total += units * size * losses * (losses + 1)
    return total


def update_cost(layer: "Factors") -> int:
    """The weight gradient, once, from the combined cotangents of the tokens that have any."""
    width = _width(layer) * layer.weight
    return sum(2 * s.x.shape[0] * s.tokens * s.x.shape[-1] * width for s in layer.segments if s.losses())


def _width(layer: "Factors") -> int:
    return next(d.shape[-1] for s in layer.segments for d in s.d if d is not None)
