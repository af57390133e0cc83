"""Comparing runs pairs their queries, and refuses what has no pairs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_world import make_run, make_store

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.comparison import Line, compare_results, show
from harmonize_cli.evaluation.overview import overview
from harmonize_cli.evaluation.probe import ProbeTask
from harmonize_cli.evaluation.protocols import PROBES, PROTOCOLS
from harmonize_cli.evaluation.questions import query_values
from harmonize_cli.evaluation.results import find_results
from harmonize_cli.evaluation.retrieval import RetrievalTask
from harmonize_cli.evaluation.sources import RunSource, untrained
from harmonize_cli.evaluation.statistics import Comparison, Interval, compare, holm
from harmonize_cli.evaluation.task import Options, evaluate
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.store.reader import Store

QUICK = Options(draws=50)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """base and other, two seeds each, all evaluated on one store."""
    folder = tmp_path_factory.mktemp("runs")
    store = make_store(folder / "store.h5")
    for name, first in (("base", 0), ("other", 10)):
        for seed in range(2):
            run = make_run(folder / name / f"{name}-{seed}", store, seed=first + seed)
            evaluate(RetrievalTask(RunSource(load_model(run)), store, PROTOCOLS["vatt"]), QUICK)
    probe = PROBES["logistic"].model_copy(update={"c": (1.0,)})
    for name in ("base", "other"):
        evaluate(ProbeTask(RunSource(load_model(folder / name / f"{name}-0")), store, probe), QUICK)
    return folder


def test_against_itself_nothing_differs(runs):
    same = compare_results([runs / "base" / "base-0"], [runs / "base" / "base-0"], draws=50)
    assert {one.question.title.split(",")[0] for one in same} == {"retrieval", "probe"}
    for line in (line for one in same for line in one.lines):
        assert (line.test.difference.value, line.test.p_value, line.verdict) == (0, 1, "open")


def test_difference_is_that_of_the_printed_values(runs):
    (one,) = compare_results(
        [runs / "base" / "base-0"], [runs / "other" / "other-0"], patterns=["*/MeanR"], draws=50
    )
    assert len(one.lines) == 6
    for line in one.lines:
        assert line.test.difference.value == pytest.approx(line.b - line.a)
        assert line.test.queries == 12
        assert line.p_holm >= line.test.p_value


def test_a_folder_of_runs_is_its_seeds(runs):
    (one,) = compare_results([runs / "base"], [runs / "other"], patterns=["text-to-video/R@5"], draws=50)
    assert one.lines[0].test.seeds == (2, 2)
    values = [json.loads(p.read_text())["metrics"] for p in runs.glob("base/*/eval/retrieval*.json")]
    assert one.lines[0].a == pytest.approx(np.mean([v["text-to-video/R@5"]["value"] for v in values]))


def test_a_real_gain_is_found_and_a_loss_is_called_one(runs, tmp_path):
    """A copy of a result in which every rank is better: the sidecar and its checksum rewritten."""
    from harmonize_cli.evaluation.results import write_result
    from harmonize_cli.files import sha256_file

    ((path, result),) = [e for e in find_results([runs / "base" / "base-0"]) if e[1].task == "retrieval"]
    with np.load(path.parent / result.queries["file"]) as loaded:
        arrays = {k: np.ones_like(loaded[k]) if k.endswith("/rank") else loaded[k] for k in loaded.files}
    np.savez(tmp_path / "better.npz", **arrays)
    queries = {"file": "better.npz", "sha256": sha256_file(tmp_path / "better.npz")}
    top = {k: {"value": 1.0, "low": 1.0, "high": 1.0} for k in result.metrics}
    better = replace(result, queries=queries, model_hash="better", metrics=top)
    write_result(better, tmp_path / "better.json")
    args = {"patterns": ["*/MeanR"], "draws": 400}
    (one,) = compare_results([path], [tmp_path / "better.json"], **args)
    assert {line.verdict for line in one.lines} == {"better"}
    (one,) = compare_results([tmp_path / "better.json"], [path], **args)
    assert {line.verdict for line in one.lines} == {"worse"}


def test_other_questions_have_no_pairs(runs, tmp_path):
    store = make_store(tmp_path / "store.h5", seed=9)
    run = make_run(tmp_path / "run", store)
    evaluate(RetrievalTask(RunSource(load_model(run)), store, PROTOCOLS["vatt"]), QUICK)
    with pytest.raises(BadInput, match="no pairs"):
        compare_results([runs / "base"], [run])


def test_no_such_metric_names_the_known_ones(runs):
    with pytest.raises(BadInput, match="text-to-video/R@10"):
        compare_results([runs / "base"], [runs / "other"], patterns=["bleu"])
    with pytest.raises(BadInput, match="no metric matches bleu"):
        overview([runs / "base"], patterns=["bleu"])


def test_queries_are_paired_by_id_whatever_their_order(runs, tmp_path):
    ((path, result),) = [e for e in find_results([runs / "base" / "base-0"]) if e[1].task == "retrieval"]
    plain = query_values([(path, result)], ["text-to-video/MeanR"])["text-to-video/MeanR"][0]
    from harmonize_cli.files import sha256_file

    with np.load(path.parent / result.queries["file"]) as loaded:
        np.savez(tmp_path / "q.npz", **{k: loaded[k][::-1] for k in loaded.files})
    turned = replace(result, queries={"file": "q.npz", "sha256": sha256_file(tmp_path / "q.npz")})
    got = query_values([(tmp_path / "r.json", turned)], ["text-to-video/MeanR"])["text-to-video/MeanR"][0]
    assert got.tolist() == plain.tolist()


def test_results_by_group_are_compared_and_merged_by_group(runs, tmp_path):
    """Clips of one film stand or fall together: the interval over seeds and the paired test keep to that."""
    store = Store.open(runs / "store.h5")
    folders = [make_run(tmp_path / f"r-{seed}", store, seed=seed) for seed in range(2)]
    name = "text-to-video/MeanR"
    found = {}
    for by_group in (False, True):
        options = Options(draws=50, clusters=by_group)
        for folder in folders:
            evaluate(RetrievalTask(RunSource(load_model(folder)), store, PROTOCOLS["vatt"]), options)
        (one,) = compare_results([folders[0]], [folders[1]], patterns=[name], draws=200)
        found[by_group] = one.lines[0].test, overview(folders, patterns=[name], over_seeds=True)
    entries = [next(e for e in find_results([f]) if e[1].protocol["interval"]["clusters"]) for f in folders]
    measured = query_values(entries, [name])[name]
    assert measured.groups == [f"g{i // 2}" for i in range(12, 24)]
    wanted = compare(measured.values[:1], measured.values[1:], clusters=measured.groups, draws=200)
    assert found[True][0] == wanted != found[False][0]
    assert found[True][1] != found[False][1]


def test_show_has_a_line_per_metric(runs):
    (one,) = compare_results([runs / "base"], [runs / "other"], patterns=["audio-to-*/R@10"], draws=50)
    text = show(one)
    assert text.count("\naudio-to-") == 2
    assert "A: base-0, base-1; B: other-0, other-1" in text
    assert show(one, "csv").startswith("metric,A,B")


def test_overview_one_line_per_run_or_per_setting(runs, tmp_path):
    single = overview([runs / "base", runs / "other"], patterns=["*/R@10"], intervals=False)
    assert "base-0 @ 1" in single
    assert "text-to-video R@10" in single
    assert single.splitlines()[-1].split()[0] == "chance"
    assert len(single.splitlines()) == 2 + 4 + 1
    merged = overview([runs / "base"], patterns=["*/R@10"], over_seeds=True, form="markdown")
    assert "| base (2 seeds)" in merged
    fresh = RunSource(untrained(load_model(runs / "base" / "base-0"), 7))
    store = Store.open(runs / "store.h5")
    _, path = evaluate(
        RetrievalTask(fresh, store, PROTOCOLS["vatt"]), Options(draws=50, out=tmp_path / "r.json")
    )
    assert "base-0 untrained @ 0" in overview([path], patterns=["*/R@10"])
    (one,) = compare_results([path], [runs / "base" / "base-0"], patterns=["text-to-video/R@10"], draws=50)
    assert "A: base-0 untrained; B: base-0" in show(one)
    many = overview([runs / "base"], patterns=["text-to-video/*"], form="latex")
    assert many.count("text-to-video") == 3
    assert many.startswith("% retrieval, vatt protocol, split test")


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_verdict_needs_the_interval_and_the_p_value():
    """The printed case: audio/top-1 -0.037 [-0.176, 0.070] was called worse, by its p-value alone."""

    def verdict(low, high, p, value=None):
        test = Comparison(Interval(value or (low + high) / 2, low, high), p, 100, (1, 1))
        return Line("audio/top-1", 0.5, 0.4, test, p).verdict

    assert verdict(-0.176, 0.070, 0.001, -0.037) == "open"
    assert verdict(-0.2, -0.1, 0.2) == "open"
    assert (verdict(-0.2, -0.1, 0.01), verdict(0.1, 0.2, 0.01)) == ("worse", "better")


def test_results_of_other_metric_code_are_other_results(runs, tmp_path, monkeypatch):
    from harmonize_cli.evaluation import metrics

    run = make_run(tmp_path / "run", Store.open(runs / "store.h5"))
    task = RetrievalTask(RunSource(load_model(run)), Store.open(runs / "store.h5"), PROTOCOLS["vatt"])
    first, path = evaluate(task, QUICK)
    monkeypatch.setitem(metrics.METRICS._entries, "MedR", replace(metrics.METRICS["MedR"], version=2))
    second, other = evaluate(task, QUICK)
    assert path != other
    assert (first.metric_versions["MedR"], second.metric_versions["MedR"]) == ("1", "2")
    with pytest.raises(BadInput, match="MedR was computed by version"):
        query_values([(path, first), (other, second)], ["text-to-video/MedR"])
    before = replace(first, versions={})  # as results were written before they named versions
    assert before.identity == first.identity != second.identity
