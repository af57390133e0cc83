"""Schedules, what is kept, what a rejected sample loses, and the controls of equal cost."""

import math

import pytest
import torch

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Gate, make_rule
from harmonize_cli.harmony._policy import Policy

NAN = math.nan
COSINE = torch.tensor([-0.5, -0.1, NAN, 0.1, 0.6])


def grams(cosines: list[float], ratio: float = 1.0) -> torch.Tensor:
    """Gradients of lengths 1 and `ratio`."""
    return torch.tensor([[[1, c * ratio], [c * ratio, ratio**2]] for c in cosines], dtype=torch.float64)


def test_schedules_start_and_end_where_they_should() -> None:
    linear = Gate(start=-0.4, end=0.2, steps=10, warmup=5)
    assert [linear.level(s) for s in (0, 4)] == [None, None]
    assert [linear.level(s) for s in (5, 10, 15, 99)] == pytest.approx([-0.4, -0.1, 0.2, 0.2])
    cosine = Gate(schedule="cosine", start=-0.4, end=0.2, steps=10)
    assert [cosine.level(s) for s in (0, 5, 10)] == pytest.approx([-0.4, -0.1, 0.2])
    assert cosine.level(1) == pytest.approx(-0.4 + 0.6 * (1 - math.cos(math.pi / 10)) / 2)
    assert Gate(schedule="constant", end=0.1).level(0) == 0.1


def test_samples_above_the_threshold_pass_and_undefined_ones_always() -> None:
    gate = Gate(schedule="constant", end=0.0)
    assert gate.keep(COSINE, 0).tolist() == [False, False, True, True, True]
    assert Gate(start=0.9, steps=9, warmup=3).keep(COSINE, 2).all()


def test_quantile_rejects_a_share_of_the_defined_samples() -> None:
    gate = Gate(schedule="quantile", start=0.0, end=0.5, steps=2)
    assert gate.keep(COSINE, 0).all()
    assert gate.keep(COSINE, 1).tolist() == [False, True, True, True, True]
    assert gate.keep(COSINE, 2).tolist() == [False, False, True, True, True]


def test_the_best_samples_fill_the_minimum_share() -> None:
    gate = Gate(schedule="constant", end=0.9, min_share=0.5)
    assert gate.keep(COSINE, 0).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize(
    "bad",
    [
        {"schedule": "square"},
        {"end": 2.0},
        {"end": math.nan},
        {"schedule": "quantile", "start": -0.3},
        {"min_share": 1.5},
        {"steps": 0},
        {"warmup": -1},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="gate"):
        Gate(**{"steps": 10} | bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "quantile"])
def test_a_moving_threshold_needs_its_length(schedule: str) -> None:
    """Without one the ramp would be over at the second step."""
    with pytest.raises(BadInput, match=r"gate\.steps: missing"):
        Gate(schedule, start=0.1, end=0.2)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"gate\.steps: missing"):
        Gate()
    assert Gate(schedule, start=0.2, end=0.2).level(7) == 0.2  # type: ignore[arg-type]
    assert Gate("constant").level(7) == 0.0


def decide(policy: Policy, cosines: list[float], step: int = 0, ratio: float = 1.0):  # type: ignore[no-untyped-def]
    gram = grams(cosines, ratio)
    return policy.decide(gram, torch.ones(len(cosines), dtype=torch.bool), step, ["va", "vt"])


def test_the_gate_decides_first_then_the_rule() -> None:
    found = decide(Policy(make_rule("realign"), Gate(schedule="constant", end=-0.3)), [-0.5, -0.2, 0.4])
    torch.testing.assert_close(found.weights, torch.tensor([[0, 0], [1.2, 1.2], [1, 1]], dtype=torch.float64))
    assert found.kept.tolist() == [False, True, True]
    assert found.threshold == -0.3


@pytest.mark.parametrize(
    ("rejected", "left"), [("both", [0, 0]), ("one", [1, 0]), ("va", [0, 1]), ("vt", [1, 0])]
)
def test_what_a_rejected_sample_loses(rejected: str, left: list[int]) -> None:
    gate = Gate(schedule="constant", end=0.0, rejected=rejected)
    found = decide(Policy(make_rule("realign"), gate), [-0.5, 0.5])
    assert found.weights[0].tolist() == left
    assert found.taking_part.tolist() == [left, [1, 1]]


def test_one_of_three_is_the_loss_that_agrees_least() -> None:
    g = torch.tensor([[[1.0, 0.1], [-1.0, 0.2], [1.0, -0.1]]])
    gate = Gate(schedule="constant", end=0.0, rejected="one")
    found = Policy(make_rule("sum"), gate).decide(g @ g.mT, torch.tensor([True]), 0, ["a", "b", "c"])
    assert found.weights.tolist() == [[1, 0, 1]]


def test_an_unknown_loss_to_lose_is_named() -> None:
    with pytest.raises(BadInput, match="xy"):
        decide(Policy(make_rule("sum"), Gate(schedule="constant", rejected="xy")), [-1.0])


def test_samples_with_one_loss_have_no_conflict_weight_one_and_stay() -> None:
    policy = Policy(make_rule("mgda"), Gate(schedule="constant", end=0.9))
    found = policy.decide(grams([-0.5, 0.5]), torch.tensor([False, True]), 0, ["va", "vt"])
    assert found.cosine[0].isnan()
    assert found.weights.tolist() == [[1, 1], [0, 0]]


def test_random_drops_as_many_as_the_gate_but_others() -> None:
    cosines = torch.linspace(-1, 1, 41).tolist()
    gate = Gate(schedule="constant", end=0.2)
    honest = decide(Policy(make_rule("sum"), gate), cosines)
    drawn = [
        decide(Policy(make_rule("sum"), gate, "random", seed), cosines, step)
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    for found in drawn:
        assert found.kept.sum() == honest.kept.sum()
        assert not torch.equal(found.kept, honest.kept)
    assert not torch.equal(drawn[0].kept, drawn[1].kept)
    again = decide(Policy(make_rule("sum"), gate, "random", 0), cosines, 0)
    assert torch.equal(again.kept, drawn[0].kept)


def test_shuffled_judges_every_sample_by_another_ones_gram() -> None:
    cosines = torch.linspace(-0.9, 0.9, 21).tolist()
    honest = decide(Policy(make_rule("realign")), cosines, ratio=2.0)
    found = decide(Policy(make_rule("realign"), control="shuffled"), cosines, ratio=2.0)
    assert not torch.equal(found.weights, honest.weights)
    assert sorted(found.weights.tolist()) == sorted(honest.weights.tolist())
    torch.testing.assert_close(found.cosine, honest.cosine)  # the report stays honest


def test_norm_keeps_the_length_of_the_rules_update_and_the_plain_direction() -> None:
    cosines = [-0.9, -0.2, 0.5]
    gram = grams(cosines, 3.0)
    rule = decide(Policy(make_rule("realign")), cosines, ratio=3.0).weights
    norm = decide(Policy(make_rule("realign"), control="norm"), cosines, ratio=3.0).weights
    torch.testing.assert_close(norm[:, 0], norm[:, 1])
    length = [torch.einsum("uk,ukl,ul->u", w, gram, w) for w in (rule, norm)]
    torch.testing.assert_close(*length)
    assert norm[2].tolist() == [1, 1]


def test_random_without_a_gate_is_refused() -> None:
    with pytest.raises(BadInput, match="gate"):
        Policy(make_rule("sum"), control="random")
