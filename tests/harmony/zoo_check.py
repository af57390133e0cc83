"""One step of the harmonizer on a case of the zoo, compared with the reference."""

import copy
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, default_generator, nn
from zoo import CASES, B, Case, Encode, Losses, contrasts, default_dtype
from zoo_reference import Reference, reference_of

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Harmonizer, HarmonyReport

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 3e-2}
LACKING = torch.tensor([True, False, True, True])
"""The samples that have the second loss, where one lacks it."""


@dataclass(frozen=True, slots=True)
class Step:
    """dtype: bfloat16 is autocast of a float32 model. lacking: sample 1 has no second loss."""

    name: str
    dtype: torch.dtype = torch.float64
    losses: int = 2
    lacking: bool = False

    @property
    def case(self) -> Case:
        return CASES[self.name]

    def build(self, *, plain: bool = False) -> tuple[nn.Module, Encode, Callable[..., Losses]]:
        """The same model, inputs and random state at every call."""
        default_generator.manual_seed(3)
        model, encode, *own = (self.case.plain if plain and self.case.plain else self.case.build)()
        default_generator.manual_seed(5)
        autocast = torch.autocast("cpu", torch.bfloat16) if self.dtype == torch.bfloat16 else nullcontext()

        def cast() -> dict[str, Tensor]:
            with autocast:
                return encode()

        def losses(pooled: dict[str, Tensor]) -> Losses:
            wide = {n: z.float() for n, z in pooled.items()} if self.dtype == torch.bfloat16 else pooled
            return own[0](wide) if own else contrasts(wide, self.losses, LACKING if self.lacking else None)

        return model, cast, losses

    def default(self) -> Any:
        return default_dtype(torch.float32 if self.dtype == torch.bfloat16 else self.dtype)


@lru_cache(maxsize=1000)
def reference(step: Step) -> Reference:
    with step.default():
        model, encode, losses = step.build(plain=True)
        pooled = encode()
        return reference_of(model, pooled, losses(pooled))


def check(step: Step, *, preset: bool = False, **options: Any) -> HarmonyReport | None:
    """preset: on top of gradients that are there already. None: refused, as listed."""
    want = reference(step)
    must, may = refusal(step.case, want, options)
    with step.default():
        model, encode, make_losses = step.build()
        before = set_gradients(model, want.plain.abs().max()) if preset else None
        harmonizer = Harmonizer(model, **options)
        try:
            with harmonizer.record():
                pooled = encode()
            losses = make_losses(pooled)
            valid = {"loss 1": LACKING} if step.lacking else None
            report = harmonizer.backward(losses, pooled, valid=valid)
        except BadInput as error:
            assert_says(error, must or may)
            return None
    if must:
        pytest.fail(f"NOT REFUSED, expected a BadInput that says {must!r}")
    for name, z in pooled.items():
        torch.testing.assert_close(z, want.pooled[name], msg=f"RECORDING CHANGES {name}")
    assert_step(report, model, want, step, before=before, options=options)
    assert_own_gradients(model, want, preset=preset)
    return report


def later_step(step: Step, **options: Any) -> None:
    """The second step of a harmonizer, after the parameters moved and with other random numbers."""
    with step.default():
        model, encode, make_losses = step.build()
        harmonizer = Harmonizer(model, **options)
        try:
            for count in range(2):
                state = copy.deepcopy(list(model.state_dict().values()))
                default_generator.manual_seed(5 + count)
                with harmonizer.record():
                    pooled = encode()
                report = harmonizer.backward(make_losses(pooled), pooled)
                if count == 0:
                    move(model)
        except BadInput as error:
            must, may = refusal(step.case, reference(step), options)
            assert_says(error, must or may)
            return
        plain, encode, make_losses = step.build(plain=True)
        plain.load_state_dict(dict(zip(plain.state_dict(), state, strict=True)))
        default_generator.manual_seed(6)
        pooled = encode()
        want = reference_of(plain, pooled, make_losses(pooled))
    assert_step(report, model, want, step, before=None, options=options)


def move(model: nn.Module) -> None:
    """As an optimiser would; gradients begin anew."""
    draw = torch.Generator().manual_seed(7)
    for p in model.parameters():
        p.grad = None
        with torch.no_grad():
            p.add_(0.2 * torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p))


def assert_step(
    report: HarmonyReport,
    model: nn.Module,
    want: Reference,
    step: Step,
    *,
    before: Tensor | None,
    options: dict[str, Any],
) -> None:
    tolerance = max(TOLERANCE[step.dtype], step.case.tolerance)
    if step.dtype == torch.bfloat16:
        tolerance += 2 * want.rounding()
    assert_exact(report, model, want, before=before, tolerance=tolerance, options=options)
    assert_weights(report, options["rule"])


