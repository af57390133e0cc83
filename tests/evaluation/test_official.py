"""Official divisions and lists: averaged splits, coverage of what should be there, the list of benchmarks."""

import numpy as np
import pytest
import typer
from small_world import make_run, make_store

from harmonize_cli.cli.main import app
from harmonize_cli.datasets.official import official_divisions
from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.catalogue import benchmarks
from harmonize_cli.evaluation.catalogue import command as command_of
from harmonize_cli.evaluation.probe import ProbeTask
from harmonize_cli.evaluation.protocols import PROBES, PROTOCOLS
from harmonize_cli.evaluation.retrieval import RetrievalTask
from harmonize_cli.evaluation.sources import RunSource
from harmonize_cli.evaluation.splits import official_parts
from harmonize_cli.evaluation.task import Options, evaluate
from harmonize_cli.models.checkpoint import load_model

QUICK = Options(draws=50)


@pytest.fixture
def divisions(small_store):
    ids = small_store.ids
    return {
        f"split {n}": {name: "test" if (i + n) % 3 == 0 else "train" for i, name in enumerate([*ids, "gone"])}
        for n in (1, 2, 3)
    }


def test_three_splits_are_averaged_and_missing_ids_told(small_store, small_run, divisions):
    source = RunSource(load_model(small_run))
    probe = PROBES["logistic"].model_copy(update={"c": (1.0,)})
    result, _ = evaluate(ProbeTask(source, small_store, probe, official=divisions), QUICK)
    single = []
    for name, division in divisions.items():
        one, _ = evaluate(ProbeTask(source, small_store, probe, official={name: division}), QUICK)
        single.append(one.metrics["video/top-1"]["value"])
    assert result.metrics["video/top-1"]["value"] == pytest.approx(np.mean(single))
    assert result.split == "split 1, split 2, split 3"
    assert result.coverage["expected"] == 25
    assert result.coverage["missing"] == ["gone"]


def test_other_lists_of_the_same_name_are_another_result(small_store, small_run, divisions):
    source = RunSource(load_model(small_run))
    probe = PROBES["logistic"].model_copy(update={"c": (1.0,)})
    first, _ = evaluate(ProbeTask(source, small_store, probe, official=divisions), QUICK)
    del divisions["split 1"]["gone"]
    second, _ = evaluate(ProbeTask(source, small_store, probe, official=divisions), QUICK)
    assert first.name != second.name


def test_lists_of_other_ids_are_refused(small_store):
    with pytest.raises(BadInput, match="ids there look like 'v_1', ids here like 's000'"):
        official_parts(small_store, {"split 1": {"v_1": "train"}}, np.ones(24, bool))


def test_retrieval_keeps_to_the_list_and_counts_what_is_missing(small_store, small_run):
    listed = {*(f"s{i:03d}" for i in range(12, 20)), "lost1", "lost2"}
    source = RunSource(load_model(small_run))
    result, _ = evaluate(
        RetrievalTask(source, small_store, PROTOCOLS["vatt"], split="test", expected=listed), QUICK
    )
    assert (result.coverage["expected"], result.coverage["present"]) == (10, 7)  # one of eight is silent
    assert result.coverage["missing"] == ["lost1", "lost2"]


def test_real_lists_of_ucf101_and_hmdb51(shared_data):
    lists = shared_data("annotations")
    ucf = official_divisions("ucf101", lists / "ucf101")
    assert [sum(p == "test" for p in d.values()) for d in ucf.values()] == [3783, 3734, 3696]
    assert [sum(p == "train" for p in d.values()) for d in ucf.values()] == [9537, 9586, 9624]
    hmdb = official_divisions("hmdb51", lists)
    assert [
        (sum(p == "train" for p in d.values()), sum(p == "test" for p in d.values())) for d in hmdb.values()
    ] == [(3570, 1530)] * 3


def test_unknown_data_set_and_missing_lists(tmp_path):
    with pytest.raises(BadInput, match="unknown; known: "):
        official_divisions("imagenet", tmp_path)
    with pytest.raises(BadInput, match=r"trainlist01\.txt"):
        official_divisions("ucf101", tmp_path)


def test_list_names_files_and_what_is_missing(shared_data, command, tmp_path):
    lists = shared_data("annotations")
    done = command("eval", "list", "--root", tmp_path, "--annotations", lists)
    blocks = {b.split(":")[0]: b for b in done.stdout.replace("\n  ", "\x00").splitlines()}
    assert set(blocks) >= {"msrvtt", "youcook2", "ucf101", "hmdb51", "esc50", "kinetics"}
    assert "lists found, no media files" in blocks["msrvtt"]
    assert "msrvtt_1ka_test.csv" in blocks["msrvtt"]
    bare = command("eval", "list", "--root", tmp_path).stdout
    assert "testlist03.txt: missing" in bare
    assert "lists found" not in bare  # Kinetics can do without a list, but a folder of something else is none
    with pytest.raises(BadInput, match="no such folder"):
        command("eval", "list", "--root", tmp_path / "none")


def test_ready_where_all_files_are_there(shared_data, command, tmp_path):
    (tmp_path / "esc50").symlink_to(shared_data("esc10"))
    done = command("eval", "list", "--root", tmp_path)
    assert "esc50: probe, zeroshot (audio), top-1; mean of five folds\n  state  ready" in done.stdout


@pytest.mark.parametrize("declared", benchmarks(), ids=lambda one: one[1].name)
def test_the_commands_of_the_list_can_be_typed(declared):
    _, group, name, *words = command_of(*declared).split()
    typer.main.get_command(app).commands[group].commands[name].make_context(name, words)


def test_a_part_that_the_lists_lack_is_named(command, tmp_path):
    store = make_store(tmp_path / "store.h5")
    make_run(tmp_path / "run", store)
    for part, name in (("train", "s000"), ("test", "s012")):
        for n in (1, 2, 3):
            (tmp_path / f"{part}list0{n}.txt").write_text(f"Class0/{name}.avi 1\n")
    options = ["--official", "ucf101", "--annotations", tmp_path, "--draws", 20]
    with pytest.raises(BadInput, match="--split all: the lists of ucf101 have test, train"):
        command("eval", "retrieval", tmp_path / "run", tmp_path / "store.h5", "--split", "all", *options)
    done = command(
        "export", "mteb", tmp_path / "run", tmp_path / "store.h5", "-o", tmp_path / "x", *options[:4]
    )
    assert "of 1 samples" in done.stdout


def test_command_takes_official_lists(command, tmp_path):
    store = make_store(tmp_path / "store.h5")
    make_run(tmp_path / "run", store)
    for part, numbers in (("train", range(12)), ("test", range(12, 24))):
        for n in (1, 2, 3):
            lines = [f"Class{i % 3}/s{i:03d}.avi 1" for i in numbers]
            (tmp_path / f"{part}list0{n}.txt").write_text("\r\n".join(lines))
    options = ["--official", "ucf101", "--annotations", tmp_path, "--set", "c=[1.0]", "--draws", 20]
    done = command("eval", "probe", tmp_path / "run", tmp_path / "store.h5", *options)
    assert "split split 1, split 2, split 3" in done.stdout
