"""Per-sample Gram matrices and updates against a loop of single-sample backward passes."""

import pytest
import torch
from harmony_models import (
    TriModal,
    contrast,
    gram_error,
    gram_of,
    losses_of,
    make_inputs,
    per_sample_gradients,
)
from torch import Tensor, nn

from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.harmony import Harmonizer

DTYPES = [(torch.float32, 1e-4), (torch.float64, 1e-9)]
SCOPES = {
    "backbone": ("blocks.", "norm."),
    "all": ("",),
    "blocks.*.up,norm": ("blocks.0.up", "blocks.1.up", "norm."),
    "video,words": ("video.", "words."),
    "tables,agg.video": ("tables.", "agg.video"),
}


def brute_force(
    model: nn.Module, losses: dict[str, Tensor], pooled: dict[str, Tensor], units: int
) -> tuple[list[str], Tensor]:
    """Names of the parameters upstream, one per entry of the flat gradients [U, K, P]."""
    named = {n: p for n, p in model.named_parameters() if not n.startswith("heads")}
    grads = per_sample_gradients(list(losses.values()), list(pooled.values()), list(named.values()))
    grads = torch.stack([part.sum(0) for part in grads.chunk(units)])
    return [n for n, p in named.items() for _ in range(p.numel())], grads


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("pool", ["agg", "mean"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("granularity", ["sample", "microbatch:2"])
def test_gram_and_update_equal_brute_force(
    dtype: torch.dtype, tolerance: float, pool: str, scope: str, granularity: str
) -> None:
    torch.manual_seed(3)
    model, inputs = TriModal(pool=pool).to(dtype), make_inputs(dtype=dtype)
    harmonizer = Harmonizer(model, scope=scope, granularity=granularity)
    with harmonizer.record():
        pooled = model.encode(inputs)
    losses = losses_of(model.embed(pooled))
    units = 4 if granularity == "sample" else 2
    names, grads = brute_force(model, losses, pooled, units)
    heads = torch.autograd.grad(sum(losses.values()), list(model.heads.parameters()), retain_graph=True)
    report = harmonizer.backward(losses, pooled)
    inside = torch.tensor([name.startswith(SCOPES[scope]) for name in names])
    each = slice(None, None, 4 // units)
    assert gram_error(report.gram[each], gram_of(grads[:, :, inside])) < tolerance
    want = torch.einsum("uk,ukp->p", report.weights[each].to(dtype), grads)
    got = torch.cat([p.grad.flatten() for n, p in model.named_parameters() if not n.startswith("heads")])
    assert (got - want).abs().max() < tolerance * want.abs().max()
    for p, grad in zip(model.heads.parameters(), heads, strict=True):
        torch.testing.assert_close(p.grad, grad)


def test_with_weights_one_the_update_is_the_batch_gradient() -> None:
    model, inputs = TriModal(), make_inputs()
    sum(losses_of(model.embed(model.encode(inputs))).values()).backward()
    want = [p.grad.clone() for p in model.parameters()]
    for options in ({}, {"scope": "representation"}, {"granularity": "batch"}, {"gram": "sketch:4"}):
        model.zero_grad()
        harmonizer = Harmonizer(model, rule="sum", **options)
        with harmonizer.record():
            pooled = model.encode(inputs)
        harmonizer.backward(losses_of(model.embed(pooled)), pooled)
        for p, grad in zip(model.parameters(), want, strict=True):
            torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("granularity", ["sample", "microbatch:2"])
def test_representation_scope_compares_the_video_vectors(granularity: str) -> None:
    model, inputs = TriModal(), make_inputs()
    harmonizer = Harmonizer(model, scope="representation", granularity=granularity)
    with harmonizer.record():
        pooled = model.encode(inputs)
    losses = losses_of(model.embed(pooled))
    delta = torch.stack(
        [torch.autograd.grad(loss, pooled["video"], retain_graph=True)[0] for loss in losses.values()], dim=1
    )
    _, grads = brute_force(model, losses, pooled, 4)
    report = harmonizer.backward(losses, pooled)
    want = gram_of(delta)
    if granularity != "sample":
        want = want.view(2, 2, 2, 2).sum(1).repeat_interleave(2, 0)
    torch.testing.assert_close(report.gram, want)
    update = torch.einsum("uk,ukp->p", report.weights.float(), grads)
    got = torch.cat([p.grad.flatten() for n, p in model.named_parameters() if not n.startswith("heads")])
    torch.testing.assert_close(got, update, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scope", ["backbone", "all", "norm"])
def test_batch_granularity_is_pcgrad_on_the_two_full_gradients(scope: str) -> None:
    model, inputs = TriModal().double(), make_inputs(dtype=torch.float64)
    harmonizer = Harmonizer(model, scope=scope, granularity="batch")
    with harmonizer.record():
        pooled = model.encode(inputs)
    losses = losses_of(model.embed(pooled))
    losses["vt"] = losses["vt"] - 3 * losses["va"].detach() * losses["va"]  # make them conflict
    named = dict(model.named_parameters())
    rows = [
        torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        for loss in losses.values()
    ]
    prefixes = {"backbone": ("blocks.", "norm."), "all": ("",), "norm": ("norm.",)}[scope]
    gram = torch.zeros(2, 2, dtype=torch.float64)
    for name, *grads in zip(named, *rows, strict=True):
        for i, one in enumerate(grads):
            for k, two in enumerate(grads):
                if name.startswith(prefixes) and one is not None and two is not None:
                    gram[i, k] += (one * two).sum()
    report = harmonizer.backward(losses, pooled)
    torch.testing.assert_close(report.gram[0], gram)
    assert report.cosine[0] < 0
    alphas = 1 - gram[0, 1] / gram.diagonal()
    for name, p, one, two in zip(named, named.values(), *rows, strict=True):
        weights = [1.0, 1.0] if name.startswith("heads") and scope != "all" else alphas.tolist()
        want = sum(w * g for w, g in zip(weights, (one, two), strict=True) if g is not None)
        torch.testing.assert_close(p.grad, want)


@pytest.mark.parametrize("scope", ["backbone", "representation"])
def test_three_losses_realign_exactly(scope: str) -> None:
    torch.manual_seed(1)
    model, inputs = TriModal().double(), make_inputs(dtype=torch.float64)
    harmonizer = Harmonizer(model, scope=scope)
    with harmonizer.record():
        pooled = model.encode(inputs)
    e = model.embed(pooled)
    losses = losses_of(e) | {"at": contrast(e["audio_va"], e["text_vt"])}
    names, grads = brute_force(model, losses, pooled, 4)
    report = harmonizer.backward(losses, pooled)
    inside = torch.tensor([name.startswith(("blocks.", "norm.")) for name in names])
    if scope == "backbone":
        assert gram_error(report.gram, gram_of(grads[:, :, inside])) < 1e-9
    assert (report.weights != 1).any()
    got = torch.cat([p.grad.flatten() for n, p in model.named_parameters() if not n.startswith("heads")])
    torch.testing.assert_close(got, torch.einsum("uk,ukp->p", report.weights, grads))


class Zoo(nn.Module):
    """One encoder with the layers that others use; two losses read one vector."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.layer: nn.Module = {
            "linear without bias": lambda: nn.Linear(8, 8, bias=False),
            "layer norm": lambda: nn.LayerNorm(8),
            "layer norm of two axes": lambda: nn.LayerNorm((10, 8)),
            "rms norm": lambda: nn.RMSNorm(8),
            "group norm": lambda: nn.GroupNorm(2, 10),
            "patches": lambda: nn.Conv1d(10, 10, 2, stride=2),
            "patches with a remainder": lambda: nn.Conv1d(10, 10, 3, stride=3),
            "overlapping convolution": lambda: nn.Conv1d(10, 10, 3, padding=1),
            "grouped convolution": lambda: nn.Conv1d(10, 10, 2, stride=2, groups=2),
            "attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
            "prelu": lambda: nn.PReLU(10),
            "bilinear": lambda: nn.Bilinear(8, 8, 8),
            "transformer layer": lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        }[kind]()
        self.last = nn.Linear(8, 4) if "patches" not in kind and "grouped" not in kind else nn.LazyLinear(4)

    def encode(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if isinstance(self.layer, nn.MultiheadAttention):
            h = self.layer(h, h, h)[0]
        elif isinstance(self.layer, nn.Bilinear):
            h = self.layer(h, h.roll(1, 1))
        else:
            h = self.layer(h)
        return self.last(torch.tanh(h)).mean(1)


@pytest.mark.parametrize(
    "kind",
    [
        "linear without bias", "layer norm", "layer norm of two axes", "rms norm", "group norm", "patches",
        "patches with a remainder", "overlapping convolution", "grouped convolution", "attention", "prelu",
        "bilinear", "transformer layer",
    ],
)  # fmt: skip
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_every_kind_of_layer_is_exact(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    model, x = Zoo(kind), torch.randn(6, 10, 6, dtype=dtype)
    model.encode(x.float())  # lazy layers take their shape
    model = model.to(dtype)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    harmonizer = Harmonizer(model, granularity="microbatch:2")
    with harmonizer.record():
        z = model.encode(x)
    losses = {
        "one": z.square().sum() + z[0] @ z[1],
        "two": (z.sin() * torch.linspace(-1, 1, 4, dtype=dtype)).sum(),
    }
    grads = (
        per_sample_gradients(list(losses.values()), [z], list(model.parameters())).view(3, 2, 2, -1).sum(1)
    )
    report = harmonizer.backward(losses, z)
    assert gram_error(report.gram[::2], gram_of(grads)) < tolerance
    want = torch.einsum("uk,ukp->p", report.weights[::2].to(dtype), grads)
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert (got - want).abs().max() < tolerance * want.abs().max()


def test_a_frozen_weight_leaves_its_bias_in_scope() -> None:
    model, inputs = TriModal(), make_inputs()
    for name, p in model.named_parameters():
        p.requires_grad_("up.weight" not in name and "video" not in name)
    harmonizer = Harmonizer(model, scope="blocks")
    with harmonizer.record():
        pooled = model.encode(inputs)
    losses = losses_of(model.embed(pooled))
    params = [p for n, p in model.named_parameters() if n.startswith("blocks") and p.requires_grad]
    grads = per_sample_gradients(list(losses.values()), list(pooled.values()), params)
    report = harmonizer.backward(losses, pooled)
    assert gram_error(report.gram, gram_of(grads)) < 1e-4
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


class Loose(nn.Module):
    """A class token and a table without samples, owned by the model itself, as many models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6) * 0.1)
        self.table = nn.Embedding(5, 6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))

    def encode(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), 1, 6), x], dim=1)
        return self.body(x + self.table(torch.arange(5)))[:, 0]


