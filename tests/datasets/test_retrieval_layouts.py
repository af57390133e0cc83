"""DiDeMo, VATEX and VGGSound in the formats in which their lists were released; benchmarks beside layouts."""

import json
from pathlib import Path

import pytest
from layouts_on_disk import find, refusal, touch, write

from harmonize_cli.datasets.layouts import LAYOUTS, Benchmark
from harmonize_cli.datasets.official import official_divisions
from harmonize_cli.errors import BadInput


def moment(number: int, video: str, description: str) -> dict[str, object]:
    """An entry of LisaAnne/LocalizingMoments, data/test_data.json."""
    return {
        "dl_link": f"https://www.flickr.com/video_download.gne?id={number}",
        "description": description,
        "annotation_id": number,
        "video": video,
        "times": [[0, 0], [0, 1], [0, 0], [0, 0]],
        "reference_description": "",
        "num_segments": 6,
    }


def test_didemo_joins_the_moments_of_a_video(tmp_path: Path) -> None:
    first, second = "54322086@N00_2408598493_274c77d26a.avi", "12090392@N02_13482799053_87ef417396.mov"
    moments = [
        moment(1, first, "a dog runs into the water"),
        moment(2, second, "the camera pans left."),
        moment(3, first, "the dog shakes itself"),
    ]
    write(tmp_path / "test_data.json", json.dumps(moments))
    touch(tmp_path, f"videos/{first}", f"videos/{second}.mp4")
    rows = find("didemo", tmp_path).rows
    assert [(row.id, row.split, row.texts[0]) for row in rows] == [
        (Path(first).stem, "test", "a dog runs into the water. the dog shakes itself."),
        (Path(second).stem, "test", "the camera pans left."),
    ]
    assert rows[0].texts[1:] == ("a dog runs into the water", "the dog shakes itself")
    write(tmp_path / "test_list.txt", f"{first}\n")
    assert [row.id for row in find("didemo", tmp_path).rows] == [Path(first).stem]
    write(tmp_path / "test_list.txt", "other.avi\n")
    assert "names no video of" in refusal("didemo", tmp_path)
    (tmp_path / "test_list.txt").unlink()
    write(tmp_path / "test_data.json", '[{"video": "a.avi"}, 3]')
    message = refusal("didemo", tmp_path)
    assert "test_data.json:[0]: description: expected video and description" in message
    assert "test_data.json:[1]: expected an object, found int" in message


def test_vatex_has_ten_captions_and_the_division_of_retrieval(tmp_path: Path) -> None:
    clips = ["G9zN5TTuGO4_000179_000189", "_HxP3NGZ0Ng_000001_000011"]
    said = [
        {"videoID": clip, "enCap": [f"caption {k}" for k in range(10)], "chCap": ["一个人"]} for clip in clips
    ]
    write(tmp_path / "vatex_validation_v1.0.json", json.dumps(said))
    touch(tmp_path, f"val/{clips[0]}.mp4", "whole/_HxP3NGZ0Ng.mp4")
    rows = find("vatex", tmp_path).rows
    assert [(row.id, row.start, row.end, row.split, len(row.texts), row.group) for row in rows] == [
        (clips[0], 0.0, None, "val", 10, "G9zN5TTuGO4"),
        (clips[1], 1.0, 11.0, "val", 10, "_HxP3NGZ0Ng"),
    ]
    write(tmp_path / "test_list.txt", f"{clips[1]}\n")
    assert [row.split for row in find("vatex", tmp_path, variant="zh").rows] == ["val", "test"]
    assert find("vatex", tmp_path, variant="zh").rows[0].texts == ("一个人",)
    assert official_divisions("vatex", tmp_path) == {"official": {clips[0]: "val", clips[1]: "test"}}
    write(tmp_path / "vatex_validation_v1.0.json", '[{"videoID": "x", "enCap": []}]')
    assert "videoID: expected <YouTube id>_000179_000189" in refusal("vatex", tmp_path)


def test_vggsound_has_one_label_and_vggsounder_several(tmp_path: Path) -> None:
    lines = (
        "---g-f_I2yQ,1,people marching,test\n"
        '--0PQM4-hqg,30,"wind, rustling leaves",train\n'
        "--56QUhyDQM,185,playing tennis,train\n"
    )
    write(tmp_path / "vggsound.csv", lines)
    touch(tmp_path, "---g-f_I2yQ_000001.mp4", "--0PQM4-hqg_30000_40000.mp4", "--56QUhyDQM_185.wav")
    rows = find("vggsound", tmp_path).rows
    assert [(row.id, row.labels, row.split, row.video is None) for row in rows] == [
        ("---g-f_I2yQ_000001", ("people marching",), "test", False),
        ("--0PQM4-hqg_000030", ("wind, rustling leaves",), "train", False),
        ("--56QUhyDQM_000185", ("playing tennis",), "train", True),
    ]
    assert "vggsounder.csv" in refusal("vggsound", tmp_path, variant="vggsounder")
    table = "video_id,label,modality,background_music,static_image,voice_over\n" + "".join(
        f"---g-f_I2yQ_000001,{label},AV,True,False,False\n" for label in ("male singing", "people crowd")
    )
    write(tmp_path / "vggsounder.csv", table)
    tested = find("vggsound", tmp_path, variant="vggsounder", split="test").rows
    assert [row.labels for row in tested] == [("male singing", "people crowd")]
    write(tmp_path / "vggsound.csv", "a,1,dog\nb,x,dog,test\nc,1,dog,val\n")
    message = refusal("vggsound", tmp_path)
    assert "vggsound.csv:1: expected YouTube id, start, label, split; found 3 cells" in message
    assert "vggsound.csv:2: start: expected seconds" in message
    assert "vggsound.csv:3: split: expected train or test" in message


def test_every_benchmark_is_declared_beside_its_layout() -> None:
    declared = {name: layout.benchmark for name, layout in LAYOUTS.items() if layout.benchmark}
    assert {"msrvtt", "didemo", "vatex", "vggsound", "audioset", "audiocaps", "esc50"} <= declared.keys()
    assert all(LAYOUTS[name].divisions for name in declared)
    assert {name for name, one in declared.items() if one.multi_label} == {"audioset", "vggsound"}
    with pytest.raises(ValueError, match="main score 'R@2' is not among its metrics"):
        Benchmark(
            name="x", tasks=("retrieval",), modalities=("video", "text"), splits=("test",), metrics=("R@1",),
            main_score="R@2", reported="", reference="", citation="",
        )  # fmt: skip


@pytest.mark.parametrize("name", ["howto100m", "webdataset", "folder"])
def test_data_sets_without_an_official_split_are_refused_unread(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.tar", b"never read")
    with pytest.raises(BadInput, match="this data set has no official split"):
        official_divisions(name, tmp_path)
    assert sorted(path.name for path in tmp_path.parent.glob("*-unpacked")) == []
