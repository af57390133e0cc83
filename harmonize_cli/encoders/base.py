"""What an encoder is: a feature's description, what it wants from the decoder, and the conversion."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from harmonize_cli.media.requests import FrameRequest, SoundRequest
from harmonize_cli.store.schema import FeatureSpec

Rows = npt.NDArray[Any] | Sequence[bytes]


@runtime_checkable
class FrameEncoder(Protocol):
    """Each frame on its own. `batch` is how many frames it likes at once, across clips; 0: as they come."""

    spec: FeatureSpec
    request: FrameRequest
    batch: int

    def encode_frames(self, frames: npt.NDArray[np.uint8]) -> Rows:
        """uint8 [N, H, W, C] to N rows."""
        ...


@runtime_checkable
class SoundEncoder(Protocol):
    """The whole sound of a segment."""

    spec: FeatureSpec
    request: SoundRequest

    def encode_sound(self, wave: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """float32 [S] at the requested rate to [T, *row_shape]; row t starts t / spec.rate after sample 0."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Each text on its own. `batch` is how many it likes at once, across samples; 0: as they come."""

    spec: FeatureSpec
    batch: int

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[Any]:
        """C texts to [C, *row_shape]."""
        ...


Encoder = FrameEncoder | SoundEncoder | TextEncoder
