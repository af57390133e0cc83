"""A sample's audio for the page: the waveform of the store, or one rebuilt from its log-mel bands."""

import base64
import io
import wave
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status

SECONDS = 4.0
ITERATIONS = 16

Wave = NDArray[np.float32]


def sound_url(store: Store, i: int) -> str | None:
    """The first seconds of sample `i` as a WAV of 8 bits in a data URL; None where there is no audio."""
    if "audio" not in store.modalities or store.status("audio")[i] != Status.OK:
        return None
    kinds = {f.kind: key for key, f in store.features.items()}
    if "waveform" in kinds:
        key = kinds["waveform"]
        feature = store.features[key]
        rate = int(feature.rate or 16000)
        x = store.read_rows(key, i, 0, min(int(store.length(key)[i]), int(SECONDS * rate)))
        full = np.float32(32767 if feature.dtype.startswith("int") else 1)
        return _wav(x.astype(np.float32) / full, rate)
    if "logmel" in kinds:
        key = kinds["logmel"]
        feature = store.features[key]
        most = int(SECONDS * (feature.rate or 50))
        rows = store.read_rows(key, i, 0, min(int(store.length(key)[i]), most))
        return _wav(from_logmel(rows.astype(np.float32), feature.params), int(feature.params["sample_rate"]))
    return None


def from_logmel(rows: NDArray[np.float32], params: Mapping[str, Any]) -> Wave:
    """A rough waveform [S] of log-mel rows [T, n_mels]: magnitudes by least squares, phases by Griffin-Lim.

    params: of encoder `logmel`, which made the rows. The loudest sample gets 0.9: the level is lost.
    """
    import torch
    import torchaudio

    rate = int(params["sample_rate"])
    hop, window = max(1, round(params["hop"] * rate)), max(2, round(params["window"] * rate))
    n_fft = 1 << (window - 1).bit_length()
    bank = torchaudio.functional.melscale_fbanks(
        n_fft // 2 + 1, params["f_min"], params["f_max"], params["n_mels"], rate
    )
    mel = torch.from_numpy(rows).expm1() / params["gain"]
    magnitude = (mel @ torch.linalg.pinv(bank)).clamp_min(0).T
    phases = torchaudio.transforms.GriffinLim(
        n_fft, ITERATIONS, win_length=window, hop_length=hop, power=1.0, rand_init=False
    )
    x = phases(magnitude).numpy()
    return np.asarray(0.9 * x / max(float(np.abs(x).max(initial=0)), 1e-6), np.float32)


def _wav(x: Wave, rate: int) -> str:
    step = max(1, rate // 8000)
    x = x[: len(x) // step * step].reshape(-1, step).mean(1)
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(1)
        f.setframerate(rate // step)
        f.writeframes((np.clip(x, -1, 1) * 127 + 128).astype(np.uint8).tobytes())
    return "data:audio/wav;base64," + base64.b64encode(out.getvalue()).decode()
