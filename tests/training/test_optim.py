"""Weight decay, and the moving average of the weights."""

import torch
from torch import nn

from harmonize_cli.training.config import OptimConfig
from harmonize_cli.training.optim import Ema, build_optimizer


def test_weight_decay_spares_vectors_and_scalars() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    tau = nn.Parameter(torch.tensor(0.5))
    before = [p.detach().clone() for p in [*model.parameters(), tau]]
    optimiser = build_optimizer([*model.parameters(), tau], OptimConfig(name="adamw", weight_decay=0.1))
    for group in optimiser.param_groups:
        group["lr"] = 1.0
    for p in [*model.parameters(), tau]:
        p.grad = torch.zeros_like(p)
    optimiser.step()
    for p, was in zip([*model.parameters(), tau], before, strict=True):
        torch.testing.assert_close(p.detach(), was * 0.9 if was.dim() > 1 else was)


def test_the_average_is_the_recurrence_written_out() -> None:
    model = nn.Linear(2, 2)
    ema, wanted = Ema(model, decay=0.6), model.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            model.weight += torch.randn_like(model.weight)
        ema.update(model, step)
        keep = min(0.6, step / (step + 10))  # early steps count for more
        wanted = keep * wanted + (1 - keep) * model.weight.detach()
    torch.testing.assert_close(ema.module.weight, wanted)
