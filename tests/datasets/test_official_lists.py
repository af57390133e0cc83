"""Official lists without videos: everything is expected, nothing is there, nothing crashes."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layouts_on_disk import find

SharedData = Callable[[str], Path]


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
