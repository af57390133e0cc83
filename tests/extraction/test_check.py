import json

import numpy as np
import pytest
from media_samples import grey_frames, make_clip, tone
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.config import load_config
from harmonize_cli.datasets.manifest import read_manifest
from harmonize_cli.errors import BadInput, TooManyFailed
from harmonize_cli.extraction.check import check
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.extraction.pipeline import extract
from harmonize_cli.extraction.windows import cut_in_windows
from harmonize_cli.store.reader import Store

SETS = ["raw.size=16", "raw.rate=5", "waveform.sample_rate=8000"]


@pytest.fixture
def folder(tmp_path):
    make_clip(tmp_path / "a.mkv", grey_frames(40, 16, 16), tone(4.0))
    make_clip(tmp_path / "mute.mkv", grey_frames(40, 16, 16))
    (tmp_path / "bad.mp4").write_bytes(b"nonsense")
    (tmp_path / "empty.mp4").write_bytes(b"")
    return tmp_path


def manifest(folder, *rows):
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_every_bad_file_and_row_is_named(folder):
    path = manifest(
        folder,
        {"id": "a", "video": "a.mkv", "text": "one"},
        {"id": "b", "video": "bad.mp4"},
        {"id": "c", "video": "empty.mp4"},
        {"id": "d", "video": "a.mkv", "start": 7.5, "end": 9},
        {"id": "e", "video": "mute.mkv"},
    )
    report = check(read_manifest(path), load_config(ExtractConfig, None, SETS))
    assert [line.split(": ")[0].rpartition(":")[2] for line in sorted(report.bad)] == ["2", "3", "4"]
    assert "the file is empty" in " ".join(report.bad)
    assert (report.bad_samples, report.without_audio, report.without_text) == (3, 1, 4)
    result = CliRunner().invoke(app, ["extract", str(path), "--check", "--max-failed", "2"])
    assert isinstance(result.exception, TooManyFailed)
    assert "bad.mp4" in result.stdout
    assert not (folder / "m.h5").exists()


def test_a_broken_sound_file_beside_a_good_video_fails_its_samples(folder):
    rows = read_manifest(
        manifest(folder, {"id": "a", "video": "a.mkv"}, {"id": "b", "video": "a.mkv", "audio": "bad.mp4"})
    )
    config = load_config(ExtractConfig, None, SETS)
    assert check(rows, config).bad_samples == extract(rows, folder / "s", config).counts.failed == 1
    pictures = load_config(ExtractConfig, None, SETS, {"encoders": ("raw",)})
    assert check(rows, pictures).bad_samples == extract(rows, folder / "p", pictures).counts.failed == 0


def test_the_expected_size_is_about_right(folder):
    path = manifest(folder, *({"id": f"a{i}", "video": "a.mkv", "text": "one two"} for i in range(50)))
    config = load_config(ExtractConfig, None, SETS)
    rows = read_manifest(path)
    report = check(rows, config)
    extract(rows, folder / "s.h5", config)
    size = (folder / "s.h5").stat().st_size
    assert report.store_bytes == pytest.approx(size, rel=0.2)
    assert report.seconds == pytest.approx(200, rel=0.01)
    assert 0 < report.wall < 600


def test_windows_cover_a_long_video(folder):
    rows = cut_in_windows(
        read_manifest(manifest(folder, {"id": "a", "video": "a.mkv"}, {"id": "b", "video": "bad.mp4"})), 1.5
    )
    assert [(r.id, r.start, r.end) for r in rows] == [
        ("a_00000", 0.0, 1.5),
        ("a_00001", 1.5, 3.0),
        ("a_00002", 3.0, 4.0),
        ("b", 0.0, None),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"id": "a", "video": "a.mkv"}, {"id": "a_00001", "video": "mute.mkv", "end": 1}],
            "m.jsonl:2: id: 'a_",
        ),
        ([{"id": "a", "video": "a.mkv", "end": 9e6}], "m.jsonl:1: end: too many windows"),
    ],
)
def test_windows_that_cannot_be(folder, rows, message):
    with pytest.raises(BadInput, match=message):
        cut_in_windows(read_manifest(manifest(folder, *rows)), 1.5)


def test_a_folder_of_videos_with_captions_beside_them(folder):
    (folder / "a.vtt").write_text(
        "WEBVTT\n\n00:00.000 --> 00:02.000\none two\n\n00:02.000 --> 00:04.000\nthree\n"
    )
    out = folder.parent / f"{folder.name}-store"
    args = [
        "extract",
        "--dataset",
        "folder",
        "--root",
        str(folder),
        "-o",
        str(out),
        "--data",
        "min_seconds=1",
    ]
    result = CliRunner().invoke(app, [*args, *(x for s in SETS for x in ("--set", s))])
    assert result.exit_code == 0, result.output
    store = Store.open(out)
    spans = sorted(store.span(i) for i in range(len(store)) if store.groups[i] == "a.mkv")
    assert spans == [(0.0, 2.0), (2.0, 4.0)]
    assert store.attrs["coverage"]["expected"] == len(store) == 5
    tokens = [store.read("text/tokens", i) for i in range(len(store)) if store.groups[i] == "a.mkv"]
    assert all(np.array(t).shape == (2, 16) for t in tokens)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "either a manifest or a data set"),
        (["--dataset", "imagenet"], "unknown; known"),
        (["--dataset", "msrvtt"], "--root"),
        (["--dataset", "folder", "--root", ".", "--data", "split"], "key=value"),
        (["m.csv", "--data", "split=test"], "a manifest has columns"),
    ],
)
def test_bad_usage(args, message):
    result = CliRunner().invoke(app, ["extract", "-o", "s", *args])
    assert isinstance(result.exception, BadInput)
    assert message in str(result.exception)
