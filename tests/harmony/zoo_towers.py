"""The zoo's towers: several pooled vectors, text candidates, views end to end, losses with parameters."""

from collections.abc import Callable
from typing import Any

import torch
from harmony_models import TriModal, make_inputs
from torch import Tensor, nn
from torch.nn import functional
from zoo import B, Built, D, Losses, Net, Pooled, T, add, case, contrasts, param, single


def tower(width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(width, D), nn.Tanh(), nn.Linear(D, D))


def several(
    name: str, encode: Callable[[Any, Tensor], Pooled], parts: Callable[[], dict[str, Any]], **options: Any
) -> None:
    """`encode(model, x [B, T, 6])` gives the pooled vectors."""

    def build() -> Built:
        x = torch.randn(B, T, 6)
        net = Net(encode, **parts())
        return net, lambda: net(x)

    add(name, build, several=True, **options)


def towers(*names: str) -> Callable[[], dict[str, Any]]:
    return lambda: {name: tower() for name in names}


def with_body(*names: str) -> Callable[[], dict[str, Any]]:
    return lambda: {**{name: nn.Linear(6, D) for name in names}, "body": tower(D), "norm": nn.LayerNorm(D)}


def through_body(m: Any, x: Tensor) -> Tensor:
    z: Tensor = m.norm(m.body(x.tanh()))
    return z


# towers apart and together
several(
    "three separate towers",
    lambda m, x: {"v": m.v(x).mean(1), "a": m.a(x[:, :3]).mean(1), "t": m.t(x[:, 1:]).mean(1)},
    towers("v", "a", "t"),
)
several(
    "two separate towers", lambda m, x: {"v": m.v(x).mean(1), "t": m.t(x[:, :3]).mean(1)}, towers("v", "t")
)
several(
    "three modalities through one body",
    lambda m, x: {
        n: through_body(m, getattr(m, n)(x[:, :L])).mean(1) for n, L in (("v", 6), ("a", 4), ("t", 2))
    },
    with_body("v", "a", "t"),
)
several(
    "two of three modalities through one body",
    lambda m, x: {
        "v": through_body(m, m.v(x)).mean(1),
        "a": through_body(m, m.a(x)).mean(1),
        "t": m.t(x).mean(1),
    },
    lambda: {**with_body("v", "a")(), "t": tower()},
)
several(
    "text candidates",
    lambda m, x: {
        "v": through_body(m, m.v(x)).mean(1),
        "a": through_body(m, m.a(x)).mean(1),
        "t": through_body(m, m.t(x)).flatten(0, 1),
    },
    with_body("v", "a", "t"),
)
several(
    "text candidates of their own axis",
    lambda m, x: {
        "v": through_body(m, m.v(x)).mean(1),
        "a": through_body(m, m.a(x)).mean(1),
        "t": through_body(m, m.t(x.flatten(0, 1))).view(B, T, D),
    },
    with_body("v", "a", "t"),
)
several(
    "a frozen tower",
    lambda m, x: {"v": m.v(x).mean(1), "a": m.a(x).mean(1), "t": m.t(x).mean(1)},
    lambda: {"v": tower(), "a": tower().requires_grad_(False), "t": tower()},
)
several(
    "a tower under no_grad",
    lambda m, x: {"v": m.v(x).mean(1), "t": m.t(x).mean(1).detach()},
    towers("v", "t"),
    refusable="does not depend",  # the third loss is of the text alone
    everywhere=True,
)
several(
    "a pooled vector that no loss reaches",
    lambda m, x: {
        "v": m.v(x).mean(1),
        "extra": m.a(x).mean(1),
        "other": m.v(x.sin()).mean(1),
        "t": m.t(x).mean(1),
    },
    towers("v", "a", "t"),
)
several(
    "fusion by cross attention",
    lambda m, x: fused(m, m.v(x), m.t(x[:, :3])),
    lambda: {**towers("v", "t")(), "cross": nn.MultiheadAttention(D, 2, batch_first=True)},
)
several("all tokens are pooled vectors", lambda m, x: {"v": m.v(x), "t": m.t(x)}, towers("v", "t"))
several(
    "two slices of one output",
    lambda m, x: dict(zip("vt", m.v(x)[:, :2].unbind(1), strict=True)),
    towers("v"),
)
several(
    "pooled vectors of width one",
    lambda m, x: {"v": m.one(m.v(x)).mean((1, 2)), "t": m.t(x).mean(1)},
    lambda: {**towers("v", "t")(), "one": nn.Linear(D, 1)},
)


