import os
import shutil
import threading
import time

import ffmpeg
import numpy as np
import pytest
from media_samples import grey_frames, levels, make_clip, tone

from harmonize_cli.media.decode import FileDecode
from harmonize_cli.media.decoders import decoder_for
from harmonize_cli.media.errors import MediaError
from harmonize_cli.media.ffmpeg_decoder import _Pipe, _Readers, seek_point
from harmonize_cli.media.probe import probe
from harmonize_cli.media.requests import FrameRequest, SoundRequest, Span
from harmonize_cli.media.run import run
from harmonize_cli.media.segments import Cutter

SOUND = SoundRequest(16000)


WHOLE = Span()


def decode(path, requests, span=WHOLE, **options):
    """All rows and times by request, and the FileDecode."""
    work = FileDecode(path, requests, span, deadline=60, **options)
    cutter = Cutter(requests, [span])
    segments = [s for c in work.chunks() for s in cutter.add(c)] + list(cutter.end())
    assert len(segments) == 1
    return segments[0].rows, segments[0].times, work


def brightness(rows):
    return rows.reshape(len(rows), -1).mean(1).round().astype(int)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """2 s: 20 frames of known levels at 10 a second, a tone."""
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mkv", grey_frames(20), tone(2.0))


def test_rows_are_the_frames_shown_at_their_times(clip):
    rows, times, work = decode(
        clip, [FrameRequest(10, 16, 16), FrameRequest(5, 8, 8, 1), FrameRequest(20, 8, 8)]
    )
    level = levels(20).astype(int)
    assert np.array_equal(brightness(rows[0]), level)
    assert np.array_equal(brightness(rows[1]), level[::2])
    assert np.array_equal(brightness(rows[2]), level.repeat(2))
    assert np.allclose(times[0], np.arange(20) / 10)
    assert rows[1].shape == (10, 8, 8, 1)
    assert work.outcome["video"].state == "ok"


@pytest.mark.parametrize("fps", [24, 25, 29.97, 30])
def test_resampled_rows_never_show_the_future(tmp_path, fps):
    n = int(2 * fps)
    path = make_clip(tmp_path / "a.mkv", grey_frames(n, 16, 16), fps=fps)
    rows, times, _ = decode(path, [FrameRequest(7, 8, 8)])
    shown = np.floor((times[0] + 0.005) * fps + 1e-6).astype(int).clip(0, n - 1)
    assert np.array_equal(brightness(rows[0]), levels(n)[shown])


def test_variable_frame_rate(tmp_path):
    # frames 0..9 at 0.0, 0.1, ...; every frame after the fifth comes twice as late
    stretch = ("setpts", {"expr": "if(lt(N,5),N*0.1,0.5+(N-5)*0.2)/TB"})
    path = make_clip(
        tmp_path / "v.mkv", grey_frames(10), filters=[("settb", {"expr": "1/1000"}), stretch], fps_mode="vfr"
    )
    rows, times, _ = decode(path, [FrameRequest(10, 8, 8)])
    want = np.where(times[0] < 0.495, times[0] * 10, 5 + (times[0] - 0.5) * 5)
    assert np.array_equal(brightness(rows[0]), levels(10)[np.floor(want + 1e-3).astype(int)])


def test_sound_is_the_sound(clip):
    rows, times, _ = decode(clip, [SOUND])
    assert times[0].tolist() == [0.0]
    assert np.abs(rows[0] - tone(2.0)).max() < 1e-3


def test_stereo_is_averaged(tmp_path):
    left = tone(0.5)
    path = make_clip(tmp_path / "s.wav", wave=left, acodec="pcm_f32le", af="pan=stereo|c0=c0|c1=0*c0")
    rows, _, _ = decode(path, [SOUND])
    assert np.abs(rows[0] - left / 2).max() < 1e-4


def test_one_decode_serves_both_and_seeks_change_nothing(tmp_path):
    frames = grey_frames(50 * 5, 16, 16)
    path = make_clip(tmp_path / "long.mkv", frames, tone(50), fps=5, g=10)
    requests = [FrameRequest(2.5, 8, 8), SOUND]
    whole, times, _ = decode(path, requests)
    part, part_times, _ = decode(path, requests, Span(40.1, 44.1))
    assert seek_point(Span(40.1, 44.1), requests) > 30
    pick = (times[0] >= 40.1) & (times[0] < 44.1)
    assert np.array_equal(part[0], whole[0][pick])
    assert np.array_equal(part_times[0], times[0][pick])
    assert len(part[1]) == 4 * 16000
    assert np.abs(part[1] - whole[1][round(40.1 * 16000) :][: 4 * 16000]).max() < 1e-3


