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

    def losses(self, z: torch.Tensor, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict:
        rebuilt = self.rebuild(z).view_as(pixel_values)
        return {"name": cross_entropy(self.name(z), labels), "rebuild": mse_loss(rebuilt, pixel_values)}


class HarmonizedTrainer(Trainer):
    """Sends two losses, made from what the model returns, back through a harmonizer."""

    def training_step(self, model: nn.Module, inputs: dict, *_: object) -> torch.Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        with self.harmonizer.record(), self.compute_loss_context_manager():
            z = model(**inputs)
            losses = self.accelerator.unwrap_model(model).losses(z, **inputs)
        losses = {name: loss / self.current_gradient_accumulation_steps for name, loss in losses.items()}
        last = self.accelerator.sync_gradients  # of the accumulated parts
        self.harmonizer.backward(losses, z, step=self.state.global_step, reduce=last)
        return sum(losses.values()).detach()


def main(rule: str = "realign", **settings: object) -> None:
    """Train for 20 steps."""
    digits, model = load_digits(), Digits()
    rows = zip(torch.tensor(digits.images)[:, None].float() / 16, digits.target, strict=True)
    data = [{"pixel_values": x, "labels": int(label)} for x, label in rows]
    arguments = TrainingArguments(max_steps=20, use_cpu=True, save_strategy="no", **settings)
    trainer = HarmonizedTrainer(model, arguments, train_dataset=data)
    trainer.harmonizer = Harmonizer(model, scope="encoder", rule=rule)
    trainer.train()


if __name__ == "__main__":
    main()
