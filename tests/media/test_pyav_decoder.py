"""PyAV gives the frames and the sound that ffmpeg gives.

Tolerance: equal times, frames within 2 levels in the mean, sound within 1e-3 of full scale, its end within
one packet of the codec (0.07 s).
"""

import ffmpeg
import pytest
from decoder_comparison import CLIPS, REQUESTS, WHOLE, decode, differences
from media_samples import grey_frames, make_clip, tone

from harmonize_cli.media.requests import Span
from harmonize_cli.media.run import run

pytest.importorskip("av")


@pytest.mark.parametrize(
    ("name", "options"),
    CLIPS,
)
@pytest.mark.parametrize("span", [WHOLE, Span(0.65, 1.9)])
def test_same_frames_and_sound(tmp_path, name, options, span):
    frames = grey_frames(24, 24, 40)
    frames[:, :8, :8] = 255 - frames[:, :8, :8]
    path = make_clip(tmp_path / name, frames, tone(2.4), **options)
    levels, sound = differences(path, "pyav", span)
    assert levels < 2
    assert sound < 1e-3


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_same_rotation(tmp_path, degrees):
    frames = grey_frames(5, 32, 48)
    frames[:, :8, :8] = 255
    plain = make_clip(tmp_path / "p.mp4", frames, lossless=False, pix_fmt="yuv420p")
    turned = tmp_path / "t.mp4"
    run(ffmpeg.input(f"file:{plain}", display_rotation=degrees).output(f"file:{turned}", c="copy"))
    assert differences(turned, "pyav")[0] < 2


def test_a_seek_changes_nothing(tmp_path):
    path = make_clip(tmp_path / "long.mkv", grey_frames(250, 16, 16), tone(50), fps=5, g=10)
    assert differences(path, "pyav", Span(40.0, 45.0)) < (2, 1e-3)


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
        levels, sound = differences(path, "pyav")
        same.append((levels < 2 and sound < 0.01, path.name, levels, sound))
    assert all(ok for ok, *_ in same), same
    assert len(same) >= 20


def test_pictures_alone_count_from_their_own_start(tmp_path):
    """A transport stream's time 0 is the first of the tracks in use."""
    path = make_clip(tmp_path / "a.ts", grey_frames(24, 24, 40), tone(2.4), lossless=False, pix_fmt="yuv420p")
    assert differences(path, "pyav", requests=REQUESTS[:1])[0] < 2
