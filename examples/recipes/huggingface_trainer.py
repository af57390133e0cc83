"""Harmonize in a Hugging Face Trainer: a subclass whose `training_step` sends two losses back.

python examples/recipes/huggingface_trainer.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import Trainer, TrainingArguments, ViTConfig, ViTModel

from harmonize_cli.harmony import Harmonizer


class Digits(nn.Module):
    """A small ViT with two heads: it names digits and rebuilds them."""

    def __init__(self) -> None:
        super().__init__()
        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        self.encoder = ViTModel(ViTConfig(image_size=8, patch_size=4, num_channels=1, **size))
        self.name, self.rebuild = nn.Linear(32, 10), nn.Linear(32, 64)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.encoder(pixel_values).pooler_output


class HarmonizedTrainer(Trainer):
    """Sends two losses, made from what the model returns, back through a harmonizer."""

    rule, harmonizer = "realign", None

    def training_step(self, model: nn.Module, inputs: dict, *_: object) -> torch.Tensor:
        model.train()
        self.harmonizer = self.harmonizer or Harmonizer(model, rule=self.rule)  # in DDP where there is one
        x, heads = self._prepare_inputs(inputs), self.accelerator.unwrap_model(model)
        parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        with self.harmonizer.record(), self.compute_loss_context_manager():
            z = model(**x)
            name = cross_entropy(heads.name(z), x["labels"])
            rebuild = mse_loss(heads.rebuild(z), x["pixel_values"].flatten(1))
        losses = {"name": name / parts, "rebuild": rebuild / parts}
        last = self.accelerator.sync_gradients  # of the accumulated parts
        self.harmonizer.backward(losses, z, step=self.state.global_step, reduce=last)
        return (name + rebuild).detach() / parts


def main(rule: str = "realign", **settings: object) -> None:
    """Train for 20 steps."""
    digits = zip(*load_digits(return_X_y=True), strict=True)
    data = [{"pixel_values": torch.tensor(x).view(1, 8, 8).float() / 16, "labels": y} for x, y in digits]
    arguments = TrainingArguments(max_steps=20, use_cpu=True, save_strategy="no", **settings)
    trainer = HarmonizedTrainer(Digits(), arguments, train_dataset=data)
    trainer.rule = rule
    trainer.train()


if __name__ == "__main__":
    main()
