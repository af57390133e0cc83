"""The promise, on every model of the zoo: `.grad` is exactly sum_i sum_k w[i, k] g[k, i], or BadInput says
why not."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch
import zoo_calls
import zoo_layers
import zoo_routing
import zoo_towers
import zoo_weights
from torch import Tensor, nn
from zoo import CASES, Case, Losses, Pooled, Reference, contrasts, default_dtype, reference_of

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Harmonizer, HarmonyReport

FILES = [zoo_calls, zoo_layers, zoo_routing, zoo_towers, zoo_weights]
"""They register their cases."""

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
SCOPES = ["backbone", "shared", "all", "representation"]
NAMES = [pytest.param(c.name, marks=[pytest.mark.long] * c.long) for c in CASES.values()]


def built(
    case: Case, dtype: torch.dtype, *, plain: bool = False
) -> tuple[nn.Module, Callable[[], Pooled], Callable[..., Losses]]:
    """The same model, inputs and random state at every call."""
    torch.manual_seed(3)
    with default_dtype(dtype):
        model, encode, *losses = (case.plain if plain and case.plain is not None else case.build)()
    torch.manual_seed(5)
    own = losses[0] if losses else None
    return model, encode, contrasts if own is None else lambda pooled, number, mask: own(pooled)


@lru_cache(maxsize=2)
def reference(name: str, dtype: torch.dtype, number: int = 2, masked: bool = False) -> Reference:
    with default_dtype(dtype):
        model, encode, losses = built(CASES[name], dtype, plain=True)
        pooled = encode()
        return reference_of(model, pooled, losses(pooled, number, mask_of(masked)))


def mask_of(masked: bool) -> Tensor | None:
    return torch.tensor([True, False, True, True]) if masked else None


def check(
    name: str, dtype: torch.dtype, number: int = 2, masked: bool = False, preset: bool = False, **options: Any
) -> HarmonyReport | None:
    """One step; preset: on top of gradients that are there already. Returns None where refused as listed."""
    case = CASES[name]
    want = reference(name, dtype, number, masked)
    scope = options["scope"]
    model, encode, make_losses = built(case, dtype)
    params = [p for p in model.parameters() if p.requires_grad]
    before = torch.zeros_like(want.plain)
    if preset:
        before = torch.linspace(-1, 1, len(before), dtype=dtype) * want.plain.abs().max()
        for p, part in zip(params, before.split([p.numel() for p in params]), strict=True):
            p.grad = torch.empty_like(p).copy_(part.view_as(p))
    refused, refusable = refusal(case, want, scope)
    harmonizer = Harmonizer(model, **options)
    with default_dtype(dtype):
        try:
            with harmonizer.record():
                pooled = encode()
            losses = make_losses(pooled, number, mask_of(masked))
            valid = {"loss 1": torch.tensor([True, False, True, True])} if masked else None
            report = harmonizer.backward(losses, pooled, valid=valid)
        except BadInput as error:
            assert_says(error, "|".join(filter(None, [refused, refusable])))
            return None
    assert not refused, f"NOT REFUSED, expected a BadInput that says {refused!r}"
    for key, z in pooled.items():
        torch.testing.assert_close(z, want.pooled[key], msg=f"RECORDING CHANGES {key}")
    compare(
        report,
        model,
        want,
        before if preset else None,
        tolerance=TOLERANCE[dtype],
        scope=scope,
        rule=options["rule"],
    )
    return report


def refusal(case: Case, want: Reference, scope: str) -> tuple[str, str]:
    """What the BadInput must say where the step must be refused, and where it may be."""
    if scope == "representation":
        empty = "" if want.representation.shape[2] else "two losses|shared|representation"
        return (
            ("|".join(filter(None, [empty, case.refused])), case.refusable)
            if case.everywhere
            else (empty, "")
        )
    if want.scopes[scope].any():
        return case.refused, case.refusable
    empty = "shared" if scope == "backbone" and want.scopes["shared"].any() else "scope|parameter"
    return "|".join(filter(None, [empty, case.refused])), case.refusable


def assert_says(error: BadInput, expected: str) -> None:
    if not expected:
        pytest.fail(f"REFUSED, though it should be exact: {error}")
    if not re.search(expected, str(error)):
        pytest.fail(f"REFUSED, but without saying {expected!r}: {error}")


def compare(
    report: HarmonyReport,
    model: nn.Module,
    want: Reference,
    before: Tensor | None,
    *,
    tolerance: float,
    scope: str,
    rule: str,
) -> None:
    gram = want.gram(scope)
    length = gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    length = length.clamp_min(1e-3 * length.max().item())
    off = ((report.gram.to(gram) - gram).abs() / (length[:, :, None] * length[:, None, :])).max().item()
    weights = report.weights.to(want.grads)
    ideal = want.update(weights)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    got = torch.cat([flat_grad(p) for p in named.values()])
    if before is not None:
        got = got - before
    largest = ideal.abs().max().clamp_min(1e-2 * want.grads.abs().max().item())
    wrong = ((got - ideal).abs().max() / largest).item()
    if not max(off, wrong) < tolerance:
        pytest.fail(f"WRONG: Gram off by {off:.1e}, update off by {wrong:.1e}")
    assert_weights(report, rule)
    for (n, p), reached in zip(named.items(), want.reached, strict=True):
        grad = p.grad
        if not reached and before is None:
            assert grad is None, f"{n}: no loss reaches it, so it must have no gradient"
        if grad is not None:
            assert grad.shape == p.shape
            assert grad.dtype == p.dtype
            assert not grad.requires_grad
    for n, p in model.named_parameters():
        assert p.requires_grad or p.grad is None, f"{n} is frozen and got a gradient"
    own = [p.grad.untyped_storage().data_ptr() for p in named.values() if dense(p.grad)]
    assert len(own) == len(set(own)), "two parameters share one gradient tensor"


def flat_grad(p: Tensor) -> Tensor:
    return torch.zeros_like(p).flatten() if p.grad is None else p.grad.detach().to_dense().flatten()


def dense(grad: Tensor | None) -> bool:
    return grad is not None and not grad.is_sparse


def assert_weights(report: HarmonyReport, rule: str) -> None:
    """The rule's weights follow from the reported Gram."""
    if rule == "sum":
        assert (report.weights == 1).all()
    elif report.gram.shape[1] == 2:
        gram = report.gram.double()
        inner = gram[:, :1, 1].clamp_max(0)
        expected = 1 - inner / gram.diagonal(dim1=1, dim2=2).clamp_min(1e-300)
        torch.testing.assert_close(report.weights.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("rule", ["sum", "realign"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", NAMES)
def test_exact_or_refused(name: str, scope: str, rule: str) -> None:
    check(name, torch.float64, scope=scope, rule=rule, preset=rule == "realign")


@pytest.mark.parametrize("scope", ["backbone", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_exact_in_single_precision(name: str, scope: str) -> None:
    check(name, torch.float32, scope=scope, rule="realign")
