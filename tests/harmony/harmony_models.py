"""Small models and the slow reference: a loop of single-sample backward passes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from harmonize_cli.models.norm import BatchNorm


class Block(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        N, T, D = x.shape
        h = self.norm1(x)
        q, k, v = (f(h).view(N, T, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.drop(self.o(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(N, T, D)))
        return x + self.drop(self.down(gelu(self.up(self.norm2(x)))))


class Checkpointed(nn.Module):
    """A block whose activations are made again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.block, x, use_reentrant=False)
        return y


class Token(nn.Module):
    """A bare parameter in a module of its own, one row per sample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width) * 0.1)

    def forward(self, samples: int) -> Tensor:
        return self.weight.expand(samples, 1, -1)


class Table(nn.Module):
    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, width) * 0.1)

    def forward(self, samples: int) -> Tensor:
        return self.weight.expand(samples, -1, -1)


class TriModal(nn.Module):
    """Video by Conv3d patches, audio by Conv1d patches, words by an embedding; one shared stack."""

    def __init__(
        self, width: int = 16, layers: int = 2, pool: str = "agg", *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.pool = pool
        self.video = nn.Conv3d(3, width, (2, 4, 4), stride=(2, 4, 4))
        self.audio = nn.Conv1d(1, width, 8, stride=8)
        self.words = nn.Embedding(11, width, padding_idx=0)
        self.tables = nn.ModuleDict(
            {"video": Table(8, width), "audio": Table(6, width), "text": Table(5, width)}
        )
        self.agg = nn.ModuleDict({m: Token(width) for m in ("video", "audio", "text")})
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.post = nn.ModuleDict({m: nn.Linear(width, width) for m in ("video", "audio", "text")})
        self.heads = nn.ModuleDict(
            {n: nn.Linear(width, 8) for n in ("video_va", "audio_va", "video_vt", "text_vt")}
        )
        if batch_norm:
            for n in ("video_va", "video_vt"):
                self.heads[n] = nn.Sequential(nn.Linear(width, 8, bias=False), BatchNorm(8))

    def stack(self, name: str, x: Tensor) -> Tensor:
        x = torch.cat([self.agg[name](len(x)), x + self.tables[name](len(x))], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return gelu(self.post[name](x[:, 0] if self.pool == "agg" else x.mean(1)))

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {
            "video": self.stack("video", self.video(inputs["video"]).flatten(2).transpose(1, 2)),
            "audio": self.stack("audio", self.audio(inputs["audio"]).transpose(1, 2)),
        }
        if "text" in inputs:  # [B, C, L]
            text = inputs["text"]
            out["text"] = self.stack("text", self.words(text.flatten(0, 1))).unflatten(0, text.shape[:2])
        return out

    def embed(self, pooled: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {n: self.heads[n](pooled[n.split("_")[0]]) for n in ("video_va", "audio_va", "video_vt")}
        if "text" in pooled:
            out["text_vt"] = self.heads["text_vt"](pooled["text"])
        return out


def make_inputs(
    B: int = 4, C: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "video": torch.randn(B, 3, 4, 8, 8, generator=g, dtype=dtype),
        "audio": torch.randn(B, 1, 48, generator=g, dtype=dtype),
        "text": torch.randint(0, 11, (B, C, 5), generator=g),
    }


def contrast(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """InfoNCE, a [B, D] against b [B, C, D]; rows without a pair have no loss of their own."""
    s = torch.einsum("bd,ncd->bnc", normalize(a, dim=-1), normalize(b, dim=-1)) / 0.2
    if mask is not None:
        s = s.masked_fill(~mask[None, :, None], -1e9)
    per = s.flatten(1).logsumexp(-1) - s[torch.arange(len(a)), torch.arange(len(a))].logsumexp(-1)
    return per.mean() if mask is None else per[mask].sum() / mask.sum()


def losses_of(e: dict[str, Tensor], text_mask: Tensor | None = None) -> dict[str, Tensor]:
    return {
        "va": contrast(e["video_va"], e["audio_va"].unsqueeze(1)),
        "vt": contrast(e["video_vt"], e["text_vt"], text_mask),
    }


def per_sample_gradients(
    losses: Sequence[Tensor], pooled: Sequence[Tensor], params: Sequence[Tensor]
) -> Tensor:
    """[B, K, P]: a loop of single-sample backward passes, graph kept."""
    B = min(len(z) for z in pooled)
    rows: list[list[Tensor]] = []
    deltas = [torch.autograd.grad(loss, pooled, retain_graph=True, allow_unused=True) for loss in losses]
    for i in range(B):
        row = []
        for delta in deltas:
            masked: list[Any] = []
            for z, d in zip(pooled, delta, strict=True):
                keep = torch.zeros(B, dtype=z.dtype)
                keep[i] = 1
                keep = keep.repeat_interleave(len(z) // B).view(-1, *[1] * (z.dim() - 1))
                masked.append(torch.zeros_like(z) if d is None else d * keep)
            grads = torch.autograd.grad(pooled, params, masked, retain_graph=True, allow_unused=True)
            row.append(
                torch.cat(
                    [
                        (torch.zeros_like(p) if g is None else g).flatten()
                        for p, g in zip(params, grads, strict=True)
                    ]
                )
            )
        rows.append(torch.stack(row))
    return torch.stack(rows)


def gram_of(gradients: Tensor) -> Tensor:
    return torch.einsum("bkp,blp->bkl", gradients, gradients)


def gram_error(got: Tensor, want: Tensor) -> float:
    """Worst error relative to the product of the two gradients' lengths."""
    norm = want.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()
    return ((got.to(want) - want).abs() / (norm[:, :, None] * norm[:, None, :])).max().item()
