"""Every registered loss against its formula, term by term; masks, groups, processes and settings."""

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize_cli.config import validate
from harmonize_cli.errors import BadInput
from harmonize_cli.objectives.base import LOSSES, Loss, not_negatives
from harmonize_cli.objectives.config import PAIRS, LossConfig
from harmonize_cli.objectives.objective import Objective

TERMS = [
    "va",
    "vt",
    {"on": "vt", "symmetric": True},
    "siglip:va",
    {"kind": "siglip", "on": "vt", "bias": -1.0},
    "rince:va",
    {"kind": "rince", "on": "vt", "q": 0.5, "lam": 0.2, "temperature": 0.2},
    {"kind": "gramian", "on": "vat", "temperature": 0.3},
    {"kind": "gramian", "on": "at"},
    "symile:vat",
    {"kind": "symile", "on": "vat", "negatives": "all"},
]


def make(term) -> Loss:
    (section,) = LossConfig.model_validate({"terms": [term]}).terms
    return LOSSES[section.kind](section)


def world(loss: Loss, seed: int, B: int, C: int):
    """Vectors, masks and groups; text has C captions."""
    rng = torch.Generator().manual_seed(seed)
    counts = [C if m == "text" else 1 for m in PAIRS[loss.config.on]]
    x = [torch.randn(B, c, 5, generator=rng, dtype=torch.float64) for c in counts]
    masks = [torch.rand(B, c, generator=rng) < 0.75 for c in counts]
    return x, masks, torch.randint(0, B, (B,), generator=rng)


def reference(loss: Loss, x, masks, groups) -> list[float | None]:
    """One pair, triple and exponential at a time."""
    config, B = loss.config, len(groups)
    tau = config.temperature
    u = [each / each.norm(dim=-1, keepdim=True) for each in x]
    has = [[[c for c in range(m.shape[1]) if m[i, c]] for i in range(B)] for m in masks]
    others = [[j for j in range(B) if j == i or groups[j] != groups[i]] for i in range(B)]
    found: list[float | None] = []
    for i in range(B):
        if not all(h[i] for h in has):
            found.append(None)
        elif config.kind == "symile":
            found.append(symile(config, u, has, others, i, tau))
        elif config.kind == "siglip":
            found.append(siglip(config, u, has, others, i))
        else:
            found.append(softmax_like(config, u, has, others, i, tau))
    return found


def siglip(config, u, has, others, i):
    def term(v, t):
        share = 1 / len(has[1][t])
        sign = 1 if v == t else -1
        z = [float(u[0][v, 0] @ u[1][t, c]) / config.temperature + config.bias for c in has[1][t]]
        return sum(share * math.log1p(math.exp(-sign * each)) for each in z)

    rows = sum(term(i, j) for j in others[i] if has[1][j])
    columns = sum(term(j, i) for j in others[i] if has[0][j])
    return (rows + columns) / 2


def softmax_like(config, u, has, others, i, tau):
    """NCE, RINCE and Gramian: a score of (tuple of the others, anchor's caption)."""
    last = len(u) - 1

    def score(j, n, c):
        vectors = [x[j, 0] for x in u[:-1]] + [u[-1][n, c]]
        if config.kind == "gramian":
            stacked = torch.stack(vectors)
            return math.exp(-math.sqrt(max(float(torch.linalg.det(stacked @ stacked.T)), 1e-6)) / tau)
        return math.exp(float(vectors[0] @ vectors[1]) / tau)

    own = sum(score(i, i, c) for c in has[last][i])
    row = sum(score(i, j, c) for j in others[i] for c in has[last][j])
    whole = [j for j in others[i] if all(h[j] for h in has[:-1])]
    column = sum(score(j, i, c) for j in whole for c in has[last][i])
    if config.kind == "gramian":
        return (math.log(row) + math.log(column)) / 2 - math.log(own)
    if config.kind == "rince":
        q, lam = config.q, config.lam
        return sum(-(own**q) / q + (lam * both) ** q / q for both in (row, column)) / 2
    if config.symmetric:
        return math.log(row) + math.log(column) - 2 * math.log(own)
    return math.log(row + column) - math.log(own)


def symile(config, u, has, others, i, tau):
    def mip(*at):
        product = torch.ones_like(u[0][0, 0])
        for x, (n, c) in zip(u, at, strict=True):
            product = product * x[n, c]
        return math.exp(float(product.sum()) / tau)

    def total(samples):
        each = [[(n, c) for c in h[n]] for h, n in zip(has, samples, strict=True)]
        return sum(mip(*at) for at in itertools.product(*each))

    positive, loss = total((i, i, i)), 0.0
    B = len(others)
    for anchor in range(3):
        if config.negatives == "all":
            partners = [(j, k) for j in others[i] for k in others[i] if (j, k) != (i, i)]
        else:
            partners = [(j, (j + 1) % B) for j in others[i] if (j + 1) % B in others[i] and B > 1]
        wrong = 0.0
        for pair in partners:
            samples = list(pair)
            samples.insert(anchor, i)
            wrong += total(samples)
        loss += math.log(positive + wrong) - math.log(positive)
    return loss / 3


