"""Ranks: one reduction of the final gradient, in buckets, and small tables gathered for decisions.

Every rank computes its share of the losses (local rows against gathered ones, differentiably), and the
shares of all ranks add up to the loss; so gradients are summed, not averaged.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 25 * 2**20
"""Bytes per reduction: large enough to use the network, small enough to overlap copying with it."""


def world() -> int:
    """Number of ranks, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(t: Tensor) -> Tensor:
    """[U, ...] of every rank -> [ranks * U, ...], in the order of the ranks; U is the same everywhere."""
    if world() == 1:
        return t
    sent = t.contiguous().to(torch.uint8) if t.dtype == torch.bool else t.contiguous()
    parts = [torch.empty_like(sent) for _ in range(world())]
    dist.all_gather(parts, sent)
    return torch.cat(parts).to(t.dtype)


def own_rows(t: Tensor) -> Tensor:
    """This rank's part of what `gather_rows` put together."""
    share = len(t) // world()
    start = share * dist.get_rank() if world() > 1 else 0
    return t[start : start + share]


def sum_over_ranks(tensors: list[Tensor | None], like: list[Tensor]) -> list[Tensor | None]:
    """Sums over ranks; None counts as zeros, and stays None where all ranks have None.

    tensors may be changed in place. like: tensors of the same shapes, for those that are None.
    """
    if world() == 1 or not like:
        return tensors
    present = torch.tensor([float(t is not None) for t in tensors], device=like[0].device)
    dist.all_reduce(present)
    wanted = [i for i, count in enumerate(present.tolist()) if count]
    filled = {i: _or_zeros(tensors[i], like[i]) for i in wanted}
    for bucket in _buckets(filled):
        flat = torch.cat([filled[i].reshape(-1) for i in bucket])
        dist.all_reduce(flat)
        for i, part in zip(bucket, torch.split(flat, [filled[i].numel() for i in bucket]), strict=True):
            filled[i] = part.view_as(like[i])
    return [filled.get(i) for i in range(len(tensors))]


def reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum `.grad` over ranks. Parameters without a gradient on every rank keep none."""
    if world() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    summed = sum_over_ranks([p.grad for p in trained], [p.detach() for p in trained])
    for p, grad in zip(trained, summed, strict=True):
        p.grad = grad


def _or_zeros(t: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if t is None else t


def _buckets(tensors: dict[int, Tensor]) -> list[list[int]]:
    """Indices in order, split by dtype and at BUCKET bytes."""
    buckets: list[list[int]] = []
    room, dtype = 0, None
    for i, t in tensors.items():
        size = t.numel() * t.element_size()
        if t.dtype != dtype or size > room:
            buckets.append([])
            room, dtype = BUCKET, t.dtype
        buckets[-1].append(i)
        room -= size
    return buckets
