"""An encoder of one's own is one declaration: named, checked, extracted, extended and listed from there."""

from collections.abc import Iterator

import numpy as np
import pytest
from media_samples import grey_frames, make_clip

from harmonize_cli.cli.doctor import registered
from harmonize_cli.config import StageConfig, load_config
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.encoders.base import ENCODERS, EncoderEntry
from harmonize_cli.encoders.registry import check_names
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.extraction.pipeline import RunOptions, extract
from harmonize_cli.media.requests import FrameRequest
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec


class MeanColor:
    """Mean color of every frame. Key video/mean, rows (3,)."""

    batch = 0

    def __init__(self) -> None:
        self.request = FrameRequest(5, 16, 16)
        self.spec = FeatureSpec(
            key="video/mean", kind="embedding", encoder="mean", dtype="float32", row_shape=(3,), rate=5.0
        )

    def encode_frames(self, frames: np.ndarray) -> np.ndarray:
        return frames.mean((1, 2)).astype(np.float32)


@pytest.fixture
def mean() -> Iterator[None]:
    ENCODERS.add(
        "mean",
        EncoderEntry(
            config=StageConfig,
            make=lambda argument, config, vocab: [MeanColor()],
            keys=("video/mean",),
            about="mean color of a frame",
        ),
    )
    yield
    del ENCODERS._entries["mean"]


@pytest.mark.usefixtures("mean")
def test_a_declared_encoder_goes_all_the_way(tmp_path):
    path = make_clip(tmp_path / "a.mkv", grey_frames(10, 16, 16))
    rows = [ManifestRow(id="a", video=path, group="a", texts=("x",))]
    settings = load_config(ExtractConfig, None, [], {"encoders": ("tokens",)})
    extract(rows, tmp_path / "s", settings)
    more = load_config(ExtractConfig, None, [], {"encoders": ("tokens", "mean")})
    extract(rows, tmp_path / "s", more, RunOptions(mode="extend"))
    assert Store.open(tmp_path / "s").read("video/mean", 0).shape == (5, 3)
    assert any("mean" in finding.value for finding in registered() if finding.name == "encoders")


def test_names_are_checked_by_what_is_registered():
    assert check_names(["raw", "open_clip:ViT-B-32/random", "torchaudio:HUBERT_BASE"]) == []
    assert "did you mean 'logmel'" in check_names(["logmle"])[0]
    assert check_names(["open_clip"]) == ["open_clip: expected open_clip:MODEL/TAG"]
    assert check_names(["raw:x"]) == ["raw:x: expected raw"]
    (twice,) = check_names(["open_clip:a/b", "open_clip:c/d"])
    assert "both write video/open_clip" in twice
