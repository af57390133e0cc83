"""Settings of the model, with the published sizes (VATT table 7) as presets."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from harmonize_cli.config import StageConfig
from harmonize_cli.errors import BadInput

PresetName = Literal["tiny", "small", "base", "medium", "large"]
Modality = Literal["video", "audio", "text"]
MODALITIES: tuple[Modality, ...] = ("video", "audio", "text")
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Size:
    """One stack of transformer blocks. `width // heads` is the size of a head (64 in the paper)."""

    layers: int
    width: int
    heads: int
    feedforward: int


SIZES: dict[str, Size] = {
    "tiny": Size(3, 128, 4, 512),
    "small": Size(6, 512, 8, 2048),
    "base": Size(12, 768, 12, 3072),
    "medium": Size(12, 1024, 16, 4096),
    "large": Size(24, 1024, 16, 4096),
}


class HeadConfig(StageConfig):
    """Projection heads (VATT section 3.3)."""

    kind: Literal["fac", "joint"] = "fac"
    """fac: video-audio space, and video-text space one step above it; joint: one space for all three."""
    va: Positive = 512
    """Dimensions of the video-audio space."""
    vt: Positive = 256
    """Dimensions of the video-text space (fac only)."""
    sync_batch_norm: bool = True
    """BatchNorm statistics over all ranks, as published."""


class ModelSettings(StageConfig):
    """What every kind of model has."""

    kind: str = "vatt"
    """vatt, towers (three encoders of Hugging Face), or a model of an installed package."""

    @property
    def tiny(self) -> bool:
        """Whether short runs on a CPU are meant: other defaults of the learning rate."""
        return False

    def fresh(self) -> "ModelSettings":
        """The same architecture without files to start from."""
        return self


class ModelConfig(ModelSettings):
    """VATT: what is built; sizes of the inputs follow from the store."""

    preset: PresetName = "tiny"
    """Published sizes, and `tiny` for two CPU cores."""
    sharing: Literal["agnostic", "specific"] = "agnostic"
    """agnostic: one stack of blocks for all modalities (the paper's setting); specific: one each."""
    layers: Positive | None = None
    """Overrides of the preset."""
    width: Positive | None = None
    heads: Positive | None = None
    feedforward: Positive | None = None
    audio_preset: PresetName | None = None
    """specific only: the audio stack's preset (VATT-MBS: preset medium, audio base, text small)."""
    text_preset: PresetName | None = None
    """specific only: the text stack's preset."""
    pooled: Positive | None = None
    """Dimensions of the pooled feature after post_proj; default 1024, the width for `tiny`. The
    modality-specific model has no post_proj, its pooled feature has the stack's width."""
    dropout: Rate | None = None
    """After positions, attention, activation, feed-forward and the last norm; 0.1, none for `tiny`."""
    attention_dropout: Rate | None = None
    """On attention weights; default as `dropout`."""
    drop_token: Rate | None = None
    """Share of video and audio tokens dropped in training: 0.5, none for `tiny`."""
    drop_token_per_sample: bool = False
    """Draw a permutation for each sample instead of one for the batch (published)."""
    video_patch: tuple[Positive, Positive, Positive] | None = None
    """Frames, rows, columns of a video patch; default 4x16x16, halved until it fits the frames twice."""
    audio_patch: Positive | tuple[Positive, Positive] | None = None
    """Samples of a waveform patch (128), or time steps and mel bins of a log-mel patch (16x5)."""
    standardise: bool | None = None
    """Frames and sound with zero mean and unit variance per dimension of a patch, by the training split;
    default yes for `tiny` (short runs need it), no for the published sizes."""
    word_dim: Positive = 300
    """Dimensions of a word vector."""
    freeze_words: bool = False
    """Keep the word vectors as they start (published: word2vec, frozen)."""
    word_vectors: str | None = None
    """A .npy file [vocabulary, word_dim] to start the word vectors from."""
    head: HeadConfig = HeadConfig()

    @model_validator(mode="after")
    def _whole(self) -> "ModelConfig":
        size = self.size("video")
        if size.width % size.heads:
            raise ValueError(f"width {size.width} must be a multiple of heads {size.heads}")
        if self.sharing == "agnostic" and (self.audio_preset or self.text_preset):
            raise ValueError("audio_preset and text_preset need sharing: specific")
        return self

    @property
    def tiny(self) -> bool:
        """The preset for two CPU cores."""
        return self.preset == "tiny"

    def fresh(self) -> "ModelConfig":
        """Without a file of word vectors."""
        return self.model_copy(update={"word_vectors": None})

    def size(self, modality: str) -> Size:
        """The stack that reads `modality`."""
        own = {"audio": self.audio_preset, "text": self.text_preset}.get(modality)
        if own:
            return SIZES[own]
        preset = SIZES[self.preset]
        return Size(
            self.layers or preset.layers,
            self.width or preset.width,
            self.heads or preset.heads,
            self.feedforward or preset.feedforward,
        )

    def pooled_width(self, modality: str) -> int:
        """Dimensions of the pooled vector of `modality`."""
        if self.sharing == "specific":
            return self.size(modality).width
        return self.pooled or (self.size(modality).width if self.preset == "tiny" else 1024)

    @property
    def dropout_rate(self) -> float:
        """`dropout`, resolved."""
        return self.dropout if self.dropout is not None else self._unless_tiny(0.1)

    @property
    def attention_dropout_rate(self) -> float:
        """`attention_dropout`, resolved."""
        return self.attention_dropout if self.attention_dropout is not None else self.dropout_rate

    @property
    def standardises(self) -> bool:
        """`standardise`, resolved."""
        return self.standardise if self.standardise is not None else self.preset == "tiny"

    @property
    def drop_token_rate(self) -> float:
        """`drop_token`, resolved."""
        return self.drop_token if self.drop_token is not None else self._unless_tiny(0.5)

    def _unless_tiny(self, value: float) -> float:
        return 0.0 if self.preset == "tiny" else value


def read_model(values: Any) -> Any:
    """The settings of a model of whatever kind; `vatt` is read without torch."""
    if not isinstance(values, dict) or values.get("kind", "vatt") == "vatt":
        return values if isinstance(values, ModelSettings) else ModelConfig.model_validate(values)
    from harmonize_cli.models.base import MODELS

    try:
        kind = MODELS.find(str(values["kind"]))
    except BadInput as e:
        raise ValueError(f"kind: {e}") from None
    return kind.Config.model_validate(values)


AnyModel = Annotated[SerializeAsAny[ModelSettings], BeforeValidator(read_model)]
"""A field of another config that holds a model's settings."""
