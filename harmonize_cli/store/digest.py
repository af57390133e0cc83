"""Digests of content: what a sample holds, whatever shard or order it lies in."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.store.schema import FeatureSpec

DIGEST_BYTES = 16


def encode_text(text: str) -> bytes:
    """UTF-8; file names that are no UTF-8 keep their bytes, as Python's own file functions do."""
    return text.encode("utf-8", "surrogateescape")


def decode_text(raw: bytes) -> str:
    """The reverse of `encode_text`; any bytes can be decoded."""
    return raw.decode("utf-8", "surrogateescape")


def encode_json(value: Any) -> bytes:
    """Canonical JSON: equal values give equal bytes.

    Raises:
        ValueError, TypeError: NaN, or a type that JSON has not.
    """
    return encode_text(_json(value, ascii_only=False))


def ascii_json(value: Any) -> str:
    """The same in ASCII, for HDF5's attributes: they take UTF-8 alone, which a file's name need not be."""
    return _json(value, ascii_only=True)


def _json(value: Any, *, ascii_only: bool) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=ascii_only, allow_nan=False, default=_plain
    )


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def text_checksum(text: str) -> str:
    """Hex SHA-256 of an attribute's text."""
    return hashlib.sha256(encode_text(text)).hexdigest()


def feature_digest(
    parts: Iterable[NDArray[Any]], times: NDArray[np.float64], row_sizes: NDArray[np.int64] | None = None
) -> bytes:
    """Digest of one feature of one sample: its rows' bytes (little-endian), times, and sizes if jpeg."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).data)
    digest.update(np.ascontiguousarray(times, "<f8").data)
    if row_sizes is not None:
        digest.update(np.ascontiguousarray(row_sizes, "<i8").data)
    return digest.digest()


def sample_digest(facts: Mapping[str, Any], features: Mapping[str, bytes]) -> bytes:
    """Digest of one sample: everything known of it and the digests of its features."""
    digest = hashlib.blake2b(encode_json(facts), digest_size=DIGEST_BYTES)
    for key in sorted(features):
        digest.update(encode_json(key))
        digest.update(features[key])
    return digest.digest()


def store_digest(features: list[FeatureSpec], vocab: list[str] | None, digests: NDArray[np.uint8]) -> str:
    """Hex SHA-256 of a whole store, from its samples' digests [N, 16] in any order."""
    ordered = np.sort(np.ascontiguousarray(digests).view(f"S{DIGEST_BYTES}").ravel())
    head = {
        "features": [spec.to_json() for spec in sorted(features, key=lambda spec: spec.key)],
        "vocab": vocab,
    }
    whole = hashlib.sha256(encode_json(head))
    whole.update(ordered.tobytes())
    return whole.hexdigest()
