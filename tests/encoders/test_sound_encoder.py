import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_samples import tone
from pydantic import ValidationError

from harmonize_cli.encoders import sound
from harmonize_cli.encoders.sound import LogMel, MelConfig, Mfcc, MfccConfig, Waveform, WaveformConfig

MEL = MelConfig(sample_rate=16000)


def reference(wave, c):
    """log(1 + gain * mel) with plain numpy: frames, Hann window, rfft, HTK triangles."""
    win, hop = round(c.window * c.sample_rate), round(c.hop * c.sample_rate)
    n_fft = 1 << (win - 1).bit_length()
    rows = -(-len(wave) // hop)
    wave = np.concatenate([wave, np.zeros(rows * hop + n_fft)])
    hann = np.zeros(n_fft)
    left = (n_fft - win) // 2
    hann[left : left + win] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
    spectrum = np.abs([np.fft.rfft(wave[r * hop : r * hop + n_fft] * hann) for r in range(rows)])
    freqs = np.linspace(0, c.sample_rate / 2, n_fft // 2 + 1)

    def mel(f):
        return 2595 * np.log10(1 + f / 700)

    points = 700 * (10 ** (np.linspace(mel(c.f_min), mel(c.f_max), c.n_mels + 2) / 2595) - 1)
    bands = []
    for low, mid, high in zip(points, points[1:], points[2:], strict=False):
        bands.append(np.maximum(0, np.minimum((freqs - low) / (mid - low), (high - freqs) / (high - mid))))
    return np.log1p(c.gain * spectrum @ np.array(bands).T)


def test_vatt_constants_are_the_default():
    encoder = LogMel(MelConfig())
    assert encoder.spec.row_shape == (80,)
    assert encoder.spec.rate == pytest.approx(1 / 0.02134, rel=1e-3)
    assert len(encoder.encode_sound(np.zeros(153_600, np.float32))) == 150


def test_logmel_agrees_with_plain_numpy():
    wave = np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1
    got = LogMel(MEL).encode_sound(wave)
    want = reference(wave.astype(np.float64), MEL)
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 2e-2


def test_a_tone_lights_its_band():
    rows = LogMel(MEL).encode_sound(tone(1.0, hz=1000))
    mel = 2595 * np.log10(1 + np.array([80, 1000, 7600]) / 700)
    want = (mel[1] - mel[0]) / (mel[2] - mel[0]) * 81 - 1
    assert abs(rows[:-2].argmax(1) - want).max() <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6000), st.integers(1, 7))
def test_blocks_change_nothing(length, block):
    wave = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    whole = LogMel(MEL).encode_sound(wave)
    old, sound._BLOCK = sound._BLOCK, block
    try:
        assert np.allclose(LogMel(MEL).encode_sound(wave), whole, atol=1e-2)
    finally:
        sound._BLOCK = old
    assert len(whole) == -(-length // 341)


def test_mfcc_is_the_cosine_transform_of_logmel():
    from scipy.fft import dct

    wave = tone(0.5)
    got = Mfcc(MfccConfig(sample_rate=16000, n_mfcc=13)).encode_sound(wave)
    want = dct(reference(wave, MEL), norm="ortho", axis=1)[:, :13]
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 0.1


@pytest.mark.parametrize(("dtype", "step"), [("float16", 5e-4), ("float32", 1e-7), ("int16", 2e-5)])
def test_waveform_types(dtype, step):
    wave = np.array([0, 0.5, -0.5, 1, -1, 1.7, -3], np.float32)
    rows = Waveform(WaveformConfig(sample_rate=16000, dtype=dtype)).encode_sound(wave)
    back = rows.astype(np.float64) / (32767 if dtype == "int16" else 1)
    assert rows.dtype == dtype
    assert np.abs(back - wave.clip(-1, 1)).max() < step


def test_bands_are_checked():
    with pytest.raises(ValidationError, match="above half the sample rate"):
        MelConfig(sample_rate=8000)
    with pytest.raises(ValidationError, match="not below"):
        MelConfig(f_min=900, f_max=800)
    with pytest.raises(ValidationError, match="n_mfcc"):
        MfccConfig(n_mfcc=90)
