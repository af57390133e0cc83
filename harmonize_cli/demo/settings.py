"""What a dialpad data set is made from. Equal settings give equal bytes."""

from typing import Literal

from pydantic import Field, model_validator

from harmonize_cli.config import StageConfig

MisalignedFrom = Literal["neighbour", "elsewhere", "both"]
"""Where a wrong caption comes from: the segment before or after it, another file, or either."""


class DialpadSettings(StageConfig):
    """Settings of `harmonize demo make-data`; times in seconds, sizes in pixels, rates in Hz."""

    digits: int = Field(default=3, ge=2, le=6)
    """Length of each number."""
    clips: int = Field(default=3200, ge=8)
    """Numbers dialled in the training part."""
    val_clips: int = Field(default=160, ge=4)
    test_clips: int = Field(default=240, ge=4)
    seed: int = Field(default=0, ge=0)
    misaligned: float = Field(default=0.4, ge=0, le=1)
    """Share of training captions that name another number; val and test stay clean."""
    misaligned_from: MisalignedFrom = "both"
    misaligned_sound: float = Field(default=0.0, ge=0, le=1)
    """Share of training segments that sound another number than they show."""
    digit_seconds: float = Field(default=0.8, ge=0.4, le=3)
    """How long one digit stays on the screen; its tone falls somewhere in that time."""
    frame_size: int = Field(default=48, ge=24, le=256, multiple_of=2)
    frame_rate: int = Field(default=10, ge=2, le=30)
    sample_rate: int = Field(default=16000, ge=8000, le=48000)
    picture_noise: float = Field(default=0.1, ge=0, le=1)
    """Standard deviation of the noise on each frame; white is 1."""
    sound_noise: float = Field(default=0.05, ge=0, le=1)
    """Standard deviation of the hiss; full scale is 1."""
    motion: float = Field(default=0.5, ge=0, le=1)
    """Share of the free room round a digit in which it moves."""

    @model_validator(mode="after")
    def _enough_numbers(self) -> "DialpadSettings":
        if self.digits * self.digit_seconds > 20:
            raise ValueError("a number may last 20 seconds at most: lower digits or digit_seconds")
        return self

    @property
    def digit_frames(self) -> int:
        """Frames for which one digit is shown."""
        return max(1, round(self.digit_seconds * self.frame_rate))

    @property
    def number_frames(self) -> int:
        """Frames of one number, and so of one clip."""
        return self.digits * self.digit_frames
