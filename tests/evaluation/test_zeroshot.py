"""Classification by prompts: templates from a file, words that nobody knows, a right answer by design."""

import json

import numpy as np
import pytest
import torch
from small_world import make_run, make_store

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.protocols import PROTOCOLS
from harmonize_cli.evaluation.sources import RunSource
from harmonize_cli.evaluation.task import Options, evaluate
from harmonize_cli.evaluation.zeroshot import Prompts, ZeroshotTask, read_names, read_templates
from harmonize_cli.models.checkpoint import load_model

QUICK = Options(draws=50)


def tokenise(text, length):
    """Word wN has id N; anything else is unknown."""
    ids = [int(w[1:]) if w[1:].isdigit() else 1 for w in text.split()[:length]]
    return np.array(ids + [0] * (length - len(ids)), np.int32)


def say(*names, templates=("{}",)):
    return lambda classes: Prompts(classes, names, templates)


@pytest.fixture
def source(small_run):
    return RunSource(load_model(small_run))


def test_the_class_whose_text_lies_on_the_clip_wins(source, small_store):
    """The text head is bent so that each class' prompt lands on the mean video embedding of that class."""
    model = source.loaded.model
    pool = source.pool(small_store, np.arange(24), PROTOCOLS["vatt"])
    kinds = np.arange(24) % 3
    means = np.stack([pool.vectors["video_vt"][kinds == k].mean(0) for k in range(3)])
    ids = torch.from_numpy(np.stack([[tokenise(f"w{2 + k}", 6)] for k in range(3)]))
    with torch.no_grad():
        pooled = model.encode({"text": ids})["text"][:, 0]
        head = model.head.text_vt
        head.bias.zero_()
        head.weight.copy_((torch.linalg.pinv(pooled) @ torch.from_numpy(means)).T)
    fresh = RunSource(source.loaded, cache=False)
    result, path = evaluate(
        ZeroshotTask(fresh, small_store, say("w2", "w3", "w4"), tokenise, split="all", modalities=["video"]),
        QUICK,
    )
    assert result.metrics["video/top-1"]["value"] > 0.9
    assert result.chance["video/top-1"] == pytest.approx(1 / 3)
    assert json.loads(path.read_text())["protocol"]["names"] == ["w2", "w3", "w4"]


def test_both_modalities_and_masks(source, small_store):
    result, path = evaluate(
        ZeroshotTask(source, small_store, say("w2", "w3", "w4", templates=["w9 {}", "{} w8 w7"]), tokenise),
        QUICK,
    )
    assert {name.split("/")[0] for name in result.metrics} == {"video", "audio"}
    with np.load(path.parent / result.queries["file"]) as queries:
        assert len(queries["video/id"]) == 12
        assert len(queries["audio/id"]) == 11
    assert path.with_suffix(".audio.png").stat().st_size > 5000  # the confusion matrix


def test_unknown_words_are_told_and_a_class_without_any_known_word_is_refused(source, small_store):
    result, _ = evaluate(ZeroshotTask(source, small_store, say("w2 huh", "w3", "w4"), tokenise), QUICK)
    assert result.notes == ["classes with unknown words: class 0"]
    with pytest.raises(BadInput, match="no word of the classes class 1"):
        evaluate(ZeroshotTask(source, small_store, say("w2", "huh", "w4"), tokenise), QUICK)


def test_templates_from_a_file(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("# said\na video of {}\n\n{} on a table\n")
    assert read_templates(file) == ["a video of {}", "{} on a table"]
    assert read_templates(None) == ["{}"]
    file.write_text("fine {}\nno place\n")
    with pytest.raises(BadInput, match=r"t\.txt:2: expected \{\} once"):
        read_templates(file)
    file.write_text("\n")
    with pytest.raises(BadInput, match="no template"):
        read_templates(file)
    with pytest.raises(BadInput, match="can't be read"):
        read_templates(tmp_path / "absent.txt")


def test_names_from_a_file(tmp_path):
    file = tmp_path / "n.csv"
    file.write_text('digit:2,two\nsea_waves,"waves, big"\n')
    assert read_names(file, ["sea_waves", "digit:2"]) == ["waves, big", "two"]
    assert read_names(None, ["sea_waves"]) == ["sea waves"]
    with pytest.raises(BadInput, match="no words for rain"):
        read_names(file, ["rain"])
    file.write_text("a,b,c\n")
    with pytest.raises(BadInput, match=r"n\.csv:1: expected label,words"):
        read_names(file, ["a"])


def test_command(command, tmp_path):
    store = make_store(tmp_path / "store.h5")
    run = make_run(tmp_path / "run", store)
    (run / "vocab.json").write_text(json.dumps(["<pad>", "<unk>", *(f"w{i}" for i in range(2, 30))]))
    (tmp_path / "names.csv").write_text("class 0,w2\nclass 1,w3\nclass 2,w4\n")
    (tmp_path / "t.txt").write_text("w5 {}\n")
    options = ["--names", tmp_path / "names.csv", "--templates", tmp_path / "t.txt", "--draws", 20]
    assert "audio" in command("eval", "zeroshot", run, tmp_path / "store.h5", *options).stdout


def test_a_split_without_labels_and_a_store_without_samples_are_refused(tmp_path, small_run, source):
    """They used to end in a ValueError of numpy and an IndexError."""
    from small_world import FEATURES

    from harmonize_cli.evaluation.retrieval import RetrievalTask
    from harmonize_cli.store.reader import Store
    from harmonize_cli.store.writer import ShardWriter

    labelled = make_store(tmp_path / "labelled.h5", n=2)
    with ShardWriter(tmp_path / "mixed.h5", FEATURES, vocab=labelled.vocab) as shard:
        for i, split in enumerate(("train", "test")):
            sample = labelled.sample(i)
            sample.split, sample.labels = split, sample.labels if split == "train" else ()
            shard.add(sample)
    store = Store.open(tmp_path / "mixed.h5")
    with pytest.raises(BadInput, match="split test: none of its 1 samples has label 0; --split and --label"):
        evaluate(ZeroshotTask(source, store, say("w2"), tokenise), QUICK)
    with ShardWriter(tmp_path / "empty.h5", FEATURES, vocab=labelled.vocab):
        pass
    empty = Store.open(tmp_path / "empty.h5")
    assert len(empty) == 0
    with pytest.raises(BadInput, match="has no samples to evaluate"):
        evaluate(RetrievalTask(source, empty, PROTOCOLS["vatt"], split="all"), QUICK)


def test_several_labels_are_ranked_by_prompt(source, small_store):
    names = ["w2", "w3", "w4", "w5", "w6"]  # three classes and two halves
    result, path = evaluate(ZeroshotTask(source, small_store, say(*names), tokenise, label="all"), QUICK)
    assert set(result.metrics) == {f"{m}/{name}" for m in ("video", "audio") for name in ("mAP", "AUC")}
    with np.load(path.parent / result.queries["file"]) as queries:
        assert queries["video/id"].tolist() == ["class 0", "class 1", "class 2", "half 0", "half 1"]
    assert not list(path.parent.glob("*.png"))
