"""`harmonize eval` as a user types it."""

import json

import pytest
import typer
from small_world import make_run, make_store

from harmonize_cli.cli.main import app
from harmonize_cli.errors import BadInput


@pytest.fixture
def place(tmp_path):
    store = make_store(tmp_path / "store.h5", silent=(14,))
    make_run(tmp_path / "run", store)
    return tmp_path


def test_retrieval_prints_a_table_and_writes_one_json(place, harmonize):
    done = harmonize("eval", "retrieval", "run", "store.h5", "--draws", 20, "--device", "cpu", cwd=place)
    assert "text-to-video" in done.stdout
    assert "11 of 12 samples complete (audio: 1 silent)" in done.stdout
    (file,) = (place / "run" / "eval").glob("*.json")
    assert json.loads(file.read_text())["protocol"]["name"] == "vatt"


def test_probe_with_a_changed_setting(place, command):
    options = ["--modality", "audio", "--set", "c=[1.0]", "--draws", 20, "-o", "r.json", "--no-cache"]
    command("eval", "probe", "run", "store.h5", *options, cwd=place)
    assert json.loads((place / "r.json").read_text())["protocol"]["name"] == "logistic-modified"
    assert not (place / "run" / "cache").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "window=1"], "unknown key"),
        (["--split", "valid"], "the store has test, train"),
        (["--checkpoint", "step-7"], "no checkpoint 'step-7'"),
        (["--device", "abacus"], "'abacus' is not a device"),
        (["--key", "video/frames"], "goes with RUN -"),
    ],
)
def test_bad_usage_leaves_nothing_behind(args, message, place):
    with pytest.raises(BadInput, match=message):
        app(["eval", "retrieval", str(place / "run"), str(place / "store.h5"), *args], standalone_mode=False)
    assert not (place / "run" / "eval").exists()


def test_bad_input_is_one_message_and_exit_code_2(place, harmonize):
    done = harmonize("eval", "retrieval", "absent", "store.h5", cwd=place, code=2)
    assert done.stderr.startswith("error: absent: no such run folder")


def test_compare_and_table(place, command):
    command("eval", "retrieval", "run", "store.h5", "--draws", 20, cwd=place)
    done = command("eval", "compare", "run", "run", "--draws", 20, "-o", "c.json", cwd=place)
    assert "text-to-video/R@10" in done.stdout
    (one,) = json.loads((place / "c.json").read_text())["comparisons"]
    assert one["metrics"]["text-to-video/MedR"]["p_value"] == 1
    done = command("eval", "table", "run", "--metric", "*/R@1", "--format", "csv", cwd=place)
    assert done.stdout.startswith("run,text-to-video R@1,")
    with pytest.raises(typer.BadParameter, match="not one of 'terminal'"):
        command("eval", "table", "run", "--format", "pdf")


def test_run_measures_benchmarks_for_several_runs_and_stores(tmp_path, command):
    store = make_store(tmp_path / "store.h5")
    make_store(tmp_path / "other.h5", seed=5)
    for seed in (0, 1):
        make_run(tmp_path / f"run-{seed}", store, seed=seed)
    words = ["--benchmark", "msrvtt", "--benchmark", "vggsound=other.h5", "--draws", 20]
    done = command("eval", "run", "run-0", "run-1", "store.h5", *words, cwd=tmp_path)
    for text in ("video-to-text", "AUC", "mAP", "run-0 @ 1", "run-1 @ 1", "split test of other.h5"):
        assert text in done.stdout
    assert "audio-to-video" not in done.stdout  # not a direction of MSR-VTT
    found = [*(tmp_path / "run-1" / "eval").glob("*.json")]
    assert len(found) == 3
    files = {json.loads(file.read_text())["protocol"]["name"]: file for file in found}
    assert set(files) == {"vatt", "logistic"}
    before = files["vatt"].stat().st_mtime_ns
    command("eval", "run", "run-0", "run-1", "store.h5", "--benchmark", "msrvtt", "--draws", 20, cwd=tmp_path)
    assert files["vatt"].stat().st_mtime_ns == before


def test_run_shows_what_it_has_and_names_what_could_not_be_measured(place, capsys):
    words = ["eval", "run", str(place / "run"), "-", str(place / "store.h5"), "--draws", "20"]
    with pytest.raises(
        BadInput, match=r"1 of 2 could not be measured\n.*msrvtt, - on .*embeddings of two modal"
    ):
        app([*words, "--benchmark", "msrvtt"], standalone_mode=False)
    assert "text-to-video" in capsys.readouterr().out
    for more, message in (
        (["--benchmark", "ucf101"], "mean over 3 official divisions: --annotations"),
        (["--benchmark", "howto100m"], "nothing is measured on this data set; benchmarks are"),
        (["--benchmark", "msrvvt"], "did you mean 'msrvtt'"),
        (["--benchmark", "msrvtt", "--task", "probe"], "--task probe: msrvtt has retrieval"),
    ):
        with pytest.raises(BadInput, match=message):
            app([*words, *more], standalone_mode=False)
    with pytest.raises(BadInput, match="no store among these"):
        app(["eval", "run", str(place / "run"), "--benchmark", "msrvtt"], standalone_mode=False)
