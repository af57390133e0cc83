"""Layouts of data sets: official counts, the folders found in practice, coverage of what is missing."""

import io
import json
import random
import shutil
import struct
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harmonize_cli.datasets.layouts import LAYOUTS
from harmonize_cli.datasets.layouts.base import Found
from harmonize_cli.errors import BadInput

SharedData = Callable[[str], Path]


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def find(name: str, root: Path, **options: Any) -> Found:
    return LAYOUTS[name].find(root, **options)


def refusal(name: str, root: Path, **options: Any) -> str:
    with pytest.raises(BadInput) as caught:
        find(name, root, **options)
    return str(caught.value)


# ---- official lists, no videos: everything is expected, nothing is there, nothing crashes


@pytest.mark.parametrize(
    ("name", "options", "counts"),
    [
        ("ucf101", {}, {"train": 9537, "test": 3783}),
        ("ucf101", {"official_split": 2}, {"train": 9586, "test": 3734}),
        ("ucf101", {"official_split": 3}, {"train": 9624, "test": 3696}),
        ("hmdb51", {}, {"train": 3570, "test": 1530, "unused": 1666}),
        ("hmdb51", {"official_split": 2}, {"train": 3570, "test": 1530, "unused": 1666}),
        ("hmdb51", {"official_split": 3, "split": "train,test"}, {"train": 3570, "test": 1530}),
        ("msrvtt", {}, {"test": 1000}),
        ("youcook2", {}, {"val": 3350}),
        ("esc50", {}, {"": 2000}),
        ("esc50", {"variant": "esc10"}, {"": 400}),
        ("audiocaps", {}, {"train": 49838, "val": 495, "test": 975}),
    ],
)
def test_official_counts(
    tmp_path: Path, shared_data: SharedData, name: str, options: dict[str, Any], counts: dict[str, int]
) -> None:
    found = find(name, tmp_path, annotations=shared_data("annotations"), **options)
    assert dict(found.expected_by_split) == counts
    assert found.expected == sum(counts.values())
    assert found.present == 0
    assert len(found.missing) == min(1000, found.expected)
    assert found.coverage()["splits"].keys() == {split or "(none)" for split in counts}
    json.dumps(found.coverage(), allow_nan=False)


def test_esc10_by_its_own_table_with_sound_on_disk(shared_data: SharedData) -> None:
    root = shared_data("esc10")
    found = find("esc50", root)
    assert (found.expected, found.present) == (400, 400)
    assert Counter(row.fold for row in found.rows) == dict.fromkeys(range(1, 6), 80)
    assert len({row.labels for row in found.rows}) == 10
    row = next(row for row in found.rows if row.id == "1-100032-A-0")
    assert (row.video, row.labels, row.fold, row.group) == (None, ("dog",), 1, "1-100032")
    assert row.audio is not None
    assert row.audio.name == "1-100032-A-0.ogg"
    partial = find("esc50", root, annotations=shared_data("annotations"))
    assert (partial.expected, partial.present) == (2000, 400)


# ---- small copies of each data set, in the folders that users have


def test_ucf101(tmp_path: Path) -> None:
    lists = tmp_path / "ucfTrainTestlist"
    write(lists / "trainlist01.txt", "Kayak/v_Kayak_g08_c01.avi 47\r\nKayak/v_Kayak_g08_c02.avi 47\r\n")
    write(lists / "testlist01.txt", "Kayak/v_Kayak_g01_c01.avi\r\nTaiChi/v_TaiChi_g01_c01.avi\r\n")
    touch(
        tmp_path,
        "UCF-101/Kayak/v_Kayak_g08_c01.avi",
        "flat/v_Kayak_g08_c02.mp4",
        "UCF-101/Kayak/v_Kayak_g01_c01.avi",
    )
    found = find("ucf101", tmp_path)
    assert [(row.id, row.split, row.labels, row.group) for row in found.rows] == [
        ("v_Kayak_g08_c01", "train", ("Kayak",), "v_Kayak_g08"),
        ("v_Kayak_g08_c02", "train", ("Kayak",), "v_Kayak_g08"),
        ("v_Kayak_g01_c01", "test", ("Kayak",), "v_Kayak_g01"),
    ]
    assert found.missing == ["v_TaiChi_g01_c01"]
    assert found.coverage()["splits"]["test"] == {"expected": 2, "present": 1}
    assert found.rows[1].video == (tmp_path / "flat/v_Kayak_g08_c02.mp4").resolve()
    assert found.rows[0].source == f"{lists / 'trainlist01.txt'}:1"
    assert "test list of official split 2 is missing; expected testlist02.txt" not in refusal(
        "ucf101", tmp_path, official_split=2
    )
    assert "trainlist02.txt" in refusal("ucf101", tmp_path, official_split=2)
    write(lists / "testlist01.txt", "no slash\n\xff\n".encode("latin-1"))
    assert "testlist01.txt:1: expected Class/video.avi" in refusal("ucf101", tmp_path)
    assert "testlist01.txt:2: no valid UTF-8" in refusal("ucf101", tmp_path)


