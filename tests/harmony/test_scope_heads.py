"""Heads in scope `all`: read where an operation's rows are the samples', plain everywhere else."""

from collections.abc import Callable

import pytest
import torch
from harmony_models import gram_error, gram_of, per_sample_gradients
from torch import Tensor, nn

from harmonize_cli.harmony import Harmonizer

B, D = 4, 8


class Model(nn.Module):
    def __init__(self, run: Callable[["Model", Tensor], Tensor], *, batch_norm: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.norm = nn.Linear(6, D), nn.Linear(D, D), nn.BatchNorm1d(D)
        self.last = nn.Linear(D, D)
        self.run, self.batch_norm = run, batch_norm

    def losses(self, z: Tensor) -> dict[str, Tensor]:
        y = self.run(self, z)
        return {"one": y.square().sum() + (y[0] * y[1]).sum(), "two": -y.sin().sum()}


def rows(m: Model, z: Tensor) -> Tensor:
    return torch.tanh(m.head(z))


def columns(m: Model, z: Tensor) -> Tensor:
    """[D, B], where D is a multiple of B."""
    return torch.tanh(m.head.weight @ z.T + m.head.bias[:, None])


def shuffled(m: Model, z: Tensor) -> Tensor:
    return torch.tanh(m.head(z[[1, 0, 3, 2]]))


def averaged(m: Model, z: Tensor) -> Tensor:
    return torch.tanh(m.head(z.mean(0).expand(B, -1) * torch.arange(1.0, B + 1)[:, None].to(z)))


def behind_batch_norm(m: Model, z: Tensor) -> Tensor:
    return m.last(m.norm(torch.tanh(m.head(z))))


@pytest.mark.parametrize(
    ("run", "read"), [(rows, True), (columns, False), (shuffled, False), (averaged, False)]
)
@pytest.mark.parametrize("check", [True, False])
def test_the_gram_holds_what_is_read_and_the_rest_is_plain(
    run: Callable[[Model, Tensor], Tensor], read: bool, check: bool
) -> None:
    torch.manual_seed(0)
    model, x = Model(run).double(), torch.randn(B, 6, dtype=torch.float64)
    harmonizer = Harmonizer(model, scope="all", check=check)
    with harmonizer.record():
        z = model.body(x)
        losses = model.losses(z)
    body, head = list(model.body.parameters()), list(model.head.parameters())
    above = per_sample_gradients(list(losses.values()), [z], body)
    plain = torch.stack([flat(torch.autograd.grad(e, head, retain_graph=True)) for e in losses.values()])
    report = harmonizer.backward(losses, z)
    assert harmonizer.in_scope == ["body.bias", "body.weight"] + ["head.bias", "head.weight"] * read
    torch.testing.assert_close(flat([p.grad for p in body]), torch.einsum("uk,ukp->p", report.weights, above))
    if not read:
        assert gram_error(report.gram, gram_of(above)) < 1e-9
        torch.testing.assert_close(flat([p.grad for p in head]), plain.sum(0))
        return
    y = torch.tanh(model.head(z.detach()))
    below = []
    for b in range(B):
        of = {"one": y.square().sum() + (y[0] * y[1]).sum(), "two": -y.sin().sum()}
        delta = [torch.autograd.grad(e, y, retain_graph=True)[0] for e in of.values()]
        below.append(
            torch.stack([flat(torch.autograd.grad(y[b], head, d[b], retain_graph=True)) for d in delta])
        )
    whole = torch.cat([above, torch.stack(below)], 2)
    assert gram_error(report.gram, gram_of(whole)) < 1e-9
    want = torch.einsum("uk,ukp->p", report.weights, torch.stack(below))
    torch.testing.assert_close(flat([p.grad for p in head]), want)


def test_rows_behind_batch_norm_count_for_their_samples() -> None:
    torch.manual_seed(0)
    model = Model(behind_batch_norm).double()
    harmonizer = Harmonizer(model, scope="all")
    with harmonizer.record():
        z = model.body(torch.randn(B, 6, dtype=torch.float64))
        losses = model.losses(z)
    harmonizer.backward(losses, z)
    assert {"head.weight", "last.weight"} <= set(harmonizer.in_scope)


def flat(grads: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten() for g in grads])
