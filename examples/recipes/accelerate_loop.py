"""Harmonize with Hugging Face accelerate: `harmonizer.backward` in place of `accelerator.backward`.

python examples/recipes/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from harmonize_cli.harmony import Harmonizer


def main(rule: str = "realign", accumulate: int = 2, **settings: object) -> None:
    """Train for an epoch: name noisy digits, and rebuild the clean ones."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate, **settings)
    torch.manual_seed(0)
    digits = load_digits()
    clean = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = TensorDataset(clean + 0.3 * torch.randn(clean.shape), clean, torch.tensor(digits.target))
    body = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 32))
    heads = nn.ModuleDict({"name": nn.Linear(32, 10), "rebuild": nn.Linear(32, 64)}).to(accelerator.device)
    optimizer = torch.optim.Adam([*body.parameters(), *heads.parameters()], lr=3e-3)
    # heads stay outside: a prepared model may return a copy in float32, and the losses have to be made from
    # the very vectors that `backward` gets
    body, optimizer, loader = accelerator.prepare(body, optimizer, DataLoader(data, batch_size=64))
    harmonizer = Harmonizer({"body": body, "heads": heads}, scope="body", rule=rule)
    share = 1 / (accumulate * accelerator.num_processes)  # gradients are summed over parts and ranks
    for step, (noisy, wanted, label) in enumerate(loader):
        with accelerator.accumulate(body):
            with harmonizer.record():
                z = body(noisy)
                losses = {
                    "name": cross_entropy(heads["name"](z), label) * share,
                    "rebuild": mse_loss(heads["rebuild"](z), wanted) * share,
                }
            report = harmonizer.backward(losses, z, step=step, reduce=accelerator.sync_gradients)
            accelerator.clip_grad_norm_(harmonizer.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.print({name: round(value, 3) for name, value in report.scalars().items()})


if __name__ == "__main__":
    main()
