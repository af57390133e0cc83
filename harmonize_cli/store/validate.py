"""Checking a sample against the features of its shard before anything of it is written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.store.digest import encode_json, encode_text
from harmonize_cli.store.schema import FeatureSpec, Sample, Status, modalities_of

FeatureParts = tuple[NDArray[Any], NDArray[np.float64], NDArray[np.int64] | None]
"""Rows (of kind "jpeg" all bytes in a line), times (a start time if regular), sizes of JPEG rows."""


@dataclass(frozen=True)
class Checked:
    """A sample in the form in which it is written."""

    features: dict[str, FeatureParts]
    texts: dict[str, bytes]
    status: dict[str, Status]
    facts: dict[str, Any]
    """What the sample's digest is made of, beside its features."""


def check_sample(sample: Sample, features: Sequence[FeatureSpec]) -> Checked:
    """Everything of `sample`, encoded.

    Raises:
        ValueError: naming the sample, the field and what is wrong with it.
    """
    try:
        return _check(sample, features)
    except (ValueError, TypeError) as e:
        raise ValueError(f"sample {sample.id!r}: {e}") from None


def _check(sample: Sample, features: Sequence[FeatureSpec]) -> Checked:
    if not isinstance(sample.id, str) or not sample.id:
        raise ValueError("the id is no text or empty")
    known = {spec.key for spec in features}
    unknown = sorted((sample.features.keys() | sample.times.keys()) - known)
    if unknown:
        raise ValueError(f"unknown feature {', '.join(unknown)}; this shard has {', '.join(sorted(known))}")
    parts = {spec.key: feature_parts(sample, spec) for spec in features}
    status = _statuses(sample, features, parts)
    if sample.fold is not None and not 0 <= sample.fold < 1 << 31:
        raise ValueError(f"fold {sample.fold} is no small whole number")
    end = math.nan if sample.end is None else sample.end
    if not (math.isfinite(sample.start) and (sample.end is None or math.isfinite(end))):
        raise ValueError(f"start {sample.start} and end {sample.end} are not finite")
    facts = {
        "id": sample.id,
        "group": sample.group,
        "split": sample.split,
        "fold": sample.fold,
        "labels": list(sample.labels),
        "texts": list(sample.texts),
        "source": sample.source,
        "start": float(sample.start),
        "end": None if sample.end is None else float(sample.end),
        "facts": sample.facts,
        "status": {modality: int(value) for modality, value in status.items()},
        "reason": {modality: sample.reason.get(modality, "") for modality in status},
    }
    texts = {name: encode_text(getattr(sample, name)) for name in ("id", "group", "split", "source")}
    texts |= {name: encode_json(facts[name]) for name in ("labels", "texts", "facts")}
    texts |= {f"reason:{m}": encode_text(sample.reason.get(m, "")) for m in status}
    if not all(isinstance(text, str) for text in (*sample.labels, *sample.texts)):
        raise TypeError("labels and texts are tuples of str")
    return Checked(parts, texts, status, facts)


def feature_parts(sample: Sample, spec: FeatureSpec) -> FeatureParts:
    """One feature's rows, times and row sizes, checked against its description."""
    rows = sample.features.get(spec.key)
    sizes: NDArray[np.int64] | None = None
    if spec.kind == "jpeg":
        files = [bytes(row) for row in rows] if rows is not None else []
        if not all(files):
            raise ValueError(f"{spec.key}: an empty JPEG row")
        sizes = np.array([len(row) for row in files], np.int64)
        data = np.frombuffer(b"".join(files), np.uint8)
        count = len(files)
    else:
        data = np.empty((0, *spec.row_shape), spec.dtype) if rows is None else np.asarray(rows)
        if data.dtype != np.dtype(spec.dtype):
            raise ValueError(f"{spec.key}: dtype {data.dtype}, expected {spec.dtype}")
        if data.ndim != len(spec.row_shape) + 1 or data.shape[1:] != spec.row_shape:
            raise ValueError(
                f"{spec.key}: shape {data.shape}, expected (T, {', '.join(map(str, spec.row_shape))})"
            )
        count = len(data)
    return data, _times(sample, spec, count), sizes


def _times(sample: Sample, spec: FeatureSpec, count: int) -> NDArray[np.float64]:
    given = sample.times.get(spec.key)
    if spec.regular:
        if given is None and count:
            raise ValueError(f"{spec.key}: no start time; regular features need one in seconds")
        times = np.array([math.nan if given is None or not count else given], np.float64)
        if times.shape != (1,):
            raise ValueError(f"{spec.key}: regular features have one start time, not one a row")
    elif given is None and spec.rate is None:
        return np.full(count, math.nan)  # text candidates: rows without a place in time
    else:
        times = np.asarray(() if given is None else given, np.float64)
        if times.shape != (count,):
            raise ValueError(f"{spec.key}: times of shape {times.shape} for {count} rows")
    # rows that are no series in time may have none, which is NaN
    if count and not (np.isfinite(times) | (np.isnan(times) & (spec.rate is None))).all():
        raise ValueError(f"{spec.key}: a time is not finite")
    return times


def _statuses(
    sample: Sample, features: Sequence[FeatureSpec], parts: dict[str, FeatureParts]
) -> dict[str, Status]:
    modalities = modalities_of(features)
    unknown = sorted((sample.status.keys() | sample.reason.keys()) - set(modalities))
    if unknown:
        raise ValueError(f"status of {', '.join(unknown)}, but this shard has {', '.join(modalities)} only")
    statuses = {}
    for modality in modalities:
        filled = {spec.key: bool(len(parts[spec.key][0])) for spec in features if spec.modality == modality}
        status = Status(sample.status.get(modality, Status.OK if any(filled.values()) else Status.MISSING))
        if status == Status.OK and not all(filled.values()):
            empty = ", ".join(key for key, full in filled.items() if not full)
            raise ValueError(f"{modality} is ok, but {empty} has no rows")
        if status in (Status.MISSING, Status.FAILED) and any(filled.values()):
            raise ValueError(f"{modality} is {status.name.lower()}, but it has rows")
        statuses[modality] = status
    return statuses
