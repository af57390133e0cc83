"""PyAV gives the frames and the sound that ffmpeg gives.

Tolerance: equal times, frames within 2 levels in the mean, sound within 1e-3 of full scale, its end within
one packet of the codec (0.07 s). Files whose time stamps are missing or contradict each other (old AVI) may
differ by a frame.
"""

import ffmpeg
import numpy as np
import pytest
from media_samples import grey_frames, make_clip, tone

from harmonize_cli.errors import BadInput
from harmonize_cli.media.decode import FileDecode
from harmonize_cli.media.decoders import decoder_for
from harmonize_cli.media.ffmpeg_decoder import FFmpegDecoder
from harmonize_cli.media.requests import FrameRequest, SoundRequest, Span
from harmonize_cli.media.run import run
from harmonize_cli.media.segments import Cutter

pytest.importorskip("av")
REQUESTS = [FrameRequest(7, 16, 16), FrameRequest(10, 8, 12, 1, "stretch"), SoundRequest(16000)]
WHOLE = Span()


def decode(path, name, span=WHOLE):
    work = FileDecode(path, REQUESTS, span, deadline=60, decoder=decoder_for(name))
    cutter = Cutter(REQUESTS, [span])
    (segment,) = [s for c in work.chunks() for s in cutter.add(c)] + list(cutter.end())
    return segment, work


def differences(path, span=WHOLE):
    """Worst mean difference of a frame in levels, and of the sound, after equal times were asserted."""
    (one, first), (two, second) = decode(path, "ffmpeg", span), decode(path, "pyav", span)
    assert first.outcome == second.outcome or {o.state for o in first.outcome.values()} == {
        o.state for o in second.outcome.values()
    }
    levels = 0.0
    for r in (0, 1):
        assert np.allclose(one.times[r], two.times[r])
        if len(one.rows[r]):
            gap = np.abs(one.rows[r].astype(int) - two.rows[r])
            levels = max(levels, gap.reshape(len(gap), -1).mean(1).max())
    n = min(len(one.rows[2]), len(two.rows[2]))
    assert abs(len(one.rows[2]) - len(two.rows[2])) <= 1200
    assert np.allclose(one.times[2], two.times[2], atol=1e-3)
    return levels, float(np.abs(one.rows[2][: n - 200] - two.rows[2][: n - 200]).max(initial=0))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {}),
        ("a.mp4", {"lossless": False, "pix_fmt": "yuv420p"}),
        ("a.webm", {"vcodec": "libvpx", "acodec": "libvorbis", "pix_fmt": "yuv420p"}),
        ("a.ts", {"lossless": False, "pix_fmt": "yuv420p", "acodec": "mp2"}),
        ("wide.mp4", {"lossless": False, "pix_fmt": "yuv420p", "aspect": "3:1"}),
        ("ten.mkv", {"pix_fmt": "yuv444p10le"}),
    ],
)
@pytest.mark.parametrize("span", [WHOLE, Span(0.65, 1.9)])
def test_same_frames_and_sound(tmp_path, name, options, span):
    frames = grey_frames(24, 24, 40)
    frames[:, :8, :8] = 255 - frames[:, :8, :8]
    path = make_clip(tmp_path / name, frames, tone(2.4), **options)
    levels, sound = differences(path, span)
    assert levels < 2
    assert sound < 1e-3


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_same_rotation(tmp_path, degrees):
    frames = grey_frames(5, 32, 48)
    frames[:, :8, :8] = 255
    plain = make_clip(tmp_path / "p.mp4", frames, lossless=False, pix_fmt="yuv420p")
    turned = tmp_path / "t.mp4"
    run(ffmpeg.input(f"file:{plain}", display_rotation=degrees).output(f"file:{turned}", c="copy"))
    assert differences(turned)[0] < 2


def test_a_seek_changes_nothing(tmp_path):
    path = make_clip(tmp_path / "long.mkv", grey_frames(250, 16, 16), tone(50), fps=5, g=10)
    assert differences(path, Span(40.0, 45.0)) < (2, 1e-3)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"ffconcat version 1.0\nfile x.mp4\n", b"#EXTM3U\nhttp://a/b.ts\n"]
)
def test_bad_files_fail_with_a_reason(tmp_path, content):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    _, work = decode(path, "pyav")
    assert {o.state for o in work.outcome.values()} == {"failed"}
    assert all(o.reason for o in work.outcome.values())


def test_real_files(shared_data):
    same = []
    for path in sorted((shared_data("clips") / "originals").iterdir()):
        if path.name.startswith(("mmaction2__test.avi", "moviepy__big_buck_bunny_0_30")):
            continue
        levels, sound = differences(path)
        same.append(levels < 2 and sound < 0.1)
    assert all(same)
    assert len(same) >= 20


def test_names():
    assert decoder_for("ffmpeg") is FFmpegDecoder
    assert decoder_for("auto") is decoder_for("pyav")


def test_without_the_package(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "av" else real(name))
    assert decoder_for("auto") is FFmpegDecoder
    with pytest.raises(BadInput, match=r"harmonize-cli\[pyav\]"):
        decoder_for("pyav")
