"""What arrives at the model, one description per modality; it decides tokeniser and token grid."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harmonize_cli.errors import BadInput
from harmonize_cli.models.config import ModelConfig

KINDS = ("frames", "waveform", "logmel", "mfcc", "tokens", "embedding")


@dataclass(frozen=True, slots=True)
class ModalityInput:
    """Shape of one modality's input tensor.

    kind      tensor
    frames    video [B, rows, H, W, C], uint8 in [0, 255] or float in [-1, 1]; row_shape (H, W, C)
    waveform  audio [B, rows], float in [-1, 1]; row_shape ()
    logmel    audio [B, rows, mels]; row_shape (mels,); mfcc likewise
    embedding video or audio [B, rows, D] with a mask [B, rows]; row_shape (D,)
    tokens    text [B, C, rows] word ids, 0 = padding; row_shape ()
    embedding text [B, C, D] one vector per candidate; row_shape (D,), rows 1
    """

    kind: str
    rows: int
    row_shape: tuple[int, ...] = ()
    vocabulary: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "row_shape": list(self.row_shape)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "ModalityInput":
        """Inverse of `to_dict`; other keys are left aside."""
        return ModalityInput(
            str(values["kind"]),
            int(values["rows"]),
            tuple(int(n) for n in values["row_shape"]),
            int(values.get("vocabulary", 0)),
        )


def video_patch(config: ModelConfig, shape: ModalityInput) -> tuple[int, int, int]:
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


def waveform_patch(config: ModelConfig, shape: ModalityInput) -> int:
    """Samples per patch: 128 as published; for `tiny` about 32 patches a clip."""
    if config.audio_patch is None:
        return 128 if config.preset != "tiny" else max(1, -(-shape.rows // 32))
    if not isinstance(config.audio_patch, int):
        raise BadInput("model.audio_patch: a waveform takes one number (samples per patch)")
    if config.audio_patch > shape.rows:
        raise BadInput(f"model.audio_patch: {config.audio_patch} samples, but clips have {shape.rows}")
    return config.audio_patch


def spectrum_patch(config: ModelConfig, shape: ModalityInput) -> tuple[int, int]:
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
