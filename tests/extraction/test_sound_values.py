"""Float sound with values that are no sound: only their sample fails, and says why."""

import numpy as np
import pytest
from media_samples import make_clip, tone
from small_clips import config, row, status

from harmonize_cli.extraction.pipeline import extract
from harmonize_cli.store.reader import Store

ENCODERS = ("waveform", "logmel", "mfcc")


def damaged(path, *values, at=1.5):
    wave = tone(4.0)
    wave[round(at * 16000) : round(at * 16000) + len(values)] = values
    return make_clip(path, wave=wave, acodec="pcm_f32le")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -3e38, 32767.0])
def test_only_the_sample_with_the_value_fails(tmp_path, value):
    damaged(tmp_path / "a.wav", value)
    rows = [row(tmp_path, "a.wav", f"{start}", start, start + 1.0) for start in range(4)]
    rows.append(row(tmp_path, "a.wav", "whole"))
    settings = config("mfcc.sample_rate=8000", "mfcc.f_max=4000", encoders=ENCODERS)
    for _ in range(2):  # the second run finds all done
        report = extract(rows, tmp_path / "s", settings)
    assert report.skipped == 5
    store = Store.open(tmp_path / "s")
    for name in ("0", "2", "3"):
        assert status(store, name)["audio"] == ("OK", ""), name
        for key in ("audio/waveform", "audio/logmel", "audio/mfcc"):
            assert np.isfinite(store.read(key, store.index(name)).astype(float)).all()
    for name in ("1", "whole"):
        found, reason = status(store, name)["audio"]
        assert found == "FAILED"
        assert reason.startswith("the sound track holds ")
        assert "at 1.50 s" in reason
    assert ("instead of a number" in reason) == (not np.isfinite(value))


def test_sound_above_full_scale_is_clipped(tmp_path):
    damaged(tmp_path / "loud.wav", *[3.0] * 100)
    extract([row(tmp_path, "loud.wav")], tmp_path / "s", config(encoders=ENCODERS[:2]))
    store = Store.open(tmp_path / "s")
    assert status(store, "loud.wav")["audio"] == ("OK", "")
    assert np.abs(store.read("audio/waveform", 0)).max() == 1
    assert np.isfinite(store.read("audio/logmel", 0).astype(float)).all()
