"""Steps one after the other by one harmonizer: batches of other sizes, layers frozen between them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, default_generator, nn
from zoo import D, Net, Pooled, default_dtype, param
from zoo_check import assert_exact
from zoo_reference import reference_of

from harmonize_cli.harmony import Harmonizer

SCOPES = [pytest.param("backbone", marks=pytest.mark.long), "all"]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with default_dtype(torch.float64):
        yield


def model() -> Net:
    """Video of [B, 3, L], text of [B, L]: convolution, embedding, attention, bare parameters, dropout."""
    default_generator.manual_seed(0)
    body = nn.TransformerEncoderLayer(D, 2, 16, dropout=0.1, batch_first=True)
    return Net(
        encode,
        video=nn.Conv1d(3, D, 3, padding=1),
        text=nn.Embedding(11, D),
        token=param(D),
        body=body,
        norm=nn.LayerNorm(D),
    )


def encode(m: Any, video: Tensor, text: Tensor | None) -> Pooled:
    out = {"video": pool(m, m.video(video).transpose(1, 2))}
    if text is not None:
        out["text"] = pool(m, m.text(text))
    return out


def pool(m: Any, x: Tensor) -> Tensor:
    z: Tensor = m.norm(m.body(torch.cat([m.token.expand(len(x), 1, D), x], 1)))[:, 0]
    return z


def losses(pooled: Pooled) -> dict[str, Tensor]:
    """Of use for one sample too; every sample's depends on the others."""
    z = pooled["video"]
    other = pooled.get("text", z.sin())
    return {
        "one": (z * other.roll(1, 0)).sum() + z.square().mean(),
        "two": (z.cos() * other).sum()
        - (z.mean(0) * other.mean(0)).sum()
        - 0.5 * (z * other.roll(1, 0)).sum(),
    }


def step(net: Net, harmonizer: Harmonizer, B: int, L: int = 6, *, text: bool = True, seed: int = 1) -> None:
    """One step, compared with the reference of a pass of the same random numbers."""
    default_generator.manual_seed(seed)
    video = torch.randn(B, 3, L)
    words = torch.randint(0, 11, (B, L)) if text else None
    net.zero_grad()
    default_generator.manual_seed(seed)
    pooled = net(video, words)
    want = reference_of(net, pooled, losses(pooled))
    default_generator.manual_seed(seed)
    with harmonizer.record():
        pooled = net(video, words)
    report = harmonizer.backward(losses(pooled), pooled)
    options = {"scope": harmonizer.scope.name}
    assert_exact(report, net, want, before=None, tolerance=1e-9, options=options)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("sizes", [(4, 6, 4), (7, 14, 7), (2, 1, 2), (1, 5)])
def test_batches_of_other_sizes(sizes: tuple[int, ...], scope: str) -> None:
    """The last batch of an epoch is smaller, and its size may be that of another axis."""
    net = model()
    harmonizer = Harmonizer(net, scope=scope)
    for seed, B in enumerate(sizes):
        step(net, harmonizer, B, seed=seed)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("lengths", [(6, 4, 3), (3, 7)])
def test_sequences_of_other_lengths(lengths: tuple[int, ...], scope: str) -> None:
    """Such as those where the length and one more are a batch."""
    net = model()
    harmonizer = Harmonizer(net, scope=scope)
    for seed, L in enumerate(lengths):
        step(net, harmonizer, 4, L, seed=seed)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_modality_comes_and_goes(scope: str) -> None:
    net = model()
    harmonizer = Harmonizer(net, scope=scope)
    for seed, text in enumerate([True, False, True]):
        step(net, harmonizer, 4, text=text, seed=seed)


def freeze(net: Net) -> None:
    net.body.self_attn.requires_grad_(False)


def unfreeze(net: Net) -> None:
    net.requires_grad_(True)


def replace_values(net: Net) -> None:
    net.load_state_dict({name: value * 1.1 for name, value in net.state_dict().items()})


def evaluate(net: Net) -> None:
    net.eval()
    with torch.no_grad():
        net(torch.randn(3, 3, 5), torch.randint(0, 11, (3, 5)))


def train(net: Net) -> None:
    net.train()


def to_other_memory(net: Net) -> None:
    for p in net.parameters():
        p.data = p.data.clone()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    "changes",
    [[freeze, unfreeze], [replace_values], [evaluate, train], [to_other_memory], [unfreeze, freeze]],
    ids=lambda changes: " ".join(change.__name__ for change in changes),
)
def test_the_model_changes_between_steps(changes: list[Callable[[Net], None]], scope: str) -> None:
    net = model()
    harmonizer = Harmonizer(net, scope=scope)
    step(net, harmonizer, 4)
    for change in changes:
        change(net)
        step(net, harmonizer, 4)


def test_a_layer_frozen_when_the_harmonizer_was_made() -> None:
    net = model()
    freeze(net)
    harmonizer = Harmonizer(net, scope="all")
    step(net, harmonizer, 4)
    unfreeze(net)
    step(net, harmonizer, 4)


def test_passes_that_the_losses_do_not_read() -> None:
    """A teacher's pass, one without gradients, and one whose result is thrown away."""
    net = model()
    harmonizer = Harmonizer(net, scope="all")
    with harmonizer.record():
        with torch.no_grad():
            net(torch.randn(4, 3, 6), None)
        net(torch.randn(5, 3, 4), None)
    step(net, harmonizer, 4)


def test_a_record_left_by_an_error() -> None:
    net = model()
    harmonizer = Harmonizer(net, scope="all")
    with pytest.raises(RuntimeError), harmonizer.record():
        net.video(torch.randn(4, 2, 6))
    step(net, harmonizer, 4)


def test_two_harmonizers_of_one_model() -> None:
    net = model()
    one, two = Harmonizer(net, scope="all"), Harmonizer(net, scope="backbone")
    for harmonizer in (one, two, one):
        step(net, harmonizer, 4)
