"""Row n shows the frame that a player shows at its time, whatever container and decoder."""

from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
from independent_media import ffmpeg
from numbered import film, numbers, shown_at, stamps

from harmonize_cli.errors import BadInput
from harmonize_cli.media.decode import FileDecode
from harmonize_cli.media.decoders import decoder_for
from harmonize_cli.media.requests import FrameRequest, Span

DECODERS = ["ffmpeg", *(["pyav"] if find_spec("av") else [])]
try:
    decoder_for("torchcodec")
    DECODERS.append("torchcodec")
except BadInput:
    pass

YUV = ("-pix_fmt", "yuv420p")
X264 = ("-c:v", "libx264", "-preset", "veryfast", *YUV)
MPEG2 = ("-c:v", "mpeg2video", "-q:v", 2, "-bf", 2, *YUV)
FILMS = {
    "a.mp4": X264,
    "ticks.mp4": (*X264, "-video_track_timescale", "{fps}"),
    "fragments.mp4": (*X264, "-movflags", "frag_keyframe+empty_moov"),
    "a.mov": ("-c:v", "prores_ks"),
    "a.mkv": ("-c:v", "ffv1"),
    "a.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-b:v", "2M", *YUV),
    "a.avi": ("-c:v", "mpeg4", "-q:v", 2, *YUV),
    "reordered.avi": X264,
    "bframes.avi": ("-c:v", "mpeg4", "-q:v", 2, "-bf", 2, *YUV),
    "a.mxf": MPEG2,
    "a.ogv": ("-c:v", "libtheora", "-q:v", 10, *YUV),
    "a.y4m": YUV,
    "a.ts": X264,
    "a.flv": ("-c:v", "flv1", "-q:v", 2, *YUV),
    "a.mpg": MPEG2,
    "a.gif": (),
    "a.wmv": ("-c:v", "wmv2", "-q:v", 2, *YUV),
    "a.nut": X264,
    "a.h264": X264,
    "a.m2v": MPEG2,
}
RATES = [1, 10, "24000/1001", 25, "30000/1001", 60, 120]


def can_hold(name, fps):
    return not (
        # MPEG-2 has eight rates, and programs of it ours of 23.976 to 60; a gif counts in 1/100 s
        (name in ("a.mxf", "a.mpg") and fps in (1, 10, 120)) or (name == "a.gif" and fps not in (1, 10, 25))
    )


@pytest.mark.parametrize("name", FILMS)
def test_every_container_at_every_rate(tmp_path, name):
    for fps in RATES:
        if not can_hold(name, fps):
            continue
        true = float(Fraction(fps))
        n = max(3, int(true * 0.5))
        args = [str(a).format(fps=str(fps).split("/", maxsplit=1)[0]) for a in FILMS[name]]
        path = film(tmp_path / name, n, fps, *args)
        for decoder in DECODERS:
            for rate in {min(true, 30.0), 7.0}:
                times, found = numbers(path, decoder, rate)
                want = np.arange(np.ceil(n / true * rate - 1e-6)) / rate
                assert np.allclose(times, want, atol=1e-4), (fps, decoder, rate)
                assert np.array_equal(found, shown_at(times, np.arange(n) / true)), (fps, decoder, rate)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.ts", "a.flv", "a.nut", "a.mov"])
@pytest.mark.parametrize("start", [0, 3.7])
def test_variable_rates_and_a_start_that_is_not_zero(tmp_path, name, start):
    """Gaps of 2, 1 and 3 frames of 25 in turn; all time stamps of the file are late by `start`."""
    uneven = "settb=1/25,setpts=2*N-mod(N\\,3)*(mod(N\\,3)-1)/2"
    args = [*FILMS[name], "-vf", uneven, "-fps_mode", "vfr", "-enc_time_base", "1/25"]
    path = film(tmp_path / name, 40, 25, *args, "-output_ts_offset", start)
    seen = stamps(path)
    assert len(set(np.diff(seen).round(2))) > 1
    found = {}
    for decoder in DECODERS:
        times, found[decoder] = numbers(path, decoder, 25)
        assert np.array_equal(found[decoder], shown_at(times, seen).clip(0)), decoder
        assert times[0] == pytest.approx(seen[0], abs=0.041)


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mkv", "a.avi", "reordered.avi", "a.ts", "a.flv", "a.m2v", "a.h264", "a.wmv", "a.mxf"]
)
def test_a_seek_changes_no_frame(tmp_path, name):
    fps = 25 if name == "a.mxf" else 5
    path = film(tmp_path / name, 45 * fps, fps, *FILMS[name], "-g", 12)
    for decoder in DECODERS:
        times, found = numbers(path, decoder, 5, Span(37.3, 40.1))
        wanted = (times > 37.3) & (times < 40.1)
        assert np.allclose(times[wanted], np.arange(187, 201) / 5)
        assert np.array_equal(found[wanted], np.arange(187, 201) * fps // 5), decoder


def test_films_that_follow_each_other_in_a_transport_stream(tmp_path):
    """The time stamps of the second one start again."""
    parts = [film(tmp_path / f"{n}.ts", 20, 10, *X264) for n in range(2)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for decoder in DECODERS:
        _, found = numbers(path, decoder, 10)
        assert len(found) == pytest.approx(40, abs=1)
        assert set(found) == set(range(20))


def test_mirrored_and_turned(tmp_path):
    """Every display matrix that ffmpeg can write, shown as ffmpeg's own player shows it."""
    plain = film(tmp_path / "plain.mp4", 6, 10, *X264)
    turns = ["-display_hflip", "-display_vflip", "-display_rotation 180", "-display_rotation 30"]
    turns += [f"-display_rotation {angle}{flip}" for angle in (90, 270) for flip in ("", " -display_hflip")]
    for n, turn in enumerate(turns):
        path = tmp_path / f"{n}.mp4"
        ffmpeg(*turn.split(), "-i", plain, "-c", "copy", path)
        want = ffmpeg("-i", path, "-vf", "scale=32:24:flags=bicubic,format=gray", "-f", "rawvideo", "-")
        want = np.frombuffer(want, np.uint8).reshape(-1, 24, 32, 1)
        for decoder in DECODERS:
            requests = [FrameRequest(10, 24, 32, 1, "stretch")]
            work = FileDecode(path, requests, Span(), deadline=60, decoder=decoder_for(decoder))
            rows = np.concatenate([chunk.rows for chunk in work.chunks()])
            assert np.abs(rows.astype(int) - want).mean() < 3, (turn, decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["a.ts", "a.h264"])
def test_no_frame_is_lost_where_the_size_changes(tmp_path, name, decoder):
    """ffmpeg's filter graph is made anew there, and forgot the frame that it held back."""
    parts = []
    for n, more in ((20, ()), (25, ("-s", "160x120", "-output_ts_offset", 2))):
        part = film(tmp_path / f"{n}-{name}", n, 10, "-c:v", "libx264", "-bf", 0, "-crf", 5, *YUV, *more)
        parts.append(part.read_bytes())
    path = tmp_path / name
    path.write_bytes(b"".join(parts))
    for rate in (10, 25, 7):
        times, found = numbers(path, decoder, rate)
        frames = np.floor(times * 10 + 0.05 + 1e-6).astype(int)
        assert np.array_equal(found, np.where(frames < 20, frames, frames - 20))
        assert np.allclose(np.diff(times), 1 / rate)
        assert len(times) >= 4.4 * rate
