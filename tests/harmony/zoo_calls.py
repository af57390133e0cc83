"""The zoo's calls: arguments of all forms, changes in place, hooks, autograd functions, checkpointing."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from zoo import B, Built, D, Net, T, add, around, linear, param, params, single, wave


class Forms(nn.Module):
    """Finds its input in the first argument, the second, or a keyword."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.scale, self.one = form, param(D), nn.Linear(D, D)

    def forward(self, x: Any = None, other: Any = None, *, hidden: Any = None) -> Any:
        find = {
            "tuple": lambda: x[0],
            "dictionary": lambda: x["h"],
            "keyword": lambda: hidden,
            "list": lambda: x[1][0],
            "function": x,
            "second": lambda: other,
        }
        h = find.get(self.form, lambda: x)()
        out = self.one(h) * self.scale
        if self.form == "table":
            out = out + other
        if self.form == "mask":
            out = other.softmax(-1) @ out
        return {"out": (out, None)}


def masked_in_place(h: Tensor) -> Tensor:
    h[:, 0] = 0
    return h


def add_in_place(h: Tensor, other: Tensor) -> Tensor:
    h += other
    return h


def written(layer: nn.Module, h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[:, 1:] = layer(h[:, :-1])
    return out


def gated(h: Tensor) -> Tensor:
    a, b = h.chunk(2, -1)
    return a * torch.sigmoid(b)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(D, D)
        self.scale = param(D)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.one(x)) * self.scale


def scripted() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module: nn.Module = torch.jit.script(Scripted())
    return module


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda _, args, out: out * 2)
    return layer


def hook_gradient(h: Tensor) -> Tensor:
    h.register_hook(lambda g: g * 0.5)
    return h