def test_crop_takes_the_centre_stretch_takes_all(tmp_path):
    frames = np.zeros((3, 20, 60, 3), np.uint8)
    frames[:, :, :20] = 250
    frames[:, :, 40:] = 250
    path = make_clip(tmp_path / "wide.mkv", frames)
    rows, _, _ = decode(path, [FrameRequest(10, 10, 10), FrameRequest(10, 10, 30, 3, "stretch")])
    assert rows[0][:, :, 2:-2].max() < 10
    assert rows[1][0, 5, 2, 0] > 240
    assert rows[1][0, 5, 15, 0] < 10


def test_missing_tracks_say_so(tmp_path):
    silent = make_clip(tmp_path / "pictures.mkv", grey_frames(5))
    rows, _, work = decode(silent, [FrameRequest(10, 8, 8), SOUND])
    assert (work.outcome["audio"].state, work.outcome["audio"].reason) == ("missing", "no sound track")
    assert len(rows[0]) == 5
    assert len(rows[1]) == 0
    assert not work.errors
    sound = make_clip(tmp_path / "sound.wav", wave=tone(0.5), acodec="pcm_s16le")
    rows, _, work = decode(sound, [FrameRequest(10, 8, 8), SOUND])
    assert work.outcome["video"].state == "missing"
    assert len(rows[1]) == 8000
    assert probe(silent).sound is None
    assert probe(sound).sound.sample_rate == 16000


def test_cover_art_is_no_video(tmp_path):
    cover = tmp_path / "cover.png"
    run(ffmpeg.input("color=red:size=32x32", f="lavfi").output(f"file:{cover}", vframes=1))
    song = make_clip(tmp_path / "song.flac", wave=tone(0.5))
    inputs = [ffmpeg.input(f"file:{song}"), ffmpeg.input(f"file:{cover}")]
    path = tmp_path / "with_cover.mp3"
    run(ffmpeg.output(*inputs, f"file:{path}", acodec="libmp3lame", vcodec="copy"))
    _, _, work = decode(path, [FrameRequest(10, 8, 8), SOUND])
    assert work.outcome["video"].reason == "no picture track, only cover art"
    assert work.outcome["audio"].state == "ok"


@pytest.mark.parametrize(
    "name",
    [
        "-dash.mkv",
        "two words.mkv",
        "quo'te\".mkv",
        "new\nline.mkv",
        "näïve-日本.mkv",
        "no utf-8 \udcff.mkv",
        "per%03d.mkv",
        "a:b.mkv",
    ],
)
def test_awkward_names(clip, tmp_path, name):
    path = tmp_path / name
    shutil.copy(clip, path)
    rows, _, _ = decode(path, [FrameRequest(10, 8, 8), SOUND])
    assert len(rows[0]) == 20
    assert len(rows[1]) == 32000
    assert probe(path).duration == pytest.approx(2.0, abs=0.05)


def test_truncated_file_gives_what_is_there(clip, tmp_path):
    path = tmp_path / "cut.mkv"
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    rows, _, _ = decode(path, [FrameRequest(10, 8, 8)])
    assert 0 < len(rows[0]) < 20


@pytest.mark.parametrize("content", [b"", b"no media at all", bytes(5000)])
def test_no_media(tmp_path, content):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    rows, _, work = decode(path, [FrameRequest(10, 8, 8), SOUND])
    assert not len(rows[0])
    assert not len(rows[1])
    assert work.outcome["video"].state == work.outcome["audio"].state == "failed"
    assert work.outcome["video"].reason
    with pytest.raises(MediaError):
        probe(path)


