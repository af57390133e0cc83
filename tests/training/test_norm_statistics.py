"""BatchNorm's statistics at evaluation belong to the weights that are evaluated."""

import numpy as np
import pytest
import torch
from torch import nn

from harmonize_cli.models.norm import BatchNorm
from harmonize_cli.training.norm_statistics import SAMPLES, applied, measure, spread


class Batch:
    """Stands for a batch of one input."""

    def __init__(self, x: torch.Tensor) -> None:
        self.inputs, self.real = x, None

    def to(self, device: torch.device) -> "Batch":
        return self


class Net(nn.Module):
    """Two norms, the second behind the first; dropout must not be drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.first, self.drop = nn.Linear(4, 6), BatchNorm(6), nn.Dropout(0.5)
        self.next, self.second = nn.Linear(6, 3), BatchNorm(3)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.lift(x))

    def heads(self, z: torch.Tensor, real: None = None) -> torch.Tensor:
        return self.second(self.next(torch.relu(self.first(z))))


def test_statistics_are_those_of_the_data_whatever_they_were_before() -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(200, 4) * 3 + 40
    for norm in (net.first, net.second):
        norm.running_mean.fill_(-17.0)
        norm.running_var.fill_(1e-6)
    before = torch.get_rng_state()
    found = measure(net, [Batch(x)], torch.device("cpu"))
    assert torch.equal(before, torch.get_rng_state())
    assert net.training
    z = net.lift(x)
    torch.testing.assert_close(found["first.running_mean"], z.mean(0))
    torch.testing.assert_close(found["first.running_var"], z.var(0))
    net.eval()
    with applied(net, found):
        out = net.heads(net.encode(x))
    assert (net.first.running_mean == -17).all()
    assert net.first.num_batches_tracked == 0
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(out.std(0), torch.ones(3), atol=2e-2, rtol=0)


def test_damaged_rows_leave_the_statistics_as_they_were() -> None:
    net = Net()
    assert measure(net, [Batch(torch.full((8, 4), float("nan")))], torch.device("cpu")) == {}
    assert torch.equal(net.first.running_mean, torch.zeros(6))


@pytest.mark.parametrize(("count", "batch"), [(5, 2), (1000, 128), (50_000, 2048), (3, 64)])
def test_parts_are_disjoint_and_spread(count: int, batch: int) -> None:
    parts = spread(np.arange(count), batch)
    together = np.concatenate(parts)
    assert len(together) == len(set(together.tolist())) == min(count, SAMPLES)
    assert max(map(len, parts)) <= min(batch, 256)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert together.max() == count - 1
