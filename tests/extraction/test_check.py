import hashlib
import json
import time
from collections import Counter

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
from harmonize_cli.extraction.plan import FileGroup
from harmonize_cli.extraction.unit import UnitRunner, _digest
from harmonize_cli.extraction.windows import cut_in_windows
from harmonize_cli.store.reader import Store
from harmonize_cli.store.verify import verify
from harmonize_cli.store.writer import ShardWriter

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


def sets():
    return [word for text in SETS for word in ("--set", text)]


def test_start_up_is_not_counted_for_every_sample(folder, monkeypatch):
    """The first run of a model may take seconds; 200 clips don't take it 200 times."""
    config = load_config(ExtractConfig, None, SETS)
    names = [f"s{i}.mkv" for i in range(40)]
    make_clip(folder / "s.mkv", grey_frames(10, 16, 16), tone(1.0))
    for name in names:
        (folder / name).write_bytes((folder / "s.mkv").read_bytes())
    rows = read_manifest(manifest(folder, *({"id": name, "video": name, "end": 1} for name in names)))
    real, calls = UnitRunner.samples, []

    def slow(self, groups):
        calls.append(len(groups))
        if len(calls) == 1:
            time.sleep(4)
        return real(self, groups)

    monkeypatch.setattr(UnitRunner, "samples", slow)
    assert check(rows, config).wall < 40


def test_clips_cost_what_they_have_with_and_without_an_end(folder):
    config = load_config(ExtractConfig, None, SETS)
    names = [f"s{i}.mkv" for i in range(40)]
    make_clip(folder / "s.mkv", grey_frames(10, 16, 16), tone(1.0))
    for name in names:
        (folder / name).write_bytes((folder / "s.mkv").read_bytes())
    walls = []
    for end in ({}, {"end": 1}):
        rows = read_manifest(manifest(folder, *({"id": name, "video": name, **end} for name in names)))
        found = check(rows, config)
        assert found.seconds == pytest.approx(40, rel=0.1)
        walls.append(found.wall)
    started = time.monotonic()
    extract(rows, folder / "store", config)
    true = time.monotonic() - started
    for wall in walls:  # the machine may be busy with other things now and then
        assert true / 6 < wall < true * 6


def test_a_segment_that_its_file_covers_too_little_is_foreseen(folder):
    rows = read_manifest(
        manifest(
            folder,
            {"id": "a", "video": "a.mkv", "start": 3, "end": 9},
            {"id": "b", "video": "a.mkv", "start": 1, "end": 5},
        )
    )
    config = load_config(ExtractConfig, None, SETS)
    report = check(rows, config)
    assert report.failing == {"a"}
    assert "has 17% of the segment, below min_coverage" in report.bad[0]
    assert extract(rows, folder / "s", config).counts.failed == 1


def test_invalid_rows_and_bad_files_are_named_in_one_go(folder):
    path = manifest(
        folder,
        {"id": "a", "video": "a.mkv"},
        {"id": "b", "video": "absent.mkv"},
        {"id": "c", "video": "bad.mp4"},
    )
    result = CliRunner().invoke(app, ["extract", str(path), "--check", *sets()])
    assert isinstance(result.exception, BadInput)
    assert "m.jsonl:2: video: no such file: 'absent.mkv'" in result.stdout
    assert "bad.mp4" in result.stdout


def test_max_failed_is_of_the_whole_store_on_resume(folder):
    """1 failed of 21 is below 10%, also where this call tried the failed one alone."""
    good = [{"id": f"a{i}", "text": "x"} for i in range(20)]
    args = ["-o", str(folder / "s.h5"), "--max-failed", "10%", *sets()]
    first = CliRunner().invoke(app, ["extract", str(manifest(folder, *good)), *args])
    assert first.exit_code == 0, first.output
    path = manifest(folder, *good, {"id": "b", "video": "bad.mp4", "text": "x"})
    again = CliRunner().invoke(app, ["extract", str(path), *args])
    assert again.exit_code == 0, repr(again.exception)
    third = CliRunner().invoke(app, ["extract", str(path), *args[:2], "--max-failed", "0", *sets()])
    assert isinstance(third.exception, TooManyFailed), "what failed before still counts"
    assert "1 of 21 samples of the store failed" in str(third.exception)


def test_shards_are_opened_once_and_one_part_becomes_the_file(folder, monkeypatch):
    from harmonize_cli.store import reader

    rows = read_manifest(manifest(folder, *({"id": f"a{i}", "text": f"x{i}"} for i in range(4))))
    config = load_config(ExtractConfig, None, [*SETS, "shard_samples=1"], {"encoders": ("tokens",)})
    extract(rows, folder / "s", config)
    real, opened = reader.index_shard, Counter()

    def counted(path):
        opened[path.name] += 1
        return real(path)

    monkeypatch.setattr(reader, "index_shard", counted)
    extract(rows, folder / "s", config)
    assert set(opened.values()) == {1}
    added, real_add = Counter(), ShardWriter.add

    def add(self, sample, *args):
        added[sample.id] += 1
        return real_add(self, sample, *args)

    monkeypatch.setattr(ShardWriter, "add", add)
    extract(rows, folder / "one.h5", load_config(ExtractConfig, None, SETS, {"encoders": ("tokens",)}))
    assert set(added.values()) == {1}, "written once"
    assert len(Store.open(folder / "one.h5")) == 4
    assert not (folder / "one.h5.parts").exists()


def test_a_file_of_several_parts_is_the_same_store(folder):
    rows = read_manifest(manifest(folder, *({"id": f"a{i}", "video": "a.mkv"} for i in range(3))))
    extract(rows[:1], folder / "one.h5", load_config(ExtractConfig, None, SETS))
    extract(rows, folder / "one.h5", load_config(ExtractConfig, None, SETS))
    extract(rows, folder / "all.h5", load_config(ExtractConfig, None, SETS))
    assert list(verify(folder / "one.h5")) == []
    assert Store.open(folder / "one.h5").content_hash == Store.open(folder / "all.h5").content_hash


def test_the_hash_of_a_large_file_reads_little_of_it(tmp_path):
    path = tmp_path / "big.mp4"
    with path.open("wb") as f:
        f.truncate(64 << 30)  # sparse: reading all of it would take a minute
    started = time.monotonic()
    digest = _digest(FileGroup(path, None, ()))
    assert time.monotonic() - started < 5
    assert digest.startswith("part-")
    with path.open("r+b") as f:
        f.seek((64 << 30) - 5)
        f.write(b"x")
    assert _digest(FileGroup(path, None, ())) != digest
    small = tmp_path / "small.mp4"
    small.write_bytes(b"abc")
    assert _digest(FileGroup(small, None, ())) == hashlib.sha256(b"abc").hexdigest()[:32]