def test_hmdb51_as_released(tmp_path: Path) -> None:
    folder = tmp_path / "testTrainMulti_7030_splits"
    write(folder / "brush_hair_test_split1.txt", "a_brush_0.avi 1 \nb brush_1.avi 2 \nc_2.avi 0 \n")
    write(folder / "wave_test_split1.txt", "#20_wave_0.avi 2 \n")
    touch(tmp_path, "brush_hair/a_brush_0.avi", "brush_hair/b brush_1.avi", "wave/#20_wave_0.avi")
    found = find("hmdb51", tmp_path)
    assert {row.id: (row.split, row.labels) for row in found.rows} == {
        "a_brush_0": ("train", ("brush_hair",)),
        "b brush_1": ("test", ("brush_hair",)),
        "#20_wave_0": ("test", ("wave",)),
    }
    assert found.missing == ["c_2"]


def test_kinetics_by_lists_and_by_folders(tmp_path: Path) -> None:
    head = "label,youtube_id,time_start,time_end,split\n"
    write(
        tmp_path / "annotations/train.csv",
        head + '"playing guitar",abcdefghijk,5,15,train\nyoga,-bcdefghijk,0,10,train\n',
    )
    write(tmp_path / "annotations/val.csv", head + "yoga,cccccccccck,20,30,val\n")
    write(tmp_path / "annotations/test.csv", "youtube_id,time_start,time_end,split\nttttttttttt,1,11,test\n")
    touch(
        tmp_path,
        "train/playing guitar/abcdefghijk_000005_000015.mp4",
        "train/yoga/-bcdefghijk.mp4",
        "ttttttttttt.mkv",
    )
    found = find("kinetics", tmp_path)
    assert [(r.id, r.start, r.end, r.labels, r.split) for r in found.rows] == [
        ("abcdefghijk_000005_000015", 0.0, None, ("playing guitar",), "train"),
        ("-bcdefghijk_000000_000010", 0.0, 10.0, ("yoga",), "train"),
        ("ttttttttttt_000001_000011", 1.0, 11.0, (), "test"),
    ]
    assert found.missing == ["cccccccccck_000020_000030"]
    cut = find("kinetics", tmp_path, plain_names="cut", split="train")
    assert [(r.start, r.end) for r in cut.rows] == [(0.0, None), (0.0, None)]
    shutil.rmtree(tmp_path / "annotations")
    (tmp_path / "ttttttttttt.mkv").unlink()
    assert [(r.id, r.labels, r.split) for r in find("kinetics", tmp_path).rows] == [
        ("train/abcdefghijk_000005_000015", ("playing guitar",), "train"),
        ("train/-bcdefghijk", ("yoga",), "train"),
    ]


