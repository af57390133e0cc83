"""Convolutions that cut their input into patches (stride = kernel): linear maps of patches."""

import math

from torch import Tensor, nn

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def non_overlapping(conv: Conv) -> bool:
    """True where each input value is read at most once."""
    return (
        tuple(conv.stride) == tuple(conv.kernel_size)
        and not isinstance(conv.padding, str)
        and all(p == 0 for p in conv.padding)
        and all(d == 1 for d in conv.dilation)
        and conv.groups == 1
        and type(conv).forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
    )


def patch_rows(conv: Conv, x: Tensor) -> Tensor:
    """[N, C, *space] -> [N, patches, C * prod(kernel)], in the order of the weight and of the output."""
    axes = len(conv.kernel_size)
    grid = [size // k for size, k in zip(x.shape[2:], conv.kernel_size, strict=True)]
    for axis, (count, k) in enumerate(zip(grid, conv.kernel_size, strict=True)):
        x = x.narrow(2 + axis, 0, count * k)
    split = [each for count, k in zip(grid, conv.kernel_size, strict=True) for each in (count, k)]
    x = x.reshape(*x.shape[:2], *split)
    # [N, C, g1, k1, g2, k2, ...] -> [N, g1, g2, ..., C, k1, k2, ...]
    order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
    return x.permute(order).reshape(x.shape[0], math.prod(grid), -1)
