"""Small clips to try a decoder on before it gets real work."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ffmpeg
import numpy as np
import numpy.typing as npt

from harmonize_cli.media.decode import FileDecode
from harmonize_cli.media.decoders import DecoderFactory
from harmonize_cli.media.ffmpeg_decoder import FFmpegDecoder
from harmonize_cli.media.requests import FrameRequest, Request, SoundRequest, Span
from harmonize_cli.media.run import run

_REQUESTS: list[Request] = [
    FrameRequest(5, 32, 32),
    FrameRequest(7, 24, 40, 1, "stretch"),
    SoundRequest(16000),
]
# what decoders have differed in: depth, crops off the chroma samples, pixels that are not square, containers
_CLIPS = {
    "plain.mp4": ("320x240", "yuv420p", "1", 10),
    "deep.mkv": ("426x240", "yuv420p10le", "1", 25),
    "wide.mp4": ("240x240", "yuv420p", "4/3", 25),
    "old.avi": ("426x240", "yuv420p", "1", 10),
}
# mean difference in levels that decoders may show
TOLERANCE = 2.5
_SOUND_TOLERANCE = 0.01


@contextmanager
def trial_clip() -> Iterator[Path]:
    """One second of H.264, made by our ffmpeg; gone at the end of the `with` block.

    Raises:
        MediaError: this ffmpeg can't encode.
    """
    with tempfile.TemporaryDirectory(prefix="harmonize-trial-") as folder:
        path = Path(folder) / "trial.mp4"
        picture = ffmpeg.input("testsrc2=size=320x240:rate=10:duration=1", f="lavfi")
        run(picture.output(f"file:{path}", vcodec="libx264", pix_fmt="yuv420p"), deadline=60)
        yield path


@contextmanager
def trial_clips() -> Iterator[list[Path]]:
    """Clips of half a second that differ in what decoders differ in; gone at the end of the `with` block.

    Raises:
        MediaError: this ffmpeg can't encode.
    """
    with tempfile.TemporaryDirectory(prefix="harmonize-trial-") as folder:
        paths = [Path(folder) / name for name in _CLIPS]
        for path in paths:
            size, pixels, shape, rate = _CLIPS[path.name]
            picture = ffmpeg.input(f"testsrc2=size={size}:rate={rate}:duration=0.6,setsar={shape}", f="lavfi")
            sound = ffmpeg.input("sine=frequency=300:duration=0.6", f="lavfi")
            codecs = {"vcodec": "libx264", "pix_fmt": pixels, "acodec": "aac"}
            run(ffmpeg.output(picture, sound, f"file:{path}", **codecs), deadline=60)
        yield paths


def gives_the_same(decoder: DecoderFactory, path: Path) -> bool:
    """Whether `decoder` gives ffmpeg's frames and sound of `path`, within the tolerances."""
    for request in _REQUESTS:
        one, two = _rows(FFmpegDecoder, path, request), _rows(decoder, path, request)
        if isinstance(request, FrameRequest):
            if one.shape != two.shape or np.abs(one - two).mean() >= TOLERANCE:
                return False
        else:
            n = min(len(one), len(two))
            # the last packet may be cut otherwise
            if (
                bool(len(one)) != bool(len(two))
                or np.abs(one[:n] - two[:n]).max(initial=0) > _SOUND_TOLERANCE
            ):
                return False
    return True


def _rows(decoder: DecoderFactory, path: Path, request: Request) -> npt.NDArray[np.float64]:
    work = FileDecode(path, [request], Span(), deadline=60, decoder=decoder)
    rows = [chunk.rows for chunk in work.chunks()]
    return np.concatenate([np.empty((0, *request.row_shape)), *rows])
