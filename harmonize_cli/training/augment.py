"""VATT's augmentations (vatt.md 6), drawn from the random state of (seed, epoch, sample id).

Everything is the same for all frames of a clip.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harmonize_cli.training.config import AugmentConfig


class Augmentation:
    """(kind, rows, random state) -> rows, for `StoreDataset`. An encoder's features stay as they are."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def __call__(self, kind: str, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Frames uint8 [T, H, W, C] or a waveform float32 [T]; the same shape and type come back."""
        if kind == "frames":
            return self._frames(rows, rng)
        if kind == "waveform" and self.config.audio_noise:
            scale = self.config.audio_noise * float(np.abs(rows).max(initial=0.0))
            noise: np.ndarray = rng.standard_normal(rows.shape, dtype=np.float32) * np.float32(scale)
            noise += rows
            return noise
        return rows

    def _frames(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        config = self.config
        # every draw is made whether it is used or not: one option doesn't shift another one's randomness
        flip, colour, jitter = rng.random() < config.flip, rng.random() < config.colour, rng.random(4)
        window = _window(config, rows.shape[1], rows.shape[2], rng)
        if window is not None:
            rows = _resized_crop(rows, window)
        if flip:
            rows = rows[:, :, ::-1]
        if colour:
            rows = _recolour(rows, jitter)
        return np.ascontiguousarray(rows)


def _window(
    config: AugmentConfig, height: int, width: int, rng: np.random.Generator
) -> tuple[float, float, float, float] | None:
    """What part of the picture becomes the whole: top, left, height, width in pixels."""
    if config.crop == "area":
        area = rng.uniform(*config.area) * height * width
        aspect = math.exp(rng.uniform(*np.log(config.aspect)))
        h = min(float(height), math.sqrt(area / aspect))
        w = min(float(width), math.sqrt(area * aspect))
    elif config.crop == "scale":
        # sides scaled by 0.8 to 1.2 (in 8 of 10 clips), then a crop of the old size
        scale_h, scale_w = rng.uniform(0.8, 1.2, 2) if rng.random() < 0.8 else (1.0, 1.0)
        h, w = min(float(height), height / scale_h), min(float(width), width / scale_w)
    else:
        return None
    return rng.uniform(0, height - h), rng.uniform(0, width - w), h, w


def _resized_crop(rows: np.ndarray, window: tuple[float, float, float, float]) -> np.ndarray:
    top, left, h, w = window
    y, x = int(top), int(left)
    cut = rows[:, y : y + max(1, round(h)), x : x + max(1, round(w))]
    picture = torch.from_numpy(np.ascontiguousarray(cut)).permute(0, 3, 1, 2)
    sized = interpolate(picture, rows.shape[1:3], mode="bilinear", antialias=True, align_corners=False)
    found: np.ndarray = sized.permute(0, 2, 3, 1).numpy()
    return found


def _recolour(rows: np.ndarray, jitter: np.ndarray) -> np.ndarray:
    """Brightness +-32/255, contrast and saturation 0.6 to 1.4, hue +-0.2, clipped. jitter: [4] in [0, 1)."""
    x = torch.from_numpy(rows.astype(np.float32) / 255)
    x = x + (2 * jitter[0] - 1) * 32 / 255
    mean = x.mean(dim=(1, 2), keepdim=True)
    x = (x - mean) * (0.6 + 0.8 * jitter[1]) + mean
    if x.shape[-1] == 3:
        grey = (x * torch.tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
        x = (x - grey) * (0.6 + 0.8 * jitter[2]) + grey
        x = _turn_hue(x, 0.4 * jitter[3] - 0.2)
    found: np.ndarray = (x.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return found


def _turn_hue(x: Tensor, share: float) -> Tensor:
    """Turn colours [..., 3] by `share` of the colour circle, in YIQ: one matrix instead of HSV's cases."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    c, s = math.cos(2 * math.pi * share), math.sin(2 * math.pi * share)
    turn = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]])
    turned: Tensor = x @ (torch.linalg.inv(to_yiq) @ turn @ to_yiq).T
    return turned
