"""The brute-force check that users run on their own model."""

import pytest
import torch
from harmony_models import TriModal, losses_of, make_inputs
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Harmonizer, verify


def forward_of(model: TriModal):  # type: ignore[no-untyped-def]
    def forward() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        pooled = model.encode(make_inputs())
        return losses_of(model.embed(pooled)), pooled

    return forward


@pytest.mark.parametrize("scope", ["backbone", "representation", "all"])
@pytest.mark.parametrize("granularity", ["sample", "microbatch:2"])
def test_it_finds_the_engine_exact_and_leaves_no_trace(scope: str, granularity: str) -> None:
    torch.manual_seed(0)
    model = TriModal()
    for block in model.blocks:
        block.drop.p = 0.2
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    found = verify(Harmonizer(model, scope=scope, granularity=granularity), forward_of(model))
    assert found.worst < 1e-4
    assert found.units == (4 if granularity == "sample" else 2)
    assert "worst relative error" in str(found)
    assert all((p.grad == 1).all() for p in model.parameters())


class Mixing(nn.Module):
    """Centres its tokens over the batch: in `one`, no sample's gradient is what its own row says."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def encode(self, x: Tensor) -> Tensor:
        h = self.one(x)
        out: Tensor = self.two(h - h.mean(0))
        return out


def test_a_model_that_mixes_samples_is_exact_too() -> None:
    torch.manual_seed(0)
    model, x = Mixing(), torch.randn(5, 4)

    def forward() -> tuple[dict[str, Tensor], Tensor]:
        z = model.encode(x)
        return {"one": z.square().sum(), "two": z[0] @ z[1]}, z

    harmonizer = Harmonizer(model)
    assert verify(harmonizer, forward).worst < 1e-4
    assert harmonizer.reader.slow == ("one.bias", "one.weight")


def test_there_is_nothing_to_verify_for_whole_batches() -> None:
    model = TriModal()
    with pytest.raises(BadInput, match="batch"):
        verify(Harmonizer(model, granularity="batch"), forward_of(model))


def test_batch_norm_in_the_heads_and_frozen_in_the_encoder_can_be_checked() -> None:
    torch.manual_seed(0)
    body, norm, head = (
        nn.Linear(4, 6),
        nn.BatchNorm1d(6).eval(),
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)),
    )
    x = torch.randn(7, 4)

    def forward() -> tuple[dict[str, Tensor], Tensor]:
        z = norm(body(x))
        return {"one": head(z)[:, 0].square().sum(), "two": z.sum()}, z

    harmonizer = Harmonizer({"body": body, "norm": norm, "head": head})
    before = head[1].running_mean.clone()
    assert verify(harmonizer, forward).worst < 1e-4
    assert torch.equal(head[1].running_mean, before)