def test_parameters_without_rows_per_sample_still_get_the_weighted_gradient() -> None:
    torch.manual_seed(0)
    model, x = Loose(), torch.randn(3, 4, 6)
    harmonizer = Harmonizer(model, scope="body")
    with harmonizer.record():
        z = model.encode(x)
    losses = {"one": (z[0] @ z[1]) + z.sum(), "two": -(z.square().sum()) - z.sum()}
    grads = per_sample_gradients(list(losses.values()), [z], list(model.parameters()))
    report = harmonizer.backward(losses, z)
    assert (report.weights != 1).any()
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(got, torch.einsum("uk,ukp->p", report.weights.float(), grads))


def test_a_table_without_rows_per_sample_is_read_where_it_is_added() -> None:
    torch.manual_seed(0)
    model, x = Loose(), torch.randn(3, 4, 6)
    harmonizer = Harmonizer(model, scope="all")
    with harmonizer.record():
        z = model.encode(x)
    losses = {"one": (z[0] @ z[1]) + z.sum(), "two": -(z.square().sum()) - z.sum()}
    grads = per_sample_gradients(list(losses.values()), [z], list(model.parameters()))
    report = harmonizer.backward(losses, z)
    assert report.slow == ()
    assert gram_error(report.gram, gram_of(grads)) < 1e-4


