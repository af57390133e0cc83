"""torchcodec gives the frames that ffmpeg gives; sound comes from ffmpeg itself.

Tolerance: equal times, frames within 3 levels in the mean where they are at most 32 times smaller than the
picture (beyond that the two scale differently), at the file's end one row more or less.
"""

import ffmpeg
import numpy as np
import pytest
from decoder_comparison import CLIPS, WHOLE, decode, differences
from media_samples import grey_frames, make_clip, tone

from harmonize_cli.errors import BadInput
from harmonize_cli.media.deadline import Deadline
from harmonize_cli.media.decoders import decoder_for
from harmonize_cli.media.errors import DeadlinePassed
from harmonize_cli.media.info import Track
from harmonize_cli.media.requests import FrameRequest, SoundRequest, Span
from harmonize_cli.media.run import run
from harmonize_cli.media.torchcodec_decoder import TorchcodecDecoder

LEVELS = 3
LARGE = [FrameRequest(7, 64, 64), FrameRequest(10, 48, 72, 1, "stretch"), SoundRequest(16000)]
try:
    decoder_for("torchcodec")
except BadInput as why:
    pytest.skip(str(why), allow_module_level=True)


@pytest.fixture
def gave_up(monkeypatch):
    """Counts how often ffmpeg had to take over."""
    seen = []
    work = TorchcodecDecoder._torchcodec

    def watched(self, *args):
        try:
            yield from work(self, *args)
        except (RuntimeError, ValueError, IndexError) as e:
            seen.append(str(e))
            raise

    monkeypatch.setattr(TorchcodecDecoder, "_torchcodec", watched)
    return seen


@pytest.mark.parametrize(
    ("name", "options"),
    CLIPS,
)
@pytest.mark.parametrize("span", [WHOLE, Span(0.65, 1.9)])
def test_same_frames_and_sound(tmp_path, gave_up, name, options, span):
    frames = grey_frames(24, 24, 40)
    frames[:, :8, :8] = 255 - frames[:, :8, :8]
    path = make_clip(tmp_path / name, frames, tone(2.4), **options)
    levels, sound = differences(path, "torchcodec", span)
    assert levels < LEVELS
    assert sound < 1e-3
    assert gave_up == []


def test_colours(tmp_path):
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    frames[:, :32, :48, 0] = frames[:, 32:, :48, 1] = frames[:, :32, 48:, 2] = 200
    path = make_clip(tmp_path / "c.mp4", frames, lossless=False, pix_fmt="yuv444p")
    assert differences(path, "torchcodec")[0] < LEVELS


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_same_rotation(tmp_path, degrees):
    frames = grey_frames(5, 32, 48)
    frames[:, :8, :8] = 255
    plain = make_clip(tmp_path / "p.mp4", frames, lossless=False, pix_fmt="yuv420p", aspect="3:1")
    turned = tmp_path / "t.mp4"
    run(ffmpeg.input(f"file:{plain}", display_rotation=degrees).output(f"file:{turned}", c="copy"))
    assert differences(turned, "torchcodec")[0] < LEVELS


def test_a_seek_changes_nothing(tmp_path, gave_up):
    path = make_clip(tmp_path / "long.mkv", grey_frames(250, 16, 16), tone(50), fps=5, g=10)
    levels, sound = differences(path, "torchcodec", Span(40.0, 45.0))
    assert levels < LEVELS
    assert sound < 1e-3
    assert gave_up == []


def test_a_late_picture_track_keeps_its_place(tmp_path):
    """Sound from 0 s on, pictures from 1 s on: frames and sound keep their times."""
    clip = make_clip(tmp_path / "a.mp4", grey_frames(20, 16, 16), tone(3), lossless=False, pix_fmt="yuv420p")
    late = tmp_path / "late.mkv"
    picture = ffmpeg.input(f"file:{clip}", itsoffset=1)["v"]
    run(ffmpeg.output(picture, ffmpeg.input(f"file:{clip}")["a"], f"file:{late}", c="copy"))
    assert differences(late, "torchcodec")[0] < LEVELS
    segment, _ = decode(late, "torchcodec")
    assert segment.times[1][0] == pytest.approx(1.0, abs=0.11)


