"""What a file holds, by a plain decode of whole frames and sound: no filter of ours is involved."""

import subprocess

import numpy as np
import torch

from harmonize_cli.media.binary import find_ffmpeg


def ffmpeg(*args, stdin=None):
    """Standard output of our ffmpeg program."""
    command = [find_ffmpeg().path, "-v", "error", *map(str, args)]
    feed = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(command, capture_output=True, check=True, timeout=60, **feed).stdout


def whole_frames(path, height, width, channels=3):
    """uint8 [N, H, W, C]: every frame of the file as displayed."""
    pixels = "rgb24" if channels == 3 else "gray"
    data = ffmpeg(
        "-i", path, "-map", "0:V:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", pixels, "-"
    )
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, channels)


def shown(frames, request):
    """What `request` (a FrameRequest) asks for of frames with square pixels: float [N, h, w, C]."""
    _, high, wide, _ = frames.shape
    if request.fit == "crop":
        w = max(1.0, min(wide, high * request.width / request.height))
        h = max(1.0, min(high, wide * request.height / request.width))
        x, y = round((wide - w) / 2), round((high - h) / 2)
        frames = frames[:, y : y + round(h), x : x + round(w)]
    planes = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float()
    size = (request.height, request.width)
    small = torch.nn.functional.interpolate(planes, size, mode="bicubic", antialias=True)
    return small.clamp(0, 255).permute(0, 2, 3, 1).numpy()


def psnr(one, two):
    """Peak signal-to-noise ratio of two arrays of levels, dB."""
    error = np.square(np.asarray(one, np.float64) - two).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))
