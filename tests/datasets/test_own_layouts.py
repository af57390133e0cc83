"""Users' own data: folders of files, and WebDataset shards."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from layouts_on_disk import find, refusal, touch, write

SharedData = Callable[[str], Path]


def test_folder_with_captions_beside(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "train/cat.mp4",
        "val/dog.mkv",
        "bird.mp4",
        "bird.wav",
        "fish.mov",
        "only sound.wav",
        "odd name's.mp4",
    )
    write(
        tmp_path / "train/cat.en.vtt",
        "WEBVTT\n\n00:00.000 --> 00:04.000\na cat\n\n00:04.000 --> 00:08.000\npurrs\n",
    )
    write(tmp_path / "val/dog.txt", "a dog\nbarks\n")
    write(tmp_path / "bird.json", json.dumps({"caption": "a bird"}))
    write(tmp_path / "fish.srt", "nonsense")
    found = find("folder", tmp_path)
    assert [(r.id, r.start, r.end, r.texts, r.split) for r in found.rows] == [
        ("bird.mp4", 0.0, None, ("a bird",), ""),
        ("fish.mov", 0.0, None, (), ""),
        ("odd name's.mp4", 0.0, None, (), ""),
        ("only sound.wav", 0.0, None, (), ""),
        ("train/cat.mp4_00000", 0.0, 4.0, ("a cat", "purrs"), "train"),
        ("train/cat.mp4_00001", 4.0, 8.0, ("purrs", "a cat"), "train"),
        ("val/dog.mkv", 0.0, None, ("a dog", "barks"), "val"),
    ]
    assert found.rows[3].video is None
    assert found.problems.count == 1
    assert "fish.srt: no captions with times" in found.coverage()["first_problems"][0]
    (tmp_path / "empty").mkdir()
    assert "no video or sound file" in refusal("folder", tmp_path / "empty")
    assert "no such folder" in refusal("folder", tmp_path / "absent")


def test_folder_with_awkward_names(tmp_path: Path) -> None:
    """A new line, and bytes that are no UTF-8: ids that can be written down, paths as they are."""
    touch(tmp_path, "new\nline.mp4", "bytes\udcff.mp4", "-näïve '日本'.mp4")
    rows = find("folder", tmp_path).rows
    assert {r.id: r.video.name for r in rows} == {
        r"new\nline.mp4": "new\nline.mp4",
        r"bytes\udcff.mp4": "bytes\udcff.mp4",
        "-näïve '日本'.mp4": "-näïve '日本'.mp4",
    }


def test_captions_that_are_no_files_and_have_no_printable_names(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b\udcff.mp4")
    os.mkfifo(tmp_path / "a.vtt")
    write(tmp_path / "b\udcff.srt", "nonsense")
    problems = find("folder", tmp_path).coverage()["first_problems"]
    assert [line.rpartition("/")[2].partition(" (")[0] for line in problems] == [
        "a.vtt: is not a regular file",
        r"b\udcff.srt: no captions with times; expected WebVTT or SubRip",
    ]


def test_captions_belong_to_one_video(tmp_path: Path) -> None:
    """`cat.1.txt` is about `cat.1.mp4`; were there none, it would be about `cat.mp4` in the language "1"."""
    touch(tmp_path, "cat.mp4", "cat.1.mp4")
    write(tmp_path / "cat.1.txt", "one")
    assert {r.id: r.texts for r in find("folder", tmp_path).rows} == {"cat.mp4": (), "cat.1.mp4": ("one",)}
    (tmp_path / "cat.1.mp4").unlink()
    assert [r.texts for r in find("folder", tmp_path).rows] == [("one",)]


def test_half_a_character_in_a_caption_is_mended(tmp_path: Path) -> None:
    """JSON can say it, UTF-8 can't: a store could not keep such a text."""
    touch(tmp_path, "a.mp4")
    write(tmp_path / "a.json", r'{"caption": "a dog \ud83d barks"}')
    assert [r.texts for r in find("folder", tmp_path).rows] == [("a dog ? barks",)]