def test_what_is_no_file(tmp_path):
    _, _, work = decode(tmp_path, [SOUND])
    assert work.outcome["audio"].reason == "is not a regular file"
    _, _, work = decode(tmp_path / "none", [SOUND])
    assert work.outcome["audio"].reason == "no such file"


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees):
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[:, :8, :8] = 250  # a mark in the corner
    plain = make_clip(tmp_path / "plain.mp4", frames, lossless=False, pix_fmt="yuv420p", crf=5)
    turned = tmp_path / "turned.mp4"
    run(ffmpeg.input(f"file:{plain}", display_rotation=degrees).output(f"file:{turned}", c="copy"))
    rows, _, _ = decode(turned, [FrameRequest(10, 32, 32)])
    want = np.rot90(frames[0], degrees // 90)
    assert np.abs(rows[0][0].astype(int) - want).mean() < 5


def test_ten_bits_alpha_and_odd_sizes(tmp_path):
    frames = grey_frames(5, 33, 47)
    ten = make_clip(tmp_path / "ten.mkv", frames, pix_fmt="yuv444p10le")
    alpha = make_clip(tmp_path / "alpha.mkv", frames, pix_fmt="bgra")
    one = make_clip(tmp_path / "one.mkv", frames[:, :1, :1])
    for path in (ten, alpha, one):
        rows, _, _ = decode(path, [FrameRequest(10, 8, 8)])
        assert np.abs(brightness(rows[0]) - levels(5).astype(int)).max() <= 2, path.name


def test_a_decode_that_hangs_is_killed(clip, monkeypatch, tmp_path):
    from harmonize_cli.media import binary

    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\n[ \"$1\" = -version ] && echo 'ffmpeg version 7.1 x' || sleep 100\n")
    program.chmod(0o755)
    monkeypatch.setenv(binary.OVERRIDE, str(program))
    binary.find_ffmpeg.cache_clear()
    try:
        work = FileDecode(clip, [SOUND], Span(), deadline=1)
        assert list(work.chunks()) == []
        assert work.outcome["audio"].reason.startswith("not done after")
    finally:
        binary.find_ffmpeg.cache_clear()


@pytest.mark.parametrize("decoder", ["ffmpeg", "pyav"])
def test_the_callers_time_is_not_the_decoders(tmp_path, decoder):
    """Who encodes the rows may take longer than the decoder has, and more waits than the pipes can hold."""
    if decoder == "pyav":
        pytest.importorskip("av")
    path = make_clip(tmp_path / "a.mkv", grey_frames(200, 16, 16))
    request = FrameRequest(10, 256, 256)
    work = FileDecode(path, [request], Span(), deadline=2, decoder=decoder_for(decoder))
    rows = 0
    for chunk in work.chunks():
        if not rows:
            time.sleep(3)
        rows += len(chunk.rows)
    assert (rows, work.outcome["video"].reason) == (200, "")


def test_a_reader_that_breaks_says_so():
    """A time stamp without a number: an error, not a wait without end."""
    pipe = _Pipe(FrameRequest(10, 1, 1, 1))
    os.write(pipe.data_write, b"x")
    os.write(pipe.times_write, b"frame:0 pts:\nrow=1\n")
    pipe.close_write()
    readers = _Readers([pipe], 0.0)
    with pytest.raises(MediaError, match="reading from ffmpeg failed"):
        list(readers.chunks())
    readers.stop()
    pipe.close()


def test_tags_do_not_pose_as_a_description(tmp_path):
    """A line separator that only Unicode knows, and after it what ffmpeg would say of another file."""
    title = "x\u2028[info]   Stream #0:7: Video: h264, yuv420p, 64x64\u2028[info]   Duration: 99:00:00.00"
    path = make_clip(tmp_path / "a.mkv", wave=tone(1.0), metadata=f"title={title}")
    info = probe(path)
    assert info.duration == pytest.approx(1.0, abs=0.1)
    assert info.picture is None


def test_stopping_early_leaves_nothing_running(clip):
    before = set(threading.enumerate())
    work = FileDecode(clip, [FrameRequest(10, 8, 8), SOUND], Span(), deadline=60)
    chunks = work.chunks()
    next(chunks)
    chunks.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=1)
        assert not thread.is_alive()


def test_no_time_stamps_at_all(tmp_path):
    """A raw H.264 stream has none: frames come at the rate that its header says."""
    path = make_clip(
        tmp_path / "raw.h264", grey_frames(20), lossless=False, pix_fmt="yuv420p", bf=0, crf=5, f="h264"
    )
    rows, times, work = decode(path, [FrameRequest(10, 8, 8)])
    assert work.outcome["video"].state == "ok"
    assert np.allclose(np.diff(times[0]), 0.1)
    assert np.abs(brightness(rows[0])[:19] - levels(20)[:19].astype(int)).max() <= 3


