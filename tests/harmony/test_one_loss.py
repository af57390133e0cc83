"""A step that one loss alone reaches, such as a batch without any text, is a plain step in every scope."""

from typing import Any

import pytest
import torch
from harmony_models import TriModal, contrast, losses_of, make_inputs
from torch import Tensor, nn

from harmonize_cli.harmony import CachedStep, Gate, Harmonizer, HarmonyReport

SCOPES = ["auto", "backbone", "shared", "all", "representation", "blocks,norm", "words,tables.text"]


class Towers(nn.Module):
    """Nothing in common."""

    def __init__(self) -> None:
        super().__init__()
        self.video, self.audio, self.text = (nn.Linear(6, 5) for _ in range(3))

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {m: torch.tanh(getattr(self, m)(x)) for m, x in inputs.items()}


def losses_without_text(model: TriModal, pooled: dict[str, Tensor], second: str) -> dict[str, Tensor]:
    e = model.embed(pooled)
    losses = {"va": contrast(e["video_va"], e["audio_va"].unsqueeze(1))}
    if second == "constant":
        losses["vt"] = torch.zeros(())
    if second == "another parameter's":
        losses["vt"] = model.heads["text_vt"].bias.sum() * 0
    return losses


def assert_plain(model: nn.Module, report: HarmonyReport, want: list[Tensor | None]) -> None:
    assert (report.weights == 1).all()
    assert report.kept.all()
    assert report.cosine.isnan().all()
    for p, grad in zip(model.parameters(), want, strict=True):
        got = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(got, torch.zeros_like(p) if grad is None else grad)


@pytest.mark.parametrize("second", ["absent", "constant", "another parameter's"])
@pytest.mark.parametrize("granularity", ["sample", "microbatch:2", "batch"])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_batch_without_text(scope: str, granularity: str, second: str) -> None:
    torch.manual_seed(0)
    model, inputs = TriModal().double(), make_inputs(dtype=torch.float64)
    del inputs["text"]
    harmonizer = Harmonizer(model, scope=scope, granularity=granularity)
    with harmonizer.record():
        pooled = model.encode(inputs)
    losses = losses_without_text(model, pooled, second)
    want = torch.autograd.grad(losses["va"], list(model.parameters()), retain_graph=True, allow_unused=True)
    report = harmonizer.backward(
        losses, pooled, valid={"vt": torch.zeros(4, dtype=torch.bool)} if "vt" in losses else None
    )
    assert_plain(model, report, want)
    assert (report.gram[:, 0, 0] > 0).all() == (scope != "words,tables.text")


@pytest.mark.parametrize("scope", ["auto", "shared", "representation", "all"])
def test_between_separate_towers(scope: str) -> None:
    torch.manual_seed(0)
    model = Towers()
    inputs = {m: torch.randn(4, 6) for m in ("video", "audio")}
    harmonizer = Harmonizer(model, scope=scope)
    with harmonizer.record():
        pooled = model.encode(inputs)
    loss = contrast(pooled["video"], pooled["audio"].unsqueeze(1))
    want = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    assert_plain(model, harmonizer.backward({"va": loss}, pooled), want)


@pytest.mark.parametrize(
    "options",
    [{"rule": "mgda"}, {"gate": Gate(schedule="constant", rejected="vt")}, {"control": "norm"}],
    ids=str,
)
def test_whatever_decides_otherwise(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, inputs = TriModal().double(), make_inputs(dtype=torch.float64)
    del inputs["text"]
    harmonizer = Harmonizer(model, **options)
    with harmonizer.record():
        pooled = model.encode(inputs)
        e = harmonizer.through_gate(model.embed(pooled))
        loss = contrast(e["video_va"], e["audio_va"].unsqueeze(1))
    want = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    assert_plain(model, harmonizer.backward({"va": loss}, pooled), want)


@pytest.mark.parametrize("scope", ["backbone", "shared", "representation"])
def test_in_chunks_and_between_steps_with_text(scope: str) -> None:
    torch.manual_seed(0)
    model, harmonizer = TriModal().double(), None
    harmonizer = Harmonizer(model, scope=scope)
    step = CachedStep(harmonizer, model.encode)
    for text in (True, False, True):
        inputs = make_inputs(dtype=torch.float64)
        if not text:
            del inputs["text"]

        def losses(z: dict[str, Tensor], text: bool = text) -> dict[str, Tensor]:
            return losses_of(model.embed(z)) if text else losses_without_text(model, z, "absent")

        want = torch.autograd.grad(
            sum(losses(model.encode(inputs)).values()), list(model.parameters()), allow_unused=True
        )
        model.zero_grad()
        report = step([{m: x[i : i + 2] for m, x in inputs.items()} for i in (0, 2)], losses)
        if not text:
            assert_plain(model, report, want)