def test_msrvtt(tmp_path: Path) -> None:
    write(
        tmp_path / "msrvtt_data/MSRVTT_JSFUSION_test.csv",
        "key,vid_key,video_id,sentence\nret0,msr1,video1,a man talks\nret1,msr2,video2,a dog\n",
    )
    videos = [
        {"video_id": f"video{k}", "split": s, "start time": 0}
        for k, s in enumerate(["train", "test", "test", "validate"])
    ]
    sentences = [{"video_id": f"video{k % 4}", "caption": f"caption {k}", "sen_id": k} for k in range(8)]
    write(tmp_path / "msrvtt_data/MSRVTT_data.json", json.dumps({"videos": videos, "sentences": sentences}))
    touch(tmp_path, *(f"videos/all/video{k}.mp4" for k in (0, 1, 3)))
    found = find("msrvtt", tmp_path)
    assert [(r.id, r.split, r.texts) for r in found.rows] == [
        ("video1", "test", ("a man talks",)),
        ("video0", "train", ("caption 0", "caption 4")),
        ("video3", "train", ("caption 3", "caption 7")),
    ]
    assert found.missing == ["video2"]
    write(tmp_path / "MSRVTT_train.9k.csv", "video_id\nvideo3\n")
    assert [r.id for r in find("msrvtt", tmp_path, split="train").rows] == ["video3"]
    full = find("msrvtt", tmp_path, variant="full")
    assert [(r.id, r.split) for r in full.rows] == [
        ("video0", "train"),
        ("video1", "test"),
        ("video3", "val"),
    ]
    assert "known are 1k-A and full" in refusal("msrvtt", tmp_path, variant="1k-B")
    write(tmp_path / "msrvtt_data/MSRVTT_data.json", '{"videos": [3], "sentences": [{}]}')
    assert "videos[0]: video_id: is missing" in refusal("msrvtt", tmp_path, variant="full")


def test_youcook2_official_and_table(tmp_path: Path) -> None:
    steps = [
        {"segment": [10, 20], "id": 0, "sentence": "cut"},
        {"segment": [20.5, 31], "id": 1, "sentence": "fry"},
    ]
    database = {"abc": {"subset": "training", "recipe_type": "226", "annotations": steps, "duration": 99.0},
                "def": {"subset": "validation", "recipe_type": "101", "annotations": steps[:1]}}  # fmt: skip
    write(tmp_path / "annotations/youcookii_annotations_trainval.json", json.dumps({"database": database}))
    touch(tmp_path, "raw_videos/training/226/abc.mkv", "clips/def_000010_000020.mp4")
    rows = find("youcook2", tmp_path).rows
    assert [(r.id, r.start, r.end, r.texts, r.labels, r.split, r.group) for r in rows] == [
        ("abc_10_20", 10.0, 20.0, ("cut",), ("226",), "train", "abc"),
        ("abc_20.5_31", 20.5, 31.0, ("fry",), ("226",), "train", "abc"),
        ("def_10_20", 0.0, None, ("cut",), ("101",), "val", "def"),
    ]
    shutil.rmtree(tmp_path / "annotations")
    write(
        tmp_path / "validation_youcook.csv",
        "end,start,task,text,video_id\n20,10,101,cut,def\n5,9,101,x,def\n",
    )
    assert "validation_youcook.csv:3: end: 5 s is not after the start, 9 s" in refusal("youcook2", tmp_path)


def test_audioset_clips_by_all_their_names(tmp_path: Path) -> None:
    write(
        tmp_path / "class_labels_indices.csv",
        'index,mid,display_name\n0,/m/09x0r,Speech\n1,/m/0dgw9r,"Human, sounds"\n',
    )
    head = "# Segments csv created Sun Mar  5 2017\n# num_ytids=5\n# YTID, start_seconds, ...\n"
    names = ["aaaaaaaaaaa", "-bbbbbbbbbb", "ccccccccccc", "ddddddddddd", "eeeeeeeeeee"]
    lines = [f'{name}, 30.000, 40.000, "/m/09x0r,/m/0dgw9r"\n' for name in names]
    write(tmp_path / "eval_segments.csv", head + "".join(lines))
    touch(
        tmp_path,
        "eval/aaaaaaaaaaa_30.000.mp4",
        "eval/-bbbbbbbbbb_30000_40000.mkv",
        "wav/Yccccccccccc.wav",
        "ddddddddddd.mp4",
    )
    found = find("audioset", tmp_path)
    assert [(r.id, r.start, r.end, r.video is None) for r in found.rows] == [
        ("aaaaaaaaaaa_30000", 0.0, None, False),
        ("-bbbbbbbbbb_30000", 0.0, None, False),
        ("ccccccccccc_30000", 0.0, None, True),
        ("ddddddddddd_30000", 30.0, 40.0, False),
    ]
    assert found.rows[0].labels == ("Speech", "Human, sounds")
    assert {r.split for r in found.rows} == {"eval"}
    assert found.missing == ["eeeeeeeeeee_30000"]
    write(tmp_path / "eval_segments.csv", head + "a, b\nx, 1e999, 3, y\n")
    assert "eval_segments.csv:4: expected YTID" in refusal("audioset", tmp_path)
    assert "eval_segments.csv:5: start_seconds: expected seconds, found '1e999'" in refusal(
        "audioset", tmp_path
    )


