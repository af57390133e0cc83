"""Data sets that users download clip by clip from the web: what is there is found under all its names."""

import json
from pathlib import Path

import pytest
from layouts_on_disk import find, refusal, tf_record, touch, write


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
    if form == "csv":  # a row without words is left out and told
        write(tmp_path / "captions/abc.csv", "start,end,text\n0,4,cut\n4,9,\nx,12,fry\n")
        again = find("howto100m", tmp_path)
        assert [r.texts for r in again.rows] == [("cut",)]
        assert [line.rpartition(":")[0].rpartition("abc.csv:")[2] for line in again.problems.first] == [
            "3: text",
            "4: start",
        ]


def test_youtube8m(tmp_path: Path) -> None:
    write(tmp_path / "records/train0001.tfrecord", tf_record("nXSc", [0, 300]) + tf_record("gone", []))
    write(tmp_path / "records/validate0001.tfrecord", tf_record("abCD", [1]))
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
        if end == len(tf_record("nXSc", [0, 300])):
            continue
        write(tmp_path / "records/train0001.tfrecord", whole[:end])
        assert "train0001.tfrecord: record" in refusal("youtube8m", tmp_path)