@pytest.mark.parametrize("term", TERMS, ids=str)
@given(seed=st.integers(0, 2**31), B=st.integers(1, 5), C=st.integers(1, 3), grouped=st.booleans())
@settings(max_examples=25, deadline=None)
def test_equals_the_formula(term, seed, B, C, grouped):
    loss = make(term).double()
    loss.log_tau.data = torch.tensor(loss.config.temperature, dtype=torch.float64).log()
    x, masks, groups = world(loss, seed, B, C)
    if not grouped:
        groups = torch.arange(B)
    output = loss(x, masks, not_negatives(groups, None, None))
    want = reference(loss, x, masks, groups)
    for i, value in enumerate(want):
        assert bool(output.valid[i]) == (value is not None)
        assert float(output.per_sample[i]) == pytest.approx(value or 0.0, rel=1e-6, abs=1e-9)
    known = [value for value in want if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    assert float(output.value.detach()) == pytest.approx(mean, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_what_is_missing_has_no_part(term):
    """Its values change nothing, and gradients are finite even where nothing is there."""
    loss = make(term)
    x, masks, _ = world(loss, 3, 6, 2)
    x = [each.float().requires_grad_() for each in x]
    output = loss(x, masks, None)
    output.value.backward()
    assert 0 < int(output.valid.sum()) < 6
    for each, mask in zip(x, masks, strict=True):
        assert (each.grad[~mask] == 0).all()
        assert each.grad.isfinite().all()
        assert each.grad[mask].abs().sum() > 0
    pairs = zip(x, masks, strict=True)
    noise = [torch.where(m.unsqueeze(-1), e.detach(), 100 * torch.randn_like(e)) for e, m in pairs]
    assert torch.equal(loss(noise, masks, None).per_sample, output.per_sample)
    nothing = loss(x, [torch.zeros_like(mask) for mask in masks], None)
    nothing.value.backward()
    assert float(nothing.value.detach()) == 0
    assert all(each.grad.isfinite().all() for each in x)


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_aligned_samples_cost_less(term):
    loss = make(term)
    torch.manual_seed(0)
    masks = [torch.ones(6, 1, dtype=torch.bool)] * len(PAIRS[loss.config.on])
    vectors = [torch.eye(6).unsqueeze(1) + 0.3 * torch.randn(6, 1, 6) for _ in masks]
    right = loss(vectors, masks, None).value
    wrong = loss([*vectors[:-1], vectors[-1].roll(1, 0)], masks, None).value
    assert float(right.detach()) < float(wrong.detach())


def one_process(index: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2
    )
    found = []
    for term in TERMS:
        loss = make(term).double()
        x, masks, groups = world(loss, 11, 6, 2)
        rows = slice(3 * index, 3 * index + 3)
        mine = [each[rows].clone().requires_grad_() for each in x]
        output = loss(mine, [m[rows] for m in masks], not_negatives(groups[rows], None, None))
        output.value.backward()
        found.append((output.value.detach(), output.per_sample, [each.grad for each in mine]))
    torch.save(found, folder / f"rank-{index}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_make_the_loss_of_one(tmp_path):
    torch.multiprocessing.spawn(one_process, (tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank-{index}.pt") for index in range(2)]
    for term, first, second in zip(TERMS, *ranks, strict=True):
        loss = make(term).double()
        x, masks, groups = world(loss, 11, 6, 2)
        x = [each.requires_grad_() for each in x]
        output = loss(x, masks, not_negatives(groups, None, None))
        output.value.backward()
        assert float(first[0] + second[0]) == pytest.approx(float(output.value.detach())), term
        torch.testing.assert_close(torch.cat([first[1], second[1]]), output.per_sample)
        for k, each in enumerate(x):
            torch.testing.assert_close(torch.cat([first[2][k], second[2][k]]), each.grad)


def test_terms_may_be_short_and_old_settings_go_on():
    config = LossConfig.model_validate({"terms": ["tv", "gramian:vat", {"on": "vt", "kind": "siglip"}]})
    assert list(config.named) == ["nce_vt", "vat", "siglip_vt"]
    assert LossConfig.model_validate(config.model_dump(mode="json")) == config
    old = {"temperature": 0.1, "learn_temperature": True, "symmetric": True, "va": 2.0, "vt": 1.0, "at": 0.0}
    terms = LossConfig.model_validate(old | {"ignore_same_group": False, "ignore_same_text": True}).named
    assert [(n, t.weight, t.temperature, t.symmetric) for n, t in terms.items()] == [
        ("va", 2.0, 0.1, True),
        ("vt", 1.0, 0.1, True),
    ]
    assert Objective(LossConfig()).load_state_dict(
        {"tau.va.log_tau": torch.tensor(0.5), "tau.vt.log_tau": torch.tensor(0.25)}
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"at": 1, "terms": ["va"]}, "at: give these weights in terms"),
        ({"terms": "va"}, "terms: Input should be a valid tuple"),
        ({"terms": []}, "at least one loss"),
        ({"va": 0, "vt": 0}, "one of va, vt, at must be above 0"),
        ({"terms": ["vv"]}, "terms.0.on: expected one of va, vt, at, vat"),
        ({"terms": ["va", "siglp:vt"]}, "terms.1: loss 'siglp': unknown .did you mean 'siglip'"),
        ({"terms": ["siglip:vat"]}, "siglip compares 2 modalities, not vat"),
        ({"terms": ["symile:va"]}, "symile compares 3 modalities"),
        (
            {"terms": [{"kind": "rince", "on": "va", "q": 2}]},
            "terms.0.q: Input should be less than or equal to 1",
        ),
        ({"terms": [{"kind": "rince", "on": "va", "learn_temperature": True}]}, "keep it fixed"),
        ({"terms": [{"kind": "rince", "on": "va", "q": 1, "temperature": 0.01}]}, "overflows; lower q"),
        ({"terms": ["va", {"on": "va", "weight": 2}]}, "several are called nce_va; set name"),
        ({"terms": [{"on": "va", "weight": -1}]}, "terms.0.weight"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(BadInput, match=message):
        validate(LossConfig, values, source="test")
