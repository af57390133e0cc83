"""What every layout refuses: links out of the root, unknown options, damaged lists."""

import random
from pathlib import Path

import pytest
from layouts_on_disk import find, refusal, tf_record, touch, write

from harmonize_cli.datasets.layouts import LAYOUTS
from harmonize_cli.errors import BadInput


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
        "youtube8m": {"train.tfrecord": tf_record("abc", [1, 2])},
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
