"""A small clip to try a decoder on before it gets real work."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ffmpeg
import numpy as np

from harmonize_cli.media.decode import DecoderFactory, FileDecode
from harmonize_cli.media.ffmpeg_decoder import FFmpegDecoder
from harmonize_cli.media.requests import FrameRequest, Span
from harmonize_cli.media.run import run

_REQUEST = FrameRequest(5, 32, 32)
# mean difference in levels that decoders may show
TOLERANCE = 2.0


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


def gives_the_same(decoder: DecoderFactory, path: Path) -> bool:
    """Whether `decoder` gives ffmpeg's frames of `path`, within the tolerance."""
    one, two = _frames(FFmpegDecoder, path), _frames(decoder, path)
    return one.shape == two.shape and bool(np.abs(one - two).mean() < TOLERANCE)


def _frames(decoder: DecoderFactory, path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    work = FileDecode(path, [_REQUEST], Span(), deadline=60, decoder=decoder)
    rows = [chunk.rows for chunk in work.chunks()]
    return np.concatenate([np.empty((0, *_REQUEST.row_shape)), *rows])
