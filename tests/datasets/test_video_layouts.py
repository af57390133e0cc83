"""Video data sets with labels or captions, in the folders that users have."""

import json
import shutil
from pathlib import Path

from layouts_on_disk import find, refusal, touch, write


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
    assert "testlist01.txt:2: not UTF-8" in refusal("ucf101", tmp_path)


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
