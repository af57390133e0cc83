"""Harmonize under FSDP2 (`fully_shard`), at scope `representation`: one ordinary backward pass.

    torchrun --nproc-per-node 2 examples/recipes/fully_sharded.py

The losses are compared where they first meet, at the pooled vectors, so no layer has to be read. Every rank's
losses are its share, and the harmonizer lets FSDP add gradients up; heads stay whole, outside `fully_shard`.
"""

import sys
import time

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy, mse_loss

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
    fully_shard(body, mesh=init_device_mesh("cpu", (ranks,)))
    model = nn.ModuleDict({"body": body, "heads": heads})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    harmonizer = Harmonizer(model, scope="representation", rule=rule)
    for step in range(steps):
        rows = torch.randint(0, 1500, (64,))  # of all ranks, which draw the same numbers
        noisy = clean[rows] + 0.3 * torch.randn(64, 64)
        own = slice(rank * 64 // ranks, (rank + 1) * 64 // ranks)
        optimizer.zero_grad()
        z = body(noisy[own])
        losses = {
            "name": cross_entropy(heads["name"](z), label[rows][own]) / ranks,
            "rebuild": mse_loss(heads["rebuild"](z), clean[rows][own]) / ranks,
        }
        harmonizer.backward(losses, z, step=step)
        optimizer.step()
    weights = {name: getattr(x, "full_tensor", lambda x=x: x)() for name, x in model.state_dict().items()}
    if file and rank == 0:
        torch.save(weights, file)
    time.sleep(0.2)  # gloo's threads may still be letting go of the last tensors
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
