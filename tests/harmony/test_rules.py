"""Every rule against the optimisation or published algorithm that defines it, on explicit gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import RULES, conflict_cosine, make_rule

OURS = [name for name in RULES if name != "torchjd"]
TWO = [name for name in OURS if name not in ("sum", "realign")]


def gradients(seed: int, dim: int = 5, K: int = 2, B: int = 3) -> Tensor:
    """[B, K, dim] of very different lengths, conflicting and not."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.exp(torch.randn(B, K, 1, generator=g, dtype=torch.float64))
    return torch.randn(B, K, dim, generator=g, dtype=torch.float64) * lengths


def gram_of(g: Tensor) -> Tensor:
    return g @ g.transpose(1, 2)


def update_of(name: str, g: Tensor) -> Tensor:
    return torch.einsum("bk,bkp->bp", make_rule(name)(gram_of(g)), g)


def pcgrad(rows: list[Tensor]) -> Tensor:
    """The published loop, in fixed order."""
    total = torch.zeros_like(rows[0])
    for i, g in enumerate(rows):
        piece = g.clone()
        for j, other in enumerate(rows):
            if i != j and piece @ other < 0:
                piece = piece - (piece @ other) / (other @ other) * other
        total += piece
    return total


@pytest.mark.parametrize("K", [2, 3, 4])
@pytest.mark.parametrize("seed", range(10))
def test_realign_is_pcgrad_run_on_explicit_gradients(seed: int, K: int) -> None:
    g = gradients(seed, K=K)
    got = update_of("realign", g)
    for sample, update in zip(g, got, strict=True):
        torch.testing.assert_close(update, pcgrad(list(sample)))


@pytest.mark.parametrize("seed", range(20))
def test_realigned_pieces_have_cosine_minus_rho_and_the_known_length(seed: int) -> None:
    g = gradients(seed)
    g[:, 1] *= -torch.sign((g[:, 0] * g[:, 1]).sum(1, keepdim=True))  # make all of them conflict
    gram = gram_of(g)
    a, b, c = gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]
    rho = b / (a * c).sqrt()
    pieces = g[:, 0] - (b / c)[:, None] * g[:, 1], g[:, 1] - (b / a)[:, None] * g[:, 0]
    torch.testing.assert_close(torch.cosine_similarity(*pieces), -rho)
    update = update_of("realign", g)
    torch.testing.assert_close(update, pieces[0] + pieces[1])
    torch.testing.assert_close(update.square().sum(1), (1 - rho**2) * (a + c - 2 * b))


@pytest.mark.parametrize("target", [-0.5, 0.0, 0.3, 0.9])
def test_gradvac_reaches_the_target_cosine_by_adding_the_other_gradient(target: float) -> None:
    g = gradients(3, B=50)
    w = make_rule(f"gradvac:{target}")(gram_of(g))
    rho = torch.cosine_similarity(g[:, 0], g[:, 1])
    for sample, (alpha, beta), cosine in zip(g, w, rho, strict=True):
        moved = sample[0] + (beta - 1) * sample[1], sample[1] + (alpha - 1) * sample[0]
        wanted = max(cosine.item(), target)
        assert torch.cosine_similarity(moved[0], sample[1], dim=0).item() == pytest.approx(wanted)
        assert torch.cosine_similarity(moved[1], sample[0], dim=0).item() == pytest.approx(wanted)


def test_gradvac_at_zero_is_realign() -> None:
    gram = gram_of(gradients(5, B=50))
    torch.testing.assert_close(make_rule("gradvac")(gram), make_rule("realign")(gram))


def combinations(sample: Tensor, points: int = 200_001) -> tuple[Tensor, Tensor]:
    w = torch.linspace(0, 1, points, dtype=torch.float64)
    return w, w[:, None] * sample[0] + (1 - w)[:, None] * sample[1]


@pytest.mark.parametrize("seed", range(8))
def test_mgda_is_the_shortest_convex_combination(seed: int) -> None:
    for sample, update in zip(g := gradients(seed), update_of("mgda", g), strict=True):
        lengths = combinations(sample)[1].norm(dim=1)
        assert update.norm().item() <= lengths.min().item() + 1e-12


@pytest.mark.parametrize("seed", range(8))
def test_imtl_g_projects_equally_on_both_unit_gradients(seed: int) -> None:
    g = gradients(seed)
    update = update_of("imtl_g", g)
    units = g / g.norm(dim=2, keepdim=True)
    torch.testing.assert_close((update * units[:, 0]).sum(1), (update * units[:, 1]).sum(1))
    torch.testing.assert_close(make_rule("imtl_g")(gram_of(g)).sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(8))
def test_nash_solves_its_bargaining_equation(seed: int) -> None:
    gram = gram_of(gradients(seed))
    w = make_rule("nash")(gram)
    torch.testing.assert_close((gram @ w[..., None])[..., 0], 1 / w)


