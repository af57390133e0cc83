"""Processes of a run: started by torchrun, or one."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.objectives.gather import rank, ranks

__all__ = [
    "any_rank",
    "check_agreement",
    "is_first",
    "meet",
    "pick_device",
    "process_group",
    "rank",
    "ranks",
    "sum_gradients",
]


def pick_device(name: str) -> torch.device:
    """`auto` takes this process's GPU where there is one.

    Raises:
        BadInput: a device that isn't there.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise BadInput(f"device: {name!r} is none ({e}); use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(
            f"device: {name} is not there ({torch.cuda.device_count()} GPUs found); use auto or cpu"
        )
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


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add the ranks' gradients up in one reduction; a rank without a gradient adds zeros."""
    if ranks() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    for p in trained:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
    dist.all_reduce(flat)
    for p, part in zip(trained, torch.split(flat, [p.numel() for p in trained]), strict=True):
        p.grad = part.view_as(p)


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on every rank if it is True on one."""
    if ranks() == 1:
        return flag
    value: Tensor = torch.tensor([float(flag)], device=device)
    dist.all_reduce(value)
    return bool(value.item() > 0)


def meet(device: torch.device) -> None:
    """Go on only when every rank is here."""
    any_rank(False, device)


def check_agreement(facts: Mapping[str, object]) -> None:
    """All ranks must have started from the same things: otherwise they would hang, or train nonsense.

    Raises:
        HarmonizeError: naming what differs, on every rank.
    """
    if ranks() == 1:
        return
    everyone: list[dict[str, object]] = [{} for _ in range(ranks())]
    dist.all_gather_object(everyone, dict(facts))
    for name in facts:
        values = {str(each[name]) for each in everyone}
        if len(values) > 1:
            raise HarmonizeError(
                f"the processes differ in {name}: {', '.join(sorted(values))}; all of them need the same "
                "config, store and run folder (a file system that every machine sees)"
            )


def is_first() -> bool:
    """True in the process that speaks for all, also before and after `process_group`."""
    return os.environ.get("RANK", "0") == "0"
