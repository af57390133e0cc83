"""Colours and places of cropped and stretched frames, against a plain decode of whole frames."""

from importlib.util import find_spec

import numpy as np
import pytest
from decoder_comparison import decode
from independent_media import ffmpeg, psnr, shown, whole_frames

from harmonize_cli.media.requests import FrameRequest

REQUESTS = [
    FrameRequest(5, 32, 32),
    FrameRequest(5, 36, 60),
    FrameRequest(5, 61, 37),
    FrameRequest(5, 48, 48, 3, "stretch"),
    FrameRequest(5, 40, 40, 1),
    FrameRequest(5, 33, 47, 1, "stretch"),
]
SIZES = [(426, 240), (427, 241), (203, 301)]
DEPTHS = [f"yuv{chroma}p{depth}" for chroma in (420, 422, 444) for depth in ("", "10le", "12le")]
DECODERS = ["ffmpeg", *(["pyav"] if find_spec("av") else [])]


def picture(path, width, height, pixels, *codec, seconds=0.4, fps=5):
    # testsrc2 makes even sizes only
    cut = f"format=rgb24,crop={width}:{height}:0:0:exact=1,format={pixels}"
    source = f"testsrc2=s={width + width % 2}x{height + height % 2}:r={fps}:d={seconds}"
    ffmpeg("-y", "-f", "lavfi", "-i", source, "-vf", cut, *(codec or ("-c:v", "ffv1")), path)
    return path


@pytest.mark.parametrize("pixels", [*DEPTHS, "yuv411p", "yuva420p", "gbrp10le", "gray"])
def test_colours_and_places_are_right(tmp_path, pixels):
    for width, height in SIZES:
        path = picture(tmp_path / f"{width}.mkv", width, height, pixels)
        want = {
            channels: whole_frames(path, height, width, channels)
            for channels in {request.channels for request in REQUESTS}
        }
        for decoder in DECODERS:
            segment, work = decode(path, decoder, requests=REQUESTS)
            assert (work.outcome["video"].state, work.errors) == ("ok", [])
            found = [psnr(segment.rows[n], shown(want[r.channels], r)) for n, r in enumerate(REQUESTS)]
            assert min(found) >= 35, (decoder, width, height, found)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", ("-c:v", "libx264", "-crf", 1)),
        ("a.mkv", ("-c:v", "libx265", "-x265-params", "log-level=error", "-crf", 1)),
        ("a.mov", ("-c:v", "prores_ks")),
        ("a.webm", ("-c:v", "libvpx-vp9", "-crf", 1)),
    ],
)
def test_ten_bits_of_the_common_codecs(tmp_path, name, codec):
    pixels = "yuv422p10le" if name == "a.mov" else "yuv420p10le"
    path = picture(tmp_path / name, 854, 480, pixels, *codec)
    segment, _ = decode(path, "ffmpeg", requests=REQUESTS[:1])
    assert psnr(segment.rows[0], shown(whole_frames(path, 480, 854), REQUESTS[0])) >= 35


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_size_that_changes_on_the_way(tmp_path, decoder):
    """The crop becomes misaligned in the middle: no frame is lost, doubled or discoloured."""
    raw = ("-c:v", "libx264", "-crf", 1, "-bf", 0)
    sizes = [(320, 240), (426, 240), (320, 240)]
    parts = [
        picture(tmp_path / f"{n}.h264", *size, "yuv420p10le", *raw, seconds=1, fps=25)
        for n, size in enumerate(sizes)
    ]
    joined = tmp_path / "joined.h264"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    path = tmp_path / "joined.mkv"
    ffmpeg("-r", 25, "-i", joined, "-c", "copy", path)
    segment, work = decode(path, decoder, requests=REQUESTS[:1])
    assert work.outcome["video"].state == "ok"
    want = [shown(whole_frames(p, h, w)[::5], REQUESTS[0]) for p, (w, h) in zip(parts, sizes, strict=True)]
    assert np.allclose(segment.times[0], np.arange(15) / 5)
    assert psnr(segment.rows[0], np.concatenate(want)) >= 35
