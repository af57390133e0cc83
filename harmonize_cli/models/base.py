"""What a model is to everything else, and the models by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harmonize_cli.models.config import ModelSettings
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.registry import Registry


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """pooled: {"video": [B, D], "audio": [B, D], "text": [B, C, D]}; embeddings: see `Model.heads`."""

    pooled: dict[str, Tensor]
    embeddings: dict[str, Tensor]


class Model(nn.Module, ABC):
    """Encoders of some modalities and heads over them, made as `Kind(config, inputs, with_head=True)`.

    Subclasses register in `MODELS`. The heads' parameters lie below `head`, so that an encoder can be
    exported without them. A model that needs nothing of what follows `pooled_width` leaves it as it is here.
    """

    Config: ClassVar[type[ModelSettings]] = ModelSettings
    modalities: tuple[str, ...]
    """The modalities that it reads."""

    def forward(self, inputs: Mapping[str, Tensor]) -> ModelOutput:
        """Pooled features and embeddings of a batch; see `encode` for `inputs`."""
        pooled = self.encode(inputs)
        return ModelOutput(pooled, self.heads(pooled))

    @abstractmethod
    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pooled features, the place where harmonization cuts the graph: [B, D], text [B, C, D].

        inputs: per modality the tensor of `models.inputs`; for feature sequences "video_mask", "audio_mask"
        [B, T], True where a row is real. Modalities that are not in `inputs` are left out.
        """

    @abstractmethod
    def heads(
        self, pooled: Mapping[str, Tensor], real: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Embeddings of pooled features, not normalized: `MODALITY_va` for video and audio, `MODALITY_vt` for
        all; a model with a single space gives the same tensor under both names.

        real: bool per modality, [B] or text [B, C], False for rows that are no data.
        """

    @abstractmethod
    def stages(self, modality: str) -> Sequence[nn.Module]:
        """The modules that make a modality's pooled feature, in order."""

    @abstractmethod
    def pooled_width(self, modality: str) -> int:
        """Dimensions of a modality's pooled feature."""

    def needs(self, embeddings: Collection[str]) -> None:
        """The embeddings that training reads; others need not be made then."""

    def prepare(self, *, checkpointing: bool, compiled: bool) -> None:
        """Recompute activations in the backward pass; compile the encoders."""
        for stage in {stage for m in self.modalities for stage in self.stages(m)}:
            if compiled:
                stage.compile()

    def fit_inputs(self, rows_of: Callable[[str], Iterable[Tensor]]) -> None:
        """Before training: take statistics from real inputs. rows_of: modality -> batches of them."""

    def input_statistics(self) -> dict[str, Tensor]:
        """What `fit_inputs` made, by name in the state: a model with fresh weights keeps it."""
        return {}

    def for_labels(self, modality: str, spec: InputSpec) -> None:
        """Before fine-tuning: no tokens dropped, and positions for windows of another size."""


MODELS: Registry[type[Model]] = Registry("model", group="harmonize.models", package="harmonize_cli.models")


def make_model(config: ModelSettings, inputs: Mapping[str, InputSpec], *, with_head: bool = True) -> Model:
    """The model that a config describes, with random weights."""
    kind: Any = MODELS.find(config.kind)
    model: Model = kind(config, inputs, with_head=with_head)
    return model


def blank_inputs(specs: Mapping[str, InputSpec], samples: int = 2) -> dict[str, Tensor]:
    """Inputs of zeros, on the default device."""
    types = {"tokens": torch.long, "frames": torch.uint8}
    inputs = {}
    for modality, spec in specs.items():
        dtype = types.get(spec.kind, torch.float32)
        inputs[modality] = torch.zeros(samples, *spec.blank().shape, dtype=dtype)
    return inputs
