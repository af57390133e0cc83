"""Segments of a long video that lie far apart: what is between them is not decoded."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_samples import grey_frames, make_clip, tone

from harmonize_cli.config import load_config
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.extraction import unit
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.extraction.pipeline import extract
from harmonize_cli.extraction.plan import FileGroup
from harmonize_cli.media.decode import FileDecode
from harmonize_cli.media.requests import FrameRequest, Span
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status

times = st.floats(0, 500)
ends = st.none() | st.floats(0.1, 100)


def row(id: str, start: float, end: float | None, video: Path = Path("v.mp4")) -> ManifestRow:
    return ManifestRow(id=id, video=video, start=start, end=end, group="v")


@given(st.lists(st.tuples(times, ends), min_size=1, max_size=12))
def test_stretches_share_the_rows_out(spans):
    rows = tuple(row(str(i), a, None if b is None else a + b) for i, (a, b) in enumerate(spans))
    parts = [part.rows for part in FileGroup(Path("v.mp4"), None, rows).stretches()]
    assert sorted(r.id for part in parts for r in part) == sorted(r.id for r in rows)
    wanted = [(min(r.start for r in part), max(r.end or 1e9 for r in part)) for part in parts]
    for (_, stop), (begin, _) in pairwise(wanted):
        assert begin > stop + 30
    for part in parts:
        for r in part:  # no part could be divided again
            before = [p.end or 1e9 for p in part if p.start < r.start]
            assert not before or r.start <= max(before) + 30


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    return make_clip(folder / "long.mkv", grey_frames(100 * 5, 16, 16), tone(100), fps=5, g=10)


def config(*overrides: str) -> ExtractConfig:
    settings = ["raw.size=8", "raw.rate=5", "waveform.sample_rate=16000", *overrides]
    return load_config(ExtractConfig, None, settings, {"encoders": ("raw", "waveform")})


def test_far_segments_get_the_same_rows_from_decodes_of_their_own(long, tmp_path, monkeypatch):
    spans = {"late": (80.1, 82.3), "first": (1.0, 3.0), "second": (2.0, 20.0), "over": (300.0, 302.0)}
    rows = [row(name, *span, long) for name, span in spans.items()]
    decoded = []

    class Seen(FileDecode):
        def __init__(self, path, requests, span, **options):
            decoded.append((span.start, span.end))
            super().__init__(path, requests, span, **options)

    monkeypatch.setattr(unit, "FileDecode", Seen)
    extract(rows, tmp_path / "far", config())
    assert decoded == [(1.0, 20.0), (80.1, 82.3), (300.0, 302.0)]
    far = Store.open(tmp_path / "far")
    for name in ("late", "first", "second"):
        extract([row(name, *spans[name], long)], tmp_path / name, config())
        got, want = far.sample(far.index(name)), Store.open(tmp_path / name).sample(0)
        assert len(want.features["video/frames"]) == round(5 * (spans[name][1] - spans[name][0]))
        for key, rows_alone in want.features.items():
            assert np.allclose(got.features[key], rows_alone, atol=1e-3)
    over = far.sample(far.index("over"))
    assert over.status["video"] == over.status["audio"] == Status.FAILED
    assert over.reason["video"] == "the segment starts at 300 s, but the picture track ends at 100.00 s"


def test_all_decodes_of_a_file_share_its_deadline(long):
    requests = [FrameRequest(5, 8, 8)]
    first = FileDecode(long, requests, Span(0, 3), deadline=60)
    assert sum(len(c.rows) for c in first.chunks()) >= 15
    assert 0 < first.spent < 60
    late = FileDecode(long, requests, Span(80, 83), deadline=60, spent=60)
    assert not list(late.chunks())
    assert late.outcome["video"].reason == "not done after 60 s"


def test_a_stream_without_time_stamps_is_decoded_from_its_start(tmp_path):
    path = make_clip(tmp_path / "bare.h264", grey_frames(60 * 25, 16, 16), fps=25, lossless=False)
    extract([row("start", 0.0, 2.0, path), row("late", 50.0, 52.0, path)], tmp_path / "s", config())
    store = Store.open(tmp_path / "s")
    late = store.sample(store.index("late"))
    assert late.status["video"] == Status.OK
    assert len(late.features["video/frames"]) == 10