def test_time_stamps_that_jump_back(tmp_path):
    """Two transport streams in one file: the second one's stamps start again, it follows the first."""
    parts = []
    for n, frames in enumerate((grey_frames(20)[:10], grey_frames(20)[10:])):
        part = make_clip(
            tmp_path / f"{n}.ts", frames, tone(1.0), lossless=False, pix_fmt="yuv420p", bf=0, crf=5
        )
        parts.append(part.read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    rows, times, work = decode(path, [FrameRequest(10, 8, 8), SOUND])
    assert {o.state for o in work.outcome.values()} == {"ok"}
    assert (np.diff(times[0]) > 0).all()
    assert abs(len(rows[0]) - 20) <= 2
    shown = brightness(rows[0])
    assert all(np.abs(shown - level).min() <= 3 for level in levels(20).astype(int))
    assert len(rows[1]) == pytest.approx(32000, abs=4000)


@pytest.mark.parametrize("name", ["a.ts", "a.mpg", "a.ogv"])
@pytest.mark.parametrize("first", ["video", "audio"])
def test_a_late_track_is_as_late_without_the_other(tmp_path, name, first):
    """Of these containers ffmpeg counts from the first frame of the tracks in use."""
    codecs = {"a.ogv": {"vcodec": "libtheora", "acodec": "libvorbis"}}
    encode = codecs.get(name, {"vcodec": "mpeg2video", "acodec": "mp2"})
    late = {"video": {}, "audio": {}}
    late["audio" if first == "video" else "video"] = {"itsoffset": 3}
    pictures = ffmpeg.input("testsrc=r=25:d=38:s=32x32", f="lavfi", **late["video"])
    sound = ffmpeg.input("sine=d=38:r=48000", f="lavfi", **late["audio"])
    path = tmp_path / name
    # packets as they are: the muxer's own stamps of an MPEG stream don't keep a start of 3 s
    run(ffmpeg.output(pictures, sound, f"file:{tmp_path / 'a.mkv'}", **encode))
    run(ffmpeg.output(ffmpeg.input(f"file:{tmp_path / 'a.mkv'}"), f"file:{path}", c="copy"))
    requests = [FrameRequest(10, 8, 8), SOUND]
    for span in (WHOLE, Span(1.0, 5.0), Span(36.0, 38.0)):
        rows, times, _ = decode(path, requests, span)
        assert span != WHOLE or abs(times[1][0] - times[0][0]) > 2
        for n, request in enumerate(requests):
            alone, its_times, _ = decode(path, [request], span)
            assert np.array_equal(its_times[0], times[n])
            assert np.array_equal(alone[0], rows[n])


def test_of_several_tracks_the_first_is_taken(tmp_path):
    one = make_clip(tmp_path / "one.mkv", grey_frames(10), tone(1.0))
    two = make_clip(tmp_path / "two.mkv", grey_frames(10)[::-1], tone(1.0, hz=900))
    inputs = [ffmpeg.input(f"file:{p}") for p in (one, two)]
    streams = [inputs[0]["v"], inputs[1]["v"], inputs[0]["a"], inputs[1]["a"]]
    both = tmp_path / "both.mkv"
    run(ffmpeg.output(*streams, f"file:{both}", c="copy"))
    rows, _, _ = decode(both, [FrameRequest(10, 8, 8), SOUND])
    assert np.array_equal(brightness(rows[0]), levels(10).astype(int))
    assert np.abs(rows[1] - tone(1.0)).max() < 1e-3
    assert len(probe(both).video) == len(probe(both).audio) == 2


def test_a_track_that_starts_late_keeps_its_times(tmp_path):
    clip = make_clip(tmp_path / "clip.mkv", grey_frames(10), tone(1.0))
    late = ffmpeg.input(f"file:{clip}", itsoffset=0.5)["v"]
    path = tmp_path / "late.mkv"
    run(ffmpeg.output(late, ffmpeg.input(f"file:{clip}")["a"], f"file:{path}", c="copy"))
    rows, times, _ = decode(path, [FrameRequest(10, 8, 8), SOUND])
    assert times[0][0] == pytest.approx(0.5)
    assert times[1][0] == pytest.approx(0.0, abs=2e-3)
    assert brightness(rows[0])[0] == levels(10)[0]