def fused(m: Any, v: Tensor, t: Tensor) -> Pooled:
    return {"v": v.mean(1), "vt": m.cross(t, v, v)[0].mean(1), "t": t.mean(1)}


# rows in other orders
several(
    "modalities laid end to end",
    lambda m, x: dict(
        zip(
            "vat",
            through_body(m, torch.cat([m.v(x), m.a(x.sin()), m.t(x.cos())])).mean(1).chunk(3),
            strict=True,
        )
    ),
    with_body("v", "a", "t"),
)
several(
    "two views laid end to end, one tower",
    lambda m, x: dict(zip("vt", m.v(torch.cat([x, x.sin()])).mean(1).chunk(2), strict=True)),
    towers("v"),
)
several(
    "two views side by side, one tower",
    lambda m, x: dict(
        zip(
            "vt", m.v(torch.stack([x, x.sin()], 1).flatten(0, 1)).mean(1).view(B, 2, D).unbind(1), strict=True
        )
    ),
    towers("v"),
)
several(
    "frames folded into the batch",
    lambda m, x: {"v": m.v(x.flatten(0, 1)).view(B, T, D).mean(1), "t": m.t(x).mean(1)},
    towers("v", "t"),
)
several(
    "frames folded into the batch, frame by frame",
    lambda m, x: {"v": m.v(x.transpose(0, 1).flatten(0, 1)).view(T, B, D).mean(0), "t": m.t(x).mean(1)},
    towers("v", "t"),
)
several(
    "text of some samples only", lambda m, x: {"v": m.v(x).mean(1), "t": scattered(m.t, x)}, towers("v", "t")
)
several(
    "hard negatives from other samples",
    lambda m, x: {
        "v": m.v(x).mean(1),
        "t": m.t(x).mean(1),
        "n": m.cross(torch.cat([m.v(x).mean(1), m.t(x).mean(1).roll(1, 0)], 1)),
    },
    lambda: {**towers("v", "t")(), "cross": nn.Linear(2 * D, D)},
    refusable="sample|batch|row",
)
several(
    "hidden values mixed between samples",
    lambda m, x: {"v": m.v(0.7 * m.a(x) + 0.3 * m.a(x).flip(0)).mean(1), "t": m.t(x).mean(1)},
    lambda: {"a": nn.Linear(6, 6), **towers("v", "t")()},
    refusable="sample|batch|row",
)
several(
    "inputs mixed between samples",
    lambda m, x: {"v": m.v(0.7 * x + 0.3 * x.flip(0)).mean(1), "t": m.t(x).mean(1)},
    towers("v", "t"),
)


def scattered(layer: nn.Module, x: Tensor) -> Tensor:
    present = torch.tensor([True, False, True, True])
    rows = layer(x[present]).mean(1)
    return rows.new_zeros(B, D).index_put((present,), rows)


# what a cut at the pooled vectors can't tell apart
several(
    "a pooled vector made from another",
    lambda m, x: nested(m, m.v(x).mean(1)),
    lambda: {"v": tower(), "head": nn.Linear(D, D)},
    refused="pooled",
    everywhere=True,
)
several(
    "one pooled vector given twice",
    lambda m, x: twice(m.v(x).mean(1)),
    towers("v"),
    refusable="pooled|twice",
    everywhere=True,
)


def nested(m: Any, h: Tensor) -> Pooled:
    return {"h": h, "z": m.head(h.tanh())}


def twice(z: Tensor) -> Pooled:
    return {"v": z, "t": z}


@case("pooled at the last word, as CLIP does")
def clip_pooling() -> Built:
    net = Net(
        lambda m, ids: m.blocks(m.emb(ids) + m.places)[torch.arange(B), ids.argmax(-1)] @ m.projection,
        emb=nn.Embedding(9, D),
        places=param(T, D),
        projection=param(D, 4),
        blocks=nn.TransformerEncoderLayer(D, 2, 16, dropout=0.0, batch_first=True),
    )
    return single(net, torch.randint(0, 9, (B, T)))


