"""Handwritten digits that move over a noisy background."""

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.demo.schedule import FilePlan
from harmonize_cli.demo.settings import DialpadSettings


def render_frames(
    file: FilePlan, settings: DialpadSettings, pixels: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Grey frames uint8 [frames, size, size] of one file; `pixels` are the scans [N, 8, 8] in 0..1."""
    rng = np.random.default_rng([settings.seed, 4, file.index])
    size, glyph = settings.frame_size, 2 * settings.frame_size // 3
    frames = rng.standard_normal((file.frames, size, size), dtype=np.float32)
    frames *= settings.picture_noise
    frames += _clouds(file.frames, size, rng)
    room = size - glyph
    for segment in file.segments:
        for place, scan in enumerate(segment.scans):
            first = segment.start + place * settings.digit_frames
            ink = _enlarge(pixels[scan], glyph) * rng.uniform(0.7, 1.0)
            reach = settings.motion * room / 2
            ends = room / 2 + rng.uniform(-reach, reach, size=(2, 2))
            for step in range(settings.digit_frames):
                way = step / max(1, settings.digit_frames - 1)
                y, x = np.rint(ends[0] * (1 - way) + ends[1] * way).astype(int)
                frames[first + step, y : y + glyph, x : x + glyph] += ink
    np.clip(frames, 0.0, 1.0, out=frames)
    frames *= 255.0
    return frames.astype(np.uint8)


def _clouds(frames: int, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A dim background that drifts slowly: [frames, size, size] in about 0..0.25."""
    coarse = rng.uniform(0.0, 0.25, size=(6, 6)).astype(np.float32)
    field = _enlarge(coarse, size)
    drift = (np.arange(frames) // 2) % size
    rolled = np.stack([np.roll(field, shift, axis=1) for shift in range(size)])
    return np.asarray(rolled[drift], dtype=np.float32)


def _enlarge(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Bilinear enlargement of a square picture to [size, size]."""
    weights = _weights(image.shape[0], size)
    return np.asarray(weights @ image @ weights.T, dtype=np.float32)


def _weights(source: int, size: int) -> NDArray[np.float32]:
    at = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
    low = np.minimum(at.astype(int), source - 2)
    weights = np.zeros((size, source), dtype=np.float32)
    weights[np.arange(size), low] = 1 - (at - low)
    weights[np.arange(size), low + 1] = at - low
    return weights
