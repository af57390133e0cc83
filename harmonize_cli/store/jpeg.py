"""Frames kept as JPEG files."""

from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.store.schema import FeatureSpec
from harmonize_cli.store.shard import Shard


def jpeg_files(shard: Shard, key: str, first: int, last: int) -> list[bytes]:
    """Rows [first, last) of a shard as they lie in it."""
    offsets = shard.offsets(f"features/{key}/row_offsets")[first : last + 1].tolist()
    raw = shard.rows(f"features/{key}/data", offsets[0], offsets[-1]).tobytes()
    return [raw[a - offsets[0] : b - offsets[0]] for a, b in pairwise(offsets)]


def decode_rows(shard: Shard, spec: FeatureSpec, first: int, last: int) -> NDArray[np.uint8]:
    """Rows [first, last) of a shard as uint8 [T, H, W, C].

    Raises:
        BadInput: a row is no JPEG of the size that the feature says.
    """
    out = np.empty((last - first, *spec.row_shape), np.uint8)
    for row, file in zip(out, jpeg_files(shard, spec.key, first, last), strict=True):
        row[...] = _decode(file, spec, shard)
    return out


def _decode(file: bytes, spec: FeatureSpec, shard: Shard) -> NDArray[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(file), formats=("JPEG",)) as picture:
            height, width, channels = spec.row_shape
            if picture.size != (width, height):  # before decoding: a picture can claim any size
                raise ValueError(f"a picture of {picture.size}, expected {(width, height)}")
            decoded = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
            return decoded.reshape(spec.row_shape)
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, ValueError, SyntaxError) as e:
        raise shard.damaged(f"features/{spec.key}/data", str(e)) from e
