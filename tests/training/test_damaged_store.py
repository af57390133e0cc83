"""Training and evaluation do not learn from, or judge, what a disk has damaged."""

import shutil

import pytest
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.errors import BadInput
from harmonize_cli.store.layout import index_shard

SHORT = ["--set", "batch=8", "--set", "steps=12", "--set", "model.width=16", "--set", "model.layers=1"]


def outcome(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_a_damaged_sample_ends_the_run_and_the_evaluation(store_path, tmp_path):
    good = tmp_path / "good"
    assert outcome("pretrain", store_path, "-o", good, *SHORT, "--set", "model.heads=1").exit_code == 0
    bad = tmp_path / "bad.h5"
    shutil.copy(store_path, bad)
    place = int(index_shard(bad).extents["features/video/frames/data"].addresses[0])
    with bad.open("r+b") as file:
        for at in range(place, place + 96 * 5 * 256, 1024):  # in every sample
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
    for words in (
        ("pretrain", bad, "-o", tmp_path / "r", *SHORT, "--set", "model.heads=1"),
        ("pretrain", bad, "-o", tmp_path / "w", *SHORT, "--set", "model.heads=1", "--set", "data.workers=1"),
        ("eval", "retrieval", good, bad, "--no-cache", "-o", tmp_path / "x.json"),
        ("curriculum", "score", good, bad, "-o", tmp_path / "scores", "--batch-size", "8"),
        ("export", "embeddings", good, bad, "-o", tmp_path / "e.npy"),
    ):
        found = outcome(*words).exception
        assert isinstance(found, BadInput), (words, found)
        assert "features/video/frames/data: damaged (sample 'clip" in str(found)
        assert "Traceback" not in str(found)
    unchecked = [*SHORT, "--set", "model.heads=1", "--set", "data.verify=false"]
    assert outcome("pretrain", bad, "-o", tmp_path / "u", *unchecked).exit_code == 0
    args = ("eval", "retrieval", good, bad, "--no-cache", "--no-verify-store", "-o", tmp_path / "x.json")
    assert outcome(*args).exit_code == 0


@pytest.mark.parametrize("key", ["verify"])
def test_the_switch_is_explained(key):
    assert f"data.{key}" in outcome("config", "explain", "pretrain").stdout
