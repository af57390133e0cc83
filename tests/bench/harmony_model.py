"""The model that `make bench-harmony` measures with: plain PyTorch, one stack for three modalities."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class Size:
    """tokens: video, audio, text; the first token of each is the AGG token."""

    width: int
    layers: int
    heads: int
    feedforward: int
    tokens: tuple[int, int, int]
    batch: int


PRESETS = {
    "tiny": Size(32, 2, 2, 64, (10, 6, 4), 8),
    "default": Size(256, 4, 4, 1024, (98, 64, 16), 32),
    # VATT's sizes (arXiv 2104.11178, table 7) with DropToken 0.5: 784 and 600 tokens, 16 words
    "base": Size(768, 12, 12, 3072, (785, 601, 17), 32),
    "medium": Size(1024, 12, 16, 4096, (785, 601, 17), 32),
}
MODALITIES = ("video", "audio", "text")


class Attention(nn.Module):
    """Full self-attention with q, k, v of their own, as in VATT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] -> [N, T, D]."""
        N, T, D = x.shape
        q, k, v = (f(x).view(N, T, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        out: Tensor = self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(N, T, D))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.attention = Attention(size.width, size.heads)
        self.up = nn.Linear(size.width, size.feedforward)
        self.down = nn.Linear(size.feedforward, size.width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] -> [N, T, D]."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.down(gelu(self.up(self.norm2(x))))
        return out


class Stack(nn.Module):
    """Blocks and last norm; pools the AGG token."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] -> [N, D]."""
        pooled: Tensor = self.norm(self.blocks(x))[:, 0]
        return pooled


class Model(nn.Module):
    """A linear tokenizer per modality, the shared stack, a linear head per modality and loss."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({m: nn.Linear(size.width, size.width) for m in MODALITIES})
        self.transformer = Stack(size)
        names = ("video_va", "audio_va", "video_vt", "text_vt")
        self.heads = nn.ModuleDict({name: nn.Linear(size.width, 128) for name in names})

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features [B, T, D] per modality -> pooled [B, D]."""
        return {m: self.transformer(self.stem[m](x)) for m, x in inputs.items()}

    def embed(self, pooled: dict[str, Tensor]) -> dict[str, Tensor]:
        """Heads' outputs, [B, 128] each."""
        return {name: head(pooled[name.split("_")[0]]) for name, head in self.heads.items()}

    def losses(self, embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
        """Symmetric NCE, video against audio and video against text."""
        e = {name: normalize(x.float()) for name, x in embeddings.items()}
        return {"va": _nce(e["video_va"], e["audio_va"]), "vt": _nce(e["video_vt"], e["text_vt"])}


def make_model(size: Size, device: torch.device) -> Model:
    """The same weights on every call."""
    torch.manual_seed(0)
    return Model(size).to(device)


def make_batch(size: Size, device: torch.device) -> dict[str, Tensor]:
    """The same features on every call, [B, T, D] per modality."""
    draw = torch.Generator().manual_seed(1)
    shapes = dict(zip(MODALITIES, size.tokens, strict=True))
    return {m: torch.randn(size.batch, T, size.width, generator=draw).to(device) for m, T in shapes.items()}


def _nce(a: Tensor, b: Tensor) -> Tensor:
    logits = a @ b.t() / 0.07
    target = torch.arange(len(a), device=a.device)
    both = nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.t(), target)
    return both / 2
