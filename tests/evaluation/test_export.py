"""Exported files give the ranks that `eval retrieval` gives."""

import json

import numpy as np
import pytest
from small_world import make_run, make_store, retrieve

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.export import export_tasks
from harmonize_cli.evaluation.mteb_adapter import Exported, load_task, task_metadata
from harmonize_cli.evaluation.protocols import PROTOCOLS
from harmonize_cli.evaluation.sources import RunSource
from harmonize_cli.models.checkpoint import load_model


def read(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def pool(small_store, small_run):
    protocol = PROTOCOLS["vatt"].model_copy(update={"captions": "all"})
    return RunSource(load_model(small_run)).pool(small_store, np.arange(12, 24), protocol), protocol


def test_files_hold_what_retrieval_saw(pool, tmp_path):
    embedded, protocol = pool
    written = export_tasks(embedded, protocol, tmp_path / "x", {"split": "test"})
    assert len(written) == 6
    folder = tmp_path / "x" / "text-to-video"
    queries, corpus, qrels = (read(folder / f"{name}.jsonl") for name in ("queries", "corpus", "qrels"))
    assert [q["id"] for q in queries[:3]] == ["s012", "s012#2", "s013"]
    assert (queries[1]["text"], corpus[0]["text"]) == ("other 12", "video of s012")
    assert len(qrels) == len(queries) == 22
    model = Exported(str(folder))  # as the command's help shows it
    model.index({"id": [c["id"] for c in corpus]})
    found = model.search({"id": [q["id"] for q in queries]}, top_k=100)
    right = {(r["query-id"], r["corpus-id"]) for r in qrels}
    ranks = [
        next(place for place, c in enumerate(sorted(s, key=s.get, reverse=True), 1) if (q, c) in right)
        for q, s in found.items()
    ]
    expected = retrieve(embedded, protocol, draws=10).queries["text-to-video/rank"]
    assert ranks == expected.tolist()
    assert (folder / "qrels" / "test.tsv").read_text().splitlines()[2] == "s012#2\ts012\t1"


def test_nothing_is_overwritten_and_other_folders_are_refused(pool, tmp_path):
    (tmp_path / "note.txt").touch()
    with pytest.raises(BadInput, match="choose a new folder"):
        export_tasks(*pool, tmp_path, {})
    with pytest.raises(BadInput, match="not a direction"):
        Exported(tmp_path)


def test_mteb_is_told_the_modalities_of_a_direction(pool, tmp_path):
    """Every direction used to be declared text to text."""
    written = export_tasks(*pool, tmp_path / "x", {})
    about = {name: task_metadata(tmp_path / "x" / name) for name in written}
    assert {name: a["category"] for name, a in about.items()} == {
        "text-to-video": "t2v", "video-to-text": "v2t", "audio-to-video": "a2v",
        "video-to-audio": "v2a", "audio-to-text": "a2t", "text-to-audio": "t2a",
    }  # fmt: skip
    assert about["audio-to-text"]["modalities"] == ["audio", "text"]
    assert about["audio-to-text"]["type"] == "Any2AnyRetrieval"
    with pytest.raises(BadInput, match="expected a direction written by"):
        task_metadata(tmp_path)


def test_mteb_itself_agrees(pool, tmp_path):
    mteb = pytest.importorskip("mteb", reason="mteb is not installed; nothing else needs it")
    embedded, protocol = pool
    export_tasks(embedded, protocol, tmp_path / "x", {})
    folder = tmp_path / "x" / "audio-to-text"
    result = mteb.evaluate(Exported(folder), load_task(folder), cache=None)
    (scores,) = result.task_results[0].scores["test"]
    ours = retrieve(embedded, protocol, draws=10).metrics
    assert scores["ndcg_at_10"] == pytest.approx(ours["audio-to-text/nDCG@10"].value, abs=1e-4)


def test_command(command, tmp_path):
    store = make_store(tmp_path / "store.h5")
    make_run(tmp_path / "run", store)
    done = command("export", "mteb", "run", "store.h5", "-o", "out", cwd=tmp_path)
    assert "6 directions of 12 samples" in done.stdout
