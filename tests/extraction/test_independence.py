"""What becomes of a sample depends on its own streams and span, not on other rows or the other track."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_samples import grey_frames, make_clip, tone
from small_clips import config, row

from harmonize_cli.extraction.plan import plan_units
from harmonize_cli.extraction.unit import Job, UnitRunner
from harmonize_cli.media.run import run
from harmonize_cli.store.schema import Status

LONG, SHORT = 50.0, 3.0
SPANS = [
    (0.0, 2.0),
    (1.0, 4.5),
    (2.5, 6.0),
    (38.0, 41.0),
    (44.5, 46.0),
    (49.5, None),
    (60.0, 62.0),
    (0.0, None),
]


def copied(path, *inputs):
    """The tracks (file, selector, start) in one file, as they are."""
    import ffmpeg

    streams = [ffmpeg.input(f"file:{file}", ss=start)[track] for file, track, start in inputs]
    run(ffmpeg.output(*streams, f"file:{path}", c="copy"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracks")
    lossy = {"lossless": False, "pix_fmt": "yuv420p", "g": 10}
    for name, seconds in (("long", LONG), ("short", SHORT)):
        frames = grey_frames(round(5 * seconds), 16, 16)
        make_clip(folder / f"{name}.mp4", frames, tone(seconds, hz=300), fps=5, **lossy)
    long, short = folder / "long.mp4", folder / "short.mp4"
    for kind in ("mp4", "mkv"):
        copied(folder / f"short_sound.{kind}", (long, "v", 0), (short, "a", 0))
        copied(folder / f"short_pictures.{kind}", (short, "v", 0), (long, "a", 0))
    copied(folder / "empty_sound.mp4", (long, "v", 0), (short, "a", 100))
    copied(folder / "empty_pictures.mp4", (short, "v", 100), (long, "a", 0))
    copied(folder / "mute.mp4", (long, "v", 0))
    copied(folder / "blind.m4a", (long, "a", 0))
    data = bytearray((folder / "short_sound.mkv").read_bytes())
    assert b"A_AAC" in data
    (folder / "unknown_sound.mkv").write_bytes(data.replace(b"A_AAC", b"A_XXX"))
    (folder / "empty.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    names = sorted(path.name for path in folder.iterdir())
    return [row(folder, name, f"{name} {start} {end}", start, end) for name in names for start, end in SPANS]


def outcomes(rows, decoder="ffmpeg", encoders=("raw", "waveform")):
    """By id: status and reason of each modality, and its rows and times."""
    job = Job(config("raw.rate=5", encoders=encoders, decoder=decoder), None, None)
    found = {}
    for unit in plan_units(rows, 8):
        for sample in UnitRunner(job).samples(unit.groups):
            found[sample.id] = {
                kind: (
                    sample.status[kind],
                    sample.reason.get(kind),
                    sample.features.get(key),
                    sample.times.get(key),
                )
                for kind, key in (("video", "video/frames"), ("audio", "audio/waveform"))
                if kind in sample.status
            }
    return found


def assert_same(one, two, *, only=("video", "audio")):
    assert one.keys() == two.keys()
    for id in one:
        for kind in only:
            (status, reason, rows, times), (status2, reason2, rows2, times2) = one[id][kind], two[id][kind]
            assert (status, reason) == (status2, reason2), id
            if rows is None:
                assert rows2 is None
                continue
            assert np.allclose(times, times2, atol=1e-3), id
            assert rows.shape == rows2.shape, id
            if kind == "video":
                assert np.array_equal(rows, rows2), id
            else:
                # a seek lands between two samples of the resampler
                assert np.abs(rows.astype(float) - rows2).max() < 0.05, id


@pytest.fixture(scope="module")
def everything(rows):
    return outcomes(rows)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_subset_in_any_order_gives_the_same_samples(rows, everything, data):
    some = data.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=12, unique_by=lambda row: row.id))
    assert_same(outcomes(some), {row.id: everything[row.id] for row in some})


@pytest.mark.parametrize(("encoder", "kind"), [("raw", "video"), ("waveform", "audio")])
def test_a_modality_alone_gives_what_both_together_give(rows, everything, encoder, kind):
    assert_same(outcomes(rows, encoders=(encoder,)), everything, only=[kind])


def test_an_empty_or_short_track_leaves_the_other_whole(everything):
    fine = ["0.0 2.0", "38.0 41.0", "49.5 None", "0.0 None"]
    for name in ("short_sound.mp4", "empty_sound.mp4", "short_sound.mkv", "unknown_sound.mkv"):
        assert {everything[f"{name} {span}"]["video"][:2] for span in fine} == {(Status.OK, None)}, name
    for name in ("short_pictures.mp4", "empty_pictures.mp4", "short_pictures.mkv"):
        assert {everything[f"{name} {span}"]["audio"][:2] for span in fine} == {(Status.OK, None)}, name
    for start, end in SPANS:
        if start < LONG:
            assert everything[f"empty_sound.mp4 {start} {end}"]["audio"][1] == "the sound track is empty"
            assert everything[f"empty_pictures.mp4 {start} {end}"]["video"][1] == "the picture track is empty"
    assert everything["short_sound.mkv 0.0 2.0"]["audio"][0] == Status.OK


def test_decoders_agree(rows, everything):
    pytest.importorskip("av")
    found = outcomes(rows, decoder="pyav")
    for id, expected in everything.items():
        for kind in ("video", "audio"):
            assert found[id][kind][0] == expected[kind][0], (id, kind, found[id][kind][1], expected[kind][1])