def test_audiocaps_joins_the_captions_of_a_clip(tmp_path: Path) -> None:
    write(
        tmp_path / "test.csv",
        "audiocap_id,youtube_id,start_time,caption\r\n1,abc,20,a dog\r\n2,abc,20,barks\r\n",
    )
    touch(tmp_path, "abc_20.wav")
    assert [(r.id, r.texts, r.split) for r in find("audiocaps", tmp_path).rows] == [
        ("abc_20000", ("a dog", "barks"), "test")
    ]


@pytest.mark.parametrize("form", ["whole", "json", "csv", "vtt"])
def test_howto100m(tmp_path: Path, form: str) -> None:
    said = {"start": [0.0, 4.0, 9.0], "end": [4.0, 9.0, 12.0], "text": ["cut", "the onion", "and fry"]}
    table = "".join(
        f"{a},{b},{t}\n" for a, b, t in zip(said["start"], said["end"], said["text"], strict=True)
    )
    cues = "".join(f"00:{a:06.3f} --> 00:{b:06.3f}\n{t}\n\n" for a, b, t in zip(*said.values(), strict=True))
    for video in ("abc", "gone"):
        if form == "whole":
            write(tmp_path / "caption.json", json.dumps({"abc": said, "gone": said, "odd": 3}))
        else:
            text = {"json": json.dumps(said), "csv": "start,end,text\n" + table, "vtt": "WEBVTT\n\n" + cues}[
                form
            ]
            write(tmp_path / f"captions/{video}.{form}", text)
    write(
        tmp_path / "HowTo100M_v1.csv",
        "video_id,category_1,category_2,rank,task_id\nabc,Food,,3,77\ngone,Cars,x,1,2\n",
    )
    touch(tmp_path, "videos/abc.webm")
    found = find("howto100m", tmp_path, candidates=2, min_seconds=4.5)
    assert [(r.id, r.start, r.end, r.texts, r.group) for r in found.rows] == [
        ("abc_00000", 0.0, 4.5, ("cut", "the onion"), "abc"),
        ("abc_00001", 4.0, 9.0, ("the onion", "and fry"), "abc"),
        ("abc_00002", 8.25, 12.75, ("and fry", "the onion"), "abc"),
    ]
    assert found.rows[0].labels == ("Food", "77")
    assert (found.expected, found.missing) == (4, ["gone"])
    assert found.problems.count == (1 if form == "whole" else 0)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _record(name: str, labels: list[int]) -> bytes:
    """A tf.Example, written by hand from the description of the format."""
    ids = _field(1, _field(1, b"id") + _field(2, _field(1, _field(1, name.encode()))))
    packed = _field(1, b"".join(map(_varint, labels)))
    rgb = _field(1, _field(1, b"mean_rgb") + _field(2, _field(2, _field(1, struct.pack("<3f", 1, 2, 3)))))
    data = _field(1, ids + rgb + _field(1, _field(1, b"labels") + _field(2, _field(3, packed))))
    return struct.pack("<QI", len(data), 0) + data + struct.pack("<I", 0)


def test_youtube8m(tmp_path: Path) -> None:
    write(tmp_path / "records/train0001.tfrecord", _record("nXSc", [0, 300]) + _record("gone", []))
    write(tmp_path / "records/validate0001.tfrecord", _record("abCD", [1]))
    write(tmp_path / "vocabulary.csv", "Index,TrainVideoCount,Name\n0,3,Game\n1,3,Car\n")
    write(tmp_path / "ids/nX/nXSc.js", 'i("nXSc","0sf943sWZls");')
    touch(tmp_path, "videos/0sf943sWZls.mp4", "videos/abCD.mp4")
    found = find("youtube8m", tmp_path)
    assert [(r.id, r.labels, r.split, r.group) for r in found.rows] == [
        ("nXSc", ("Game", "300"), "train", "0sf943sWZls"),
        ("abCD", ("Car",), "val", "abCD"),
    ]
    assert found.missing == ["gone"]
    whole = (tmp_path / "records/train0001.tfrecord").read_bytes()
    for end in range(1, len(whole), 7):
        if end == len(_record("nXSc", [0, 300])):
            continue
        write(tmp_path / "records/train0001.tfrecord", whole[:end])
        assert "train0001.tfrecord: record" in refusal("youtube8m", tmp_path)


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
    data = (root / "0.tar").read_bytes()
    for end in (1300, 1024, 900):  # in a header, between members, in the data of the first
        (root / "0.tar").write_bytes(data[:end])
        cut = find("webdataset", root)
        assert cut.problems.count == 1
        assert "0.tar: damaged; what comes before is taken" in cut.problems.first[0]
        assert len(cut.rows) >= 3