@case("the tri-modal test model", several=True)
def tri_modal() -> Built:
    model = TriModal(width=8, layers=1)
    inputs = {
        n: x.to(torch.get_default_dtype()) if x.is_floating_point() else x
        for n, x in make_inputs(B=B).items()
    }
    return model, lambda: model.encode(inputs)


# losses with parameters of their own
def headed(
    name: str, losses: Callable[[Any, Pooled], Losses], parts: Callable[[], dict[str, Any]], **options: Any
) -> None:
    """Two towers of a common body; losses made from the model and the pooled vectors."""

    def build() -> Built:
        x = torch.randn(B, T, 6)
        net = Net(
            lambda m, x: {n: through_body(m, getattr(m, n)(x)).mean(1) for n in ("v", "t")},
            **with_body("v", "t")(),
            **parts(),
        )
        return net, lambda: net(x), lambda pooled: losses(net, pooled)

    add(name, build, several=True, own_losses=True, **options)


def heads() -> dict[str, Any]:
    return {"one": nn.Linear(D, 5), "two": nn.Linear(D, 5)}


headed("heads", lambda m, z: contrasts({"v": m.one(z["v"]), "t": m.two(z["t"])}), heads)
headed(
    "functional heads",
    lambda m, z: contrasts({n: functional.linear(e, m.W) for n, e in z.items()}),
    lambda: {"W": param(5, D)},
)
headed(
    "heads with batch norm",
    lambda m, z: contrasts({n: m.norm2(m.one(e)) for n, e in z.items()}),
    lambda: {**heads(), "norm2": nn.BatchNorm1d(5)},
)
headed(
    "learned temperature",
    lambda m, z: {n: v * m.scale.exp() for n, v in contrasts(z).items()},
    lambda: {"scale": param()},
)
headed(
    "a loss without parameters beside one with",
    lambda m, z: {"one": m.one(z["v"]).square().mean(), "two": contrasts(z)["loss 0"]},
    heads,
)
headed(
    "a constant loss",
    lambda m, z: {**contrasts(z), "constant": torch.zeros(())},
    dict,
    refusable="does not depend",
    everywhere=True,
)
headed(
    "a loss of none of the pooled vectors",
    lambda m, z: {**contrasts(z), "decay": m.one.weight.square().sum()},
    heads,
)
headed("a loss that vanishes", lambda m, z: {**contrasts(z), "nothing": (z["v"] * 0).sum()}, dict)
headed(
    "a loss of one sample",
    lambda m, z: {"one": contrasts(z)["loss 0"], "two": z["v"][2].square().sum()},
    dict,
)
headed(
    "a loss with one entry",
    lambda m, z: {n: v[None] for n, v in contrasts(z).items()},
    dict,
    refusable="scalar|shape",
    everywhere=True,
)
headed("a stopped gradient", lambda m, z: contrasts({"v": z["v"], "t": z["t"].detach()}), dict)
headed(
    "losses that cancel", lambda m, z: {"one": contrasts(z)["loss 0"], "two": -contrasts(z)["loss 0"]}, dict
)
headed("equal losses", lambda m, z: {"one": contrasts(z)["loss 0"], "two": contrasts(z)["loss 0"]}, dict)
headed(
    "weights decayed within a loss",
    lambda m, z: {**contrasts(z), "loss 0": contrasts(z)["loss 0"] + 0.1 * m.body[0].weight.square().sum()},
    dict,
    refusable="pooled|tied",
    everywhere=True,
)
headed(
    "a head tied to the encoder",
    lambda m, z: contrasts({n: functional.linear(e, m.body[0].weight) for n, e in z.items()}),
    dict,
    refusable="before and after",
    everywhere=True,
)
headed(
    "a head that is a layer of the encoder",
    lambda m, z: contrasts({n: m.body(e) for n, e in z.items()}),
    dict,
    refusable="before and after",
    everywhere=True,
)


@case("a loss that passes the pooled vectors by", own_losses=True, refusable="pooled", everywhere=True)
def bypass() -> Built:
    x = torch.randn(B, T, 6)
    net = Net(lambda m, x: m.first(x).tanh(), first=nn.Linear(6, D), last=nn.Linear(D, D))
    kept: list[Tensor] = []

    def encode() -> Pooled:
        kept[:] = [net(x)]
        return {"z": net.last(kept[0]).mean(1)}

    return net, encode, lambda z: {**contrasts(z), "loss 0": contrasts(z)["loss 0"] + kept[0].square().mean()}
