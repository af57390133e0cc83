"""The zoo's routing: layers that see some samples, other orders of the batch, weights made per sample."""

from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo import B, D, T, around, linear, param


def swapped(order: list[int], m: Any, h: Tensor) -> Tensor:
    out: Tensor = m.two(m.one(h).tanh()[order])[order]
    return out


def mixed(i: int, j: int, m: Any, h: Tensor) -> Tensor:
    h = m.one(h)
    both = (h[i] + h[j]) / 2
    return torch.stack([m.two(both if b in (i, j) else h[b]) for b in range(B)])


def some(rows: list[int], m: Any, h: Tensor) -> Tensor:
    return h.index_add(0, torch.tensor(rows), m.two(m.one(h[rows]).tanh()))


def shuffled(m: Any, h: Tensor) -> Tensor:
    order = torch.randperm(B)
    out: Tensor = m.two(m.one(h[order]).tanh())[order.argsort()]
    return out


def tokens_shuffled(m: Any, h: Tensor) -> Tensor:
    out: Tensor = m.two(m.one(h.transpose(0, 1)[torch.randperm(B)]).tanh()).transpose(0, 1)
    return out


def by_value(m: Any, h: Tensor) -> Tensor:
    order = h.detach().sum((1, 2)).argsort()
    out: Tensor = m.two(m.one(h[order]).tanh())[order.argsort()]
    return out


def diagonal(h: Tensor) -> Tensor:
    return h[torch.arange(B), torch.arange(B)][:, None]


def leak() -> Tensor:
    mix = torch.eye(B)
    mix[1, 0] = 0.3
    return mix


def zero_branch() -> dict[str, Any]:
    out = nn.Linear(D, D)
    nn.init.zeros_(out.weight)
    nn.init.zeros_(out.bias)
    return {"one": nn.Linear(D, D), "out": out}


