"""The demo from nothing to a table, small: real commands, skipped when done, honest about the outcome."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.demo.summary import Row, table, verdict

SMALL = [
    "data.digits=2",
    "data.clips=48",
    "data.val_clips=8",
    "data.test_clips=16",
    "pretrain.steps=6",
    "pretrain.batch=16",
    "pretrain.model.layers=1",
    "pretrain.model.width=32",
]


def _run(out: Path, *more: str) -> str:
    sets = [word for setting in SMALL for word in ("--set", setting)]
    done = CliRunner().invoke(app, ["demo", "run", "-o", str(out), *sets, *more])
    assert done.exit_code == 0, done.output
    return done.output


def test_demo_from_nothing_and_again(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    first = _run(out)
    commands = [line for line in first.splitlines() if line.startswith("$ harmonize ")]
    assert len(commands) == 9
    assert not any("done before" in line for line in commands)
    summary = json.loads((out / "summary.json").read_text())
    assert [row["run"] for row in summary] == ["baseline", "harmonized"]
    for row in summary:
        assert row["seconds"] > 0
        for metric in row["metrics"].values():
            assert set(metric) == {"value", "low", "high"}
        assert 0 <= row["metrics"]["text-to-video/R@10"]["value"] <= 1
    assert (out / "summary.png").stat().st_size > 10_000
    assert "harmonized against baseline" in first

    again = _run(out)
    assert again.count("# done before") == 9
    assert again.split("\n\n")[-1] == first.split("\n\n")[-1]

    (out / "results" / "baseline-probe.json").unlink()  # one step's output is lost: only that step is made
    third = _run(out)
    assert third.count("# done before") == 8

    # as Ctrl-C in the middle of training leaves it: figures are there, a checkpoint is not
    run = out / "runs" / "harmonized"
    whole = (run / "last" / "weights.safetensors").read_bytes()
    shutil.rmtree(run / "checkpoints")
    (run / "last").unlink()
    assert "--resume" in _run(out)
    assert (run / "last" / "weights.safetensors").read_bytes() == whole

    refused = CliRunner().invoke(app, ["demo", "run", "-o", str(out)])
    assert refused.exit_code != 0
    assert "other settings" in str(refused.exception)


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    refused = CliRunner().invoke(app, ["demo", "run", "-o", str(tmp_path), "--overwrite"])
    assert refused.exit_code != 0
    assert "holds no demo" in str(refused.exception)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def _row(name: str, value: float) -> Row:
    metric = {"value": value, "low": value - 0.02, "high": value + 0.02}
    return Row(name, {"text-to-video/R@10": metric}, {"text-to-video/R@10": 0.04}, 10.0)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.3, "NOT better"), (0.4, "NOT better"), (0.42, "overlap"), (0.6, "intervals are apart")],
)
def test_the_verdict_is_honest(value: float, words: str) -> None:
    assert words in verdict(_row("baseline", 0.4), _row("harmonized", value))
    assert words in table([_row("baseline", 0.4), _row("harmonized", value)])
