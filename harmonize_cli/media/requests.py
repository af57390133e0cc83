"""What a decoder is asked for and what it hands back. Every decoder speaks these types."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Fit = Literal["crop", "stretch", "pad"]
Scaling = Literal["bicubic", "bilinear"]
Kind = Literal["video", "audio"]


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """Frames on the grid n / `rate` seconds; row n shows what a player shows at that moment.

    `channels` is 3 (RGB) or 1 (grey). `fit` "crop" takes the largest centred part of the picture that has the
    shape height:width, "stretch" all of it, "pad" all of it in its own shape with black beside; as
    displayed, with rotation and pixel shape applied.
    """

    rate: float
    height: int
    width: int
    channels: int = 3
    fit: Fit = "crop"
    scaling: Scaling = "bicubic"
    kind: Kind = "video"

    @property
    def exact_rate(self) -> Fraction:
        """The rate as a fraction: 29.97 is 30000/1001 to ffmpeg and here."""
        near = Fraction(self.rate * 1001 / 1000).limit_denominator(1)
        ntsc = near * Fraction(1000, 1001)
        if self.rate != int(self.rate) and abs(float(ntsc) - self.rate) < 0.005:
            return ntsc
        return Fraction(self.rate).limit_denominator(1000)

    @property
    def per_second(self) -> float:
        """Rows of a second."""
        return self.rate

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one frame."""
        return (self.height, self.width, self.channels)


@dataclass(frozen=True, slots=True)
class SoundRequest:
    """Mono sound at `sample_rate` Hz, float32, full scale 1."""

    sample_rate: int
    kind: Kind = "audio"

    @property
    def per_second(self) -> float:
        """Rows of a second."""
        return self.sample_rate

    @property
    def row_shape(self) -> tuple[()]:
        """One sample is a number."""
        return ()


Request = FrameRequest | SoundRequest


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a file that is wanted, in seconds from its start. `end` None is the file's end."""

    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows for request number `request`: uint8 [N, H, W, C] or float32 [N].

    `times` is float64 [N] for frames; for sound it has one entry, the first sample's time.
    """

    request: int
    times: npt.NDArray[np.float64]
    rows: npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def unseen(chunks: Iterable[Chunk], requests: Sequence[Request], given: list[int]) -> Iterator[Chunk]:
    """What a decode adds to an earlier one of the same requests, of which `given[n]` rows came before.

    `given` counts on.
    """
    skip = list(given)
    for chunk in chunks:
        n, rows = chunk.request, chunk.rows
        known = min(skip[n], len(rows))
        skip[n] -= known
        given[n] += len(rows) - known
        request = requests[n]
        if not known:
            yield chunk
        elif known < len(rows):
            if isinstance(request, SoundRequest):
                times = chunk.times + known / request.sample_rate
            else:
                times = chunk.times[known:]
            yield Chunk(n, times, rows[known:])