def test_folder_in_windows(tmp_path: Path, shared_data: SharedData) -> None:
    clip = shared_data("clips") / "normalised" / "flute_guitar.mp4"  # 10.0 s
    shutil.copy(clip, tmp_path / "a.mp4")
    write(tmp_path / "a.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\nflute\n\n00:05.000 --> 00:06.000\nguitar\n")
    touch(tmp_path, "broken.mp4")
    found = find("folder", tmp_path, window=4.0)
    assert [(r.id, r.start, r.texts) for r in found.rows] == [
        ("a.mp4_00000", 0.0, ("flute",)),
        ("a.mp4_00001", 4.0, ("guitar",)),
        ("a.mp4_00002", 8.0, ()),
        ("broken.mp4", 0.0, ()),
    ]
    assert found.rows[2].end == pytest.approx(10.0, abs=0.1)
    assert found.problems.count == 1


def _tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_webdataset(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    root.mkdir()
    cues = b"WEBVTT\n\n00:00.000 --> 00:04.000\na cat\n\n00:04.000 --> 00:08.000\npurrs\n"
    _tar(root / "0.tar", {
        "a/0001.mp4": b"video 1", "a/0001.txt": b"a dog\n", "a/0001.cls": b"7",
        "a/0002.json": b'{"caption": "a bird", "label": ["x", 3]}', "a/0002.webm": b"video 2",
        "a/0003.mp4": b"video 3", "a/0003.vtt": cues, "a/0004.json": b"{broken", "a/0004.wav": b"sound",
    })  # fmt: skip
    _tar(root / "1.tar", {"../../evil.mp4": b"video 5", "/etc/evil.txt": b"x", "k.txt": b"words"})
    found = find("webdataset", root)
    assert [(r.id, r.texts, r.labels) for r in found.rows] == [
        ("0/a/0001", ("a dog",), ("7",)),
        ("0/a/0002", ("a bird",), ("x", "3")),
        ("0/a/0003_00000", ("a cat", "purrs"), ()),
        ("0/a/0003_00001", ("purrs", "a cat"), ()),
        ("0/a/0004", (), ()),
        ("1/../../evil", (), ()),
        ("1/etc/evil", ("x",), ()),
        ("1/k", ("words",), ()),
    ]
    unpacked = tmp_path / "shards-unpacked"
    assert [r.video.read_bytes() for r in found.rows if r.video][:2] == [b"video 1", b"video 2"]
    assert found.rows[4].audio is not None
    assert all((r.video or r.audio).is_relative_to(unpacked) for r in found.rows if r.video or r.audio)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shards", "shards-unpacked"]
    before = {p: p.stat().st_mtime_ns for p in unpacked.rglob("*.mp4")}
    assert find("webdataset", root).rows == found.rows
    assert {p: p.stat().st_mtime_ns for p in unpacked.rglob("*.mp4")} == before, "unpacked once"
    _tar(root / "a-b.tar", {"k.mp4": b"first"})
    (root / "a").mkdir()
    _tar(root / "a" / "b.tar", {"k.mp4": b"other"})
    rows = [r for r in find("webdataset", root).rows if r.group == "k" and r.video]
    assert [(r.id, r.video.read_bytes()) for r in rows] == [("a-b/k", b"first"), ("a/b/k", b"other")]
    _tar(root / "a-b.tar", {"k.mp4": b"again"})  # of the same size
    assert [r.video.read_bytes() for r in find("webdataset", root).rows if r.id == "a-b/k"] == [b"again"]
    data = (root / "0.tar").read_bytes()
    for end in (1300, 1024, 900):  # in a header, between members, in the data of the first
        (root / "0.tar").write_bytes(data[:end])
        cut = find("webdataset", root)
        assert cut.problems.count == 1
        assert "0.tar: damaged; what comes before is taken" in cut.problems.first[0]
        assert len(cut.rows) >= 3


def test_a_tar_that_claims_more_than_it_has_is_not_unpacked(tmp_path: Path) -> None:
    """A sparse member: a few bytes on disk, 64 MiB of zeros (or as many TB) once it is read."""
    root = tmp_path / "shards"
    root.mkdir()
    info = tarfile.TarInfo("k.mp4")
    info.size = 512
    info.pax_headers = {"GNU.sparse.map": "0,512", "GNU.sparse.size": str(64 << 20)}
    with tarfile.open(root / "0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(bytes(512)))
        words = tarfile.TarInfo("w.txt")
        words.size = 5
        tar.addfile(words, io.BytesIO(b"words"))
    assert [(r.id, r.video) for r in find("webdataset", root).rows] == [("0/w", None)]
    assert not (tmp_path / "shards-unpacked").exists()