class Scaled(torch.autograd.Function):
    """x * w with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return g * w, (g * x).sum((0, 1))


def compiled(part: Any) -> Any:
    """By all of dynamo and AOTAutograd, without the seconds of code generation."""
    return torch.compile(part, backend="aot_eager")


def plainly(part: Any) -> Any:
    return part


def residual(wrap: Callable[[Any], Any] = plainly, *, reentrant: bool | None = None) -> Built:
    """Two layers; `wrap` around the second; or the second checkpointed."""
    two = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D), nn.Tanh())
    x = torch.randn(B, T, 6)

    def run(m: Any, x: Tensor) -> Tensor:
        h = m.one(x)
        y = m.two(h) if reentrant is None else checkpoint(m.two, h, use_reentrant=reentrant)
        return m.last(h + y).mean(1)

    return single(Net(run, one=nn.Linear(6, D), two=wrap(two), last=nn.Linear(D, 4)), x)


def compiled_encode(kind: str) -> Built:
    x = torch.randn(B, T, 6)
    net = Net(
        lambda m, x: m.last(torch.tanh(m.one(x) * m.scale)).mean(1),
        one=nn.Linear(6, D),
        scale=param(D),
        last=nn.Linear(D, 4),
    )
    if kind == "in place":
        net.compile(backend="aot_eager")
    encode = compiled(net.forward) if kind == "as a function" else net
    return net, lambda: {"z": encode(x)}


def compiled_attention(wrap: Callable[[Any], Any] = compiled) -> Built:
    layer = nn.TransformerEncoderLayer(D, 2, 16, dropout=0.0, batch_first=True)
    net = Net(
        lambda m, x: m.last(m.one(m.first(x))).mean(1),
        first=nn.Linear(6, D),
        one=wrap(layer),
        last=nn.Linear(D, 4),
    )
    return single(net, torch.randn(B, T, 6))


# calls of every form
FORMS: dict[str, Callable[[Any, Tensor], Any]] = {
    "tuple": lambda f, h: f((h, None)),
    "dictionary": lambda f, h: f({"h": h, "n": 3}),
    "keyword": lambda f, h: f(hidden=h),
    "list": lambda f, h: f([0, [h]]),
    "function": lambda f, h: f(lambda: h),
    "second": lambda f, h: f(None, h),
    "table": lambda f, h: f(h, wave(h.shape[1], D)),
    "mask": lambda f, h: f(h, wave(h.shape[1], h.shape[1])),
}
for form, call in FORMS.items():
    for length in (T, B):
        around(
            f"{form} argument, T={length}",
            lambda m, h, call=call: call(m.one, h)["out"][0],
            lambda form=form: {"one": Forms(form)},
            length,
        )
around("linear by keyword", lambda m, h: m.one(input=h), linear("one"))
around(
    "embedding by keyword",
    lambda m, h: h + m.one(input=torch.tensor([2, 0, 1, 2]))[:, None],
    lambda: {"one": nn.Embedding(3, D)},
)
around("layer's forward called", lambda m, h: m.one.forward(h), linear("one"))
around("output changed in place", lambda m, h: m.two(m.one(h).add_(1).tanh_()), linear("one", "two"))
around(
    "output of a layer masked in place", lambda m, h: m.two(masked_in_place(m.one(h))), linear("one", "two")
)
around("output written into a buffer", lambda m, h: m.two(written(m.one, h)), linear("one", "two"))
around(
    "inplace activation after a norm",
    lambda m, h: m.two(m.act(m.norm(h))),
    lambda: {"norm": nn.LayerNorm(D), "act": nn.ReLU(inplace=True), "two": nn.Linear(D, D)},
)
around("residual added in place", lambda m, h: m.two(add_in_place(h.clone(), m.one(h))), linear("one", "two"))
around(
    "sequential inside containers",
    lambda m, h: m.parts["a"][0](m.parts["b"](h)),
    lambda: {
        "parts": nn.ModuleDict(
            {
                "a": nn.ModuleList([nn.Sequential(nn.Linear(D, D), nn.GELU())]),
                "b": nn.Sequential(nn.Linear(D, D), nn.Tanh()),
            }
        )
    },
)
around(
    "expanded input",
    lambda m, h: m.one(h[:1].expand(B, T, D)) + h,
    linear("one"),
    refusable="sample|batch|row",
)
around(
    "output viewed",
    lambda m, h: m.two(m.one(h).transpose(1, 2).reshape(B, D, T).transpose(1, 2)),
    linear("one", "two"),
)
around("output chunked", lambda m, h: gated(m.wide(h)), lambda: {"wide": nn.Linear(D, 2 * D)})
around("scripted module", lambda m, h: m.one(h), lambda: {"one": scripted()})
around("hook that changes the output", lambda m, h: m.one(h), lambda: {"one": hooked(nn.Linear(D, D))})
around("tensor hook on the output", lambda m, h: hook_gradient(m.one(h)), linear("one"))
around("autograd function with a parameter", lambda m, h: Scaled.apply(h, m.w), params(w=(D,)))
around(
    "autograd function in a module's weight",
    lambda m, h: functional.linear(Scaled.apply(h, m.one.bias), m.one.weight),
    linear("one"),
)

# activation checkpointing and compilation
around(
    "checkpointed",
    lambda m, h: checkpoint(m.one, h, use_reentrant=False)["out"][0],
    lambda: {"one": Forms("plain")},
)
around(
    "checkpointed with dropout",
    lambda m, h: checkpoint(m.one, h, use_reentrant=False),
    lambda: {"one": nn.TransformerEncoderLayer(D, 2, 16, dropout=0.2, batch_first=True)},
)
around(
    "checkpointed function",
    lambda m, h: checkpoint(lambda h: m.two(m.one(h).tanh()), h, use_reentrant=False),
    linear("one", "two"),
)


PASSED_ONCE = "donated_buffer"
add("compiled layer", lambda: residual(compiled), plain=residual, refusable=PASSED_ONCE)
add(
    "compiled encoder, as a function",
    lambda: compiled_encode("function"),
    plain=lambda: compiled_encode(""),
    refusable=PASSED_ONCE,
)
add(
    "compiled encoder, in place",
    lambda: compiled_encode("in place"),
    plain=lambda: compiled_encode(""),
    refusable=PASSED_ONCE,
)
add(
    "compiled attention",
    compiled_attention,
    plain=lambda: compiled_attention(plainly),
    refusable=PASSED_ONCE,
)
add(
    "checkpointed, reentrant",
    lambda: residual(reentrant=True),
    plain=residual,
    refused="reentrant",
)
