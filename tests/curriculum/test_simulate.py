"""A plan is simulated as it will run."""

from pathlib import Path

import numpy as np
import pytest
from planted import World
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.curriculum.compare_table import gap_closed, mean_interval
from harmonize_cli.curriculum.plan import Plan, read_plan
from harmonize_cli.curriculum.scores import Scores
from harmonize_cli.curriculum.simulate import simulate, table

IDS = [f"s{i}" for i in range(40)]
GROUPS = ["good"] * 20 + ["bad"] * 20
SCORES = Scores(np.array(IDS), np.arange(40), {"loss": np.arange(40, dtype=np.float32)}, {"loss": "high"}, {})


def test_shares_sizes_and_losers() -> None:
    cut = {"indicator": "loss", "share": 0.25}
    phases = [{"until": 0.5}, {"until": 1.0, "cut": cut, "weight": 0.5}]
    plan = Plan.model_validate({"scores": "x", "phases": phases})
    first, last = simulate(plan, SCORES, IDS, GROUPS)
    assert (first.drawn, first.effective, first.groups[0][1]) == (1, 40, 1)
    assert last.drawn == 1
    assert last.effective == pytest.approx(35**2 / (30 + 10 * 0.25))
    assert last.groups == [("bad", 0.5, 20), ("good", 1.0, 20)]
    assert "bad: 50% of 20" in table(plan, [first, last])


def test_command_writes_a_plan_that_pretrain_reads(world: World, tmp_path: Path) -> None:
    words = ["curriculum", "score", str(world.run), str(world.store), "-o", str(tmp_path / "scores")]
    assert CliRunner().invoke(app, [*words, "--indicator", "loss_vt"]).exit_code == 0
    words = ["curriculum", "plan", str(tmp_path / "scores"), "-o", str(tmp_path / "plan")]
    done = CliRunner().invoke(app, [*words, "--indicator", "loss_vt", "--floor", "0.5"])
    assert done.exit_code == 0, done.output
    assert "sources that lose most" in done.output
    plan = read_plan(tmp_path / "plan")
    assert plan.scores == "../scores"
    assert plan.phases[-1].action == "caption"
    assert (tmp_path / "plan" / "plan.png").stat().st_size > 5000
    gated = [*words, "--indicator", "loss_vt", "--gate", "0.2", "--gate-by"]
    file = tmp_path / "plan" / "plan.yaml"
    file.write_text(edited := file.read_text() + "seed: 3\n")
    refused = CliRunner().invoke(app, [*gated, "similarity_va"])
    assert "plan.yaml: holds another plan; give another -o, or --overwrite" in str(refused.exception)
    assert file.read_text() == edited
    done = CliRunner().invoke(app, [*gated, "similarity_va", "--overwrite"])
    assert "similarity_va: 20% to 20%" in done.output
    gate = read_plan(tmp_path / "plan").phases[-1].gate
    assert gate is not None
    assert gate.takes == "sound"
    refused = CliRunner().invoke(app, [*gated, "neighbours_va"])
    assert "neighbours_va needs more than a training step has" in str(refused.exception)
    refused = CliRunner().invoke(app, [*words, "--indicator", "smell"])
    assert "no indicator 'smell'" in str(refused.exception)


def test_gap_closed() -> None:
    base, oracle = [0.3, 0.32, 0.31], [0.5, 0.52, 0.51]
    value, low, high = gap_closed([0.4, 0.42, 0.41], base, oracle)
    assert (value, low, high) == pytest.approx((0.5, 0.5, 0.5))
    assert gap_closed(base, base, oracle)[0] == 0
    assert np.isnan(gap_closed(base, oracle, base)[0])  # no gap, no share
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert low == pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3)
