"""Three encoders of Hugging Face, one for each modality, and a linear head over each into one space."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from harmonize_cli.config import StageConfig
from harmonize_cli.errors import BadInput, missing_extra
from harmonize_cli.models.base import MODELS, Model
from harmonize_cli.models.config import MODALITIES, ModelSettings
from harmonize_cli.models.inputs import InputSpec

CLIPS = ("videomae", "vivit", "timesformer")
"""Types that read frames [B, T, C, H, W]; others read single frames, whose features are averaged."""


class TowerConfig(StageConfig):
    """One encoder."""

    type: str | None = None
    """Model type of Hugging Face; default by the input: frames videomae, log-mels and others of their shape
    audio-spectrogram-transformer, waveforms wav2vec2, tokens and feature sequences bert."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings of its Hugging Face config, such as {hidden_size: 384}; sizes of the inputs follow from the
    store."""
    weights: str | None = None
    """A folder of pretrained weights (`save_pretrained`); nothing is downloaded."""


class TowersConfig(ModelSettings):
    """Needs the extra `transformers`."""

    video: TowerConfig = TowerConfig()
    audio: TowerConfig = TowerConfig()
    text: TowerConfig = TowerConfig()
    space: int = Field(default=256, ge=1)
    """Dimensions of the common space."""

    @model_validator(mode="after")
    def _either(self) -> "TowersConfig":
        for modality in MODALITIES:
            tower: TowerConfig = getattr(self, modality)
            if tower.weights and tower.config:
                raise ValueError(f"{modality}: weights bring their own config; give one of the two")
        return self

    def fresh(self) -> "TowersConfig":
        """See `ModelSettings`; weights have their sizes in their folder, which must stay where it is."""
        return self


@MODELS.register("towers")
class Towers(Model):
    """See the module. A clip's feature is the mean of a tower's last hidden states where there is data."""

    Config = TowersConfig

    def __init__(
        self, config: TowersConfig, inputs: Mapping[str, InputSpec], *, with_head: bool = True
    ) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(m for m in MODALITIES if m in inputs)
        self.towers = nn.ModuleDict({m: Tower(getattr(config, m), inputs[m]) for m in self.modalities})
        self.head = None
        if with_head:
            self.head = nn.ModuleDict(
                {m: nn.Linear(self.pooled_width(m), config.space) for m in self.modalities}
            )

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Model`."""
        return {m: self.towers[m](inputs[m], inputs.get(f"{m}_mask")) for m in self.modalities if m in inputs}

    def heads(
        self, pooled: Mapping[str, Tensor], real: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Model`.

        Raises:
            BadInput: the model was exported without its heads.
        """
        if self.head is None:
            raise BadInput("this model was exported without its heads; export it with --heads")
        found: dict[str, Tensor] = {}
        for modality, z in pooled.items():
            spaces = ("vt",) if modality == "text" else ("va", "vt")
            found |= dict.fromkeys([f"{modality}_{space}" for space in spaces], self.head[modality](z))
        return found

    def stages(self, modality: str) -> list[nn.Module]:
        """The tower."""
        return [self.towers[modality]]

    def pooled_width(self, modality: str) -> int:
        """Hidden size of the tower."""
        width: int = self.towers[modality].width  # type: ignore[assignment]
        return width

    def prepare(self, *, checkpointing: bool, compiled: bool) -> None:
        """See `Model`."""
        super().prepare(checkpointing=checkpointing, compiled=compiled)
        if checkpointing:
            for tower in self.towers.values():
                tower.body.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[union-attr,operator]


class Tower(nn.Module):
    """forward(x, mask) -> [B, D], of text [B, C, D]; x and mask as for `Model.encode`."""

    def __init__(self, config: TowerConfig, spec: InputSpec) -> None:
        super().__init__()
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError:
            raise missing_extra("transformers", "transformers", "model.kind: towers") from None
        self.spec = spec
        where = f"model.{spec.modality}"
        try:
            if config.weights:
                self.body = AutoModel.from_pretrained(config.weights, local_files_only=True)
            else:
                kind = config.type or _default(spec)
                settings = AutoConfig.for_model(kind, **{**_sizes(kind, spec), **config.config})
                self.body = AutoModel.from_config(settings)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
            raise BadInput(f"{where}: Hugging Face makes no model of this ({e})") from e
        if getattr(self.body, "pooler", None) is not None:
            self.body.pooler = None  # the mean is taken instead
        self.width = int(self.body.config.hidden_size)
        self.clips = self.body.config.model_type in CLIPS
        features = spec.row_shape[-1] if spec.kind == "embedding" else 0
        self.project = nn.Linear(features, self.width) if features else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """See the class."""
        lead: tuple[int, ...] = (len(x),)
        if self.spec.modality == "text":
            lead, x = tuple(x.shape[:2]), x.flatten(0, 1)
        return self._pool(x, mask).unflatten(0, lead)  # type: ignore[no-any-return,no-untyped-call]

    def _pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        kind = self.spec.kind
        if kind == "tokens":
            # Hugging Face adds a mask of nothing but -inf up to NaN: a blank caption keeps its first place
            mask = (x != 0) | (torch.arange(x.shape[1], device=x.device) == 0)
            return _mean(self.body(input_ids=x.long(), attention_mask=mask.long()).last_hidden_state, mask)
        if self.project is not None:
            rows = x.flatten(2) if x.dim() > 2 else x.unsqueeze(1)
            if mask is not None:
                mask = mask | (torch.arange(mask.shape[1], device=x.device) == 0)
            out = self.body(
                inputs_embeds=self.project(rows.to(self.project.weight.dtype)),
                attention_mask=None if mask is None else mask.long(),
            )
            return _mean(out.last_hidden_state, mask)
        if kind != "frames":
            return _mean(self.body(x).last_hidden_state, None)
        x = (x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x).permute(0, 1, 4, 2, 3)
        if self.clips:
            return _mean(self.body(pixel_values=x).last_hidden_state, None)
        each = self.body(pixel_values=x.flatten(0, 1)).last_hidden_state.mean(1)
        return each.unflatten(0, x.shape[:2]).mean(1)  # type: ignore[no-any-return]


def _default(spec: InputSpec) -> str:
    audio = {"waveform": "wav2vec2", "logmel": "audio-spectrogram-transformer"}
    return {"frames": "videomae", "tokens": "bert", "embedding": "bert", **audio}.get(
        spec.kind, "audio-spectrogram-transformer"
    )


def _sizes(kind: str, spec: InputSpec) -> dict[str, Any]:
    """Settings that follow from the input."""
    if spec.kind == "frames":
        sizes = {"image_size": list(spec.row_shape[:2]), "num_channels": spec.row_shape[2]}
        return sizes | ({"num_frames": spec.rows} if kind in CLIPS else {})
    if spec.kind in ("logmel", "mfcc"):
        return {"max_length": spec.rows, "num_mel_bins": spec.row_shape[0]}
    if spec.kind == "tokens":
        return {"vocab_size": spec.vocabulary, "pad_token_id": 0, "max_position_embeddings": spec.rows + 2}
    return {"max_position_embeddings": spec.rows + 2} if spec.kind == "embedding" else {}


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return x.mean(1)
    weights = mask.unsqueeze(-1).to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1)