def routed(m: Any, h: Tensor, mask: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[mask] = m.one(h[mask])
    out[~mask] = m.two(h[~mask])
    return out


def mixture(m: Any, h: Tensor) -> Tensor:
    flat = h.flatten(0, 1)
    gate = m.gate(flat).softmax(-1)
    top, which = gate.max(-1)
    out = torch.zeros_like(flat)
    for e, expert in enumerate(m.experts):
        rows = (which == e).nonzero()[:, 0]
        out = out.index_add(0, rows, expert(flat[rows]) * top[rows, None])
    return out.view_as(h)


def halves(h: Tensor) -> Tensor:
    return h[:B] * h[B:]


def packed_tokens(layer: nn.Module, h: Tensor) -> Tensor:
    keep = torch.arange(T) < torch.tensor([3, 6, 1, 2])[:, None]
    out = torch.zeros_like(h)
    out[keep] = layer(h[keep])
    return out


def nested(layer: nn.Module, h: Tensor) -> Tensor:
    parts = torch.nested.as_nested_tensor([row[: 2 + b] for b, row in enumerate(h)], layout=torch.jagged)
    out: Tensor = layer(parts).to_padded_tensor(0.0)
    return out


# values that depend on the sample
around("routing by boolean masks", lambda m, h: routed(m, h, h[..., 0] > 0), linear("one", "two"))
around(
    "samples routed by boolean masks",
    lambda m, h: routed(m, h, torch.tensor([True, False, True, True])),
    linear("one", "two"),
)
around(
    "as many tokens routed as samples",
    lambda m, h: routed(m, h, torch.arange(B * T).view(B, T) % T == torch.arange(B)[:, None]),
    linear("one", "two"),
)
around(
    "as many tokens routed as samples, all of one sample",
    lambda m, h: routed(m, h, torch.arange(B * T).view(B, T) < B),
    linear("one", "two"),
)
around(
    "half of the samples by index",
    lambda m, h: h.index_add(0, torch.tensor([3, 0]), m.one(h[torch.tensor([3, 0])])),
    linear("one"),
)
around(
    "mixture of experts",
    mixture,
    lambda: {"gate": nn.Linear(D, 3), "experts": nn.ModuleList(nn.Linear(D, D) for _ in range(3))},
)
around(
    "soft mixture of experts by stacked weights",
    lambda m, h: torch.einsum("btd,edf,bte->btf", h, m.W, m.gate(h).softmax(-1)),
    lambda: {"gate": nn.Linear(D, 3), "W": param(3, D, D)},
)
around(
    "batch shuffled inside",
    lambda m, h: m.one(h[torch.tensor([2, 0, 3, 1])])[torch.tensor([1, 3, 0, 2])],
    linear("one"),
)
around("batch reversed inside and left so", lambda m, h: m.two(m.one(h).tanh().flip(0)), linear("one", "two"))
around("two views laid end to end", lambda m, h: halves(m.one(torch.cat([h, h.sin()]))), linear("one"))
around(
    "two views interleaved",
    lambda m, h: m.one(h.repeat_interleave(2, 0)).view(B, 2, T, D).mean(1),
    linear("one"),
)
around("batch padded by a row", lambda m, h: m.one(torch.cat([h, h[:1]]))[:B], linear("one"))
around(
    "batch padded to twice its rows",
    lambda m, h: m.one(torch.cat([h, torch.zeros_like(h)]))[:B],
    linear("one"),
)
around(
    "samples centred by the batch",
    lambda m, h: m.two(m.one(h) - m.one(h).mean(0, keepdim=True)),
    linear("one", "two"),
    refusable="sample|batch|row",
)
around(
    "attention over the batch",
    lambda m, h: m.two((m.one(h).flatten(1) @ h.flatten(1).T).softmax(-1) @ h.flatten(1)).view_as(h),
    lambda: {"one": nn.Linear(D, D), "two": nn.Linear(T * D, T * D)},
    refusable="sample|batch|row",
)
around(
    "film",
    lambda m, h: h * (1 + m.gain(h.mean(1, keepdim=True))) + m.shift(h.mean(1, keepdim=True)),
    linear("gain", "shift"),
)
around(
    "squeeze and excite",
    lambda m, h: h * torch.sigmoid(m.up(functional.relu(m.down(h.mean(1)))))[:, None],
    lambda: {"down": nn.Linear(D, 2), "up": nn.Linear(2, D)},
)
around("gated unit", lambda m, h: m.down(functional.silu(m.gate(h)) * m.up(h)), linear("gate", "up", "down"))
around(
    "hypernetwork",
    lambda m, h: torch.bmm(h, m.make(h.mean(1)).view(B, D, D)),
    lambda: {"make": nn.Linear(D, D * D)},
)
around(
    "hypernetwork by grouped convolution",
    lambda m, h: (
        functional.conv1d(
            h.transpose(1, 2).reshape(1, B * D, T),
            m.make(h.mean(1)).view(B * D, 1, 3),
            padding=1,
            groups=B * D,
        )
        .view(B, D, T)
        .transpose(1, 2)
    ),
    lambda: {"make": nn.Linear(D, D * 3)},
)
around(
    "batch folded into channels of a convolution",
    lambda m, h: m.one(h.reshape(1, B * T, D))[0].view(B, T, D),
    lambda: {"one": nn.Conv1d(B * T, B * T, 1, groups=B)},
    refusable="sample|batch|row",
)
around(
    "tokens dropped at random",
    lambda m, h: m.one(h[torch.arange(B)[:, None], torch.rand(B, T).argsort(1)[:, :3]]),
    linear("one"),
)
around("tokens packed without padding", lambda m, h: packed_tokens(m.one, h), linear("one"))
around("nested tensors", lambda m, h: nested(m.one, h), linear("one"), refusable="[Nn]ested|row|sample")
around(
    "vmap over samples",
    lambda m, h: torch.vmap(m.one)(h),
    linear("one"),
    refusable="vmap|row|sample|layer|module",
)
around("a loop over samples", lambda m, h: torch.stack([m.one(row) for row in h]), linear("one"))

# which samples lie where
for i, j in combinations(range(B), 2):
    order = [j if b == i else i if b == j else b for b in range(B)]
    around(f"samples {i} and {j} swapped inside", partial(swapped, order), linear("one", "two"))
    around(
        f"samples {i} and {j} mixed inside",
        partial(mixed, i, j),
        linear("one", "two"),
        refusable="sample|batch|row",
    )
    around(f"samples {j} and {i} alone pass a layer", partial(some, [j, i]), linear("one", "two"))
around("batch shuffled at random inside", shuffled, linear("one", "two"))
around("tokens shuffled at random inside, T == B", tokens_shuffled, linear("one", "two"), T=B)
around(
    "the diagonal's tokens, T == B", lambda m, h: diagonal(m.two(m.one(h).tanh())), linear("one", "two"), T=B
)
around(
    "the largest values of all tokens",
    lambda m, h: m.two(m.one(h).tanh()).amax(1, keepdim=True),
    linear("one", "two"),
)
around(
    "units that are dead for most tokens",
    lambda m, h: m.two(functional.relu(m.one(h) - 0.3)),
    linear("one", "two"),
)
around("rows sorted by their values", by_value, linear("one", "two"))
around("a branch that starts at zero", lambda m, h: h + m.out(m.one(h).tanh()), zero_branch)
around(
    "a branch that starts at zero, sequence first, T == B",
    lambda m, h: h + m.out(m.one(h.transpose(0, 1)).tanh()).transpose(0, 1),
    zero_branch,
    T=B,
)
around(
    "a branch that starts at zero, batch reversed",
    lambda m, h: h + m.out(m.one(h.flip(0)).tanh()).flip(0),
    zero_branch,
)
around(
    "a branch under a gain that starts at zero, T == B",
    lambda m, h: h + m.gain * m.one(h.transpose(0, 1)).transpose(0, 1),
    lambda: {"gain": nn.Parameter(torch.zeros(())), "one": nn.Linear(D, D)},
    T=B,
)
around(
    "a mean of the batch under a gain that starts at zero",
    lambda m, h: m.one(h + m.gain * h.mean(0, keepdim=True)),
    lambda: {"gain": nn.Parameter(torch.zeros(())), "one": nn.Linear(D, D)},
    refusable="sample|batch|row",
)
around(
    "the batch reversed under a gain that starts at zero",
    lambda m, h: m.one(h + m.gain * m.two(h).flip(0)),
    lambda: {"gain": nn.Parameter(torch.zeros(D)), **linear("one", "two")()},
    refusable="sample|batch|row",
)
around(
    "a sample leaks into another",
    lambda m, h: m.two(torch.einsum("ab,btd->atd", leak(), m.one(h)).tanh()),
    linear("one", "two"),
    refusable="sample|batch|row",
)
