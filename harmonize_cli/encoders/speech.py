"""Speech models of torchaudio's pipelines (wav2vec 2.0, HuBERT, WavLM) whose weights are on this machine."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harmonize_cli.config import StageConfig
from harmonize_cli.encoders.base import ENCODERS, EncoderEntry
from harmonize_cli.encoders.open_clip import RANDOM, hash_weights
from harmonize_cli.errors import BadInput
from harmonize_cli.files import sha256_json
from harmonize_cli.media.requests import SoundRequest
from harmonize_cli.store.schema import FeatureSpec


class SpeechConfig(StageConfig):
    """Encoder `torchaudio:PIPELINE[/weights file]`."""

    layer: int | None = Field(default=None, ge=1)
    """Transformer layer whose output is kept, from 1; none is the last."""
    block: float = Field(default=30.0, gt=1, le=600)
    """Seconds that go through the model at once; attention's memory grows with the square."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    dtype: Literal["float16", "float32"] = "float16"
    """How rows are stored."""
    allow_download: bool = False
    """Let torchaudio fetch weights that are not on this machine."""


class SpeechFeatures:
    """Hidden states of a speech model. Key audio/speech, rows (D,), about 50 a second.

    `name` is PIPELINE (weights from torch's cache), PIPELINE/FILE or PIPELINE/random.

    Raises:
        BadInput: unknown pipeline, weights that are not here or don't fit, a layer that it has not.
    """

    def __init__(self, name: str, config: SpeechConfig) -> None:
        import torchaudio

        from harmonize_cli.ranks import pick_device

        self._config = config
        pipeline, _, weights = name.partition("/")
        bundle = getattr(torchaudio.pipelines, pipeline, None)
        if not isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle):
            known = [n for n in torchaudio.pipelines.__all__ if _is_speech(getattr(torchaudio.pipelines, n))]
            raise BadInput(f"torchaudio:{name}: unknown pipeline; known: {', '.join(known)}")
        self._device = pick_device(config.device)
        self._model: Any = _load(name, bundle, weights, config.allow_download)
        self.request = SoundRequest(int(bundle.sample_rate))
        digest = hash_weights(self._model)
        self._model.eval().requires_grad_(False).to(self._device)
        # 320 samples a row at 16 kHz in all of them, the product of the convolutions' strides
        self._stride = 320
        depth = len(self._rows(np.zeros(800, np.float32), every=True))
        if config.layer is not None and config.layer > depth:
            raise BadInput(f"torchaudio.layer {config.layer}: {pipeline} has {depth}")
        width = self._rows(np.zeros(800, np.float32)).shape[1]
        params = {"layer": config.layer or depth, "block": config.block}
        self.spec = FeatureSpec(
            key="audio/speech",
            kind="embedding",
            encoder=f"torchaudio:{pipeline}/{Path(weights).name}" if weights else f"torchaudio:{pipeline}",
            dtype=config.dtype,
            row_shape=(width,),
            rate=bundle.sample_rate / self._stride,
            regular=True,
            params=params,
            weights_hash=digest,
            preprocessing_hash=sha256_json(params),
        )

    def encode_sound(self, wave: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """float32 [S] to [ceil(S / 320), D]."""
        step = round(self._config.block * self.request.sample_rate / self._stride) * self._stride
        parts = []
        for first in range(0, len(wave), step):
            part = np.asarray(wave[first : first + step])
            want = -(-len(part) // self._stride)
            # the convolutions look 400 samples ahead: with zeros behind it every stride gives a row
            padded = np.concatenate([part, np.zeros(want * self._stride + 80 - len(part), np.float32)])
            parts.append(self._rows(padded)[:want].astype(self._config.dtype))
        return np.concatenate(parts)

    def _rows(self, wave: npt.NDArray[np.float32], *, every: bool = False) -> Any:
        """[T, D] of the chosen layer, or a list of them for every layer."""
        import torch

        with torch.inference_mode():
            layers, _ = self._model.extract_features(torch.from_numpy(wave)[None].to(self._device))
        if every:
            return layers
        return layers[(self._config.layer or 0) - 1][0].float().cpu().numpy()


def _load(name: str, bundle: Any, weights: str, allow_download: bool) -> Any:
    import torch
    import torchaudio

    if not weights:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(bundle._path).name
        if not cached.is_file() and not allow_download:
            raise BadInput(
                f"torchaudio:{name}: its weights are not on this machine ({cached}); put them there, name a "
                "file (torchaudio:PIPELINE/FILE), or allow the download: --set torchaudio.allow_download=true"
            )
        return bundle.get_model(dl_kwargs={"map_location": "cpu", "weights_only": True})
    # get_model() has no way to take a file; the architecture's settings are the bundle's
    wavlm = bundle._model_type == "WavLM"
    make = torchaudio.models.wavlm_model if wavlm else torchaudio.models.wav2vec2_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(**bundle._params)
    if weights == RANDOM:
        return model
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as e:  # missing, no checkpoint, of another shape, or made to run code
        raise BadInput(f"torchaudio:{name}: can't load these weights: {str(e).splitlines()[0][:300]}") from e
    return model


def _is_speech(value: Any) -> bool:
    import torchaudio

    return isinstance(value, torchaudio.pipelines.Wav2Vec2Bundle)


ENCODERS.add(
    "torchaudio",
    EncoderEntry(
        config=SpeechConfig,
        make=lambda name, config, vocab: [SpeechFeatures(name, config)],
        keys=("audio/speech",),
        about="hidden states of a speech model of torchaudio",
        argument="PIPELINE",
        heavy=True,
    ),
)
