"""The model that fine-tuning trains, and what reaches it: settings, sizes, crops."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from harmonize_cli.config import StageConfig
from harmonize_cli.data.windows import check_inputs
from harmonize_cli.errors import BadInput
from harmonize_cli.models.base import Model
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.store.reader import Store


class FinetuneConfig(StageConfig):
    """Defaults are VATT's for Kinetics-400, video."""

    modality: Literal["video", "audio"] = "video"
    """Which input is classified; DropToken is off, whatever the run used."""
    label: int = Field(default=0, ge=0)
    """Which of a sample's labels, from 0."""
    train: str = "train"
    """Training split(s)."""
    steps: int = Field(default=100_000, ge=1)
    """Length of the run."""
    batch: int = Field(default=64, ge=1)
    """Clips per step."""
    lr: float = Field(default=0.005, gt=0)
    """Peak learning rate of SGD; then a half cosine to zero."""
    warmup: int = Field(default=2500, ge=0)
    """Steps of linear warm-up."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; there is no weight decay."""
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing."""
    clip: float = Field(default=0.75, ge=0)
    """Largest norm of the backbone's gradient (0: none); the classifier's is left as it is."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Before the classifier."""
    windows: int = Field(default=4, ge=1)
    """Of a test clip; logits are averaged."""
    crops: int = Field(default=3, ge=1)
    """Squares of a test frame that is not square, along its longer side; logits are averaged."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of classifier, order, windows and augmentation."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints: what a kill may cost."""
    log_every: int = Field(default=10, ge=1)
    """Steps per line of metrics.jsonl."""


class Tuned(nn.Module):
    """The backbone's pooled feature (AGG), dropout, one linear layer. forward(inputs) -> logits [B, C]."""

    def __init__(self, backbone: Model, modality: str, classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone, self.modality = backbone, modality
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.pooled_width(modality), classes)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits of the modality's pooled feature."""
        z = self.backbone.encode({k: v for k, v in inputs.items() if k.startswith(self.modality)})
        logits: Tensor = self.classifier(self.dropout(z[self.modality]))
        return logits

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Those that this modality's path trains."""
        parts = self.backbone.stages(self.modality)
        return [p for part in parts for p in part.parameters() if p.requires_grad]


def fitting_spec(store: Store, specs: Mapping[str, InputSpec], modality: str) -> InputSpec:
    """The run's input; frames may have another size than in pre-training (VATT: 224, then 320).

    Raises:
        BadInput: the run or the store has no such input, or of another kind.
    """
    if modality not in specs:
        raise BadInput(f"modality {modality}: the run reads {', '.join(specs)}")
    spec = specs[modality]
    feature = store.features.get(spec.key)
    if feature is not None and spec.kind == "frames" and feature.kind in ("frames", "jpeg"):
        if feature.row_shape[-1] != spec.row_shape[-1]:
            raise BadInput(
                f"{store.path}: {spec.key}: {feature.row_shape[-1]} channels, "
                f"the run reads {spec.row_shape[-1]}"
            )
        return replace(spec, row_shape=tuple(feature.row_shape), params_hash=feature.preprocessing_hash)
    return check_inputs(store, {modality: spec})[modality]


def train_crop(inputs: Mapping[str, Tensor], config: FinetuneConfig, step: int) -> Mapping[str, Tensor]:
    """A square at a random place of frames that are not square."""
    share = float(np.random.Generator(np.random.Philox(key=[config.seed, step])).random())
    return cropped(inputs, config.modality, share)


def test_crops(inputs: Mapping[str, Tensor], config: FinetuneConfig) -> Iterator[Mapping[str, Tensor]]:
    x = inputs[config.modality]
    square = x.dim() != 5 or x.shape[2] == x.shape[3]
    shares = [0.5] if square or config.crops == 1 else np.linspace(0, 1, config.crops).tolist()
    for share in shares:
        yield cropped(inputs, config.modality, share)


def cropped(inputs: Mapping[str, Tensor], modality: str, share: float) -> Mapping[str, Tensor]:
    x = inputs[modality]
    if x.dim() != 5 or x.shape[2] == x.shape[3]:
        return inputs
    side = min(x.shape[2], x.shape[3])
    top, left = (round(share * (size - side)) for size in (x.shape[2], x.shape[3]))
    return {**inputs, modality: x[:, :, top : top + side, left : left + side]}
