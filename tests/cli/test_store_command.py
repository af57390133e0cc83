"""`harmonize store ...` as a user calls it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harmonize_cli.store.schema import FeatureSpec, Sample
from harmonize_cli.store.writer import ShardWriter


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "clips.h5"
    spec = FeatureSpec("video/frames", "frames", "raw", "uint8", (4, 4, 3), rate=2.0)
    with ShardWriter(path, [spec]) as shard:
        for i in range(6):
            rows = np.full((3, 4, 4, 3), i, np.uint8)
            shard.add(Sample(f"c{i}", split="train" if i < 4 else "test", features={spec.key: rows},
                             times={spec.key: np.arange(3) / 2}))  # fmt: skip
    return path


def harmonize(*args: object, code: int = 0) -> str:
    group = () if args[0] == "export" else ("store",)
    run = subprocess.run(
        [sys.executable, "-m", "harmonize_cli", *group, *map(str, args)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == code, run.stderr + run.stdout
    assert "Traceback" not in run.stderr
    return run.stdout + run.stderr


def test_look_and_check(store: Path) -> None:
    assert "6 samples in 1 shard(s)" in harmonize("info", store)
    assert "splits: test 2, train 4" in harmonize("info", store)
    assert json.loads(harmonize("info", store, "--json"))["samples"] == 6
    assert json.loads(harmonize("info", store, "c5"))["split"] == "test"
    assert "no sample 'nobody'" in harmonize("info", store, "nobody", code=2)
    assert "6 samples are as they were written" in harmonize("verify", store)


def test_split_merge_diff_export(store: Path, tmp_path: Path) -> None:
    assert "test 2" in harmonize("split", store, "-o", tmp_path / "parts")
    parts = sorted((tmp_path / "parts").iterdir())
    assert "6 samples of 2 store(s)" in harmonize("merge", *parts, "-o", tmp_path / "all")
    assert "0 differ" in harmonize("diff", store, tmp_path / "all")
    assert "4 only in the second" in harmonize("diff", parts[0], store, code=1)
    assert "6 samples in 2 file(s)" in harmonize(
        "export", "webdataset", store, "--file-samples", 4, "-o", tmp_path / "tar"
    )
    assert "exists already" in harmonize("export", "webdataset", store, "-o", tmp_path / "tar", code=2)
    assert len(json.loads(harmonize("info", tmp_path / "all", "--json"))["shard_files"]) == 1
    assert json.loads(harmonize("diff", store, tmp_path / "all", "--json"))["changed"] == {}


def test_damage_is_named_with_exit_code_1(store: Path, tmp_path: Path) -> None:
    data = bytearray(store.read_bytes())
    at = data.index(bytes([3] * 48))  # rows of clip 3
    data[at] = 77
    (tmp_path / "bad.h5").write_bytes(data)
    told = harmonize("verify", tmp_path / "bad.h5", code=1)
    assert "features/video/frames/data: sample 'c3'" in told
    assert "1 problem(s) in 6 samples" in told
    (tmp_path / "bad.h5").write_bytes(data[:1000])
    assert "cut short" in harmonize("verify", tmp_path / "bad.h5", code=1)
    assert "no HDF5 file, or cut short" in harmonize("info", tmp_path / "bad.h5", code=2)