def set_gradients(model: nn.Module, largest: Tensor) -> Tensor:
    """Something in every `.grad`; returns all of it laid end to end."""
    params = [p for p in model.parameters() if p.requires_grad]
    sizes = [p.numel() for p in params]
    before = torch.linspace(-1, 1, sum(sizes), dtype=largest.dtype) * largest
    for p, part in zip(params, before.split(sizes), strict=True):
        p.grad = torch.empty_like(p).copy_(part.view_as(p))
    return before


def refusal(case: Case, want: Reference, options: dict[str, Any]) -> tuple[str, str]:
    """What the BadInput says where the step must be refused; and where it may be."""
    scope = options["scope"]
    whole = options.get("granularity") == "batch"
    must, may = case.refused, case.refusable
    if (whole or scope == "representation") and not case.everywhere:
        must, may = "", "|".join(filter(None, [must, may])) if whole else ""  # they know no layers
    if scope == "representation":
        empty = "" if want.representation.shape[2] else "two losses|shared|representation"
    elif want.scopes[scope].any():
        empty = ""
    else:
        empty = "shared" if scope == "backbone" and want.scopes["shared"].any() else "scope|parameter"
    if empty and must:
        return f"{empty}|{must}", may
    return empty or must, may


def assert_says(error: BadInput, expected: str) -> None:
    if not expected:
        pytest.fail(f"REFUSED, though it should be exact: {error}")
    if not re.search(expected, str(error)):
        pytest.fail(f"REFUSED, but without saying {expected!r}: {error}")


def assert_exact(
    report: HarmonyReport,
    model: nn.Module,
    want: Reference,
    *,
    before: Tensor | None,
    tolerance: float,
    options: dict[str, Any],
) -> None:
    off = 0.0
    if options.get("gram", "exact") == "exact":
        units = {"sample": None, "microbatch:2": B // 2, "batch": 1}[options.get("granularity", "sample")]
        off = gram_error(report.gram, want.gram(options["scope"], units))
    got = torch.cat([flat_grad(p) for p in model.parameters() if p.requires_grad])
    ideal = want.update(report.weights)
    largest = ideal.abs().max().clamp_min(1e-2 * want.grads.abs().max().item())
    wrong = ((got - (0 if before is None else before) - ideal).abs().max() / largest).item()
    if not max(off, wrong) < tolerance:
        pytest.fail(f"WRONG: Gram off by {off:.1e}, update off by {wrong:.1e}")


def gram_error(got: Tensor, want: Tensor) -> float:
    """Largest error relative to the product of the two gradients' lengths."""
    assert got.shape == want.shape
    length = want.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    length = length.clamp_min(1e-3 * length.max().item())
    return ((got.to(want) - want).abs() / (length[:, :, None] * length[:, None, :])).max().item()


def assert_weights(report: HarmonyReport, rule: str) -> None:
    """The rule's weights follow from the reported Gram."""
    if rule == "sum":
        assert (report.weights == 1).all()
    elif report.gram.shape[1] == 2:
        gram = report.gram.double()
        inner = gram[:, :1, 1].clamp_max(0)
        expected = 1 - inner / gram.diagonal(dim1=1, dim2=2).clamp_min(1e-300)
        torch.testing.assert_close(report.weights.double(), expected, rtol=1e-4, atol=1e-4)


def assert_own_gradients(model: nn.Module, want: Reference, *, preset: bool) -> None:
    """As plain training leaves them: none where no loss reaches, none shared by two parameters."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for (name, p), reached in zip(named.items(), want.reached, strict=True):
        assert reached or preset or p.grad is None, f"{name}: no loss reaches it, so it must have no gradient"
        if p.grad is not None:
            assert (p.grad.shape, p.grad.dtype, p.grad.requires_grad) == (p.shape, p.dtype, False)
    for name, p in model.named_parameters():
        assert p.requires_grad or p.grad is None, f"{name} is frozen and has a gradient"
    grads = [p.grad for p in named.values() if p.grad is not None and not p.grad.is_sparse]
    for number, grad in enumerate(grads):
        grad.fill_(number)
    for number, grad in enumerate(grads):
        assert (grad == number).all(), "two parameters share one gradient tensor"


def flat_grad(p: Tensor) -> Tensor:
    return torch.zeros_like(p).flatten() if p.grad is None else p.grad.detach().to_dense().flatten()
