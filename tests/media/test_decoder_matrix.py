"""Every decoder against ffmpeg, over containers, codecs, rotations and rates.

The table in docs/datasets.md holds what may differ: frames in levels of 255 (mean of the worst frame), sound
as a share of full scale. A row there has its file here, and the other way round.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from decoder_comparison import decode
from independent_media import ffmpeg

from harmonize_cli.errors import BadInput
from harmonize_cli.media.decoders import decoder_for
from harmonize_cli.media.requests import FrameRequest, SoundRequest, Span

DOCS = Path(__file__).parents[2] / "docs" / "datasets.md"
REQUESTS = [
    FrameRequest(7, 64, 64),
    FrameRequest(29.97, 48, 72, 1, "stretch"),
    FrameRequest(1, 40, 24),
    SoundRequest(16000),
]
YUV, TEN = ("-pix_fmt", "yuv420p"), ("-pix_fmt", "yuv420p10le")
X264, X265 = (
    ("-c:v", "libx264", "-crf", 12),
    ("-c:v", "libx265", "-crf", 12, "-x265-params", "log-level=error"),
)
# name in the table: file, arguments, size, options of a copy that turns it
MATRIX = {
    "mp4, H.264, AAC": ("a.mp4", (*X264, *YUV, "-c:a", "aac"), "320x240", ()),
    "mp4, H.264, 426x240": ("a.mp4", (*X264, *YUV), "426x240", ()),
    "mp4, H.264, 10 bits, 854x480": ("a.mp4", (*X264, *TEN), "854x480", ()),
    "mp4, H.264, turned by 90 degrees": ("a.mp4", (*X264, *YUV), "320x240", ("-display_rotation", 90)),
    "mp4, H.264, turned by 180 degrees": ("a.mp4", (*X264, *YUV), "320x240", ("-display_rotation", 180)),
    "mp4, H.264, mirrored": ("a.mp4", (*X264, *YUV), "320x240", ("-display_hflip",)),
    "mp4, H.264, turned and mirrored": (
        "a.mp4",
        (*X264, *YUV),
        "320x240",
        ("-display_rotation", 90, "-display_hflip"),
    ),
    "mp4, H.264, pixels 4:3": ("a.mp4", (*X264, *YUV, "-vf", "setsar=4/3"), "320x240", ()),
    "mp4, HEVC, 10 bits, AC-3 5.1": ("a.mp4", (*X265, *TEN, "-c:a", "ac3", "-ac", 6), "320x240", ()),
    "mp4, AV1": ("a.mp4", ("-c:v", "libaom-av1", "-cpu-used", 8, *YUV), "160x120", ()),
    "mov, ProRes, PCM": ("a.mov", ("-c:v", "prores_ks", "-c:a", "pcm_s16le"), "320x240", ()),
    "mkv, FFV1, FLAC": ("a.mkv", ("-c:v", "ffv1", "-c:a", "flac"), "320x240", ()),
    "mkv, MJPEG, ALAC": ("a.mkv", ("-c:v", "mjpeg", "-q:v", 2, *YUV, "-c:a", "alac"), "320x240", ()),
    "webm, VP9, Opus": ("a.webm", ("-c:v", "libvpx-vp9", "-cpu-used", 8, "-b:v", "2M", *YUV), "320x240", ()),
    "webm, VP8, Vorbis, pixels 4:3": (
        "a.webm",
        ("-c:v", "libvpx", "-b:v", "2M", "-c:a", "libvorbis", "-vf", "setsar=4/3", *YUV),
        "320x240",
        (),
    ),
    "avi, MPEG-4, MP3": ("a.avi", ("-c:v", "mpeg4", "-q:v", 2, "-c:a", "mp3", *YUV), "320x240", ()),
    "avi, MPEG-4 with B-frames": ("a.avi", ("-c:v", "mpeg4", "-q:v", 2, "-bf", 2, *YUV), "320x240", ()),
    "mxf, MPEG-2, PCM": (
        "a.mxf",
        ("-c:v", "mpeg2video", "-q:v", 2, *YUV, "-c:a", "pcm_s16le", "-ar", 48000),
        "320x240",
        (),
    ),
    "ogv, Theora, Vorbis": ("a.ogv", ("-c:v", "libtheora", "-q:v", 10, *YUV), "320x240", ()),
    "ts, H.264, MP2": ("a.ts", (*X264, *YUV, "-c:a", "mp2"), "320x240", ()),
    "flv, H.264, AAC": ("a.flv", (*X264, *YUV, "-c:a", "aac"), "320x240", ()),
    "mpg, MPEG-1, MP2": ("a.mpg", ("-c:v", "mpeg1video", "-q:v", 2, *YUV), "320x240", ()),
    "wmv, WMV2, WMA": ("a.wmv", ("-c:v", "wmv2", "-q:v", 2, *YUV), "320x240", ()),
    "gif": ("a.gif", ("-an",), "160x120", ()),
    "y4m": ("a.y4m", ("-an", *YUV), "320x240", ()),
    "h264 (bare)": ("a.h264", (*X264, *YUV, "-an"), "320x240", ()),
    "wav, ADPCM": ("a.wav", ("-vn", "-c:a", "adpcm_ms"), "320x240", ()),
    "mp3": ("a.mp3", ("-vn",), "320x240", ()),
    "wma": ("a.wma", ("-vn",), "320x240", ()),
    "amr": ("a.amr", ("-vn", "-c:a", "libopencore_amrnb", "-ar", 8000, "-ac", 1), "320x240", ()),
}


def rows_of_the_table():
    """Name -> {decoder: (levels, sound)}; a dash is what a decoder leaves to ffmpeg: no difference."""
    text = DOCS.read_text()
    table = re.search(r"<!-- decoder matrix -->\n\n(.*?)\n\n", text, re.DOTALL)[1].splitlines()[2:]
    found = {}
    for line in table:
        name, *values = (cell.strip() for cell in line.strip("|").split("|"))
        pyav, sound, torchcodec = (float(v) if v != "-" else 0.0 for v in values)
        found[name] = {"pyav": (pyav, sound), "torchcodec": (torchcodec, 0.0)}
    return found


def make(folder, name):
    file, args, size, turn = MATRIX[name]
    path = folder / file
    source = ["-f", "lavfi", "-i", f"testsrc2=s={size}:r=25:d=1.6"]
    source += ["-f", "lavfi", "-i", "sine=frequency=300:r=44100:d=1.6"]
    ffmpeg("-y", *source, *args, path)
    if turn:
        turned = path.with_stem("turned")
        ffmpeg(*turn, "-i", path, "-c", "copy", turned)
        return turned
    return path


def measured(path, decoder):
    """Worst difference of frames and of sound from ffmpeg's; times and lengths must agree."""
    (one, first), (two, second) = (decode(path, name, Span(), REQUESTS) for name in ("ffmpeg", decoder))
    states = {kind: o.state for kind, o in first.outcome.items()}
    assert {kind: o.state for kind, o in second.outcome.items()} == states
    assert "ok" in states.values()
    levels = sound = 0.0
    for number, request in enumerate(REQUESTS):
        a, b = one.rows[number], two.rows[number]
        if isinstance(request, FrameRequest):
            assert np.allclose(one.times[number], two.times[number], atol=1e-6)
            gaps = np.abs(a.astype(int) - b).mean((1, 2, 3))
            levels = max(levels, float(gaps.max(initial=0)))
        elif len(a):
            assert abs(len(a) - len(b)) <= 1200  # one packet
            n = min(len(a), len(b)) - 200
            sound = max(sound, float(np.abs(a[:n] - b[:n]).max()))
            assert one.times[number] == pytest.approx(two.times[number], abs=1e-4)
    return levels, sound


def test_the_table_has_every_file():
    assert list(rows_of_the_table()) == list(MATRIX)


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("decoder", ["pyav", "torchcodec"])
def test_no_more_than_the_table_says(tmp_path, name, decoder):
    if decoder == "pyav" and not find_spec("av"):
        pytest.skip("PyAV is not installed")
    try:
        decoder_for(decoder)
    except BadInput as why:
        pytest.skip(str(why))
    levels, sound = measured(make(tmp_path, name), decoder)
    most_levels, most_sound = rows_of_the_table()[name][decoder]
    assert levels <= most_levels
    assert sound <= most_sound
