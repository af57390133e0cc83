"""Processes of a run, started by torchrun or one: who they are, and what they exchange.

Every rank computes its share of the losses (its own rows against the gathered rows of all ranks,
differentiably), and the shares add up to the loss; so gradients are summed over ranks, not averaged. The
differentiable collectives are ours: torch deprecates those of torch.distributed.nn.functional since 2.12.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harmonize_cli.errors import BadInput, HarmonizeError

BUCKET = 25 * 2**20
"""Bytes per reduction: large enough to use the network, small enough to overlap copying with it."""

T = TypeVar("T")


def ranks() -> int:
    """Number of processes, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process."""
    return dist.get_rank() if ranks() > 1 else 0


def is_first() -> bool:
    """True in the process that speaks for all, also before and after `process_group`."""
    return os.environ.get("RANK", "0") == "0"


def pick_device(name: str) -> torch.device:
    """`auto` takes this process's GPU where there is one.

    Raises:
        BadInput: not a device, or one that this machine lacks.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise BadInput(f"device: {name!r} is not a device ({e}); use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"device: {name} not found ({torch.cuda.device_count()} GPUs found); use auto or cpu")
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started (NCCL on GPU, gloo on CPU); nothing to do for one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # the others wait while rank 0 validates and saves; torchrun ends them when a process dies
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    try:
        yield
    finally:
        # its threads may still be letting go of the last tensors; at the interpreter's end that aborts
        time.sleep(0.1)
        dist.destroy_process_group()


def gather(x: Tensor) -> Tensor:
    """[B, ...] on each rank -> [ranks * B, ...], ordered by rank, with gradient. All shapes agree."""
    if ranks() == 1:
        return x
    if x.is_floating_point() and x.requires_grad:
        gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
        return gathered
    return _gather(x)


def own_rows(x: Tensor) -> Tensor:
    """This rank's part of what `gather` put together."""
    share = len(x) // ranks()
    return x[share * rank() : share * (rank() + 1)]


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum over ranks, with gradient."""
    if ranks() == 1:
        return x
    if x.requires_grad:
        total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
        return total
    return _sum(x)


def gather_objects(x: T) -> list[T]:
    """Anything that pickles, of every rank, ordered by rank."""
    if ranks() == 1:
        return [x]
    everyone: list[Any] = [None] * ranks()
    dist.all_gather_object(everyone, x)
    return everyone


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on every rank if it is True on one."""
    if ranks() == 1:
        return flag
    return bool(_sum(torch.tensor([float(flag)], device=device)).item() > 0)


def barrier(device: torch.device) -> None:
    """Go on only when every rank is here."""
    any_rank(False, device)


def check_agreement(facts: Mapping[str, object]) -> None:
    """All ranks must have started from the same things: otherwise they would hang, or train nonsense.

    Raises:
        HarmonizeError: naming what differs, on every rank.
    """
    everyone = gather_objects(dict(facts))
    for name in facts:
        values = {str(each[name]) for each in everyone}
        if len(values) > 1:
            raise HarmonizeError(
                f"the processes differ in {name}: {', '.join(sorted(values))}; all of them need the same "
                "config, store and run folder (a file system that every machine sees)"
            )


def sum_tensors(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
    """Sums over ranks, in few reductions; None counts as zeros, and stays None where all ranks have None.

    tensors may be changed in place. like: tensors of the same shapes, for those that are None.
    """
    if ranks() == 1 or not like:
        return list(tensors)
    present = torch.tensor([float(t is not None) for t in tensors], device=like[0].device)
    dist.all_reduce(present)
    wanted = [i for i, count in enumerate(present.tolist()) if count]
    filled = {i: torch.zeros_like(like[i]) if (t := tensors[i]) is None else t for i in wanted}
    for bucket in _buckets(filled):
        flat = torch.cat([filled[i].reshape(-1) for i in bucket])
        dist.all_reduce(flat)
        for i, part in zip(bucket, torch.split(flat, [filled[i].numel() for i in bucket]), strict=True):
            filled[i] = part.view_as(like[i])
    return [filled.get(i) for i in range(len(tensors))]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum `.grad` over ranks. Parameters without a gradient on every rank keep none: an optimiser leaves
    those alone, while a gradient of zeros would let it decay them."""
    if ranks() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    summed = sum_tensors([p.grad for p in trained], [p.detach() for p in trained])
    for p, grad in zip(trained, summed, strict=True):
        p.grad = grad


def _gather(x: Tensor) -> Tensor:
    sent = x.contiguous().to(torch.uint8) if x.dtype == torch.bool else x.contiguous()
    parts = [torch.empty_like(sent) for _ in range(ranks())]
    dist.all_gather(parts, sent)
    return torch.cat(parts).to(x.dtype)


def _sum(x: Tensor) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _gather(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # each rank's loss has a share in this rank's rows: add the shares up, take our own rows
        return own_rows(_sum(grads[0]))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # every rank's loss depends on every rank's input
        return _sum(grads[0])


def _buckets(tensors: dict[int, Tensor]) -> list[list[int]]:
    """Indices in order, split by dtype and at BUCKET bytes."""
    buckets: list[list[int]] = []
    free, dtype = 0, None
    for i, t in tensors.items():
        size = t.numel() * t.element_size()
        if t.dtype != dtype or size > free:
            buckets.append([])
            free, dtype = BUCKET, t.dtype
        buckets[-1].append(i)
        free -= size
    return buckets
