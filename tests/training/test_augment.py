"""Augmentations: deterministic, the same for all frames, within their bounds."""

import colorsys

import numpy as np
import pytest
import torch

from harmonize_cli.training.augment import Augmentation, _turn_hue
from harmonize_cli.training.config import AugmentConfig

PUBLISHED = {"crop": "area", "flip": 0.5, "colour": 0.8, "audio_noise": 0.01}


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(T=3, H=24, W=32, C=3):
    return rng(7).integers(0, 256, (T, H, W, C)).astype(np.uint8)


@pytest.mark.parametrize("crop", ["area", "scale"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_type_stay_and_the_seed_decides(crop, channels):
    augment = Augmentation(AugmentConfig(**{**PUBLISHED, "crop": crop}))
    x = picture(C=channels)
    for seed in range(20):
        y = augment("frames", x, rng(seed))
        assert (y.shape, y.dtype) == (x.shape, np.uint8)
        assert (y == augment("frames", x, rng(seed))).all()
    assert (augment("frames", x, rng(1)) != augment("frames", x, rng(2))).any()


def test_all_frames_change_alike():
    augment = Augmentation(AugmentConfig(**PUBLISHED))
    still = np.repeat(picture(T=1), 4, axis=0)
    for seed in range(10):
        y = augment("frames", still, rng(seed))
        assert (y == y[:1]).all()


def test_flip_mirrors_half_of_the_clips():
    augment = Augmentation(AugmentConfig(flip=0.5))
    x = picture()
    kinds = []
    for seed in range(40):
        y = augment("frames", x, rng(seed))
        assert (y == x).all() or (y == x[:, :, ::-1]).all()
        kinds.append((y == x).all())
    assert 8 < sum(kinds) < 32


def test_crops_show_a_part_of_the_picture():
    """On a horizontal ramp a crop is a ramp over a part of the range."""
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, None, :, None], (1, 48, 1, 1))
    augment = Augmentation(AugmentConfig(crop="area", area=(0.2, 0.3)))
    spans = [int(np.ptp(augment("frames", ramp, rng(seed)).astype(int))) for seed in range(30)]
    assert max(spans) < 255
    assert min(spans) > 20


def test_colour_changes_stay_within_the_published_bounds():
    grey = np.full((2, 4, 4, 1), 128, np.uint8)
    augment = Augmentation(AugmentConfig(colour=1.0))
    levels = [int(augment("frames", grey, rng(seed))[0, 0, 0, 0]) for seed in range(60)]
    assert 128 - 32 <= min(levels) < 128 < max(levels) <= 128 + 32


def test_hue_turns_back_and_keeps_greys():
    x = torch.rand(5, 3)
    torch.testing.assert_close(_turn_hue(_turn_hue(x, 0.13), -0.13), x, atol=1e-5, rtol=1e-5)
    greys = torch.rand(5, 1).expand(-1, 3)
    torch.testing.assert_close(_turn_hue(greys, 0.2), greys, atol=3e-3, rtol=0)
    red = _turn_hue(torch.tensor([[0.6, 0.3, 0.3]]), 1 / 3)[0].clamp(0, 1).tolist()
    hue = colorsys.rgb_to_hsv(*red)[0]
    assert min(abs(hue - 1 / 3), abs(hue - 2 / 3)) < 0.1  # a third of the circle away


def test_noise_on_waveforms_only():
    augment = Augmentation(AugmentConfig(audio_noise=0.01))
    x = np.sin(np.arange(4000) / 9).astype(np.float32) * 0.5
    y = augment("waveform", x, rng())
    assert y.dtype == np.float32
    assert np.std(y - x) == pytest.approx(0.005, rel=0.1)
    assert augment("logmel", x, rng()) is x
    assert (augment("waveform", np.zeros(5, np.float32), rng()) == 0).all()
