"""A speech pipeline with random weights: nothing is downloaded."""

import numpy as np
import pytest
from media_samples import tone

from harmonize_cli.encoders.speech import SpeechConfig, SpeechFeatures
from harmonize_cli.errors import BadInput


@pytest.fixture(scope="module")
def encoder():
    return SpeechFeatures("WAV2VEC2_BASE/random", SpeechConfig(device="cpu", layer=2, dtype="float32"))


def test_a_row_every_20_ms(encoder):
    assert encoder.spec.row_shape == (768,)
    assert encoder.spec.rate == 50
    for samples in (1, 319, 320, 321, 16_000):
        assert encoder.encode_sound(tone(1.0)[:samples]).shape == (-(-samples // 320), 768)


def test_rows_are_those_of_torchaudio(encoder):
    import torch

    wave = tone(0.5)
    with torch.no_grad():
        layers, _ = encoder._model.extract_features(torch.from_numpy(np.pad(wave, (0, 80)))[None])
    assert np.allclose(encoder.encode_sound(wave), layers[1][0].numpy(), atol=1e-5)


def test_long_sound_goes_in_blocks(encoder, monkeypatch):
    wave = tone(2.5)
    monkeypatch.setattr(encoder, "_config", SpeechConfig(device="cpu", layer=2, dtype="float32", block=1.5))
    rows = encoder.encode_sound(wave)
    assert len(rows) == 125
    assert np.allclose(rows[75:], encoder.encode_sound(wave[24_000:]), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("NO_SUCH", SpeechConfig(), "unknown pipeline; known: WAV2VEC2_BASE"),
        ("HUBERT_BASE", SpeechConfig(), "allow_download=true"),
        ("WAV2VEC2_BASE/random", SpeechConfig(layer=13), "has 12"),
        ("WAV2VEC2_BASE//nowhere.pt", SpeechConfig(), "can't load these weights"),
    ],
)
def test_faults_are_named_and_nothing_is_fetched(name, config, message, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BadInput, match=message):
        SpeechFeatures(name, config)
