"""The benchmarks run, and compare like with like."""

import json
import subprocess
import sys

import bench_probe as bench_probe_module
import numpy as np
import pytest
from bench_probe import bench_probe
from bench_retrieval import bench_retrieval, full_matrix_ranks

from harmonize_cli.evaluation.ranks import positive_ranks
from harmonize_cli.evaluation.relevance import Relevance


def test_retrieval_figures():
    figures = {row["name"]: row for row in bench_retrieval(rows=200, large=300, dims=16, rounds=1)}
    assert figures["same ranks (1 = yes)"]["value"] == 1
    assert figures["200 x 200, exact ranks by blocks"]["ratio"] > 0
    peak = figures["peak memory of that process"]["value"]
    assert peak >= figures["of which before the embeddings were made"]["value"] > 10


def test_the_plain_form_is_right_where_nothing_ties():
    x, y = np.random.default_rng(0).normal(size=(2, 50, 8)).astype(np.float32)
    assert full_matrix_ranks(x, y).tolist() == positive_ranks(x, y, Relevance.paired(50)).tolist()


def test_probe_figures_and_command(tmp_path):
    figures = {row["name"]: row["value"] for row in bench_probe(rows=600, dims=16, classes=3)}
    assert figures["objective above the best, torch"] < 1
    assert figures["steps of the torch solver"] > 0
    file = tmp_path / "f.json"
    command = [
        sys.executable,
        bench_probe_module.__file__,
        "--rows",
        "300",
        "--dims",
        "8",
        "--json",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "times faster" in done.stdout
    assert json.loads(file.read_text())[2]["name"] == "times faster"


@pytest.mark.long
def test_a_hundred_thousand_by_a_hundred_thousand_stays_below_two_gigabytes():
    figures = {row["name"]: row["value"] for row in bench_retrieval(rows=100, rounds=1)}
    assert figures["peak memory of that process"] < 2000
