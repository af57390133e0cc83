"""Sound of every format: no sample lost, none made silent, the same with every decoder."""

import numpy as np
import pytest
from decoder_comparison import decode
from independent_media import ffmpeg
from test_frame_numbers import DECODERS

from harmonize_cli.media.requests import SoundRequest, Span

RATE = 16000
SOUND = [SoundRequest(RATE)]
FORMATS = {
    "a.wav": ("-c:a", "pcm_s16le"),
    "adpcm.wav": ("-c:a", "adpcm_ms"),
    "ima.wav": ("-c:a", "adpcm_ima_wav"),
    "g722.wav": ("-c:a", "g722", "-ar", 16000),
    "a.w64": (),
    "a.aiff": (),
    "a.au": (),
    "a.caf": (),
    "a.voc": (),
    "a.flac": (),
    "a.mp3": (),
    "bare.mp3": ("-q:a", 4, "-write_xing", 0),
    "a.aac": (),
    "a.m4a": (),
    "alac.m4a": ("-c:a", "alac"),
    "alac.mka": ("-c:a", "alac"),
    "opus.webm": ("-c:a", "libopus"),
    "a.ogg": ("-c:a", "libvorbis"),
    "a.wma": (),
    "a.ac3": (),
    "ac3.ts": ("-c:a", "ac3"),
    "eac3.mp4": ("-c:a", "eac3"),
    "a.mp2": (),
    "a.amr": ("-ar", 8000, "-c:a", "libopencore_amrnb"),
    "a.wv": (),
    "a.tta": (),
    "mp3.avi": ("-c:a", "mp3"),
    "aac.flv": ("-c:a", "aac"),
    "a.rm": ("-c:a", "ac3"),
}
LOSSY_END = 1200  # samples by which the ends may differ: one packet


def sound(path, seconds, *args, layout="mono"):
    """Tones that come and go, with a second that is nearly silent; other ones on each channel."""
    channels = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}[layout]
    swell = "(0.1+0.9*gt(mod(t\\,5)\\,1))*(0.6+0.4*sin(2*PI*t*0.7))"
    tones = "|".join(f"0.5*{swell}*sin(2*PI*({170 + 90 * c}*t+8*sin(3*t)))" for c in range(channels))
    source = f"aevalsrc={tones}:c={layout}:s=44100:d={seconds}"
    ffmpeg("-y", "-f", "lavfi", "-i", source, *args, path)
    return path


def heard(path, decoder, span=None):
    segment, work = decode(path, decoder, span or Span(), SOUND)
    assert work.outcome["audio"].state == "ok", work.outcome
    return segment.times[0][0], segment.rows[0]


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_lost_and_a_seek_moves_nothing(tmp_path, name):
    path = sound(tmp_path / name, 44, *FORMATS[name])
    plain = ffmpeg("-i", path, "-map", "0:a:0", "-ac", 1, "-ar", RATE, "-f", "f32le", "-")
    plain = np.frombuffer(plain, np.float32)
    first, whole = heard(path, "ffmpeg")
    skipped = len(plain) - len(whole)
    assert skipped == pytest.approx(round(first * RATE), abs=2) or skipped == 0
    n = len(whole) - 50
    assert np.abs(whole[:n] - plain[-len(whole) :][:n]).max() < 2e-3
    for decoder in DECODERS[1:]:
        start, rows = heard(path, decoder)
        assert start == pytest.approx(first, abs=1e-4)
        assert abs(len(rows) - len(whole)) <= LOSSY_END
        n = min(len(rows), len(whole)) - 200
        assert np.abs(rows[:n] - whole[:n]).max() < 5e-3, decoder
    for decoder in DECODERS:
        start, part = heard(path, decoder, Span(36.2, 40.4))
        assert len(part) == round(4.2 * RATE)
        at = round((start - first) * RATE)
        # a seek lands up to 1.5 ms beside its time, in AVI 8 ms
        near = 130 if name.endswith("avi") else 24
        gaps = [
            np.square(part - whole[at + k : at + k + len(part)]).mean() ** 0.5 for k in range(-near, near + 1)
        ]
        assert min(gaps) < 0.03, decoder


@pytest.mark.parametrize(
    ("name", "args", "layout"),
    [
        ("a.mka", ("-c:a", "ac3"), "5.1"),
        ("a.ac3", (), "5.1"),
        ("e.mp4", ("-c:a", "eac3"), "5.1"),
        ("a.mp4", ("-c:a", "aac"), "5.1"),
        ("a.flac", (), "7.1"),
        ("s.mka", ("-c:a", "ac3"), "stereo"),
    ],
)
def test_many_channels_mix_alike(tmp_path, name, args, layout):
    path = sound(tmp_path / name, 3, *args, layout=layout)
    _, whole = heard(path, "ffmpeg")
    assert np.abs(whole).max() > 0.1
    for decoder in DECODERS[1:]:
        _, rows = heard(path, decoder)
        n = min(len(rows), len(whole)) - 200
        assert np.abs(rows[:n] - whole[:n]).max() < 5e-3
