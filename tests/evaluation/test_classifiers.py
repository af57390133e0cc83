"""Every classifier learns, keeps to its constants, and the torch solver finds scikit-learn's optimum."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from harmonize_cli.evaluation import classifiers
from harmonize_cli.evaluation.classifiers import build_classifier, fit_classifier
from harmonize_cli.evaluation.classifiers.lbfgs import fit_softmax
from harmonize_cli.evaluation.classifiers.logistic import Logistic
from harmonize_cli.evaluation.protocols import PROBES, ProbeProtocol


def correlated(n=300, d=24, classes=4, seed=0):
    """Features whose dimensions share a steep spectrum, as those of networks do."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, d)) / np.arange(1, d + 1)
    y = (hidden @ rng.normal(size=(d, classes)) * 3 + rng.gumbel(size=(n, classes))).argmax(1)
    x = hidden @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (x / x.std(0) + rng.normal(size=d)).astype(np.float32), y


def objective(weights, bias, x, y, c):
    logits = x @ weights.T + bias
    logits -= logits.max(1, keepdims=True)
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    return loss.sum() + (weights**2).sum() / 2 / c


@pytest.mark.parametrize("c", [1e-3, 1.0, 100.0])
def test_torch_finds_scikit_learns_optimum(c):
    x, y = correlated()
    x = x.astype(np.float64)
    fit = next(fit_softmax(torch.from_numpy(x), torch.from_numpy(y), [c], 4, tolerance=1e-8))
    model = LogisticRegression(C=c, tol=1e-9, max_iter=20000).fit(x, y)
    assert fit.weights.numpy() == pytest.approx(model.coef_, rel=1e-3, abs=1e-4)
    ours = objective(fit.weights.numpy(), fit.bias.numpy(), x, y, c)
    assert ours == pytest.approx(objective(model.coef_, model.intercept_, x, y, c), rel=1e-9)
    assert fit.objective * c * len(x) == pytest.approx(ours * c, rel=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("c", [1e-3, 0.1, 10.0])
def test_both_solvers_give_the_same_probabilities(classes, c):
    x, y = correlated(classes=classes)
    ours, theirs = (Logistic(c, solver=solver).fit(x, y) for solver in ("torch", "sklearn"))
    # float32, and C = 10 is nearly flat
    assert ours.predict_proba(x) == pytest.approx(theirs.predict_proba(x), abs=1e-2)


@pytest.mark.parametrize("solver", ["torch", "sklearn"])
def test_a_class_that_a_fold_lacks_gets_no_probability(solver):
    x, y = correlated()
    y = np.where(y == 1, 2, y)
    p = fit_classifier(ProbeProtocol(c=(1.0,), solver=solver), x, y, np.arange(300)).scores(x)
    assert p.shape == (300, 4)
    assert not p[:, 1].any()


@pytest.mark.parametrize("name", list(PROBES))
def test_every_protocol_learns_what_is_there(name):
    x, y = correlated(n=600)
    protocol = PROBES[name].model_copy(update={"steps": 300})
    model = fit_classifier(protocol, x[:400], y[:400], np.arange(400))
    accuracy = (model.scores(x[400:]).argmax(1) == y[400:]).mean()
    assert accuracy > 0.4  # chance 0.25
    assert model.facts


def test_published_constants():
    vatt, mmv, mil = PROBES["vatt"], PROBES["mmv"], PROBES["mil-nce"]
    assert (vatt.classifier, vatt.train_windows, vatt.test_windows, vatt.steps) == ("low-rank", 1, 4, 50_000)
    model = build_classifier(vatt)[-1]
    assert (model.rank, model.dropout, model.l2, model.lr, model.batch) == (128, 0.9, 0.1, 5e-4, 64)
    assert (mmv.c, mmv.scaling, mmv.test_windows) == ((1e-3,), "standard", 10)
    assert (mil.c, mil.scaling) == ((100.0,), "none")


def test_svm_is_scikit_learns_and_says_when_it_was_stopped(monkeypatch):
    x, y = correlated()
    svm = ProbeProtocol(classifier="svm", scaling="none", c=(1e-3,))
    plain = LinearSVC(C=1e-3, dual="auto", max_iter=10000, random_state=0).fit(x, y)
    fitted = fit_classifier(svm, x, y, np.arange(len(x)))
    assert fitted.scores(x) == pytest.approx(plain.decision_function(x))
    assert "stopped after rounds" not in fitted.facts
    monkeypatch.setattr(classifiers, "MAX_ROUNDS", 1)
    hard = fit_classifier(svm.model_copy(update={"c": (100.0,)}), x, y, np.arange(len(x)))
    assert "stopped after rounds" in hard.facts


def test_svm_with_two_classes_and_a_missing_one():
    x, y = correlated(classes=2)
    model = fit_classifier(ProbeProtocol(classifier="svm", c=(0.1,)), x, y * 2, np.arange(len(x)))
    assert set(model.scores(x).argmax(1)) == {0, 2}


def test_neighbours_vote_by_similarity():
    x = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)
    protocol = ProbeProtocol(classifier="neighbours", neighbours=3, tau=0.1)
    model = fit_classifier(protocol, x, np.array([0, 0, 1]), np.arange(3))
    scores = model.scores(np.array([[2, 0], [0, 3]], np.float32))
    w = np.exp((np.array([1, 1 / np.sqrt(1.01), 0]) - 1) / 0.1)
    assert scores[0] == pytest.approx([(w[0] + w[1]) / w.sum(), w[2] / w.sum()], rel=1e-5)
    assert scores[1].argmax() == 1


def test_low_rank_same_seed_same_scores():
    x, y = correlated()

    def scores(seed):
        protocol = ProbeProtocol(classifier="low-rank", scaling="none", steps=30, seed=seed)
        return fit_classifier(protocol, x, y, np.arange(len(x))).scores(x)

    assert scores(1).tolist() == scores(1).tolist()
    assert scores(1).tolist() != scores(2).tolist()


def test_large_sets_take_the_torch_solver(monkeypatch):
    from harmonize_cli.evaluation.classifiers import logistic

    monkeypatch.setattr(logistic, "LARGE", 1)
    monkeypatch.setattr(logistic, "LogisticRegression", None)
    x, y = correlated()
    model = fit_classifier(ProbeProtocol(c=(0.1, 1.0), inner_folds=2), x, y, np.arange(len(x)))
    assert (model.scores(x).argmax(1) == y).mean() > 0.5
