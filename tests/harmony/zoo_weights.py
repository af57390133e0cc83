"""The zoo's weights: bare parameters, tied and computed weights, adapters, frozen parts, random numbers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from zoo import B, Built, D, Net, T, around, case, linear, param, params, single


def tied(one: nn.Linear, two: nn.Linear, *, bias: bool = False) -> dict[str, Any]:
    two.weight = one.weight
    if bias:
        two.bias = one.bias
    return {"one": one, "two": two}


def same(layer: nn.Module) -> dict[str, Any]:
    return {"a": nn.Sequential(layer, nn.Tanh()), "b": nn.Sequential(layer)}


def old_weight_norm(layer: nn.Module) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(layer)


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).T


def symmetric(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def cached_twice(m: Any, h: Tensor) -> Tensor:
    with parametrize.cached():
        out: Tensor = m.one(m.one(h).tanh())
    return out


def standardised(layer: nn.Conv1d, x: Tensor) -> Tensor:
    w = layer.weight
    w = (w - w.mean((1, 2), keepdim=True)) / (w.std((1, 2), keepdim=True) + 1e-5)
    return functional.conv1d(x, w, layer.bias, padding=1)


class Lora(nn.Module):
    """As users write it: two bare matrices beside a frozen layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.base = nn.Linear(D, D).requires_grad_(False)
        self.A, self.B = param(2, D), param(D, 2)
        self.magnitude = param(D)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "merged":
            return functional.linear(x, self.base.weight + 0.5 * self.B @ self.A, self.base.bias)
        if self.kind == "dora":
            W = self.base.weight + 0.5 * self.B @ self.A
            W = self.magnitude[:, None] * W / W.norm(dim=1, keepdim=True).detach()
            return functional.linear(x, W, self.base.bias)
        out: Tensor = self.base(x) + 0.5 * (functional.dropout(x, 0.2) @ self.A.T) @ self.B.T
        return out


def part_frozen(layer: nn.Module, name: str) -> nn.Module:
    getattr(layer, name).requires_grad_(False)
    return layer


