"""What a store holds: features, samples, statuses. docs/store-format.md has the layout on disk."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

FORMAT = "harmonize-store"
SCHEMA_VERSION = 1
TEXT_COLUMNS = ("id", "group", "split", "source", "labels", "texts", "facts")
"""Columns of texts in the group `samples`; the last three hold JSON."""

Kind = Literal["frames", "jpeg", "embedding", "waveform", "logmel", "mfcc", "tokens"]
DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")

_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}/[A-Za-z0-9][A-Za-z0-9_.:+-]{0,99}")
_MAX_ROW_BYTES = 256 << 20


class Status(IntEnum):
    """What became of one modality of one sample."""

    OK = 0
    MISSING = 1
    """The source has none: no sound track, no caption."""
    FAILED = 2
    """It should be there but could not be made; the reason says why."""
    SILENT = 3
    """There is a sound track, but nothing to be heard on it."""


@dataclass(frozen=True)
class FeatureSpec:
    """One feature of every sample: `T` rows of `row_shape`, T free from sample to sample."""

    key: str
    """"modality/name", such as "video/frames"."""
    kind: Kind
    encoder: str
    """Who made it: "raw", "open_clip:ViT-B-32/laion2b"."""
    dtype: str
    row_shape: tuple[int, ...] = ()
    """Shape of one row; of kind "jpeg" the shape (H, W, C) that each row decodes to."""
    rate: float | None = None
    """Rows a second; None where rows are no series in time (text candidates)."""
    regular: bool = False
    """True: times follow from `rate` and one start time a sample; False: every row has its own time."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Settings that made it (JSON): window, vocabulary size, ..."""
    weights_hash: str = ""
    preprocessing_hash: str = ""

    def __post_init__(self) -> None:
        for error in self._errors():
            raise ValueError(f"feature {self.key!r}: {error}")

    def _errors(self) -> list[str]:
        errors = []
        if not isinstance(self.key, str) or not _KEY.fullmatch(self.key):
            errors.append("the key is not of the form modality/name (letters, digits, _ . : + -)")
        if self.kind not in get_args(Kind):
            errors.append(f"kind {self.kind!r} is none of {', '.join(get_args(Kind))}")
        if self.dtype not in DTYPES:
            errors.append(f"dtype {self.dtype!r} is none of {', '.join(DTYPES)}")
        if not _is_row_shape(self.row_shape):
            errors.append(f"row shape {self.row_shape!r} is no tuple of up to 4 positive sizes")
        elif not errors and self.row_bytes > _MAX_ROW_BYTES:
            errors.append(f"a row of {self.row_bytes >> 20} MiB; at most {_MAX_ROW_BYTES >> 20}")
        if self.kind == "jpeg" and (self.dtype != "uint8" or len(self.row_shape) != 3):
            errors.append("jpeg rows decode to uint8 (H, W, C)")
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            errors.append(f"rate {self.rate!r} is no positive number")
        if self.regular and self.rate is None:
            errors.append("regular rows need a rate")
        return errors

    @property
    def modality(self) -> str:
        """The part of the key before the slash."""
        return self.key.partition("/")[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one (decoded) row."""
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the store's attribute `features` has them."""
        return {**asdict(self), "row_shape": list(self.row_shape), "params": dict(self.params)}

    @classmethod
    def from_json(cls, values: Any) -> "FeatureSpec":
        """The reverse of `to_json`.

        Raises:
            ValueError: unknown or missing keys, wrong types or sizes.
        """
        if not isinstance(values, dict) or values.keys() != {f.name for f in fields(cls)}:
            raise ValueError("a feature's description has missing or unknown keys")
        texts = ("key", "kind", "encoder", "dtype", "weights_hash", "preprocessing_hash")
        if not all(isinstance(values[name], str) for name in texts):
            raise ValueError("a feature's description has a wrong type")
        rate = values["rate"]
        plain_rate = rate is None or (isinstance(rate, int | float) and not isinstance(rate, bool))
        if not (plain_rate and isinstance(values["regular"], bool) and isinstance(values["params"], dict)):
            raise ValueError("a feature's description has a wrong type")
        if not isinstance(values["row_shape"], list):
            raise ValueError("a feature's row shape is no list")
        return cls(**{**values, "row_shape": tuple(values["row_shape"])})


def _is_row_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= 4
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 1 << 24 for n in shape)
    )


Rows = NDArray[Any] | Sequence[bytes]
"""[T, *row_shape]; of kind "jpeg" a list of T JPEG files."""


@dataclass
class Sample:
    """One sample as the writer takes it and the reader gives it back whole."""

    id: str
    group: str = ""
    split: str = ""
    fold: int | None = None
    labels: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    source: str = ""
    """Path of the video as written in the manifest."""
    start: float = 0.0
    """Seconds."""
    end: float | None = None
    """Seconds; None is the end of the file."""
    features: dict[str, Rows] = field(default_factory=dict)
    """Feature key -> [T, *row_shape]; an absent key is no rows."""
    times: dict[str, NDArray[np.float64] | float] = field(default_factory=dict)
    """Feature key -> seconds of every row (float64 [T]), or the first row's if the feature is regular."""
    status: dict[str, Status] = field(default_factory=dict)
    """Modality -> status; by default OK where there are rows, else missing."""
    reason: dict[str, str] = field(default_factory=dict)
    """Modality -> why the status is what it is."""
    facts: dict[str, Any] = field(default_factory=dict)
    """More to know of it (JSON): share of silence, drift in seconds, content hash, ..."""


def modalities_of(features: Sequence[FeatureSpec]) -> list[str]:
    """The modalities of some features, sorted."""
    return sorted({spec.modality for spec in features})
