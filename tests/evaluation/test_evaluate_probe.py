"""From a store and a run to a probe's result file."""

import numpy as np
import pytest
from small_world import FEATURES, make_run, make_store

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.probe import ProbeTask
from harmonize_cli.evaluation.protocols import PROBES
from harmonize_cli.evaluation.results import read_result
from harmonize_cli.evaluation.sources import RunSource
from harmonize_cli.evaluation.task import Options, evaluate
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.store.reader import Store
from harmonize_cli.store.writer import ShardWriter

LOGISTIC = PROBES["logistic"].model_copy(update={"c": (1e-2, 1.0), "inner_folds": 2})
QUICK = Options(draws=50)


def test_split_store(small_store, small_run):
    """Even an untrained model lets these classes through: they differ in brightness and in pitch."""
    result, path = evaluate(
        ProbeTask(RunSource(load_model(small_run)), small_store, LOGISTIC, modalities=["video", "audio"]),
        QUICK,
    )
    assert read_result(path) == result
    assert result.metrics["video/top-1"]["value"] > 0.6
    assert result.metrics["audio/top-1"]["value"] > 0.6
    assert result.chance["video/top-1"] == pytest.approx(1 / 3)
    assert result.coverage["expected"] == 12
    assert result.coverage["modalities"]["audio"]["silent"] == 1
    assert result.split == "test"
    assert any(note.startswith("audio, test: C ") for note in result.notes)
    with np.load(path.parent / result.queries["file"]) as queries:
        assert "s014" not in queries["audio/id"]
        matrix = queries["video/confusion"]
        assert matrix.sum() == 12
        assert matrix.trace() / 12 == pytest.approx(result.metrics["video/top-1"]["value"])
        assert queries["video/classes"].tolist() == ["class 0", "class 1", "class 2"]
        assert queries["video/top-1"].mean() == pytest.approx(result.metrics["video/top-1"]["value"])


def test_nothing_of_the_test_split_moves_a_probe(small_store, small_run, tmp_path):
    """Other labels and pictures for all test samples but one: the fit stays, and the answer of that one."""
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "other.h5", FEATURES, vocab=small_store.vocab) as shard:
        for i in range(len(small_store)):
            sample = small_store.sample(i)
            if sample.split == "test" and sample.id != "s012":
                sample.labels = (f"class {rng.integers(3)}", "half 0")
                frames = rng.integers(0, 255, sample.features["video/frames"].shape)
                sample.features["video/frames"] = frames.astype(np.uint8)
            shard.add(sample)
    found = []
    for store in (small_store, Store.open(tmp_path / "other.h5")):
        result, path = evaluate(ProbeTask(RunSource(load_model(small_run)), store, LOGISTIC), QUICK)
        with np.load(path.parent / result.queries["file"]) as queries:
            assert queries["video/id"][0] == "s012"
            found.append((result.notes, queries["video/top-1"][0], queries["video/top-1"].tolist()))
    assert found[0][:2] == found[1][:2]
    assert found[0][2] != found[1][2]


def test_confusion_matrix_is_a_picture(small_store, small_run):
    from PIL import Image

    _, path = evaluate(ProbeTask(RunSource(load_model(small_run)), small_store, LOGISTIC), QUICK)
    with Image.open(path.with_suffix(".video.png")) as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_folds_judge_every_sample_once(tmp_path):
    store = make_store(tmp_path / "store.h5", folds=True)
    run = make_run(tmp_path / "run", store)
    result, path = evaluate(ProbeTask(RunSource(load_model(run)), store, LOGISTIC), QUICK)
    assert result.split == "4 folds"
    with np.load(path.parent / result.queries["file"]) as queries:
        assert sorted(queries["video/id"]) == store.ids


def test_second_label_and_text(small_store, small_run):
    result, _ = evaluate(
        ProbeTask(RunSource(load_model(small_run)), small_store, LOGISTIC, modalities=["text"], label=1),
        QUICK,
    )
    assert result.chance["text/top-1"] == 0.5
    assert result.protocol["label"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": 2}, "at most 2 label"),
        ({"modalities": ["smell"]}, "run and store share video, audio, text"),
        ({"train": "trian"}, "the store has test, train"),
        ({"train": "test"}, "share samples"),
        ({"train": "all"}, r"train all and test test share samples \(12 of them\)"),
    ],
)
def test_what_cannot_be_probed_is_said(options, message, small_store, small_run):
    with pytest.raises(BadInput, match=message):
        evaluate(ProbeTask(RunSource(load_model(small_run)), small_store, LOGISTIC, **options))
