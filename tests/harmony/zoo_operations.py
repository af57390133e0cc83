"""The zoo's operations on bare parameters, and graphs that begin before the step."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo import B, Built, D, Net, T, around, case, param, params


def decayed(h: Tensor, w: Tensor) -> Tensor:
    state, states = torch.zeros_like(h[:, 0]), []
    for t in range(h.shape[1]):
        state = w * state + (1 - w) * h[:, t]
        states.append(state)
    return torch.stack(states, 1)


def filtered(h: Tensor, w: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(h, dim=1) * torch.view_as_complex(w), n=T, dim=1)


# weights made before the step
GONE = "record|made|outside|graph is gone|changed in place"


@case("weights made before the step", refusable=GONE)
def made_before() -> Built:
    """A graph that begins before the record, as that of a weight merged once for several calls."""
    x = torch.randn(B, T, 6)
    parts = {"first": nn.Linear(6, D), "A": param(D, 2), "B": param(2, D)}
    net = Net(lambda m, x, W: functional.linear(m.first(x), W).mean(1), **parts)
    W = net.A @ net.B
    return net, lambda: {"z": net(x, W)}


@case("a view of a weight made before the step", refusable=GONE)
def viewed_before() -> Built:
    x = torch.randn(B, T, 6)
    net = Net(lambda m, x, W: (m.first(x).tanh() @ W).mean(1), first=nn.Linear(6, D), W=param(D, D))
    W = net.W.t()
    return net, lambda: {"z": net(x, W)}


@case("hidden values made before the step", refusable=GONE)
def hidden_before() -> Built:
    net = Net(lambda m, h: m.last(h.tanh()).mean(1), first=nn.Linear(6, D), last=nn.Linear(D, D))
    h = net.first(torch.randn(B, T, 6))
    return net, lambda: {"z": net(h)}


# other operations
around(
    "a parameter added after a layer",
    lambda m, h: h + torch.add(m.one(h), m.b).tanh(),
    lambda: {"one": nn.Linear(D, D), "b": param(D)},
)
around("addcmul", lambda m, h: torch.addcmul(m.b, h, m.w, value=2), params(b=(D,), w=(D,)))
around("where on a parameter", lambda m, h: torch.where(h > 0, h, h * m.w), params(w=(D,)))
around(
    "concatenated parameters",
    lambda m, h: functional.linear(h, torch.cat([m.a, m.b])),
    params(a=(3, D), b=(5, D)),
)
around("stacked parameters", lambda m, h: torch.stack([m.a, 2 * m.b]).sum(0) * h, params(a=(D,), b=(D,)))
around(
    "a parameter indexed by tokens",
    lambda m, h: h + m.table[(h.detach()[..., 0] > 0).long()],
    params(table=(2, D)),
)
around(
    "a parameter gathered by tokens",
    lambda m, h: h + m.table.index_select(0, torch.arange(B * T) % 3).view(B, T, D),
    params(table=(3, D)),
)
around("a parameter repeated", lambda m, h: h + m.token.repeat(B, T, 1), params(token=(1, 1, D)))
around(
    "a parameter tiled over samples and flattened",
    lambda m, h: m.one((h + m.table.unsqueeze(0).repeat(B, 1, 1)).flatten(0, 1)).view(B, T, D),
    lambda: {"table": param(T, D), "one": nn.Linear(D, D)},
)
around("outer product of parameters", lambda m, h: h @ torch.outer(m.a, m.b), params(a=(D,), b=(D,)))
around("softmax over a parameter", lambda m, h: (h.unsqueeze(-1) * m.w.softmax(-1)).sum(-1), params(w=(D, 3)))
around("parameters on the left of a product", lambda m, h: m.W @ h, params(W=(T, T)))
around("parameters on the left of a product, T == B", lambda m, h: m.W @ h, params(W=(B, B)), T=B)
around("parameters on the left, einsum", lambda m, h: torch.einsum("st,btd->bsd", m.W, h), params(W=(T, T)))
around("tensordot", lambda m, h: torch.tensordot(h, m.W, dims=([2], [0])), params(W=(D, D)), autocast=False)
around(
    "in-place product with a parameter", lambda m, h: h.clone().mul_(m.w).add_(m.b), params(w=(D,), b=(D,))
)
around("power of a parameter", lambda m, h: torch.tanh(h) * m.w.abs().pow(1.5), params(w=(D,)))
around("complex parameters", lambda m, h: filtered(h, m.w), params(w=(T // 2 + 1, D, 2)), autocast=False)
around("running mean with a learned decay", lambda m, h: decayed(h, m.w.sigmoid()), params(w=(D,)))
around(
    "batched product with an expanded parameter",
    lambda m, h: torch.bmm(h, m.W.unsqueeze(0).expand(B, -1, -1)),
    params(W=(D, D)),
)
around(
    "attention of learned queries, as many as samples",
    lambda m, h: m.att(m.q.unsqueeze(0).expand(B, -1, -1), h, h)[0],
    lambda: {"q": param(B, D), "att": nn.MultiheadAttention(D, 2, batch_first=True)},
)
around(
    "a scalar whose share grows",
    lambda m, h: h + m.gain * (h * m.scale).sin(),
    lambda: {"gain": nn.Parameter(torch.full((D,), 1e-4)), "scale": param()},
)
around("a scalar that divides", lambda m, h: h / (2 + m.scale.abs()), params(scale=()))
