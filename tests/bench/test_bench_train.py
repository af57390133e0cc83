"""`make bench-train` on a very small scale: the figures hang together."""

import json
import tempfile

import pytest
import torch
from bench_train import CASES, _show, bench_steps, bench_train, show_bench, specs_for, tokens
from harness import run
from train_runs import noise_store, short_run

from harmonize_cli.errors import HarmonizeError
from harmonize_cli.training.config import PretrainConfig


def test_published_token_counts():
    config = PretrainConfig.model_validate({"model": {"preset": "medium"}})
    assert tokens(specs_for("medium"), config) == {"video": 784, "audio": 600, "text": 16}


def test_steps_of_all_cases_are_timed_against_the_plain_one():
    found = bench_steps("tiny", 4, "fp32", torch.device("cpu"), 1)
    cases = {case.name: case for case in found["cases"]}
    assert list(cases) == list(CASES)
    assert cases["plain"].ratio_to_plain == 1
    for case in cases.values():
        assert case.clips_per_s == pytest.approx(4 / (case.ms / 1e3))
        assert case.utilisation == pytest.approx(
            found["step_gflop"] * 1e9 / (case.ms / 1e3) / (found["matmul_tflops"] * 1e12)
        )


def test_counted_flops_are_those_of_the_layers():
    """6 per weight and token in the blocks (the last one's feed-forward on AGG alone), and attention."""
    found = bench_steps("tiny", 2, "fp32", torch.device("cpu"), 1)
    d, ff = 128, 512
    total = 0.0
    for n in found["tokens"].values():
        T = n + 1
        block = 3 * d * d * T + (d * d + 2 * d * ff) * T
        last = 3 * d * d * T + d * d + 2 * d * ff
        total += 2 * 6 * (2 * block + last) + 2 * 12 * d * (2 * T * T + T)
    assert total < found["step_gflop"] * 1e9 < 1.35 * total  # stems, projections and heads come on top


def test_bad_options_are_named(capsys):
    for args in (["--preset", "huge"], ["--precision", "fp8"]):
        with pytest.raises(SystemExit):
            run(bench_train, args)
        assert f"argument {args[0]}: invalid choice: {args[1]!r}" in capsys.readouterr().err


@pytest.mark.long
def test_a_failed_probe_run_says_why(tmp_path):
    with pytest.raises(HarmonizeError, match="probe run failed"):
        short_run(noise_store(tmp_path / "n.h5", 4), tmp_path / "run", {"batch": 64})


def test_several_processes_leave_nothing_among_the_temporary_files(tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))  # of the launcher too
    monkeypatch.setattr(tempfile, "tempdir", None)  # read anew
    with pytest.raises(HarmonizeError, match="probe run failed"):  # refused, so it is short
        short_run(noise_store(tmp_path / "n.h5", 4), tmp_path / "run", {"batch": 63}, processes=2)
    assert [path.name for path in temporary.iterdir()] == []


@pytest.mark.long
def test_the_whole_command(tmp_path, capsys):
    args = ["--batch", "8", "--rounds", "1", "--device", "cpu"]
    run(bench_train, [*args, "--json", str(tmp_path / "b.json")], _show)
    found = json.loads((tmp_path / "b.json").read_text())
    assert [waiting["workers"] for waiting in found["waiting"]] == [0, 2]
    assert all(0 <= waiting["wait_share"] < 1 for waiting in found["waiting"])
    assert found["scaling"]["ratio"] > 0
    assert show_bench(found) in capsys.readouterr().out
