"""Losses that a gate takes away: at the heads' outputs, so that BatchNorm in the heads stays whole."""

import pytest
import torch
from harmony_models import Checkpointed, TriModal, losses_of, make_inputs
from torch import Tensor, nn
from torch.nn.functional import relu

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Gate, Harmonizer, HarmonyReport

HALF = Gate(schedule="quantile", start=0.5, end=0.5)


class Nested(TriModal):
    """VATT's order: the va embedding, with BatchNorm, is what the vt embedding is made from."""

    def __init__(self) -> None:
        super().__init__(batch_norm=True)
        self.heads["video_vt"] = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))

    def embed(self, pooled: dict[str, Tensor]) -> dict[str, Tensor]:
        e = {"video_va": self.heads["video_va"](pooled["video"])}
        e["video_vt"] = self.heads["video_vt"](relu(e["video_va"]))
        e["audio_va"] = self.heads["audio_va"](pooled["audio"])
        e["text_vt"] = self.heads["text_vt"](pooled["text"])
        return e


@pytest.fixture(params=[TriModal, Nested])
def model(request: pytest.FixtureRequest) -> TriModal:
    torch.manual_seed(0)
    made: TriModal = request.param().double()
    return made


def step(model: TriModal, inputs: dict[str, Tensor], **options: object) -> HarmonyReport:
    harmonizer = Harmonizer(model, **options)  # type: ignore[arg-type]
    with harmonizer.record():
        pooled = model.encode(inputs)
        losses = losses_of(harmonizer.through_gate(model.embed(pooled)))
    return harmonizer.backward(losses, pooled)


def grads(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def reference(model: TriModal, inputs: dict[str, Tensor], report: HarmonyReport) -> dict[str, Tensor]:
    """By autograd alone: rejected samples' embeddings are constants in the losses; what is left comes down
    through the heads, and gets the rule's weights on its way into the encoder."""
    model.zero_grad()
    pooled = model.encode(inputs)
    free_pooled = {m: z.detach().requires_grad_() for m, z in pooled.items()}
    e = model.embed(free_pooled)
    free = {name: x.detach().requires_grad_() for name, x in e.items()}
    total = {m: torch.zeros_like(z) for m, z in pooled.items()}
    for k, loss in enumerate(losses_of(free).values()):
        at = torch.autograd.grad(loss, list(free.values()), allow_unused=True)
        part = (report.weights[:, k] != 0).double()
        down = [
            (e[name], d * part.view(-1, *[1] * (d.dim() - 1)))
            for name, d in zip(free, at, strict=True)
            if d is not None
        ]
        for z in free_pooled.values():
            z.grad = None
        torch.autograd.backward([y for y, _ in down], [d for _, d in down], retain_graph=True)
        weight = torch.where(part == 0, 1.0, report.weights[:, k].double())
        for m, z in free_pooled.items():
            if z.grad is not None:
                total[m] += z.grad * weight.view(-1, *[1] * (z.dim() - 1))
    torch.autograd.backward(list(pooled.values()), list(total.values()))
    return grads(model)


@pytest.mark.parametrize("rule", ["sum", "realign"])
@pytest.mark.parametrize("rejected", ["both", "vt"])
@pytest.mark.parametrize("scope", ["backbone", "representation", "all"])
def test_a_rejected_sample_is_a_constant_in_the_losses(
    model: TriModal, scope: str, rejected: str, rule: str
) -> None:
    inputs = make_inputs(B=6, dtype=torch.float64)
    gate = Gate(schedule="quantile", start=0.5, end=0.5, rejected=rejected)
    report = step(model, inputs, gate=gate, rule=rule, scope=scope)
    assert report.kept.sum() == 3
    got, want = grads(model), reference(model, inputs, report)
    for name in want:
        if scope == "all" and name.startswith("heads") and rule != "sum":
            continue  # there the heads get the rule's weights too
        torch.testing.assert_close(got[name], want[name], rtol=1e-6, atol=1e-12, msg=name)


def test_a_gate_leaves_alone_what_batch_norm_takes_out() -> None:
    """A shift of all rows in front of BatchNorm changes no loss, whoever is rejected."""
    torch.manual_seed(1)
    body, head = (
        nn.Linear(6, 5).double(),
        nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)).double(),
    )
    model = nn.ModuleDict({"body": body, "head": head})
    x, targets = torch.randn(8, 6, dtype=torch.float64), torch.randn(2, 8, 4, dtype=torch.float64)
    harmonizer = Harmonizer(model, rule="sum", scope="body", gate=HALF)
    with harmonizer.record():
        z = body(x)
        e = harmonizer.through_gate({"e": head(z)})["e"]
        losses = {"one": (e * targets[0]).sum(), "two": (e * targets[1]).sum()}
    report = harmonizer.backward(losses, z)
    assert report.kept.sum() == 4
    assert body.weight.grad.norm() > 0.1
    assert body.bias.grad.norm() < 1e-10


def test_losing_one_loss_keeps_the_other(model: TriModal) -> None:
    inputs = make_inputs(dtype=torch.float64)
    report = step(model, inputs, gate=Gate(schedule="constant", end=1.0, rejected="vt"))
    assert (report.weights == torch.tensor([1.0, 0.0])).all()
    got = grads(model)
    model.zero_grad()
    losses_of(model.embed(model.encode(inputs)))["va"].backward()
    for name, want in grads(model).items():
        torch.testing.assert_close(got[name], want)


def test_a_learned_temperature_is_not_gated() -> None:
    model, tau = TriModal(), nn.ParameterDict({"tau": nn.Parameter(torch.tensor(0.5))})
    inputs, found = make_inputs(), []
    for gate in (None, Gate(schedule="constant", end=1.0)):
        tau.zero_grad()
        harmonizer = Harmonizer({"": model, "loss": tau}, gate=gate)
        with harmonizer.record():
            pooled = model.encode(inputs)
            embeddings = harmonizer.through_gate(model.embed(pooled))
            losses = {name: loss / tau["tau"] for name, loss in losses_of(embeddings).items()}
        harmonizer.backward(losses, pooled)
        found.append(tau["tau"].grad.clone())
    assert found[0] != 0
    torch.testing.assert_close(found[0], found[1])


def test_checkpointed_blocks_can_be_gated() -> None:
    torch.manual_seed(0)
    model, inputs = Nested(), make_inputs(B=6)
    step(model, inputs, gate=HALF)
    want = grads(model)
    model.zero_grad()
    model.blocks = nn.ModuleList(Checkpointed(block) for block in model.blocks)
    step(model, inputs, gate=HALF)
    for (name, got), expected in zip(grads(model).items(), want.values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_a_gate_that_does_not_know_the_heads_says_so() -> None:
    model = TriModal()
    harmonizer = Harmonizer(model, gate=HALF)
    with harmonizer.record():
        pooled = model.encode(make_inputs())
    with pytest.raises(BadInput, match="through_gate"):
        harmonizer.backward(losses_of(model.embed(pooled)), pooled)


def test_losses_that_pass_the_gate_by_are_refused() -> None:
    model = TriModal()
    harmonizer = Harmonizer(model, gate=HALF)
    with harmonizer.record():
        pooled = model.encode(make_inputs())
        embeddings = model.embed(pooled)
        losses = losses_of(embeddings | {"video_va": harmonizer.through_gate(embeddings)["video_va"]})
    with pytest.raises(BadInput, match="through_gate"):
        harmonizer.backward(losses, pooled)
