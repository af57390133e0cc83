"""NCE and MIL-NCE against a plain loop over pairs, written from the formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize_cli.objectives.base import not_negatives
from harmonize_cli.objectives.config import LossConfig
from harmonize_cli.objectives.losses.nce import mil_nce
from harmonize_cli.objectives.objective import Objective


def loop(video, partner, tau, *, video_mask, partner_mask, ignored, symmetric):
    """loss_i as in docs: one exponential at a time; None where a sample has no loss."""
    B, C, _ = partner.shape

    def s(j, i, c):
        cos = torch.dot(video[j], partner[i, c]) / (video[j].norm() * partner[i, c].norm())
        return math.exp(float(cos) / tau)

    losses = []
    for i in range(B):
        own = [s(i, i, c) for c in range(C) if partner_mask[i, c]]
        if not own or not video_mask[i]:
            losses.append(None)
            continue
        others = [j for j in range(B) if j == i or not ignored(i, j)]
        row = sum(s(i, j, c) for j in others for c in range(C) if partner_mask[j, c])
        col = sum(s(j, i, c) for j in others if video_mask[j] for c in range(C) if partner_mask[i, c])
        if symmetric:
            losses.append(math.log(row) + math.log(col) - 2 * math.log(sum(own)))
        else:
            losses.append(math.log(row + col) - math.log(sum(own)))
    return losses


@given(
    seed=st.integers(0, 2**31),
    B=st.integers(2, 5),
    C=st.integers(1, 3),
    tau=st.sampled_from([0.07, 0.5]),
    symmetric=st.booleans(),
    same=st.sampled_from(["", "groups", "texts", "both"]),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_loop_over_pairs(*, seed, B, C, tau, symmetric, same):
    rng = torch.Generator().manual_seed(seed)
    video = torch.randn(B, 6, generator=rng, dtype=torch.float64)
    partner = torch.randn(B, C, 6, generator=rng, dtype=torch.float64)
    video_mask = torch.rand(B, generator=rng) < 0.8
    partner_mask = torch.rand(B, C, generator=rng) < 0.7
    groups = torch.randint(0, 3, (B,), generator=rng) if same in ("groups", "both") else None
    texts = torch.randint(0, 4, (B, C), generator=rng) if same in ("texts", "both") else None

    def ignored(i, j):
        shared = texts is not None and any(
            texts[i, k] == texts[j, n] and partner_mask[i, k] and partner_mask[j, n]
            for k in range(C)
            for n in range(C)
        )
        return (groups is not None and groups[i] == groups[j]) or shared

    term = mil_nce(
        video,
        partner,
        tau,
        anchor_mask=video_mask,
        partner_mask=partner_mask,
        skip=not_negatives(groups, texts, partner_mask),
        symmetric=symmetric,
    )
    want = loop(
        video,
        partner,
        tau,
        video_mask=video_mask,
        partner_mask=partner_mask,
        ignored=ignored,
        symmetric=symmetric,
    )
    for i, value in enumerate(want):
        assert bool(term.valid[i]) == (value is not None)
        assert float(term.per_sample[i]) == pytest.approx(value or 0.0, rel=1e-9, abs=1e-9)
    known = [value for value in want if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    assert float(term.value.detach()) == pytest.approx(mean, rel=1e-9, abs=1e-9)


@given(seed=st.integers(0, 2**31), tau=st.floats(0.01, 1))
@settings(max_examples=30, deadline=None)
def test_never_below_log_2(seed, tau):
    rng = torch.Generator().manual_seed(seed)
    term = mil_nce(torch.randn(7, 4, generator=rng), torch.randn(7, 1, 4, generator=rng), tau)
    assert (term.per_sample >= math.log(2) - 1e-5).all()


def test_perfect_pairs_reach_log_2():
    x = torch.eye(8)
    assert float(mil_nce(x, x.unsqueeze(1), 0.01).value) == pytest.approx(math.log(2), abs=1e-5)


def test_masked_partners_get_no_gradient_and_leave_the_rest_alone():
    v = torch.randn(6, 4, requires_grad=True)
    t = torch.randn(6, 2, 4, requires_grad=True)
    mask = torch.ones(6, 2, dtype=torch.bool)
    mask[1] = False
    mask[3, 1] = False
    term = mil_nce(v, t, partner_mask=mask)
    term.value.backward()
    assert (t.grad[~mask] == 0).all()
    assert (t.grad[mask] != 0).any(-1).all()
    # the video without text is still a negative for the texts of others
    assert v.grad[1].abs().sum() > 0
    changed = t.detach().clone()
    changed[~mask] = 100 * torch.randn(int((~mask).sum()), 4)
    assert torch.equal(mil_nce(v, changed, partner_mask=mask).per_sample, term.per_sample)


def test_nothing_valid_gives_zero_and_finite_gradients():
    v = torch.randn(3, 4, requires_grad=True)
    term = mil_nce(v, torch.randn(3, 1, 4), partner_mask=torch.zeros(3, 1, dtype=torch.bool))
    term.value.backward()
    assert float(term.value.detach()) == 0
    assert torch.equal(v.grad, torch.zeros(3, 4))


def test_total_is_the_weighted_mean_and_weights_act():
    torch.manual_seed(0)
    names = {"video_va": (4, 8), "audio_va": (4, 8), "video_vt": (4, 5), "audio_vt": (4, 5)}
    emb = {name: torch.randn(shape) for name, shape in names.items()} | {"text_vt": torch.randn(4, 2, 5)}
    present = {m: torch.ones(4, dtype=torch.bool) for m in ("video", "audio", "text")}
    texts = torch.ones(4, 2, dtype=torch.bool)
    plain = Objective(LossConfig())(emb, present, texts)
    va, vt = (float(plain[name].per_sample.mean()) for name in ("va", "vt"))
    assert float(plain["va"].value + plain["vt"].value) == pytest.approx((va + vt) / 2)
    weighted = Objective(LossConfig.model_validate({"va": 3, "at": 1}))(emb, present, texts)
    at = float(weighted["at"].per_sample.mean())
    assert float(sum(term.value for term in weighted.values())) == pytest.approx((3 * va + vt + at) / 5)
    del emb["text_vt"]
    only = Objective(LossConfig())(emb, present, None)
    assert list(only) == ["va"]
    assert float(only["va"].value) == pytest.approx(va)


def test_learned_temperature_has_a_gradient():
    loss = Objective(LossConfig.model_validate({"learn_temperature": True, "vt": 0}))
    emb = {"video_va": torch.randn(4, 8), "audio_va": torch.randn(4, 8)}
    present = {m: torch.ones(4, dtype=torch.bool) for m in ("video", "audio")}
    loss(emb, present, None)["va"].value.backward()
    assert loss.terms["va"].log_tau.grad.abs() > 0
    assert not [p for p in Objective(LossConfig()).parameters() if p.requires_grad]
