"""A plan is simulated as it will run."""

from pathlib import Path

import numpy as np
import pytest
from planted import World
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.curriculum.compare_table import gap_closed, mean_interval
from harmonize_cli.curriculum.compare_table import table as compare_table
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
    assert (first.kept["samples"], first.effective, first.groups[0][1]) == (1, 40, 1)
    assert last.kept == {"samples": 1, "audio": 1, "text": 1}
    assert last.effective == pytest.approx(35**2 / (30 + 10 * 0.25))
    assert last.groups == [("bad", 0.5, 20), ("good", 1.0, 20)]
    assert "bad: 50% of 20" in table(plan, [first, last])


def test_command_writes_a_plan_that_pretrain_reads(world: World, tmp_path: Path) -> None:
    words = ["curriculum", "score", str(world.run), str(world.store), "-o", str(tmp_path / "scores")]
    assert CliRunner().invoke(app, [*words, "--indicator", "loss_vt"]).exit_code == 0
    words = ["curriculum", "plan", str(tmp_path / "scores"), "-o", str(tmp_path / "plan")]
    done = CliRunner().invoke(app, [*words, "--indicator", "loss_vt", "--set", "floor.share=0.5"])
    assert done.exit_code == 0, done.output
    assert "180 samples of split train" in done.output  # of 240; the others are not trained on
    val = ["--indicator", "loss_vt", "--split", "val", "-o", str(tmp_path / "val")]
    other = CliRunner().invoke(app, [*words[:3], *val])
    assert "60 samples of split val" in other.output
    refused = CliRunner().invoke(app, [*words, "--split", "tain"])
    assert "no sample of it was scored; scored splits: train, val" in str(refused.exception)
    assert "sources that lose most" in done.output
    plan = read_plan(tmp_path / "plan")
    assert plan.scores == "../scores"
    assert plan.phases[-1].action == "caption"
    assert (tmp_path / "plan" / "plan.png").stat().st_size > 5000
    gate_settings = (f"phases.1.gate.{key}=0.2" for key in ("start", "end"))
    gated = [*words, "--indicator", "loss_vt", *(w for s in gate_settings for w in ("--set", s)), "--set"]
    file = tmp_path / "plan" / "plan.yaml"
    file.write_text(edited := file.read_text() + "seed: 3\n")
    refused = CliRunner().invoke(app, [*gated, "phases.1.gate.by=similarity_va"])
    assert "plan.yaml: holds another plan; give another -o, or --overwrite" in str(refused.exception)
    assert file.read_text() == edited
    done = CliRunner().invoke(app, [*gated, "phases.1.gate.by=similarity_va", "--overwrite"])
    assert "similarity_va: 20% to 20%" in done.output
    gate = read_plan(tmp_path / "plan").phases[-1].gate
    assert gate is not None
    assert gate.takes == "audio"
    refused = CliRunner().invoke(app, [*gated, "phases.1.gate.by=neighbours_va"])
    assert "neighbours_va needs more than a training step has" in str(refused.exception)
    refused = CliRunner().invoke(app, [*words, "--indicator", "smell"])
    assert "no indicator 'smell'" in str(refused.exception)


def test_gap_closed() -> None:
    base, oracle = [0.3, 0.32, 0.31], [0.5, 0.52, 0.51]
    found = gap_closed([0.4, 0.42, 0.41], base, oracle)  # seeds that agree exactly say nothing of chance
    assert found is not None
    assert found[0] == pytest.approx(0.5)
    assert np.isnan(found[1:]).all()
    assert gap_closed(base, oracle, base) is None  # no gap, no share
    assert gap_closed(base[:1], base[:1], oracle[:1]) is None
    mean, low, _ = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert low == pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3)
    assert np.isnan(mean_interval([0.1 + 0.2, 0.3])[1:]).all()


def test_fieller_covers_the_true_ratio_as_often_as_it_says() -> None:
    rng, covered, claimed = np.random.default_rng(0), 0, 0
    for _ in range(400):
        shared, base = rng.normal(0, 0.02, 5), rng.normal(0.3, 0.02, 5)
        method = base + 0.05 + shared + rng.normal(0, 0.01, 5)
        oracle = base + 0.1 + shared + rng.normal(0, 0.01, 5)
        if (found := gap_closed(method.tolist(), base.tolist(), oracle.tolist())) is not None:
            claimed += 1
            covered += found[1] <= 0.5 <= found[2]
    assert claimed > 350
    assert 0.92 < covered / claimed < 0.98


def test_the_table_claims_no_more_than_the_seeds_allow() -> None:
    """The oracle's gap may be nothing: [-0.035, 0.084] is no ground for 27% [17%, 44%]."""
    runs = {
        "baseline": [0.30, 0.34, 0.31],
        "realign": [0.31, 0.345, 0.316],
        "oracle": [0.31, 0.36, 0.353],
    }
    result = {
        "seeds": 3,
        "wrong_share": 0.5,
        "methods": {n: {"seconds": [1.0], "metrics": {"a/R@1": x}} for n, x in runs.items()},
    }
    text = compare_table(result, "a/R@1")
    assert "not claimed, the oracle's own gain may be chance" in text
    assert "%" not in text.splitlines()[3]
    low = {"seeds": 3, "wrong_share": 0.5, "methods": {"baseline": {"seconds": [1.0], "metrics": {}}}}
    low["methods"]["baseline"]["metrics"]["a/R@1"] = [0.0, 0.0, 0.05]
    assert "[0.000," in compare_table(low, "a/R@1")
    one = {**result, "seeds": 1}
    one["methods"] = {n: {"seconds": [1.0], "metrics": {"a/R@1": x[:1]}} for n, x in runs.items()}
    text = compare_table(one, "a/R@1")
    assert "nan" not in text
    assert "one seed: no intervals" in text
