"""What processes exchange, against one process that has all rows: real gloo processes."""

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from harmonize_cli.errors import HarmonizeError
from harmonize_cli.ranks import (
    any_rank,
    check_agreement,
    gather,
    gather_objects,
    own_rows,
    rank,
    ranks,
    sum_gradients,
    sum_over_ranks,
    sum_tensors,
)

CPU = torch.device("cpu")
PROCESSES = 3


def rows(own: slice) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 2, generator=generator, dtype=torch.float64)[own].requires_grad_()


def coupled(x: Tensor) -> Tensor:
    """This rank's share of a loss in which every row meets every row, and the mean of all."""
    mean = sum_over_ranks(x.sum(0)) / (len(x) * ranks())
    return ((x @ gather(x).T).exp() * (x - mean).square().sum(1, keepdim=True)).sum()


def check_exchange(folder: str) -> None:
    x = rows(slice(2 * rank(), 2 * rank() + 2))
    coupled(x).backward()  # type: ignore[no-untyped-call]
    torch.save(x.grad, f"{folder}/grad-{rank()}.pt")
    flags = torch.tensor([rank() == 1, False])
    assert gather(flags).tolist() == [False, False, True, False, False, False]
    assert own_rows(gather(flags)).tolist() == flags.tolist()
    assert gather(x.T.contiguous().T.detach()).shape == (6, 2)
    assert gather_objects(f"rank {rank()}") == ["rank 0", "rank 1", "rank 2"]
    assert any_rank(rank() == 2, CPU)
    assert not any_rank(False, CPU)
    check_agreement({"config": "same"})
    with pytest.raises(HarmonizeError, match=r"differ in store: 0, 1, 2"):
        check_agreement({"config": "same", "store": rank()})


def check_sums() -> None:
    like = [torch.zeros(3), torch.zeros(2, dtype=torch.float64), torch.zeros(1), torch.zeros(2, 2)]
    mine = [torch.full_like(t, rank() + 1.0) for t in like]
    given = [mine[0], mine[1] if rank() == 1 else None, None, mine[3]]
    first, second, third, fourth = sum_tensors(given, like)
    assert first is not None
    assert first.tolist() == [6, 6, 6]
    assert second is not None
    assert second.tolist() == [2, 2]
    assert second.dtype == torch.float64
    assert third is None
    assert fourth is not None
    assert fourth.tolist() == [[6, 6], [6, 6]]
    p, q, frozen = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    frozen.requires_grad_(False)
    if rank() == 0:
        p.grad = torch.ones(3)  # the other ranks' rows did not reach p; none reached q
    sum_gradients([p, q, frozen])
    assert p.grad is not None
    assert p.grad.tolist() == [1, 1, 1]
    assert q.grad is None


def worker(index: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(index), WORLD_SIZE=str(PROCESSES))
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", PROCESSES)
    dist.init_process_group("gloo", store=store, rank=index, world_size=PROCESSES)
    check_exchange(folder)
    check_sums()
    time.sleep(0.1)  # as `process_group` does
    dist.destroy_process_group()


def test_processes_exchange_rows_sums_and_gradients(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=PROCESSES)
    x = rows(slice(None))
    coupled(x).backward()  # type: ignore[no-untyped-call]
    got = torch.cat([torch.load(tmp_path / f"grad-{index}.pt") for index in range(PROCESSES)])
    torch.testing.assert_close(got, x.grad)


def test_one_process_exchanges_nothing() -> None:
    x = rows(slice(None))
    assert gather(x) is x
    assert sum_over_ranks(x) is x
    assert (rank(), ranks()) == (0, 1)
    assert torch.equal(own_rows(x), x)
    assert gather_objects("a") == ["a"]
    check_agreement({"store": 1})
