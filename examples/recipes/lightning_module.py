"""Harmonize in Lightning: manual optimisation, with `harmonizer.backward` in place of `manual_backward`.

python examples/recipes/lightning_module.py
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from harmonize_cli.harmony import Harmonizer


class Digits(lightning.LightningModule):
    """Names noisy digits and rebuilds the clean ones."""

    def __init__(self, rule: str = "realign") -> None:
        super().__init__()
        self.automatic_optimization = False
        self.body = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 32))
        self.name, self.rebuild = nn.Linear(32, 10), nn.Linear(32, 64)
        self.harmonizer = Harmonizer(self, scope="body", rule=rule)

    def training_step(self, batch: list[torch.Tensor], index: int) -> None:
        noisy, clean, label = batch
        self.optimizers().zero_grad()
        with self.harmonizer.record():
            z = self.body(noisy)
            name, rebuild = cross_entropy(self.name(z), label), mse_loss(self.rebuild(z), clean)
        losses = {"name": name / self.trainer.world_size, "rebuild": rebuild / self.trainer.world_size}
        report = self.harmonizer.backward(losses, z, step=self.global_step)
        self.optimizers().step()
        self.log_dict({"loss_name": name, "loss_rebuild": rebuild, **report.scalars()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["harmonizer"] = self.harmonizer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.harmonizer.load_state_dict(checkpoint["harmonizer"])


def main(rule: str = "realign", **settings: object) -> lightning.Trainer:
    """Train for two epochs; returns the trainer."""
    torch.manual_seed(0)
    digits = load_digits()
    clean = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = TensorDataset(clean + 0.3 * torch.randn(clean.shape), clean, torch.tensor(digits.target))
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", log_every_n_steps=1, **settings)
    trainer.fit(Digits(rule), DataLoader(data, batch_size=64))
    return trainer


if __name__ == "__main__":
    main()
