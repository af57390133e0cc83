"""What arrives at a model, and VATT's patch sizes for it.

Tensors that arrive at the model, by kind of input (`InputSpec`):

    frames    video [B, rows, H, W, C], uint8 in [0, 255] or float in [-1, 1]
    waveform  audio [B, rows], float in [-1, 1]
    logmel    audio [B, rows, mels]; mfcc likewise
    embedding video or audio [B, rows, *row_shape] with a mask [B, rows], a token a row;
              text [B, C, D], a vector per candidate, or [B, C, rows, D], a sequence of them
    tokens    text [B, C, rows] ids of words or of open_clip's byte pairs, 0 = padding at the end
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from harmonize_cli.errors import BadInput
from harmonize_cli.models.config import ModelConfig

InputKind = Literal["frames", "embedding", "waveform", "logmel", "mfcc", "tokens"]
Size = Annotated[int, Field(ge=1, le=1 << 31)]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A resolved input: windows of `rows` rows of shape `row_shape` from feature `key`.

    For word tokens a row of the store is a whole caption: `rows` is its words, `row_shape` (). Of text
    features it is a candidate: a vector (D,), or a sequence (rows, D).
    """

    modality: str
    key: str
    kind: InputKind
    rows: Size
    row_shape: Annotated[tuple[Size, ...], Field(max_length=4)]
    stride: Size = 1
    candidates: Size = 1
    vocabulary: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    encoder: str = ""
    params_hash: str = ""

    def blank(self) -> np.ndarray:
        """Zeros shaped as a sample: [rows, *row_shape], of text [C, rows] (words) or [C, *row_shape]."""
        words = self.kind == "tokens"
        shape = (self.rows,) if words else self.row_shape
        if self.modality == "text":
            return np.zeros((self.candidates, *shape), np.int32 if words else np.float32)
        return np.zeros((self.rows, *shape), np.uint8 if self.kind == "frames" else np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "row_shape": list(self.row_shape)}


def video_patch(config: ModelConfig, shape: InputSpec) -> tuple[int, int, int]:
    """Patch (t, h, w): as configured, or 4x16x16 halved until two patches fit each side of the frame.

    Raises:
        BadInput: a patch larger than the clip.
    """
    height, width, _ = shape.row_shape
    if config.video_patch is None:
        return _fit(4, shape.rows, 1), _fit(16, height, 2), _fit(16, width, 2)
    for name, patch, size in zip(
        ("frames", "rows", "columns"), config.video_patch, (shape.rows, height, width), strict=True
    ):
        if patch > size:
            raise BadInput(
                f"model.video_patch: {patch} {name}, but the clips of this store have {size}; "
                "choose a smaller patch or larger clips"
            )
    return config.video_patch


def waveform_patch(config: ModelConfig, shape: InputSpec) -> int:
    """Samples per patch: 128 as published; for `tiny` about 32 patches a clip."""
    if config.audio_patch is None:
        return 128 if config.preset != "tiny" else max(1, -(-shape.rows // 32))
    if not isinstance(config.audio_patch, int):
        raise BadInput("model.audio_patch: a waveform takes one number (samples per patch)")
    if config.audio_patch > shape.rows:
        raise BadInput(f"model.audio_patch: {config.audio_patch} samples, but clips have {shape.rows}")
    return config.audio_patch


def spectrum_patch(config: ModelConfig, shape: InputSpec) -> tuple[int, int]:
    """(time steps, mel bins) per patch: 16x5 as published; for `tiny` about 25 full-height patches."""
    (bins,) = shape.row_shape
    if config.audio_patch is None:
        if config.preset == "tiny":
            return max(1, -(-shape.rows // 25)), bins
        return _fit(16, shape.rows, 1), _fit(5, bins, 1)
    if isinstance(config.audio_patch, int):
        raise BadInput("model.audio_patch: a log-mel input takes two numbers [time steps, mel bins]")
    time, height = config.audio_patch
    if time > shape.rows or height > bins:
        raise BadInput(
            f"model.audio_patch: {time}x{height}, but clips have {shape.rows} steps of {bins} bins"
        )
    return time, height


def _fit(patch: int, size: int, times: int) -> int:
    while patch > 1 and patch * times > size:
        patch //= 2
    return patch
