"""The comparison: one budget, branches that are the baseline's until the cut, an oracle that helps."""

import json
from pathlib import Path

import pytest
from planted import CONFIG, World, make_store
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.config import dump_yaml
from harmonize_cli.curriculum.compare import read_truth
from harmonize_cli.errors import BadInput
from harmonize_cli.store.reader import Store
from harmonize_cli.training.run_folder import read_metrics


@pytest.fixture
def truth(world: World, tmp_path: Path) -> Path:
    """What dialpad's truth.jsonl is for dialpad."""
    file = tmp_path / "truth.jsonl"
    rows = [{"id": i, "caption_misaligned": i in world.marked} for i in Store.open(world.store).ids]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_compare_from_end_to_end_and_again(world: World, truth: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(dump_yaml(CONFIG.model_copy(update={"steps": 24, "log_every": 1})))
    out = tmp_path / "out"
    words = ["curriculum", "compare", str(world.store), "--truth", str(truth), "-o", str(out)]
    words += ["-c", str(config), "--seeds", "1", "--warmup", "0.5", "--metric", "text-to-video/R@5"]
    for method in ("baseline", "best-plan", "random", "oracle"):
        words += ["--method", method]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "gap closed" in done.stdout
    result = json.loads((out / "compare.json").read_text())
    assert list(result["methods"]) == ["baseline", "best-plan", "random", "oracle"]
    assert 0.2 < result["cut_share"] == result["wrong_share"] < 0.4
    assert all(len(m["metrics"]["text-to-video/R@5"]) == 1 for m in result["methods"].values())
    assert result["indicators"][0].endswith(("_vt", "_at", "_backbone", "_representation"))
    logs = {name: read_metrics(out / name / "seed-0" / "run") for name in result["methods"]}
    losses = {name: [line["loss"] for line in log if "loss" in line] for name, log in logs.items()}
    assert {len(log) for log in losses.values()} == {24}  # one budget
    for name in ("best-plan", "random"):
        assert losses[name][:12] == losses["baseline"][:12]
        assert losses[name][12:] != losses["baseline"][12:]
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("*/seed-*/retrieval.json")}
    again = CliRunner().invoke(app, words)
    assert again.stdout == done.stdout
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps  # nothing was made twice
    refused = CliRunner().invoke(app, [*words, "--set", "steps=25"])
    assert "comparison of other settings" in str(refused.exception)
    words[2] = str(tmp_path / "other.h5")  # the same ids, other pictures
    make_store(tmp_path / "other.h5", lacking=False)
    refused = CliRunner().invoke(app, words)
    assert "or of another store" in str(refused.exception)
    refused = CliRunner().invoke(app, [*words, "--set", "epochs=2", "--set", "steps=null"])
    assert "epochs: methods are compared at one number of steps" in str(refused.exception)


def test_bad_truth_is_named(tmp_path: Path) -> None:
    file = tmp_path / "truth.jsonl"
    file.write_text('{"id": "a", "caption_misaligned": true}\n{"id": "b"}\n')
    with pytest.raises(BadInput, match=r"truth\.jsonl:2: expected JSON with id and caption_misaligned"):
        read_truth(file)
    with pytest.raises(BadInput, match="can't be read"):
        read_truth(tmp_path / "nothing")