def test_links_may_not_lead_out_of_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(outside, "b.mp4", "below/c.mp4")
    touch(root, "a.mp4")
    (root / "b.mp4").symlink_to(outside / "b.mp4")
    (root / "below").symlink_to(outside / "below")
    (root / "round").symlink_to(root)
    found = find("folder", root)
    assert [r.id for r in found.rows] == ["a.mp4"]
    everything = find("folder", root, allow_outside=True)
    assert [r.id for r in everything.rows] == ["a.mp4", "b.mp4", "below/c.mp4"]


def test_options_are_checked(tmp_path: Path) -> None:
    assert "windw: unknown key" in refusal("folder", tmp_path, windw=3)
    assert "candidates" in refusal("folder", tmp_path, candidates=0)
    touch(tmp_path, "a.mp4")
    assert "nothing to extract of split 'eval'" in refusal("folder", tmp_path, split="eval")
    assert len(find("folder", tmp_path, limit=1).rows) == 1


def test_every_layout_says_what_it_needs(tmp_path: Path) -> None:
    for name, layout in LAYOUTS.items():
        assert layout.name == name
        assert layout.about
        message = refusal(name, tmp_path)
        required = [need for need in layout.needs if need.required]
        assert not required or any(listed.lstrip("*") in message for listed in required[0].names), message


@pytest.mark.parametrize(
    "name", ["ucf101", "kinetics", "msrvtt", "youcook2", "audioset", "esc50", "howto100m", "youtube8m"]
)
def test_fuzzed_lists_never_crash(tmp_path: Path, name: str) -> None:
    """40 mutants of each data set's lists: rows, or a refusal."""
    good = {
        "ucf101": {"trainlist01.txt": b"A/v_A_g01_c01.avi 1\n", "testlist01.txt": b"A/v_A_g02_c01.avi\n"},
        "kinetics": {"train.csv": b"label,youtube_id,time_start,time_end,split\nyoga,abc,0,10,train\n"},
        "msrvtt": {"msrvtt_test.csv": b"video_id,sentence\nvideo1,a dog\n",
                   "MSRVTT_data.json": b'{"videos": [{"video_id": "v", "split": "train"}],'
                   b'"sentences": [{"video_id": "v", "caption": "x"}]}'},
        "youcook2": {"youcookii_annotations.json": b'{"database": {"a": {"subset": "training",'
                     b'"annotations": [{"segment": [1, 2], "sentence": "x"}]}}}'},
        "audioset": {"eval_segments.csv": b'# x\nabc, 1.0, 2.0, "/m/1,/m/2"\n'},
        "esc50": {"esc50.csv": b"filename,fold,target,category,esc10\n1-1-A-0.wav,1,0,dog,True\n"},
        "howto100m": {"caption.json": b'{"abc": {"start": [1, 2], "end": [2, 3], "text": ["x", "y"]}}'},
        "youtube8m": {"train.tfrecord": _record("abc", [1, 2])},
    }[name]  # fmt: skip
    rng = random.Random(name)
    for n in range(40):
        root = tmp_path / str(n)
        touch(root, "abc.mp4", "v.mp4", "a.mp4")
        for file, data in good.items():
            mutant = bytearray(data)
            for _ in range(rng.choice([1, 2, 5, 20])):
                at = rng.randrange(len(mutant)) if mutant else 0
                what = rng.randrange(3)
                if what == 0:
                    mutant[at : at + rng.randrange(1, 9)] = b""
                elif what == 1:
                    mutant[at:at] = rng.choice(
                        [b"[", b'"', b",", b"\n", b"\xff", b"null", b"{", b"1e999", b"-", b"NaN"]
                    )
                elif mutant:
                    mutant[at] = rng.randrange(256)
            write(root / file, bytes(mutant))
        try:
            rows = find(name, root).rows
        except BadInput:
            continue
        assert all(row.video is None or row.video.parent == root.resolve() for row in rows)
