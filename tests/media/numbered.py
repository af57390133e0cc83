"""Films whose every frame shows its number as a binary code of 12 black and white blocks."""

import numpy as np
from independent_media import ffmpeg

from harmonize_cli.media.decode import FileDecode
from harmonize_cli.media.decoders import decoder_for
from harmonize_cli.media.requests import FrameRequest, Span

HEIGHT, WIDTH = 96, 128
_BLOCKS = (3, 4)


def numbered_frames(n):
    """uint8 [n, H, W, 3]."""
    bits = np.arange(n)[:, None] >> np.arange(12) & 1
    blocks = np.where(bits, 235, 16).astype(np.uint8).reshape(n, *_BLOCKS)
    pixels = blocks.repeat(HEIGHT // 3, 1).repeat(WIDTH // 4, 2)
    return np.repeat(pixels[..., None], 3, -1)


def read_numbers(rows):
    """The numbers of frames [N, 24, 32, C]."""
    cells = rows.astype(float).mean(-1).reshape(len(rows), 3, 8, 4, 8)[:, :, 2:-2, :, 2:-2].mean((2, 4))
    return (cells > 125).reshape(len(rows), 12) @ (1 << np.arange(12))


def film(path, n, fps, *args):
    """`n` numbered frames at `fps` (a number or "30000/1001"), encoded with `args` of ffmpeg."""
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", fps, "-i", "-")
    ffmpeg("-y", *raw, *args, path, stdin=numbered_frames(n).tobytes())
    return path


def numbers(path, decoder, rate, span=None):
    """Times and frame numbers that `decoder` gives at `rate` frames a second."""
    requests = [FrameRequest(rate, 24, 32, 1, "stretch")]
    work = FileDecode(path, requests, span or Span(), deadline=60, decoder=decoder_for(decoder))
    chunks = list(work.chunks())
    assert work.outcome["video"].state == "ok", work.outcome
    if not chunks:
        return np.empty(0), np.empty(0, int)
    return np.concatenate([c.times for c in chunks]), read_numbers(np.concatenate([c.rows for c in chunks]))


def shown_at(times, stamps):
    """The frame that is shown at each time: the last whose stamp (s) came at most 5 ms later."""
    return np.searchsorted(stamps, times + 0.005 + 1e-9, "right") - 1


def stamps(path):
    """Time stamps (s) of the frames, by a plain decode."""
    lines = ffmpeg("-i", path, "-map", "0:V:0", "-fps_mode", "passthrough", "-f", "framecrc", "-").decode()
    base = next(line for line in lines.splitlines() if line.startswith("#tb 0:")).split()[-1]
    top, bottom = map(int, base.split("/"))
    found = [int(line.split(",")[2]) for line in lines.splitlines() if not line.startswith("#")]
    return np.array(found) * top / bottom
