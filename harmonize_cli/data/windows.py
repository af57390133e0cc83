"""Which feature feeds which modality, and how a window of fixed length is cut from a sample of any length."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Protocol

import numpy as np
from pydantic import Field

from harmonize_cli.config import StageConfig
from harmonize_cli.errors import BadInput
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec

Positive = Annotated[int, Field(ge=1)]
MODALITIES = ("video", "audio", "text")


class Rows(Protocol):
    """The part of `Store` that windows are cut from."""

    def length(self, key: str) -> np.ndarray:
        """Rows per sample."""

    def read(self, key: str, i: int, /) -> np.ndarray:
        """All rows of a sample."""

    def read_rows(self, key: str, i: int, start: int, stop: int, /) -> np.ndarray:
        """Some rows of a sample."""


class WindowConfig(StageConfig):
    """One modality's input."""

    key: str | None = None
    """Feature of the store, for example video/frames; may be left out where the store has only one."""
    rows: Positive | None = None
    """Length of the window: frames, samples of a waveform, time steps, or words of a caption. Default:
    what most samples of the store have."""
    stride: Positive = 1
    """Take every n-th row (VATT reads 25 fps video with stride 2)."""
    candidates: Positive = 5
    """Text only: captions per clip, the first ones of the store."""
    use: bool = True
    """False leaves the modality out."""


class InputsConfig(StageConfig):
    """Inputs by modality; sizes follow from the store."""

    video: WindowConfig = WindowConfig()
    audio: WindowConfig = WindowConfig()
    text: WindowConfig = WindowConfig()


def resolve_inputs(store: Store, config: InputsConfig) -> dict[str, InputSpec]:
    """The inputs that `config` asks for, with what the store tells filled in.

    Raises:
        BadInput: a key that the store lacks, or several features of a modality and no key.
    """
    specs: dict[str, InputSpec] = {}
    for modality in MODALITIES:
        window: WindowConfig = getattr(config, modality)
        if window.use and (feature := _feature(store, modality, window.key)):
            specs[modality] = _spec(store, feature, window)
    return specs


def check_inputs(store: Store, specs: Mapping[str, InputSpec]) -> dict[str, InputSpec]:
    """Those inputs of a run that this store can feed, each checked against the store's features.

    Raises:
        BadInput: naming the feature and both sides of the mismatch, or a store that feeds none of them.
    """
    found: dict[str, InputSpec] = {}
    for modality, spec in specs.items():
        feature = store.features.get(spec.key)
        if feature is None:
            continue
        for name, want, have in (
            ("kind", spec.kind, feature.kind),
            ("encoder", spec.encoder, feature.encoder),
            ("row shape", spec.row_shape, _row_shape(feature)),
            ("preprocessing", spec.params_hash, feature.preprocessing_hash),
            ("vocabulary size", spec.vocabulary, _vocabulary(feature)),
        ):
            if want != have:
                raise BadInput(
                    f"{store_name(store)}: {spec.key}: {name} is {have!r}, the run was trained with {want!r};"
                    " extract it with the settings (and the vocabulary) of the run's store"
                )
        found[modality] = spec
    if not found:
        have = ", ".join(store.features)
        want = ", ".join(spec.key for spec in specs.values())
        raise BadInput(f"{store_name(store)}: has {have}; the run reads {want}")
    return found


def cut(store: Rows, spec: InputSpec, index: int, position: float) -> tuple[np.ndarray, int]:
    """Rows [rows, *row_shape] at `position` in [0, 1] (0 first, 1 last window), and how many are real.

    The same position in all modalities gives windows that lie at the same share of the clip. A shorter
    sample is filled up: frames repeat the last one, everything else gets zeros.
    """
    have = int(store.length(spec.key)[index])
    span = (spec.rows - 1) * spec.stride + 1
    start = round(position * max(0, have - span))
    rows = store.read_rows(spec.key, index, start, min(have, start + span))[:: spec.stride]
    return _fill(_as_input(rows, spec), spec), min(len(rows), spec.rows)


def positions(windows: int) -> list[float]:
    """Where windows lie, 0 the first and 1 the last possible place: linearly spaced; a single one amid."""
    return [0.5] if windows == 1 else np.linspace(0, 1, windows).tolist()


def captions(store: Rows, spec: InputSpec, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Text of one sample: [C, rows] ids, or [C, *row_shape], a vector or a sequence of them a candidate; and
    [C] bool where a candidate is real."""
    rows = store.read(spec.key, index)[: spec.candidates]
    out, real = spec.blank(), np.zeros(spec.candidates, bool)
    if spec.kind == "tokens":
        rows = rows[:, : spec.rows]
        out[: len(rows), : rows.shape[1]] = rows
        real[: len(rows)] = (rows != 0).any(axis=1)
    else:
        out[: len(rows)] = rows
        real[: len(rows)] = True
    return out, real


def store_name(store: Store) -> str:
    """The store's path for messages."""
    return str(getattr(store, "path", "store"))


def _feature(store: Store, modality: str, key: str | None) -> FeatureSpec | None:
    if key is not None:
        if key not in store.features:
            raise BadInput(
                f"inputs.{modality}.key: {store_name(store)} has no feature {key!r}; "
                f"it has {', '.join(store.features)}"
            )
        return store.features[key]
    found = [feature for feature in store.features.values() if feature.modality == modality]
    if len(found) > 1:
        raise BadInput(
            f"inputs.{modality}.key: {store_name(store)} has {len(found)} features of this modality "
            f"({', '.join(f.key for f in found)}); choose one"
        )
    return found[0] if found else None


def _spec(store: Store, feature: FeatureSpec, window: WindowConfig) -> InputSpec:
    text = feature.modality == "text"
    lengths = store.length(feature.key)
    lengths = lengths[lengths > 0]
    if not len(lengths):
        raise BadInput(f"{store_name(store)}: {feature.key}: no sample has any row")
    if text:
        rows = feature.row_shape[0] if feature.kind == "tokens" or len(feature.row_shape) > 1 else 1
        if feature.kind == "tokens":
            rows = min(rows, window.rows or rows)
    else:
        rows = window.rows or max(1, int(np.median(lengths)) // window.stride)
    spec = InputSpec(
        feature.modality,
        feature.key,
        "frames" if feature.kind == "jpeg" else feature.kind,
        rows,
        _row_shape(feature),
        stride=window.stride,
        vocabulary=_vocabulary(feature),
        encoder=feature.encoder,
        params_hash=feature.preprocessing_hash,
    )
    most = int(lengths.max()) if text else 1
    return replace(spec, candidates=min(window.candidates, most) if text else 1)


def _row_shape(feature: FeatureSpec) -> tuple[int, ...]:
    return () if feature.kind == "tokens" else tuple(feature.row_shape)


def _vocabulary(feature: FeatureSpec) -> int:
    return int(str(feature.params.get("vocab_size", 0))) if feature.kind == "tokens" else 0


def _as_input(rows: np.ndarray, spec: InputSpec) -> np.ndarray:
    if spec.kind == "frames":
        return rows
    if rows.dtype == np.int16:
        return rows.astype(np.float32) / 32768
    return rows.astype(np.float32)


def _fill(rows: np.ndarray, spec: InputSpec) -> np.ndarray:
    short = spec.rows - len(rows)
    if short <= 0:
        return rows[: spec.rows]
    pad = ((0, short), *[(0, 0)] * (rows.ndim - 1))
    return np.pad(rows, pad, mode="edge") if spec.kind == "frames" and len(rows) else np.pad(rows, pad)