def without_gradient(layer: nn.Module, h: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = layer(h)
    return out


# bare parameters
around(
    "class token",
    lambda m, h: m.body(torch.cat([m.token.expand(B, 1, D), h], 1)),
    lambda: {"token": param(1, 1, D), "body": nn.Linear(D, D)},
)
around(
    "position table",
    lambda m, h: m.body((h + m.table).tanh()),
    lambda: {"table": param(T, D), "body": nn.Linear(D, D)},
)
around(
    "position table, T == B",
    lambda m, h: m.body((h + m.table).tanh()),
    lambda: {"table": param(B, D), "body": nn.Linear(D, D)},
    T=B,
)
around("scale", lambda m, h: h * m.scale, params(scale=()))
around("scale in log space", lambda m, h: h * m.scale.exp() + m.shift, params(scale=(1,), shift=(D,)))
around(
    "layer scale", lambda m, h: h + m.gamma * m.body(h), lambda: {"gamma": param(D), "body": nn.Linear(D, D)}
)
around("sum of two parameters", lambda m, h: h * (m.a + m.b), params(a=(D,), b=(D,)))
around(
    "sum of two parameters of one shape as the batch",
    lambda m, h: h * (m.a + m.b)[:, None],
    params(a=(B, D), b=(B, D)),
)
around("x @ W", lambda m, h: h @ m.W + m.b, params(W=(D, D), b=(D,)))
around("einsum", lambda m, h: torch.einsum("btd,hde->bthe", h, m.W).sum(2), params(W=(2, D, D)))
around("addmm", lambda m, h: torch.addmm(m.b, h.flatten(0, 1), m.W).view_as(h), params(W=(D, D), b=(D,)))
around("baddbmm", lambda m, h: torch.baddbmm(m.b, h, m.W.expand(B, D, D)), params(W=(1, D, D), b=(1, 1, D)))
around("functional linear", lambda m, h: functional.linear(h, m.W, m.b), params(W=(D, D), b=(D,)))
around(
    "functional linear, out == B", lambda m, h: functional.linear(h, m.W).repeat(1, 1, 2), params(W=(B, D))
)
around("functional layer norm", lambda m, h: functional.layer_norm(h, (D,), m.w, m.b), params(w=(D,), b=(D,)))
around(
    "functional convolution",
    lambda m, h: functional.conv1d(h.transpose(1, 2), m.W, padding=1).transpose(1, 2),
    params(W=(D, D, 3)),
)
around(
    "functional attention",
    lambda m, h: functional.scaled_dot_product_attention(h @ m.q, h @ m.k, h),
    params(q=(D, D), k=(D, D)),
)
around(
    "learned queries",
    lambda m, h: functional.scaled_dot_product_attention(m.q.expand(B, 3, D), h, h),
    params(q=(3, D)),
)
around(
    "learned queries, as many as samples",
    lambda m, h: functional.scaled_dot_product_attention(m.q.expand(B, B, D), h, h),
    params(q=(B, D)),
)
around(
    "parameter list",
    lambda m, h: h * m.ps[0] + m.ps[1],
    lambda: {"ps": nn.ParameterList([param(D), param(D)])},
)
around("parameter dictionary", lambda m, h: h * m.ps["a"], lambda: {"ps": nn.ParameterDict({"a": param(D)})})
around(
    "layer norm with a gain kept as an offset",
    lambda m, h: functional.layer_norm(h, (D,)) * (1 + m.w),
    params(w=(D,)),
)
around(
    "mask token",
    lambda m, h: m.body(
        torch.where(torch.arange(T)[:, None] % 3 == torch.arange(B)[:, None, None] % 3, m.token, h)
    ),
    lambda: {"token": param(D), "body": nn.Linear(D, D)},
)
around(
    "relative positions by index",
    lambda m, h: (
        (h @ h.transpose(1, 2) + m.table[torch.arange(T)[:, None] - torch.arange(T) + T - 1, 0]).softmax(-1)
        @ h
    ),
    params(table=(2 * T - 1, 1)),
)
around(
    "relative positions by index, T == B",
    lambda m, h: (
        (h @ h.transpose(1, 2) + m.table[torch.arange(B)[:, None] - torch.arange(B) + B - 1, 0]).softmax(-1)
        @ h
    ),
    params(table=(2 * B - 1, 1)),
    T=B,
)
around(
    "bias of the sample's kind by index",
    lambda m, h: h + m.table[torch.tensor([0, 2, 0, 1])][:, None],
    params(table=(3, D)),
)
around("a parameter of each sample", lambda m, h: h + m.table[:, None], params(table=(B, D)))
around("a product of parameters", lambda m, h: h @ (m.U @ m.V), params(U=(D, 2), V=(2, D)))
around(
    "codebook, straight through",
    lambda m, h: m.body(
        h + (m.codes[torch.cdist(h.detach(), m.codes.detach()[None]).argmin(-1)] - h.detach())
    ),
    lambda: {"codes": param(5, D), "body": nn.Linear(D, D)},
)

# weights used twice, tied, or outside their module's call
around(
    "two linear layers by one weight",
    lambda m, h: m.two(m.one(h).tanh()),
    lambda: tied(nn.Linear(D, D), nn.Linear(D, D)),
)
around(
    "two layers by one bias and one weight",
    lambda m, h: m.two(m.one(h).tanh()),
    lambda: tied(nn.Linear(D, D), nn.Linear(D, D), bias=True),
)
around("a layer used twice", lambda m, h: m.one(m.one(h).tanh()), linear("one"))
around(
    "a layer used six times", lambda m, h: torch.stack([m.one(h[:, t]) for t in range(T)], 1), linear("one")
)
around(
    "a layer used once for the batch and once for a part of it",
    lambda m, h: m.one(h) + functional.pad(m.one(h[:2].tanh()), (0, 0, 0, 0, 0, 2)),
    linear("one"),
)
around("a weight transposed", lambda m, h: m.one(h).tanh() @ m.one.weight, linear("one"))
around("a bias used again", lambda m, h: m.one(h) * m.one.bias, linear("one"))
around("a weight decayed by the model", lambda m, h: m.one(h) * m.one.weight.norm(), linear("one"))
around(
    "shared norm",
    lambda m, h: m.norm(m.one(m.norm(h))),
    lambda: {"norm": nn.LayerNorm(D), "one": nn.Linear(D, D)},
)
around("one module in two places", lambda m, h: m.b(m.a(h)), lambda: same(nn.Linear(D, D)))


@case("embedding and functional linear by one weight")
def tied_embedding() -> Built:
    net = Net(
        lambda m, ids: functional.linear(torch.tanh(m.body(m.emb(ids).mean(1))), m.emb.weight),
        emb=nn.Embedding(7, D),
        body=nn.Linear(D, D),
    )
    return single(net, torch.randint(0, 7, (B, T)))


@case("embedding and output layer by one weight")
def tied_output() -> Built:
    emb, out = nn.Embedding(7, D), nn.Linear(D, 7, bias=False)
    out.weight = emb.weight
    net = Net(
        lambda m, ids: m.out(torch.tanh(m.body(m.emb(ids)))).mean(1), emb=emb, body=nn.Linear(D, D), out=out
    )
    return single(net, torch.randint(0, 7, (B, T)))


# weights that are computed
around("weight norm", lambda m, h: m.one(h), lambda: {"one": parametrizations.weight_norm(nn.Linear(D, D))})
around(
    "weight norm, out == B",
    lambda m, h: m.one(h).repeat(1, 1, 2),
    lambda: {"one": parametrizations.weight_norm(nn.Linear(D, B))},
)
around("weight norm, as it was", lambda m, h: m.one(h), lambda: {"one": old_weight_norm(nn.Linear(D, D))})
around(
    "weight norm of a positional convolution",
    lambda m, h: h + m.one(h.transpose(1, 2)).transpose(1, 2)[:, :T],
    lambda: {"one": parametrizations.weight_norm(nn.Conv1d(D, D, 4, padding=2, groups=2), dim=2)},
)
around(
    "spectral norm", lambda m, h: m.one(h), lambda: {"one": parametrizations.spectral_norm(nn.Linear(D, D))}
)
around(
    "spectral norm, as it was",
    lambda m, h: m.one(h),
    lambda: {"one": torch.nn.utils.spectral_norm(nn.Linear(D, D))},
)
around(
    "spectral norm, layer used twice",
    lambda m, h: m.one(m.one(h).tanh()),
    lambda: {"one": parametrizations.spectral_norm(nn.Linear(D, D))},
)
around(
    "orthogonal weight", lambda m, h: m.one(h), lambda: {"one": parametrizations.orthogonal(nn.Linear(D, D))}
)
around("symmetric weight", lambda m, h: m.one(h), lambda: {"one": symmetric(nn.Linear(D, D))})
around(
    "cached parametrization",
    cached_twice,
    lambda: {"one": parametrizations.weight_norm(nn.Linear(D, D))},
)
around(
    "weights standardised before a convolution",
    lambda m, h: standardised(m.one, h.transpose(1, 2)).transpose(1, 2),
    lambda: {"one": nn.Conv1d(D, D, 3, padding=1)},
)
for kind in ("bare", "merged", "dora"):
    around(f"lora, {kind}", lambda m, h: m.lora(h), lambda kind=kind: {"lora": Lora(kind)})
around(
    "lora of layers",
    lambda m, h: m.base(h) + m.up(m.down(m.drop(h))),
    lambda: {
        "base": nn.Linear(D, D).requires_grad_(False),
        "drop": nn.Dropout(0.2),
        "down": nn.Linear(D, 2, bias=False),
        "up": nn.Linear(2, D, bias=False),
    },
)

# frozen parts
around(
    "frozen layer",
    lambda m, h: m.one(m.ice(h)),
    lambda: {"ice": nn.Linear(D, D).requires_grad_(False), "one": nn.Linear(D, D)},
)
around(
    "frozen weight, trained bias",
    lambda m, h: m.one(h),
    lambda: {"one": part_frozen(nn.Linear(D, D), "weight")},
)
around(
    "trained weight, frozen bias",
    lambda m, h: m.one(h),
    lambda: {"one": part_frozen(nn.Linear(D, D), "bias")},
)
around(
    "attention with a frozen input projection",
    lambda m, h: m.one(h, h, h)[0],
    lambda: {"one": part_frozen(nn.MultiheadAttention(D, 2, batch_first=True), "in_proj_weight")},
)
around(
    "frozen norm scale in a convolution net",
    lambda m, h: m.norm(m.one(h)),
    lambda: {"one": nn.Conv1d(T, T, 1), "norm": part_frozen(nn.LayerNorm(D), "weight")},
)
around("a layer under no_grad", lambda m, h: h + without_gradient(m.one, h), linear("one", "two"))
around("an unused layer", lambda m, h: m.one(h), linear("one", "unused"))

# random numbers
around(
    "functional dropout beside a parameter",
    lambda m, h: functional.dropout(h * m.scale, 0.3),
    params(scale=(D,)),
)
around(
    "dropout module",
    lambda m, h: m.two(m.drop(m.one(h))),
    lambda: {"one": nn.Linear(D, D), "drop": nn.Dropout(0.3), "two": nn.Linear(D, D)},
)
around(
    "noise on a weight",
    lambda m, h: functional.linear(h, m.one.weight + 0.1 * torch.randn_like(m.one.weight)),
    linear("one"),
)
around(
    "a weight dropped out",
    lambda m, h: functional.linear(h, functional.dropout(m.one.weight, 0.3)),
    linear("one"),
)
around(
    "stochastic depth by sample",
    lambda m, h: h + m.one(h) * torch.bernoulli(torch.full((B, 1, 1), 0.5)),
    linear("one"),
)
around("stochastic depth by batch", lambda m, h: h + m.one(h) if torch.rand(()) < 2 else h, linear("one"))
