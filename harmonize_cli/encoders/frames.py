"""Raw frames, as they are or as JPEG files."""

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from harmonize_cli.config import StageConfig
from harmonize_cli.encoders.base import ENCODERS, EncoderEntry, Rows
from harmonize_cli.files import sha256_json
from harmonize_cli.media.requests import Fit, FrameRequest
from harmonize_cli.store.schema import FeatureSpec


class FramesConfig(StageConfig):
    """Encoder `raw`."""

    rate: float = Field(default=10.0, gt=0, le=240)
    """Frames a second (VATT: 10)."""
    size: int = Field(default=224, ge=1, le=4096)
    """Height and width in pixels (VATT: 224)."""
    height: int | None = Field(default=None, ge=1, le=4096)
    """Height, where it is not `size`."""
    width: int | None = Field(default=None, ge=1, le=4096)
    """Width, where it is not `size`."""
    colour: Literal["rgb", "grey"] = "rgb"
    """Three channels or one."""
    fit: Fit = "crop"
    """crop: the largest centred part of the right shape; stretch: the whole frame; pad: the same in its own
    shape, black beside."""
    format: Literal["uint8", "jpeg"] = "uint8"
    """Arrays (fast), or JPEG files (about a tenth of the size)."""
    quality: int = Field(default=90, ge=1, le=100)
    """Of JPEG files."""

    @model_validator(mode="after")
    def _jpeg_is_rgb(self) -> "FramesConfig":
        if self.format == "jpeg" and self.colour == "grey":
            raise ValueError("jpeg frames are rgb; use colour: rgb or format: uint8")
        return self

    @property
    def request(self) -> FrameRequest:
        """What the decoder is asked for."""
        height, width = self.height or self.size, self.width or self.size
        return FrameRequest(self.rate, height, width, 1 if self.colour == "grey" else 3, self.fit)


class RawFrames:
    """Frames uint8 (H, W, C), or one JPEG file a frame. Key video/frames."""

    batch = 0

    def __init__(self, config: FramesConfig) -> None:
        self.request = config.request
        self._quality = config.quality if config.format == "jpeg" else None
        params: dict[str, str] = {"fit": config.fit, "colour": config.colour}
        if self._quality:
            params["quality"] = str(self._quality)
        self.spec = FeatureSpec(
            key="video/frames",
            kind="jpeg" if self._quality else "frames",
            encoder="raw",
            dtype="uint8",
            row_shape=self.request.row_shape,
            rate=self.request.rate,
            regular=False,
            params=params,
            preprocessing_hash=sha256_json([params, self.request.row_shape, self.request.rate]),
        )

    def encode_frames(self, frames: npt.NDArray[np.uint8]) -> Rows:
        """uint8 [N, H, W, C], unchanged or as N JPEG files."""
        if self._quality is None:
            return frames
        from PIL import Image

        files = []
        for frame in frames:
            out = io.BytesIO()
            Image.fromarray(frame).save(out, "JPEG", quality=self._quality, subsampling=0)
            files.append(out.getvalue())
        return files


ENCODERS.add(
    "raw",
    EncoderEntry(
        config=FramesConfig,
        make=lambda argument, config, vocab: [RawFrames(config)],
        keys=("video/frames",),
        about="video frames",
    ),
)
