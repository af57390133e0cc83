"""Sound features: the waveform itself, log-mel bands and MFCC (torchaudio's transforms)."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from harmonize_cli.config import StageConfig
from harmonize_cli.encoders.base import ENCODERS, EncoderEntry
from harmonize_cli.files import sha256_json
from harmonize_cli.media.requests import SoundRequest
from harmonize_cli.store.schema import FeatureSpec

if TYPE_CHECKING:
    import torch

_BLOCK = 2048  # hops at once, so that an hour of sound needs no more memory than a minute


class WaveformConfig(StageConfig):
    """Encoder `waveform`."""

    sample_rate: int = Field(default=48_000, ge=1000, le=384_000)
    """Samples a second (VATT: 48000)."""
    dtype: Literal["float16", "float32", "int16"] = "float16"
    """float16 and float32: full scale is 1; int16: full scale is 32767."""


class MelConfig(StageConfig):
    """Encoder `logmel`; the defaults are VATT's."""

    sample_rate: int = Field(default=48_000, ge=1000, le=384_000)
    """Samples a second of the sound that the bands are made from."""
    window: float = Field(default=0.04267, gt=0, le=1)
    """Length of the Fourier window in seconds."""
    hop: float = Field(default=0.02134, gt=0, le=1)
    """Seconds from one row to the next."""
    n_mels: int = Field(default=80, ge=1, le=512)
    """Mel bands."""
    f_min: float = Field(default=80.0, ge=0)
    """Lowest frequency, Hz."""
    f_max: float = Field(default=7600.0, gt=0)
    """Highest frequency, Hz; at most half the sample rate."""
    gain: float = Field(default=10_000.0, gt=0)
    """Rows are log(1 + gain * magnitude)."""

    @model_validator(mode="after")
    def _band(self) -> "MelConfig":
        if self.f_min >= self.f_max:
            raise ValueError(f"f_min {self.f_min:g} is not below f_max {self.f_max:g}")
        if self.f_max > self.sample_rate / 2:
            raise ValueError(
                f"f_max {self.f_max:g} is above half the sample rate, {self.sample_rate / 2:g} Hz"
            )
        return self


class MfccConfig(MelConfig):
    """Encoder `mfcc`: cosine transform of log-mel bands."""

    n_mfcc: int = Field(default=20, ge=1, le=512)
    """Coefficients; at most n_mels."""

    @model_validator(mode="after")
    def _enough_bands(self) -> "MfccConfig":
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc {self.n_mfcc} is above n_mels {self.n_mels}")
        return self


class Waveform:
    """Samples as they are. Key audio/waveform, rows ()."""

    def __init__(self, config: WaveformConfig) -> None:
        self.request = SoundRequest(config.sample_rate)
        self._dtype = np.dtype(config.dtype)
        self.spec = FeatureSpec(
            key="audio/waveform",
            kind="waveform",
            encoder="raw",
            dtype=config.dtype,
            row_shape=(),
            rate=float(config.sample_rate),
            regular=True,
            params={"full_scale": 32767 if self._dtype.kind == "i" else 1},
            preprocessing_hash=sha256_json([config.sample_rate, config.dtype]),
        )

    def encode_sound(self, wave: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """float32 [S] to [S] of the stored type; what is above full scale is clipped."""
        out = np.empty(wave.shape, self._dtype)
        for i in range(0, len(wave), 1 << 22):
            part = np.clip(wave[i : i + (1 << 22)], -1, 1)
            out[i : i + len(part)] = np.rint(part * 32767) if self._dtype.kind == "i" else part
        return out


class LogMel:
    """log(1 + gain * mel magnitude), float16. Key audio/logmel, rows (n_mels,).

    Source: VATT, code configs/audio.py and processing.py. T = ceil(S / hop): the end is padded with zeros.
    """

    def __init__(self, config: MelConfig) -> None:
        self._config = config
        self.request = SoundRequest(config.sample_rate)
        self._hop = max(1, round(config.hop * config.sample_rate))
        self._window = max(2, round(config.window * config.sample_rate))
        self._transform: Any = None
        self.spec = self._spec("audio/logmel", "logmel", config.n_mels)

    def _spec(self, key: str, kind: Literal["logmel", "mfcc"], bands: int) -> FeatureSpec:
        params = self._config.model_dump(mode="json")
        return FeatureSpec(
            key=key,
            kind=kind,
            encoder=kind,
            dtype="float16",
            row_shape=(bands,),
            rate=self._config.sample_rate / self._hop,
            regular=True,
            params=params,
            preprocessing_hash=sha256_json(params),
        )

    def encode_sound(self, wave: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        """float32 [S] to float16 [ceil(S / hop), bands]."""
        import torch

        n_rows = -(-len(wave) // self._hop)
        out = np.empty((n_rows, *self.spec.row_shape), np.float16)
        for row in range(0, n_rows, _BLOCK):
            stop = min(n_rows, row + _BLOCK)
            need = (stop - row - 1) * self._hop + self._n_fft
            part = np.zeros(need, np.float32)
            found = wave[row * self._hop : row * self._hop + need]
            part[: len(found)] = found
            with torch.inference_mode():
                out[row:stop] = self._rows(torch.from_numpy(part)).numpy()
        return out

    @property
    def _n_fft(self) -> int:
        """The next power of two, as TensorFlow's stft takes it."""
        return int(1 << (self._window - 1).bit_length())

    def _rows(self, wave: "torch.Tensor") -> "torch.Tensor":
        """[S] to [T, bands]."""
        if self._transform is None:
            import torchaudio

            c = self._config
            self._transform = torchaudio.transforms.MelSpectrogram(
                c.sample_rate,
                n_fft=self._n_fft,
                win_length=self._window,
                hop_length=self._hop,
                f_min=c.f_min,
                f_max=c.f_max,
                n_mels=c.n_mels,
                power=1.0,
                center=False,
                mel_scale="htk",
                norm=None,
            )
        mel: torch.Tensor = self._transform(wave)
        return (mel * self._config.gain).log1p().T


class Mfcc(LogMel):
    """Mel-frequency cepstral coefficients of the log-mel bands, float16. Key audio/mfcc, rows (n_mfcc,)."""

    def __init__(self, config: MfccConfig) -> None:
        super().__init__(config)
        self._n_mfcc = config.n_mfcc
        self.spec = self._spec("audio/mfcc", "mfcc", config.n_mfcc)

    def _rows(self, wave: "torch.Tensor") -> "torch.Tensor":
        import torchaudio

        log_mel = super()._rows(wave)
        basis: torch.Tensor = torchaudio.functional.create_dct(self._n_mfcc, log_mel.shape[1], norm="ortho")
        return log_mel @ basis


ENCODERS.add(
    "waveform",
    EncoderEntry(
        config=WaveformConfig,
        make=lambda argument, config, vocab: [Waveform(config)],
        keys=("audio/waveform",),
        about="audio samples",
    ),
)
ENCODERS.add(
    "logmel",
    EncoderEntry(
        config=MelConfig,
        make=lambda argument, config, vocab: [LogMel(config)],
        keys=("audio/logmel",),
        about="log-mel bands",
    ),
)
ENCODERS.add(
    "mfcc",
    EncoderEntry(
        config=MfccConfig,
        make=lambda argument, config, vocab: [Mfcc(config)],
        keys=("audio/mfcc",),
        about="mel-frequency cepstral coefficients",
    ),
)