def test_ffmpeg_goes_on_where_torchcodec_gives_up(tmp_path, gave_up):
    """Zeros over a stretch of the file: the rest of the frames is there, whoever decodes it."""
    path = make_clip(
        tmp_path / "a.mp4", grey_frames(60, 64, 64), tone(6), lossless=False, pix_fmt="yuv420p", g=10
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 400] = bytes(400)
    path.write_bytes(data)
    (one, _), (two, _) = decode(path, "ffmpeg"), decode(path, "torchcodec")
    assert abs(len(one.rows[1]) - len(two.rows[1])) <= 1
    assert len(one.rows[1]) > 40


def test_pictures_that_change_their_size(tmp_path, gave_up):
    parts = []
    for n, size in enumerate((32, 64)):
        parts.append(
            make_clip(
                tmp_path / f"{n}.h264", grey_frames(10, size, size), lossless=False, pix_fmt="yuv420p", bf=0
            )
        )
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    mkv = tmp_path / "both.mkv"
    run(ffmpeg.input(f"file:{path}", r=10).output(f"file:{mkv}", c="copy"))
    assert differences(mkv, "torchcodec", requests=LARGE[:2])[0] < LEVELS


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"ffconcat version 1.0\nfile x.mp4\n", b"#EXTM3U\nhttp://a/b.ts\n"]
)
def test_bad_files_never_reach_torchcodec(tmp_path, monkeypatch, content):
    """It would open what a playlist names, so ffmpeg's own look at the file comes first."""
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    monkeypatch.setattr(TorchcodecDecoder, "_torchcodec", lambda *_: pytest.fail("torchcodec was called"))
    _, work = decode(path, "torchcodec")
    assert {o.state for o in work.outcome.values()} == {"failed"}
    assert all(o.reason for o in work.outcome.values())


def test_silent_and_blind_files(tmp_path):
    silent = make_clip(tmp_path / "s.mp4", grey_frames(5, 16, 16), lossless=False, pix_fmt="yuv420p")
    blind = make_clip(tmp_path / "b.wav", wave=tone(1.0), acodec="pcm_s16le")
    for path, missing in ((silent, "audio"), (blind, "video")):
        _, work = decode(path, "torchcodec")
        assert {k for k, o in work.outcome.items() if o.state == "missing"} == {missing}
        assert {o.state for o in work.outcome.values()} == {"ok", "missing"}


def test_a_broken_sound_track_leaves_the_pictures_whole(tmp_path):
    """Its codec is unknown: the sound fails alone, as with ffmpeg."""
    path = make_clip(tmp_path / "a.mkv", grey_frames(12, 16, 16), tone(1.2))
    data = path.read_bytes()
    assert data.count(b"A_FLAC") == 1
    path.write_bytes(data.replace(b"A_FLAC", b"A_FLOP"))
    for name in ("ffmpeg", "torchcodec"):
        segment, work = decode(path, name)
        assert {k: o.state for k, o in work.outcome.items()} == {"video": "ok", "audio": "failed"}, name
        assert len(segment.rows[1]) == 12


def test_a_name_can_not_become_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = make_clip(tmp_path / "a.mkv", grey_frames(3, 8, 8))
    for name in ("-i.mkv", "pipe:0", "two\nlines ü 'q'.mkv", "100%d.mkv", "concat:a|b"):
        path = clip.with_name(name)
        path.write_bytes(clip.read_bytes())
        segment, _ = decode(path.relative_to(tmp_path), "torchcodec")
        assert len(segment.rows[1]) == 3, name


def test_the_deadline(tmp_path):
    path = make_clip(tmp_path / "a.mkv", grey_frames(3, 8, 8))
    work = TorchcodecDecoder(path, LARGE[:1], WHOLE, deadline=Deadline(0))
    with pytest.raises(DeadlinePassed, match="not done after 0 s"):
        list(work._pictures([0], Track(0, "ffv1"), 0.0))


def test_real_files(shared_data):
    good = []
    for path in sorted((shared_data("clips") / "originals").iterdir()):
        levels, _ = differences(path, "torchcodec", requests=LARGE, rows_at_end=1)
        good.append((levels < LEVELS, path.name, levels))
    assert all(ok for ok, *_ in good), good
    assert len(good) >= 20
