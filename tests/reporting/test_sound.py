"""Sound on the page: log-mel bands turned back into something to listen to."""

import numpy as np
import pytest

from harmonize_cli.encoders.sound import LogMel, MelConfig
from harmonize_cli.reporting.sound import from_logmel


@pytest.mark.parametrize("tones", [(700.0,), (1200.0,), (700.0, 1350.0)])
def test_the_tones_are_where_they_were(tones: tuple[float, ...]) -> None:
    config = MelConfig(sample_rate=8000, window=0.05, hop=0.02, n_mels=32, f_min=600, f_max=1600, gain=1.0)
    time = np.arange(3 * 8000) / 8000
    sound = sum(np.sin(2 * np.pi * f * time) for f in tones).astype(np.float32) / 4
    encoder = LogMel(config)
    x = from_logmel(encoder.encode_sound(sound).astype(np.float32), encoder.spec.params)
    assert abs(len(x) / 8000 - 3) < 0.1
    assert np.abs(x).max() == pytest.approx(0.9, rel=1e-3)
    power = np.abs(np.fft.rfft(x)) ** 2
    at = np.fft.rfftfreq(len(x), 1 / 8000)
    near = np.any([np.abs(at - f) < 60 for f in tones], axis=0)  # the bands are 30 to 60 Hz wide
    assert power[near].sum() > 0.8 * power.sum()
    for f in tones:
        assert power[np.abs(at - f) < 60].sum() > 0.2 * power.sum()


def test_silence_stays_silent() -> None:
    encoder = LogMel(MelConfig(sample_rate=8000, f_max=4000))
    rows = encoder.encode_sound(np.zeros(8000, np.float32)).astype(np.float32)
    assert np.abs(from_logmel(rows, encoder.spec.params)).max() == 0
