"""Two gloo processes with N rows each end where one process with 2N rows does."""

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from harmony_models import TriModal, make_inputs
from torch import Tensor
from torch.nn.functional import normalize

from harmonize_cli.harmony import Gate, Harmonizer
from harmonize_cli.ranks import gather

CASES = {
    "sample": {},
    "microbatch": {"granularity": "microbatch:2"},
    "batch": {"granularity": "batch"},
    "representation batch": {"granularity": "batch", "scope": "representation"},
    "representation": {"scope": "representation"},
    "all": {"scope": "all"},
    "quantile": {"gate": Gate(schedule="quantile", start=0.5, end=0.5)},
    "shuffled": {"control": "shuffled"},
    "random": {"control": "random", "gate": Gate(schedule="quantile", start=0.5, end=0.5)},
    "gradvac": {"rule": "gradvac:ema:0.5"},
    "gate before BatchNorm": {"gate": Gate(schedule="quantile", start=0.5, end=0.5)},
}
MASK = torch.tensor([True, True, False, True, True, True, False, True])


def shares(e: dict[str, Tensor], mask: Tensor, own: slice) -> dict[str, Tensor]:
    """This rank's rows of the losses, against all rows; over all ranks the shares add up to the loss."""
    every = {n: gather(x) for n, x in e.items()}

    def share(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
        sims = torch.einsum("bd,ncd->bnc", normalize(a, dim=-1), normalize(b, dim=-1)) / 0.2
        sims = sims.masked_fill(~valid[None, :, None], -1e9)
        rows = torch.arange(len(a))
        per = sims.flatten(1).logsumexp(-1) - sims[rows, rows + own.start].logsumexp(-1)
        return (per * valid[own]).sum() / valid.sum()

    return {
        "va": share(e["video_va"], every["audio_va"].unsqueeze(1), torch.ones_like(mask)),
        "vt": share(e["video_vt"], every["text_vt"], mask),
    }


def train(case: str, rank: int, ranks: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = TriModal(batch_norm="BatchNorm" in case).double()
    inputs = make_inputs(B=8, dtype=torch.float64)
    own = slice(rank * 8 // ranks, (rank + 1) * 8 // ranks)
    harmonizer = Harmonizer(model, **CASES[case])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(2):
        optimizer.zero_grad()
        with harmonizer.record():
            pooled = model.encode({m: x[own] for m, x in inputs.items()})
            losses = shares(harmonizer.through_gate(model.embed(pooled)), MASK, own)
        harmonizer.backward(losses, pooled, step=step, valid={"vt": MASK[own]})
        optimizer.step()
    return model.state_dict()


def worker(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for case in CASES:
        torch.save(train(case, rank, 2), f"{folder}/{case}-{rank}.pt")
    time.sleep(0.1)  # as `process_group` does
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(two_ranks: Path, case: str) -> None:
    want = train(case, 0, 1)
    for rank in (0, 1):
        got = torch.load(two_ranks / f"{case}-{rank}.pt")
        for name, value in want.items():
            torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-9)
