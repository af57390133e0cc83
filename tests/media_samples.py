"""Small media files with known content, made with our own ffmpeg."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from harmonize_cli.media.run import run


def levels(n: int) -> np.ndarray:
    """n grey levels, neighbours well apart: frame i can be told by its brightness."""
    return (16 + (np.arange(n) * 37) % 220).astype(np.uint8)


def grey_frames(n: int, height: int = 32, width: int = 32) -> np.ndarray:
    """uint8 [n, H, W, 3]: frame i is plain grey of level levels(n)[i]."""
    return np.broadcast_to(levels(n)[:, None, None, None], (n, height, width, 3)).copy()


def tone(seconds: float, rate: int = 16000, hz: float = 440.0) -> np.ndarray:
    """float32 [S], a sine of half amplitude."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def make_clip(
    path: Path,
    frames: np.ndarray | None = None,
    wave: np.ndarray | None = None,
    *,
    fps: float = 10,
    sample_rate: int = 16000,
    lossless: bool = True,
    filters: Sequence[tuple[str, dict[str, Any]]] = (),
    **output: Any,
) -> Path:
    """Write frames [N, H, W, 3] and sound [S] to `path`; the container follows from the name."""
    streams = []
    stdin = None
    if frames is not None:
        _, height, width, _ = frames.shape
        node = ffmpeg.input(
            "pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=fps
        )
        for name, options in filters:
            node = node.filter(name, **options)
        streams.append(node)
        stdin = [frames.tobytes()]
        output = {"vcodec": "ffv1" if lossless else "libx264", **output}
    if wave is not None:
        raw = path.with_name(path.name + ".f32")
        raw.write_bytes(wave.astype(np.float32).tobytes())
        streams.append(ffmpeg.input(f"file:{raw}", format="f32le", ar=sample_rate, ac=1))
        output = {"acodec": "flac" if lossless else "aac", **output}
    run(ffmpeg.output(*streams, f"file:{path}", **output).overwrite_output(), stdin=stdin)
    if wave is not None:
        raw.unlink()
    return path
