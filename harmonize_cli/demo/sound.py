"""The sound of a telephone's keys: DTMF tones with hiss and random onset."""

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.demo.numbers import digits_of
from harmonize_cli.demo.schedule import FilePlan
from harmonize_cli.demo.settings import DialpadSettings

_ROW_HZ = (697, 770, 852, 941)
_COLUMN_HZ = (1209, 1336, 1477)
# (row, column) of the keys 0 to 9, ITU-T Q.23
_KEY = ((3, 1), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2))
_SHORTEST = 0.2  # seconds; real dialling allows 0.04


def render_sound(file: FilePlan, settings: DialpadSettings) -> NDArray[np.int16]:
    """Mono int16 samples of one file, at `settings.sample_rate`."""
    rng = np.random.default_rng([settings.seed, 5, file.index])
    rate = settings.sample_rate
    wave = rng.standard_normal(round(file.frames / settings.frame_rate * rate), dtype=np.float32)
    wave *= settings.sound_noise
    slot = settings.digit_frames / settings.frame_rate
    for segment in file.segments:
        for place, digit in enumerate(digits_of(segment.sound, settings.digits)):
            length = rng.uniform(min(_SHORTEST, slot / 2), 0.6 * slot)
            onset = segment.start / settings.frame_rate + place * slot + rng.uniform(0, slot - length)
            first = round(onset * rate)
            tone = dtmf(digit, length, rate) * np.float32(rng.uniform(0.2, 0.4))
            wave[first : first + len(tone)] += tone[: len(wave) - first]
    return (np.clip(wave, -1.0, 1.0) * 32767.0).astype(np.int16)


def dtmf(digit: int, seconds: float, rate: int) -> NDArray[np.float32]:
    """The two tones of a key, float32 within -1..1, with 5 ms ramps so that it doesn't click."""
    row, column = _KEY[digit]
    t = np.arange(round(seconds * rate)) / rate
    tone = 0.5 * (np.sin(2 * np.pi * _ROW_HZ[row] * t) + np.sin(2 * np.pi * _COLUMN_HZ[column] * t))
    ramp = np.clip(np.minimum(t, t[::-1]) / 0.005, 0.0, 1.0)
    return (tone * ramp).astype(np.float32)
