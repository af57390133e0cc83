"""Harmonize under DistributedDataParallel.

    torchrun --nproc-per-node 2 examples/recipes/distributed.py

The wrapped encoder runs inside `record()`, where DDP leaves gradients alone; `harmonizer.backward` sums them
over the ranks. So every rank's losses are its share: here of the mean over all ranks' rows.
"""

import sys
import time

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.parallel import DistributedDataParallel

from harmonize_cli.harmony import Harmonizer


def main(file: str = "", rule: str = "realign", steps: int = 20) -> None:
    """Train; the first rank saves the weights to `file`."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    digits = load_digits()
    clean, label = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    body = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 32))
    heads = nn.ModuleDict({"name": nn.Linear(32, 10), "rebuild": nn.Linear(32, 64)})
    body = DistributedDataParallel(body)
    model = nn.ModuleDict({"body": body, "heads": heads})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    harmonizer = Harmonizer(model, scope="body", rule=rule)
    for step in range(steps):
        rows = torch.randint(0, 1500, (64,))  # of all ranks, which draw the same numbers
        noisy = clean[rows] + 0.3 * torch.randn(64, 64)
        own = slice(rank * 64 // ranks, (rank + 1) * 64 // ranks)
        optimizer.zero_grad()
        with harmonizer.record():
            z = body(noisy[own])
            losses = {
                "name": cross_entropy(heads["name"](z), label[rows][own]) / ranks,
                "rebuild": mse_loss(heads["rebuild"](z), clean[rows][own]) / ranks,
            }
        harmonizer.backward(losses, z, step=step)
        optimizer.step()
    if file and rank == 0:
        torch.save(model.state_dict(), file)
    time.sleep(0.2)  # gloo's threads may still be letting go of the last tensors
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
