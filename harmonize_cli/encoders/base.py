"""What an encoder is: a feature's description, what it wants from the decoder, and the conversion.

A file of an encoder registers an `EncoderEntry` in `ENCODERS`; names in configs, help, `--mode extend` and
the placement on a Ray cluster come from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from harmonize_cli.config import StageConfig
from harmonize_cli.media.requests import FrameRequest, SoundRequest
from harmonize_cli.registry import Registry
from harmonize_cli.store.schema import FeatureSpec

if TYPE_CHECKING:
    from harmonize_cli.encoders.tokens import Vocab

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


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderEntry:
    """An encoder as it is registered: `ENCODERS.add("logmel", EncoderEntry(...))`."""

    config: type[StageConfig]
    """Its settings, a section of the extraction's config under the encoder's name; all have defaults."""
    make: "Callable[[str, Any, Vocab | None], Sequence[Encoder]]"
    """(argument, settings, vocabulary) to the encoders, one for each of `keys`; loads weights."""
    keys: tuple[str, ...]
    """Keys of the features that it writes. They are fixed, so a store has one encoder of this name."""
    about: str
    """What it makes, in a few words."""
    argument: str = ""
    """What follows the name and a colon, such as MODEL/TAG; empty: nothing does."""
    check: Callable[[str], object] = lambda argument: None
    """Raises `BadInput` for an argument that can't be; loads nothing."""
    heavy: bool = False
    """True: a model that belongs on a GPU; on a Ray cluster it lives in the encode actors."""
    needs_vocab: bool = False
    """True: `make` gets the words of the texts."""


ENCODERS: Registry[EncoderEntry] = Registry(
    "encoder", group="harmonize.encoders", package="harmonize_cli.encoders"
)