@pytest.mark.parametrize("seed", range(8))
def test_aligned_is_the_balanced_projection_of_aligned_mtl(seed: int) -> None:
    gram = gram_of(gradients(seed))
    values, vectors = torch.linalg.eigh(gram)
    root = vectors @ torch.diag_embed(values.rsqrt()) @ vectors.transpose(1, 2)
    want = values[:, :1].sqrt() * root.sum(2)
    torch.testing.assert_close(make_rule("aligned")(gram), want)


@pytest.mark.parametrize("radius", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(6))
def test_cagrad_minimises_its_dual(seed: int, radius: float) -> None:
    g = gradients(seed)
    for sample, update in zip(g, update_of(f"cagrad:{radius}", g), strict=True):
        mean = sample.mean(0)
        reach = radius * mean.norm()
        # dual of CAGrad, on a grid: min_w <g_w, g_0> + reach |g_w|; then the update is g_0 + reach g_w/|g_w|
        _, g_w = combinations(sample)
        dual = g_w @ mean + reach * g_w.norm(dim=1)
        best = g_w[dual.argmin()]
        torch.testing.assert_close(update, mean + reach * best / best.norm(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_mmpareto_is_the_shortest_direction_at_one_and_a_half_times_the_sums_length(seed: int) -> None:
    g = gradients(seed)
    for sample, update in zip(g, update_of("mmpareto", g), strict=True):
        total = sample.sum(0)
        assert update.norm().item() == pytest.approx(1.5 * total.norm().item())
        if sample[0] @ sample[1] < 0:
            Q = (sample[0] - sample[1]).square().sum()
            w = ((sample[1] - sample[0]) @ sample[1] / Q).item()
            shortest = w * sample[0] + (1 - w) * sample[1]
            assert torch.cosine_similarity(update, shortest, dim=0).item() == pytest.approx(1)
        else:
            torch.testing.assert_close(update, 1.5 * total)


@pytest.mark.parametrize("name", OURS)
def test_swapping_the_losses_swaps_the_weights(name: str) -> None:
    gram = gram_of(gradients(11, B=100))
    torch.testing.assert_close(make_rule(name)(gram.flip(1, 2)), make_rule(name)(gram).flip(1))


SCALE_DEGREE = dict.fromkeys(OURS, 0) | {"nash": -1}


@pytest.mark.parametrize("name", OURS)
@given(scale=st.floats(1e-12, 1e12))
@settings(max_examples=20, deadline=None)
def test_a_common_scale_of_the_gradients_scales_the_weights_as_known(name: str, scale: float) -> None:
    gram = gram_of(gradients(12, B=20))
    want = make_rule(name)(gram) * scale ** SCALE_DEGREE[name]
    torch.testing.assert_close(make_rule(name)(gram * scale**2), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", OURS)
def test_degenerate_gradients_give_finite_weights(name: str) -> None:
    one = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    zero = torch.zeros_like(one)
    cases = [(one, zero), (zero, zero), (one, one), (one, -one), (one, 1e-9 * one), (one, -1e9 * one)]
    w = make_rule(name)(gram_of(torch.stack([torch.stack(case) for case in cases])))
    assert w.isfinite().all()
    torch.testing.assert_close(w[:2], torch.ones(2, 2, dtype=torch.float64))


def test_gradients_that_are_not_finite_get_weight_one() -> None:
    gram = torch.full((2, 2, 2), math.nan)
    gram[1] = math.inf
    assert (make_rule("realign")(gram) == 1).all()
    assert conflict_cosine(gram).isnan().all()


def test_moving_gradvac_follows_the_mean_cosine_and_keeps_its_state() -> None:
    rule = make_rule("gradvac:ema:0.5")
    rule.observe(torch.tensor([0.2, math.nan, 0.4]))
    rule.observe(torch.tensor([math.nan]))
    assert rule.state_dict() == pytest.approx({"target": 0.15})
    other = make_rule("gradvac:ema")
    other.load_state_dict(rule.state_dict())
    gram = gram_of(gradients(2))
    torch.testing.assert_close(other(gram), make_rule("gradvac:0.15")(gram))


@pytest.mark.parametrize(
    "name",
    [
        "nonsense",
        "mgda:3",
        "cagrad:x",
        "cagrad:nan",
        "cagrad:-1",
        "cagrad:",
        "cagrad:1:2",
        "gradvac:ema:y",
        "gradvac:ema:0",
        "gradvac:1.5",
        "gradvac:0.1:0.2",
    ],
)
def test_a_wrong_rule_is_named(name: str) -> None:
    with pytest.raises(BadInput, match=name.split(":", maxsplit=1)[0]):
        make_rule(name)


@pytest.mark.parametrize("name", TWO)
def test_rules_for_two_losses_refuse_three(name: str) -> None:
    with pytest.raises(BadInput, match="two losses"):
        make_rule(name)(torch.eye(3).expand(2, 3, 3))
