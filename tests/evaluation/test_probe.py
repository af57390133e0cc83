"""Probes learn what is there, and nothing of the test part reaches them."""

import numpy as np
import pytest

from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.evaluation import task
from harmonize_cli.evaluation.classification import Labels, Predictions, classified, multi_labelled
from harmonize_cli.evaluation.classifiers import Scaler, fit_classifier, inner_folds
from harmonize_cli.evaluation.classifiers.logistic import Logistic
from harmonize_cli.evaluation.metrics import Scores
from harmonize_cli.evaluation.probe import run_part
from harmonize_cli.evaluation.protocols import ProbeProtocol
from harmonize_cli.evaluation.splits import Part


def blobs(n=120, classes=3, d=6, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = 3 * np.eye(classes, d)
    return (centres[y] + noise * rng.normal(size=(n, d))).astype(np.float32), y


def one_window(x):
    return x, np.arange(len(x))


def halves(n):
    return Part("test", np.arange(n // 2), np.arange(n // 2, n))


def judge(x, y, part, **options):
    rows = one_window(x)
    return run_part(ProbeProtocol(**options), part, y, train=rows, test=rows, groups=np.arange(len(x)))


def metrics_of(parts, classes):
    """Intervals and the values of every query, of samples named by their number."""
    many = [str(i) for i in range(1000)]
    queries = classified(parts, [[f"c{k}" for k in range(classes)]] * len(parts), many, many)
    found = task.intervals({"x": queries}, task.Options())
    return {name.removeprefix("x/"): x for name, x in found.items()}, queries


def test_finds_separable_classes_and_reports_what_it_chose():
    x, y = blobs()
    judged = judge(x, y, halves(len(x)))
    metrics, _ = metrics_of([judged], 3)
    assert metrics["top-1"].value > 0.9
    assert judged.facts["C"] in {float(f"1e{e}") for e in range(-5, 3)}
    assert set(judged.facts["inner_accuracy"]) == {f"{10.0**e:g}" for e in range(-5, 3)}


def test_shuffled_labels_give_chance():
    x, y = blobs(n=600)
    judged = judge(x, np.random.default_rng(0).permutation(y), halves(len(x)), c=(1e-3, 1.0))
    metrics, _ = metrics_of([judged], 3)
    assert metrics["top-1"].low < 1 / 3 < metrics["top-1"].high


def test_no_test_label_or_statistic_reaches_the_probe():
    """Whatever the test part looks like, the other rows' scores and the choices stay bit for bit the same."""
    x, y = blobs()
    part = halves(len(x))
    plain = judge(x, y, part)
    other_x, other_y = x.copy(), y.copy()
    other_x[part.test[1:]] = 1e4 * np.random.default_rng(1).normal(size=(len(part.test) - 1, x.shape[1]))
    other_y[part.test] = (y[part.test] + 1) % 3
    other = judge(other_x, other_y, part)
    assert other.facts == plain.facts
    assert other.scores[0].tolist() == plain.scores[0].tolist()


def test_a_row_in_no_part_is_never_seen():
    x, y = blobs()
    part = Part("test", np.arange(50), np.arange(60, 120))
    plain = judge(x, y, part)
    x[50:60] = 1e6
    assert judge(x, y, part).scores.tolist() == plain.scores.tolist()


def test_inner_folds_scale_with_their_own_training_rows(monkeypatch):
    """A validation row must not move the scale that it is judged with."""
    x, y = blobs()
    seen = []
    plain = Logistic.fit

    def noted(self, inside, labels):
        seen.append(inside)
        return plain(self, inside, labels)

    monkeypatch.setattr(Logistic, "fit", noted)
    fit_classifier(ProbeProtocol(c=(0.1, 1.0), inner_folds=3), x, y, np.arange(len(x)))
    assert len(seen) == 3 * 2 + 1
    for inside in seen:
        assert inside.mean(axis=0) == pytest.approx(0, abs=1e-5)
        assert inside.std(axis=0) == pytest.approx(1, abs=1e-4)


def test_groups_never_split_over_inner_folds():
    y = np.arange(60) % 3
    groups = np.arange(60) // 6
    for train, validation in inner_folds(y, groups, 5):
        assert not set(groups[train]) & set(groups[validation])


def test_a_duplicated_source_does_not_fool_the_choice():
    """Noise features, every sample five times: without groups the weakest regulariser looks perfect."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(30, 40)).astype(np.float32), 5, axis=0)
    y = np.repeat(rng.integers(0, 2, 30), 5)
    split = choose_accuracy(x, y, np.arange(150))
    whole = choose_accuracy(x, y, np.repeat(np.arange(30), 5))
    assert max(split.values()) == 1
    assert max(whole.values()) < 0.8


def choose_accuracy(x, y, groups):
    return fit_classifier(ProbeProtocol(c=(0.01, 10.0)), x, y, groups).facts["inner_accuracy"]


def test_windows_of_a_test_clip_are_averaged():
    x, y = blobs(n=60)
    part = halves(60)
    rows = np.repeat(np.arange(60), 2)
    windows = np.repeat(x, 2, axis=0)
    windows[1::2] = 0
    double = run_part(
        ProbeProtocol(c=(1.0,)), part, y, train=one_window(x), test=(windows, rows), groups=np.arange(60)
    )
    model = fit_classifier(ProbeProtocol(c=(1.0,)), x[part.train], y[part.train], part.train)
    expected = (model.scores(x[part.test]) + model.scores(np.zeros_like(x[part.test]))) / 2
    assert double.scores == pytest.approx(expected)


def test_class_unknown_to_training_is_a_miss():
    labels = Labels([("a",), ("b",), ("c",), ()], several=False)
    names = labels.classes(np.array([0, 1]))
    assert (labels.numbered(names).tolist(), names) == ([0, 1, -1, -1], ["a", "b"])
    assert Scores(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, -1])).hits(1).tolist() == [True, False]


def test_a_probe_that_says_the_same_of_all_classes_hits_nothing():
    assert not Scores(np.ones((4, 3)), np.zeros(4, int)).hits(1).any()


def test_two_classes_and_a_class_missing_from_the_training_part():
    from sklearn.linear_model import LogisticRegression

    x, y = blobs(n=40, classes=2)
    scores = fit_classifier(ProbeProtocol(c=(1.0,), scaling="none"), x, 3 * y, np.arange(40)).scores(x)
    assert scores.shape == (40, 4)
    assert scores.sum(axis=1) == pytest.approx(1)
    assert not scores[:, 1:3].any()
    expected = LogisticRegression(C=1.0).fit(x, y).predict_proba(x)
    assert scores[:, [0, 3]] == pytest.approx(expected, abs=1e-4)


def test_parts_weigh_the_same_and_classes_too():
    parts = [
        Predictions("1", np.arange(4), np.array([0, 0, 0, 1]), np.eye(2)[[0, 0, 0, 0]]),
        Predictions("2", np.arange(4, 6), np.array([0, 1]), np.eye(2)[[1, 0]]),
    ]
    metrics, queries = metrics_of(parts, 2)
    assert metrics["top-1"].value == pytest.approx((3 / 4 + 0) / 2)
    assert metrics["mean per class"].value == pytest.approx((1 / 2 + 0) / 2)
    assert "top-5" not in metrics
    assert queries.ids == [str(i) for i in range(6)]


def test_overlapping_splits_count_a_sample_once_in_the_bootstrap():
    scores = np.eye(6)[[0, 1, 2]]
    same = [Predictions(str(i), np.arange(3), np.array([0, 1, 5]), scores) for i in range(3)]
    metrics, queries = metrics_of(same, 6)
    assert metrics["top-1"].value == pytest.approx(2 / 3)
    assert metrics["top-5"].value == pytest.approx(2 / 3)  # the true class ties with four others at the edge
    assert len(queries.columns["top-1"]) == 3


def test_scaler_leaves_a_constant_dimension_alone():
    x = np.ones((5, 2), np.float32)
    x[:, 1] = np.arange(5)
    scaled = Scaler().fit(x).transform(x)
    assert scaled[:, 0].tolist() == [0] * 5
    assert scaled[:, 1].std() == pytest.approx(1)


@pytest.mark.parametrize("classifier", ["logistic", "svm", "low-rank", "neighbours"])
@pytest.mark.parametrize("side", ["train", "test"])
def test_nan_is_an_error_and_no_hit(classifier, side):
    x, y = blobs(n=40)
    part = halves(40)
    x[getattr(part, side)[3], 2] = np.nan
    rows = one_window(x)
    with pytest.raises(HarmonizeError, match=f"1 of 20 hold NaN .*row {getattr(part, side)[3]} of the store"):
        run_part(
            ProbeProtocol(classifier=classifier, steps=2),
            part,
            y,
            train=rows,
            test=rows,
            groups=np.arange(40),
        )


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(HarmonizeError, match="test: scores: 1 of 2 hold NaN"):
        metrics_of(
            [Predictions("test", np.arange(2), np.array([0, 1]), np.array([[1.0, 0.0], [np.nan] * 2]))], 2
        )


def test_one_class_is_nothing_to_learn():
    x, _ = blobs(n=10)
    with pytest.raises(BadInput, match=r"all training samples .* one class"):
        run_part(
            ProbeProtocol(),
            halves(10),
            np.zeros(10, int),
            train=one_window(x),
            test=one_window(x),
            groups=np.arange(10),
        )


def test_empty_sides_are_named():
    x, y = blobs(n=10)
    nothing = (x[:0], np.zeros(0, int))
    with pytest.raises(BadInput, match="no training sample"):
        run_part(ProbeProtocol(), halves(10), y, train=nothing, test=one_window(x), groups=np.arange(10))
    with pytest.raises(BadInput, match="no test sample"):
        run_part(
            ProbeProtocol(c=(1.0,)), halves(10), y, train=one_window(x), test=nothing, groups=np.arange(10)
        )


def test_several_labels_give_map_and_auc_over_classes():
    """Each class ranks the test samples; compared with scikit-learn on scores without ties."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(0)
    truth, scores = rng.random((40, 4)) < 0.3, rng.random((40, 4))
    truth[:, 3] = False
    queries, without = multi_labelled(
        [Predictions("test", np.arange(40), truth, scores)], ["a", "b", "c", "d"]
    )
    assert (list(queries.ids), without) == (["a", "b", "c"], ["d"])
    points = queries.points()
    assert points["mAP"] == pytest.approx(average_precision_score(truth[:, :3], scores[:, :3]))
    assert points["AUC"] == pytest.approx(roc_auc_score(truth[:, :3], scores[:, :3]))
    assert queries.chance == {"AUC": 0.5}


@pytest.mark.parametrize("classifier", ["logistic", "svm"])
def test_a_probe_with_several_labels_learns_each(classifier):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype(np.float32)
    truth = x[:, :3] > 0.3
    truth = np.concatenate([truth, np.zeros((200, 1), bool)], axis=1)  # a class that nobody has
    judged = judge(x, truth, halves(200), classifier=classifier, c=(0.01, 1.0), inner_folds=2)
    assert judged.scores.shape == (100, 4)
    queries, without = multi_labelled([judged], list("abcd"))
    assert queries.points()["mAP"] > 0.9
    assert without == ["d"]
    assert set(judged.facts["inner_mAP"]) == {"0.01", "1"}
    with pytest.raises(BadInput, match="takes one class per sample; use logistic or svm"):
        judge(x, truth, halves(200), classifier="neighbours")


def test_fewer_samples_per_class_than_folds_take_fewer_folds():
    y = np.arange(12) % 3
    assert len(inner_folds(y, np.arange(12), 5)) == 4
    assert inner_folds(np.arange(4), np.arange(4), 5) == []
