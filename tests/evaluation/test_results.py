"""Result files: complete, never overwritten silently, readable or refused with a reason."""

import json
from dataclasses import replace

import numpy as np
import pytest

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.results import (
    Result,
    existing,
    find_results,
    read_result,
    verified_sidecar,
    versions,
    write_result,
)
from harmonize_cli.evaluation.tables import render, summary
from harmonize_cli.files import sha256_file


@pytest.fixture
def result():
    return Result(
        task="retrieval",
        protocol={"name": "vatt", "windows": 4},
        split="test",
        coverage={"expected": 5, "present": 4, "modalities": {"audio": {"ok": 4, "silent": 1}}},
        metrics={
            "text-to-video/R@10": {"value": 0.5, "low": 0.25, "high": 0.75},
            "text-to-video/MedR": {"value": 12.5, "low": 8, "high": 20},
        },
        chance={"text-to-video/R@10": 0.1},
        model_hash="abc",
        store_hash="def",
        versions=versions(),
    )


def test_round_trip(result, tmp_path):
    write_result(result, tmp_path / "r.json")
    assert read_result(tmp_path / "r.json") == result


@pytest.mark.parametrize(
    "change",
    [
        {"model_hash": "x"},
        {"store_hash": "x"},
        {"split": "val"},
        {"protocol": {"name": "vatt", "windows": 1}},
        {"model": {"features": ["audio/mfcc"]}},
    ],
)
def test_other_model_store_split_or_setting_is_another_file(result, change):
    assert replace(result, **change).name != result.name


def test_a_name_with_a_slash_is_still_a_file(result):
    assert "/" not in replace(result, protocol={"name": "../mine"}).name


def test_the_same_evaluation_is_taken_as_it_is_another_one_is_not_overwritten(result, tmp_path):
    path = tmp_path / "r.json"
    assert existing(path, result.identity, overwrite=False) is None
    write_result(result, path)
    assert existing(path, result.identity, overwrite=False) == result
    with pytest.raises(BadInput, match=r"r\.json.*--overwrite"):
        existing(path, replace(result, model_hash="other").identity, overwrite=False)
    assert existing(path, "whatever", overwrite=True) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "invalid JSON"),
        ("[]", "not a result"),
        ('{"format": "harmonize-result/9"}', "not a result"),
        ('{"format": "harmonize-result/1", "task": "x", "spam": 1}', r"unknown: \['spam'\]"),
        (
            '{"format": "harmonize-result/1", "task": "x", "protocol": {}, "split": "", "coverage": {}, '
            '"metrics": {}, "chance": {}, "model_hash": ""}',
            r"missing: \['store_hash'\]",
        ),
    ],
)
def test_unreadable_results_name_the_file(text, message, tmp_path):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_result(tmp_path / "r.json")
    with pytest.raises(BadInput, match="no such result"):
        read_result(tmp_path / "absent.json")


def test_nan_is_no_result(result, tmp_path):
    broken = replace(result, metrics={"a/R@1": {"value": float("nan"), "low": 0, "high": 1}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(broken, tmp_path / "r.json")
    assert not list(tmp_path.iterdir())


def test_results_are_found_in_files_runs_and_folders_of_runs(result, tmp_path):
    write_result(result, tmp_path / "runs" / "a" / "eval" / "r.json")
    (tmp_path / "runs" / "a" / "eval" / "config.json").write_text("{}")
    for place in (tmp_path / "runs", tmp_path / "runs" / "a", tmp_path / "runs" / "a" / "eval" / "r.json"):
        assert [r for _, r in find_results([place])] == [result]
    with pytest.raises(BadInput, match="no results here"):
        list(find_results([tmp_path]))
    with pytest.raises(BadInput, match="neither"):
        list(find_results([tmp_path / "none"]))


def test_values_of_queries_must_be_the_ones_measured(result, tmp_path):
    file = tmp_path / "r.queries.npz"
    np.savez(file, rank=np.ones(3))
    kept = replace(result, queries={"file": file.name, "sha256": sha256_file(file)})
    assert verified_sidecar(tmp_path / "r.json", kept) == file
    np.savez(file, rank=np.zeros(3))
    with pytest.raises(BadInput, match="does not belong"):
        verified_sidecar(tmp_path / "r.json", kept)
    file.unlink()
    with pytest.raises(BadInput, match="missing"):
        verified_sidecar(tmp_path / "r.json", kept)


def test_summary_tells_chance_coverage_and_place(result, tmp_path):
    text = summary(result, tmp_path / "r.json")
    assert "0.500" in text
    assert "12.5" in text
    assert "0.100" in text
    assert "4 of 5 samples complete (audio: 1 silent)" in text
    assert "r.json" in text


def test_tables_in_every_format():
    head, rows = ["run", "R@10"], [["a_b|c", "50%"]]
    assert render(head, rows) == "run    R@10\na_b|c   50%"
    assert render(head, rows, "markdown").splitlines()[2] == "| a_b\\|c |  50% |"
    assert render(head, rows, "csv") == "run,R@10\na_b|c,50%"
    assert r"a\_b|c & 50\% \\" in render(head, rows, "latex")


def test_json_is_plain(result, tmp_path):
    write_result(result, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["format"] == "harmonize-result/1"
