"""The step inside a training loop: heads, missing modalities, precision, accumulation, checkpointing."""

import math

import pytest
import torch
from harmony_models import Checkpointed, TriModal, losses_of, make_inputs
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Gate, Harmonizer, HarmonyReport


def step(
    model: TriModal, inputs: dict[str, Tensor], mask: Tensor | None = None, **options: object
) -> HarmonyReport:
    harmonizer = Harmonizer(model, **options)  # type: ignore[arg-type]
    with harmonizer.record():
        pooled = model.encode(inputs)
        losses = losses_of(harmonizer.through_gate(model.embed(pooled)), mask)
    valid = None if mask is None else {"vt": mask}
    return harmonizer.backward(losses, pooled, valid=valid)


def grads(model: nn.Module) -> Tensor:
    return torch.cat(
        [torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


@pytest.fixture
def model() -> TriModal:
    torch.manual_seed(0)
    return TriModal()


def test_a_sample_without_text_has_no_conflict_weight_one_and_is_never_gated(model: TriModal) -> None:
    mask = torch.tensor([True, False, True, True])
    gate = Gate(schedule="constant", end=1.0)
    for scope in ("backbone", "representation"):
        model.zero_grad()
        report = step(model, make_inputs(), mask, gate=gate, scope=scope)
        assert report.cosine.isnan().tolist() == [False, True, False, False]
        assert report.kept.tolist() == [False, True, False, False]
        assert report.weights[1].tolist() == [1, 1]
        assert report.scalars()["undefined_share"] == 0.25
        # only sample 1 is left, upstream and in the heads
        alone = grads(model)
        assert alone.norm() > 0
        assert model.heads["text_vt"].weight.grad.norm() == 0


def test_a_batch_without_any_text_is_a_plain_step(model: TriModal) -> None:
    inputs = make_inputs()
    del inputs["text"]
    harmonizer = Harmonizer(model)
    with harmonizer.record():
        pooled = model.encode(inputs)
    e = model.embed(pooled)
    report = harmonizer.backward(
        {"va": e["video_va"].sum() * 0 + (e["video_va"] * e["audio_va"]).sum()}, pooled
    )
    got = grads(model)
    model.zero_grad()
    e = model.embed(model.encode(inputs))
    (e["video_va"] * e["audio_va"]).sum().backward()
    torch.testing.assert_close(got, grads(model))
    assert report.cosine.isnan().all()


@pytest.mark.parametrize("options", [{}, {"scope": "representation"}, {"granularity": "batch"}])
def test_accumulated_steps_add_up(model: TriModal, options: dict[str, str]) -> None:
    total = torch.zeros(sum(p.numel() for p in model.parameters()))
    for seed in (0, 1):
        model.zero_grad()
        step(model, make_inputs(seed=seed), **options)
        total += grads(model)
    model.zero_grad()
    for seed in (0, 1):
        step(model, make_inputs(seed=seed), **options)
    torch.testing.assert_close(grads(model), total, rtol=1e-4, atol=1e-7)


def test_activation_checkpointing_changes_nothing(model: TriModal) -> None:
    model.blocks[0].drop.p = 0.3  # the recomputation must draw the same numbers

    torch.manual_seed(5)
    plain = step(model, make_inputs())
    want = grads(model)
    model.zero_grad()
    model.blocks = nn.ModuleList(Checkpointed(block) for block in model.blocks)
    torch.manual_seed(5)
    report = step(model, make_inputs())
    torch.testing.assert_close(report.gram, plain.gram)
    torch.testing.assert_close(grads(model), want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scope", ["backbone", "representation"])
def test_mixed_precision_stays_near_float32(model: TriModal, dtype: torch.dtype, scope: str) -> None:
    want = step(model, make_inputs(), scope=scope)
    full = grads(model)
    model.zero_grad()
    harmonizer = Harmonizer(model, scope=scope)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=dtype == torch.float16)
    with torch.autocast("cpu", dtype=dtype), harmonizer.record():
        pooled = model.encode(make_inputs())
        losses = losses_of({name: x.float() for name, x in model.embed(pooled).items()})
    report = harmonizer.backward(losses, pooled, scaler=scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler.unscale_(optimizer)
    assert report.gram.dtype == torch.float32
    torch.testing.assert_close(report.gram, want.gram, rtol=0.05, atol=0.02 * want.gram.abs().max().item())
    assert (report.cosine - want.cosine).abs().max() < 0.06
    error = (grads(model) - full).norm() / full.norm()
    assert error < 0.08  # bfloat16 keeps 8 bits


def test_an_overflow_in_float16_reaches_the_scaler(model: TriModal) -> None:
    harmonizer = Harmonizer(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    with torch.autocast("cpu", dtype=torch.float16), harmonizer.record():
        pooled = model.encode(make_inputs())
        losses = losses_of({name: x.float() for name, x in model.embed(pooled).items()})
    report = harmonizer.backward(losses, pooled, scaler=scaler)
    assert report.weights.isfinite().all()
    before = [p.detach().clone() for p in model.parameters()]
    scaler.step(torch.optim.SGD(model.parameters(), lr=0.1))
    scaler.update()
    assert scaler.get_scale() < 2.0**40
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_clipping_acts_on_the_harmonized_gradient(model: TriModal) -> None:
    step(model, make_inputs())
    want = grads(model)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert norm.item() == pytest.approx(want.norm().item(), rel=1e-5)
    torch.testing.assert_close(grads(model), want * (0.01 / want.norm()), rtol=1e-3, atol=1e-9)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("whole", [False, True])
def test_a_compiled_backbone_gives_the_same_step(model: TriModal, whole: bool) -> None:
    want = step(model, make_inputs())
    full = grads(model)
    model.zero_grad()
    if whole:
        model.blocks = nn.ModuleList(torch.compile(block) for block in model.blocks)
    else:
        for block in model.blocks:
            block.compile()
    report = step(model, make_inputs())
    torch.testing.assert_close(report.gram, want.gram, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grads(model), full, rtol=1e-3, atol=1e-6)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_scope_representation_runs_compiled(model: TriModal) -> None:
    want = step(model, make_inputs(), scope="representation")
    full = grads(model)
    model.zero_grad()
    for block in model.blocks:
        block.compile(backend="aot_eager")
    report = step(model, make_inputs(), scope="representation")
    torch.testing.assert_close(report.gram, want.gram, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grads(model), full, rtol=1e-3, atol=1e-6)


def test_the_update_does_not_depend_on_the_order_of_the_losses(model: TriModal) -> None:
    inputs = make_inputs()
    first = step(model, inputs)
    want = grads(model)
    model.zero_grad()
    harmonizer = Harmonizer(model)
    with harmonizer.record():
        pooled = model.encode(inputs)
    losses = losses_of(model.embed(pooled))
    swapped = harmonizer.backward({"vt": losses["vt"], "va": losses["va"]}, pooled)
    torch.testing.assert_close(swapped.gram.flip(1, 2), first.gram)
    torch.testing.assert_close(grads(model), want)


def test_the_report_has_what_a_log_and_a_ledger_need(model: TriModal) -> None:
    report = step(model, make_inputs(), gate=Gate(schedule="constant", end=-0.5))
    scalars = report.scalars()
    wanted = {
        "conflict_share", "cosine_mean", "cosine_q05", "cosine_q50", "cosine_q95", "norm_ratio", "weight_va",
        "weight_vt", "gated_share", "undefined_share", "threshold", "seconds",
    }  # fmt: skip
    assert wanted <= scalars.keys()
    assert all(math.isfinite(value) for value in scalars.values())
    assert scalars["conflict_share"] == (report.cosine < 0).float().mean().item()
    gram = report.gram
    assert scalars["norm_ratio"] == pytest.approx((gram[:, 0, 0] / gram[:, 1, 1]).median().item())
    assert {"cosine", "kept", "norm_va", "norm_vt", "weight_va", "weight_vt"} == report.arrays().keys()
    torch.testing.assert_close(report.arrays()["norm_va"], gram[:, 0, 0].sqrt())


def test_measuring_alone_leaves_the_gradients(model: TriModal) -> None:
    want = step(model, make_inputs()).gram
    model.zero_grad()
    harmonizer = Harmonizer(model)
    with harmonizer.record():
        pooled = model.encode(make_inputs())
    grams = harmonizer.grams(losses_of(model.embed(pooled)), pooled, ["backbone", "representation", "norm"])
    assert list(grams) == ["backbone", "representation", "norm"]
    torch.testing.assert_close(grams["backbone"], want)
    assert all(p.grad is None for p in model.parameters())


def test_strange_parameters_are_refused(model: TriModal) -> None:
    harmonizer = Harmonizer(model)
    tau = nn.Parameter(torch.ones(()))
    with harmonizer.record():
        pooled = model.encode(make_inputs())
    losses = {name: loss * tau for name, loss in losses_of(model.embed(pooled)).items()}
    with pytest.raises(BadInput, match="outside the given modules"):
        harmonizer.backward(losses, pooled)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "nowhere"}, "nowhere"),
        ({"granularity": "microbatch:3"}, "don't divide"),
        ({"granularity": "some"}, "granularity"),
        ({"gram": "sketch:x"}, "gram"),
        ({"scope": " , "}, "scope"),
        ({"granularity": "batch", "gate": Gate("constant")}, "gate"),
        ({"control": "magic"}, "control"),
    ],
)
def test_bad_settings_are_named(model: TriModal, options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        step(model, make_inputs(), **options)


def test_a_forgotten_record_is_explained(model: TriModal) -> None:
    pooled = model.encode(make_inputs())
    with pytest.raises(BadInput, match="record"):
        Harmonizer(model).backward(losses_of(model.embed(pooled)), pooled)


def test_moving_gradvac_moves_and_resumes(model: TriModal) -> None:
    harmonizer = Harmonizer(model, rule="gradvac:ema:0.5")
    with harmonizer.record():
        pooled = model.encode(make_inputs())
    report = harmonizer.backward(losses_of(model.embed(pooled)), pooled)
    state = harmonizer.state_dict()
    assert state["rule"]["target"] == pytest.approx(0.5 * report.cosine.mean().item(), rel=1e-5)
    other = Harmonizer(model, rule="gradvac:ema:0.5")
    other.load_state_dict(state)
    assert other.state_dict() == state