def test_attention_with_dropout_is_exact() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    harmonizer = Harmonizer(model)
    x = torch.randn(4, 3, 8)
    with harmonizer.record():
        z = model(x, x, x)[0][:, 0]
    losses = {"one": z.sum() + z[0] @ z[1], "two": z.square().sum()}
    grads = per_sample_gradients(list(losses.values()), [z], list(model.parameters()))
    report = harmonizer.backward(losses, z)
    assert report.slow == ()
    assert gram_error(report.gram, gram_of(grads)) < 1e-4


def test_an_input_changed_in_place_is_noticed() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    harmonizer = Harmonizer(model)
    x = torch.randn(4, 3)
    with harmonizer.record():
        z = model(x)
    x.add_(1)
    with pytest.raises(HarmonizeError, match="changed in place"):
        harmonizer.backward({"one": z.sum(), "two": z.square().sum()}, z)


def test_batch_norm_upstream_is_refused_per_sample_and_fine_for_the_batch() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    x = torch.randn(4, 3)
    for granularity in ("sample", "batch"):
        harmonizer = Harmonizer(model, granularity=granularity)
        with harmonizer.record():
            z = model(x)
        losses = {"one": z[0].sum(), "two": z[1].square().sum()}
        if granularity == "batch":
            harmonizer.backward(losses, z)
        else:
            with pytest.raises(BadInput, match="BatchNorm"):
                harmonizer.backward(losses, z)


def test_sketches_of_growing_size_approach_the_exact_cosine() -> None:
    torch.manual_seed(0)
    model, inputs = TriModal(width=32), make_inputs(B=8)
    cosines = {}
    for gram in ("exact", "sketch:2", "sketch:16"):
        harmonizer = Harmonizer(model, gram=gram)
        if harmonizer.reader.sketch is not None:
            harmonizer.reader.sketch.always = True  # these layers are so small that exact is cheaper
        with harmonizer.record():
            pooled = model.encode(inputs)
        cosines[gram] = harmonizer.backward(losses_of(model.embed(pooled)), pooled).cosine
    rms = {gram: (cosines[gram] - cosines["exact"]).square().mean().sqrt() for gram in cosines}
    assert rms["sketch:16"] < rms["sketch:2"] < 0.5
    assert rms["sketch:16"] < 0.1
