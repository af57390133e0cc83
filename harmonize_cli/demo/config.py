"""Settings of the whole demo: data, features, model, and the runs that are compared."""

from typing import Any

from pydantic import Field

from harmonize_cli.config import StageConfig
from harmonize_cli.demo.settings import DialpadSettings


class DemoConfig(StageConfig):
    """`harmonize demo run`. `extract` and `pretrain` are configs of these stages, which check them."""

    data: DialpadSettings = DialpadSettings()
    extract: dict[str, Any] = Field(
        default={
            "encoders": ["raw", "logmel", "tokens"],
            # a digit lasts 0.8 s: two frames of each
            "raw": {"size": 24, "rate": 2.5, "colour": "grey"},
            # the band of the keys' tones; a low gain keeps the hiss down
            "logmel": {
                "sample_rate": 8000,
                "window": 0.05,
                "hop": 0.02,
                "n_mels": 32,
                "f_min": 600,
                "f_max": 1600,
                "gain": 1.0,
            },
            "tokens": {"max_words": 6},
        }
    )
    pretrain: dict[str, Any] = Field(
        default={
            # a frame is one patch and 0.2 s of sound another: 6 + 12 tokens
            "model": {"preset": "tiny", "video_patch": [1, 24, 24], "audio_patch": [10, 32], "word_dim": 64},
            "batch": 128,
            "steps": 300,
            "log_every": 10,
            "seed": 0,
        }
    )
    runs: dict[str, dict[str, Any]] = Field(
        default={
            "baseline": {"harmonize": {"mode": "none", "log_every": 10}},
            "harmonized": {"harmonize": {"mode": "both"}},
        },
        min_length=2,
    )
    """Name -> what differs from `pretrain`; the first is the one that others are compared with."""
