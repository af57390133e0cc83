"""The zoo's layers: each torch module between two Linear layers, in the sizes where dimensions coincide."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from zoo import B, Built, D, Net, add, case, single, wave

Call = Callable[[Any, Tensor], Tensor]


def plainly(layer: Any, h: Tensor) -> Tensor:
    out: Tensor = layer(h)
    return out


def tokens(
    name: str, layer: Callable[[], nn.Module], call: Call = plainly, T: int = 6, **options: Any
) -> None:
    """`layer` on [B, T, D]; its output [B, ...]."""

    def build() -> Built:
        x = torch.randn(B, T, 6)
        net = Net(
            lambda m, x: m.last(torch.tanh(call(m.layer, m.first(x)))).mean(1),
            first=nn.Linear(6, D),
            layer=layer(),
            last=nn.LazyLinear(4),
        )
        with torch.no_grad():
            net.eval()(x)  # the lazy layer takes its shape
        return single(net.train(), x)

    add(name, build, **options)


def channels(name: str, layer: Callable[[], nn.Module], *size: int, **options: Any) -> None:
    """`layer` on [B, D, *size]."""

    def build() -> Built:
        x = torch.randn(B, 3, *size)
        first = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(size)](3, D, 1)
        net = Net(
            lambda m, x: m.last(torch.tanh(m.layer(m.first(x))).flatten(1)),
            first=first,
            layer=layer(),
            last=nn.LazyLinear(4),
        )
        with torch.no_grad():
            net.eval()(x)
        return single(net.train(), x)

    add(name, build, **options)


def evaluated(module: nn.Module) -> nn.Module:
    """Stays in eval mode, as frozen BatchNorm does."""
    module.train = lambda mode=True: nn.Module.train(module, False)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module.eval()


# position-wise layers
tokens("linear", lambda: nn.Linear(D, D))
tokens("linear, T == B", lambda: nn.Linear(D, D), T=B)
tokens("linear, T == 2 B", lambda: nn.Linear(D, D), T=2 * B)
tokens("linear, out == B", lambda: nn.Linear(D, B))
tokens("linear without bias", lambda: nn.Linear(D, D, bias=False))
tokens("linear on flattened tokens", lambda: nn.Linear(D, D), lambda f, h: f(h.flatten(0, 1)).view_as(h))
tokens("linear on [T, B, D]", lambda: nn.Linear(D, D), lambda f, h: f(h.transpose(0, 1)).transpose(0, 1))
tokens(
    "linear on [T, B, D], T == B",
    lambda: nn.Linear(D, D),
    lambda f, h: f(h.transpose(0, 1)).transpose(0, 1),
    T=B,
)
tokens(
    "linear on [T, B, D], T == 2 B",
    lambda: nn.Linear(D, D),
    lambda f, h: f(h.transpose(0, 1)).transpose(0, 1),
    T=2 * B,
)
tokens(
    "linear on [D, B, T], over time",
    lambda: nn.Linear(6, 6),
    lambda f, h: f(h.permute(2, 0, 1)).permute(1, 2, 0),
)
tokens("linear over windows", lambda: nn.Linear(2 * D, D), lambda f, h: f(h.unfold(1, 2, 1).flatten(2)))
tokens("layer norm", lambda: nn.LayerNorm(D))
tokens("layer norm of two axes", lambda: nn.LayerNorm((6, D)))
tokens("layer norm without bias", lambda: nn.LayerNorm(D, bias=False))
tokens(
    "layer norm on [T, B, D], T == 2 B",
    lambda: nn.LayerNorm(D),
    lambda f, h: f(h.transpose(0, 1)).transpose(0, 1),
    T=2 * B,
)
tokens("rms norm", lambda: nn.RMSNorm(D))
tokens("group norm", lambda: nn.GroupNorm(2, 6))
tokens("instance norm, affine", lambda: nn.InstanceNorm1d(6, affine=True))
tokens(
    "instance norm with running statistics",
    lambda: nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
)
tokens("batch norm", lambda: nn.BatchNorm1d(6), refused="BatchNorm")
tokens("batch norm without parameters", lambda: nn.BatchNorm1d(6, affine=False), refusable="BatchNorm")
tokens("batch norm in eval mode", lambda: evaluated(nn.BatchNorm1d(6)))
tokens("prelu", nn.PReLU)
tokens("prelu per channel", lambda: nn.PReLU(6))
tokens("bilinear", lambda: nn.Bilinear(D, D, D), lambda f, h: f(h, h.roll(1, 1)), autocast=False)
tokens(
    "bilinear with a shared second input",
    lambda: nn.Bilinear(D, D, D),
    lambda f, h: f(h, wave(B, 6, D)),
    autocast=False,
)
tokens("identity", nn.Identity)

# convolutions
channels("conv1d patches", lambda: nn.Conv1d(D, D, 2, stride=2), 8)
channels("conv1d patches with a remainder", lambda: nn.Conv1d(D, D, 3, stride=3), 10)
channels("conv1d overlapping", lambda: nn.Conv1d(D, D, 3, padding=1), 8)
channels("conv1d, length == B", lambda: nn.Conv1d(D, D, 3, padding=1), B)
channels("conv1d with gaps between patches", lambda: nn.Conv1d(D, D, 2, stride=3), 9)
channels("conv1d dilated", lambda: nn.Conv1d(D, D, 3, dilation=2), 8)
channels("conv1d grouped", lambda: nn.Conv1d(D, D, 3, groups=2), 8)
channels("conv1d depthwise", lambda: nn.Conv1d(D, 2 * D, 3, groups=D, bias=False), 8)
channels("conv1d circular", lambda: nn.Conv1d(D, D, 3, padding=1, padding_mode="circular"), 8)
channels("conv1d reflecting", lambda: nn.Conv1d(D, D, 3, padding=2, padding_mode="reflect"), 8)
channels("conv2d same", lambda: nn.Conv2d(D, D, 3, padding="same"), 4, 5)
channels("conv2d replicating", lambda: nn.Conv2d(D, D, 3, padding=1, padding_mode="replicate"), 4, 5)
channels("conv2d patches", lambda: nn.Conv2d(D, D, 2, stride=2), 4, 4)
channels("conv2d depthwise, strided", lambda: nn.Conv2d(D, D, 3, stride=2, padding=1, groups=D), 5, 5)
channels(
    "conv2d in channels-last memory", lambda: nn.Conv2d(D, D, 3).to(memory_format=torch.channels_last), 4, 5
)
channels("conv3d patches", lambda: nn.Conv3d(D, D, 2, stride=2), 2, 4, 4)
channels("conv3d overlapping", lambda: nn.Conv3d(D, D, 3, padding=1, stride=(1, 2, 2)), 2, 4, 4)
channels("conv transpose 1d", lambda: nn.ConvTranspose1d(D, D, 3, stride=2, output_padding=1), 5)
channels("conv transpose 2d, grouped", lambda: nn.ConvTranspose2d(D, D, 2, stride=2, groups=2), 3, 3)
channels("group norm of images", lambda: nn.GroupNorm(4, D), 3, 4)
channels("instance norm of images", lambda: nn.InstanceNorm2d(D, affine=True), 3, 4)
channels("batch norm of images", lambda: nn.BatchNorm2d(D), 3, 4, refused="BatchNorm")
channels("batch norm of images in eval mode", lambda: evaluated(nn.BatchNorm2d(D)), 3, 4)
channels("prelu of images", lambda: nn.PReLU(D), 3, 4)


# attention
def attention(name: str, call: Call, T: int = 6, **options: Any) -> None:
    tokens(name, lambda: nn.MultiheadAttention(D, 2, **options), call, T)


def self_attention(f: Any, h: Tensor) -> Tensor:
    out: Tensor = f(h, h, h)[0]
    return out


def sequence_first(f: Any, h: Tensor) -> Tensor:
    h = h.transpose(0, 1)
    out: Tensor = f(h, h, h)[0].transpose(0, 1)
    return out


def causal(f: Any, h: Tensor) -> Tensor:
    T = h.shape[1]
    out: Tensor = f(h, h, h, attn_mask=torch.ones(T, T, dtype=torch.bool).triu(1))[0]
    return out


def padded(f: Any, h: Tensor) -> Tensor:
    mask = torch.zeros(h.shape[:2], dtype=torch.bool)
    mask[1, 3:] = mask[2, 1:] = True
    out: Tensor = f(h, h, h, key_padding_mask=mask, need_weights=False)[0]
    return out


attention("attention", self_attention, batch_first=True)
attention("attention with dropout", self_attention, batch_first=True, dropout=0.1)
attention(
    "attention of a constant memory", lambda f, h: f(h, wave(B, 3, D), wave(B, 3, D))[0], batch_first=True
)
attention("attention, cross", lambda f, h: f(h, h[:, :3].sin(), h[:, :3].cos())[0], batch_first=True)
attention("attention by keywords", lambda f, h: f(query=h, key=h, value=h)[0], batch_first=True)
attention(
    "attention to other widths",
    lambda f, h: f(h, h[..., :4], h[..., :3])[0],
    batch_first=True,
    kdim=4,
    vdim=3,
)
attention("attention with bias_kv", self_attention, batch_first=True, add_bias_kv=True, add_zero_attn=True)
attention("attention, causal", causal, batch_first=True)
attention("attention, causal, L == B", causal, B, batch_first=True)
attention("attention with padding", padded, batch_first=True)
attention("attention, sequence first", sequence_first)
attention("attention, sequence first, T == B", sequence_first, B)
attention("attention, sequence first, T == 2 B", sequence_first, 2 * B)
tokens(
    "attention across the batch",
    lambda: nn.MultiheadAttention(D, 2),
    self_attention,
    refusable="batch|sample",
)
attention(
    "attention's weights used",
    lambda f, h: f(h, h, h, average_attn_weights=False)[1].flatten(1, 2),
    batch_first=True,
)

for batch_first in (True, False):
    for T in (6, B, 2 * B):
        tokens(
            f"transformer layer, batch_first={batch_first}, T={T}",
            lambda batch_first=batch_first: nn.TransformerEncoderLayer(
                D, 2, 16, dropout=0.1, batch_first=batch_first
            ),
            plainly if batch_first else lambda f, h: f(h.transpose(0, 1)).transpose(0, 1),
            T,
        )
tokens(
    "transformer encoder",
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(D, 2, 16, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
    ),
)
tokens(
    "transformer encoder with padding, pre-norm",
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(D, 2, 16, dropout=0.1, batch_first=True, norm_first=True),
        2,
        nn.LayerNorm(D),
        enable_nested_tensor=False,
    ),
    lambda f, h: f(h, src_key_padding_mask=torch.arange(6).expand(B, 6) > torch.tensor([[5], [3], [1], [4]])),
)
tokens(
    "transformer decoder layer",
    lambda: nn.TransformerDecoderLayer(D, 2, 16, dropout=0.1, batch_first=True),
    lambda f, h: f(h, h[:, :3]),
)
tokens(
    "transformer of two sides",
    lambda: nn.Transformer(D, 2, 1, 1, 16, dropout=0.1, batch_first=True),
    lambda f, h: f(h, h[:, :4]),
)

# recurrent layers
RECURRENT: dict[str, Callable[..., nn.Module]] = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}
for kind, layer in RECURRENT.items():
    tokens(f"{kind}", lambda layer=layer: layer(D, D, batch_first=True), lambda f, h: f(h)[0])
    tokens(
        f"{kind}, sequence first, T == 2 B",
        lambda layer=layer: layer(D, D),
        lambda f, h: f(h.transpose(0, 1))[0].transpose(0, 1),
        2 * B,
    )
tokens("gru, sequence first", lambda: nn.GRU(D, D), lambda f, h: f(h.transpose(0, 1))[0].transpose(0, 1))
tokens(
    "gru, sequence first, T == B",
    lambda: nn.GRU(D, D),
    lambda f, h: f(h.transpose(0, 1))[0].transpose(0, 1),
    B,
)
tokens(
    "gru, bidirectional, two layers, dropout",
    lambda: nn.GRU(D, 4, 2, batch_first=True, bidirectional=True, dropout=0.2),
    lambda f, h: f(h)[0],
)
tokens(
    "lstm with projections and a first state",
    lambda: nn.LSTM(D, D, proj_size=3, batch_first=True),
    lambda f, h: f(h, (h[None, :, 0, :3].contiguous(), h[None, :, 1].contiguous()))[0],
)
tokens("gru, last state", lambda: nn.GRU(D, D, batch_first=True), lambda f, h: f(h)[1].transpose(0, 1))


def packed(f: Any, h: Tensor) -> Tensor:
    lengths = torch.tensor([6, 2, 5, 3])
    out = f(pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False))[0]
    unpacked: Tensor = pad_packed_sequence(out, batch_first=True)[0]
    return unpacked


tokens("gru of packed sequences", lambda: nn.GRU(D, D, batch_first=True), packed)
tokens(
    "lstm of packed sequences, bidirectional",
    lambda: nn.LSTM(D, 4, batch_first=True, bidirectional=True),
    packed,
)


def cells(f: Any, h: Tensor) -> Tensor:
    state = torch.zeros(B, D)
    states = []
    for t in range(h.shape[1]):
        state = f(h[:, t], state)
        states.append(state)
    return torch.stack(states, 1)


tokens("gru cell", lambda: nn.GRUCell(D, D), cells)


# embeddings
def words(
    name: str, layer: Callable[[], nn.Module], call: Call = plainly, L: int = 6, **options: Any
) -> None:
    """`layer` on token numbers [B, L]; its output [B, ..., D]."""

    def build() -> Built:
        net = Net(
            lambda m, ids: m.last(torch.tanh(call(m.layer, ids))).view(B, -1, 4).mean(1),
            layer=layer(),
            last=nn.Linear(D, 4),
        )
        return single(net, torch.randint(0, 7, (B, L)))

    add(name, build, **options)


def bags(f: Any, ids: Tensor) -> Tensor:
    """Bags of 3, 9, 4 and 8 words, laid end to end."""
    out: Tensor = f(ids.flatten(), torch.tensor([0, 3, 12, 16]))
    return out


words("embedding", lambda: nn.Embedding(7, D))
words("embedding, L == B", lambda: nn.Embedding(7, D), L=B)
words(
    "embedding of [L, B], L == 2 B",
    lambda: nn.Embedding(7, D),
    lambda f, ids: f(ids.T).transpose(0, 1),
    L=2 * B,
)
words("embedding with padding", lambda: nn.Embedding(7, D, padding_idx=0))
words("embedding scaled by frequency", lambda: nn.Embedding(7, D, scale_grad_by_freq=True))
words("embedding of bounded norm", lambda: nn.Embedding(7, D, max_norm=1.0))
words("embedding, sparse", lambda: nn.Embedding(7, D, sparse=True))
words("embedding bag", lambda: nn.EmbeddingBag(7, D))
words("embedding bag, sum with padding", lambda: nn.EmbeddingBag(7, D, mode="sum", padding_idx=0))
words("embedding bag, max", lambda: nn.EmbeddingBag(7, D, mode="max"))
words("embedding bag with offsets", lambda: nn.EmbeddingBag(7, D, mode="sum"), bags)
words(
    "embedding bag with weights",
    lambda: nn.EmbeddingBag(7, D, mode="sum"),
    lambda f, ids: f(ids, per_sample_weights=torch.linspace(0, 1, B * 6).view(B, 6)),
)


@case("embedding of positions")
def positions() -> Built:
    net = Net(
        lambda m, x: m.last(torch.tanh(m.first(x) + m.places(torch.arange(x.shape[1])))).mean(1),
        first=nn.Linear(6, D),
        places=nn.Embedding(6, D),
        last=nn.Linear(D, 4),
    )
    return single(net, torch.randn(B, 6, 6))


@case("embedding of positions, T == B")
def positions_coincide() -> Built:
    net = Net(
        lambda m, x: m.last(torch.tanh(m.first(x) + m.places(torch.arange(x.shape[1])))).mean(1),
        first=nn.Linear(6, D),
        places=nn.Embedding(B, D),
        last=nn.Linear(D, 4),
    )
    return single(net, torch.randn(B, B, 6))
