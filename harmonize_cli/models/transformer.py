"""Pre-norm transformer blocks (VATT section 3.2)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from harmonize_cli.models.config import Size


class Attention(nn.Module):
    """Full bidirectional self-attention; q, k and v come from one linear layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, key_mask: Tensor | None, *, queries: int | None = None) -> Tensor:
        """x [N, T, D], key_mask [N, T] True where a key may be seen -> [N, queries or T, D]."""
        N, T, D = x.shape
        q, k, v = self.qkv(x).view(N, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(
            q[:, :, :queries],
            k,
            v,
            attn_mask=None if key_mask is None else key_mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(N, -1, D))
        return out


class Block(nn.Module):
    """x + drop(attention(norm(x))), then x + drop(feed-forward(norm(x)))."""

    def __init__(self, size: Size, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, eps=1e-6)
        self.attention = Attention(size.width, size.heads, attention_dropout)
        self.norm2 = nn.LayerNorm(size.width, eps=1e-6)
        self.up = nn.Linear(size.width, size.feedforward)
        self.down = nn.Linear(size.feedforward, size.width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, key_mask: Tensor | None, *, queries: int | None = None) -> Tensor:
        """[N, T, D] -> [N, T, D], or [N, queries, D]: the first tokens only."""
        x = x[:, :queries] + self.dropout(self.attention(self.norm1(x), key_mask, queries=queries))
        inner = self.dropout(gelu(self.up(self.norm2(x))))
        x = x + self.dropout(self.down(inner))
        return x


class Transformer(nn.Module):
    """The stack and its last norm; called once per modality, it keeps no state between calls."""

    def __init__(self, size: Size, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(size, dropout, attention_dropout) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.checkpointing = False
        """Recompute each block in the backward pass instead of keeping its activations."""

    def forward(self, x: Tensor, key_mask: Tensor | None = None, *, queries: int | None = None) -> Tensor:
        """x [N, T, D], key_mask [N, T] -> [N, T, D], or the first `queries` tokens of that.

        Where only the AGG token is read (queries=1), the last block does the work of that token alone
        after its keys and values: a quarter less work for three blocks, the same result.
        """
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            wanted = queries if i == last else None
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, key_mask, queries=wanted, use_reentrant=False)
            else:
                x = block(x, key_mask, queries=wanted)
        out: Tensor = self.dropout(self.norm(x))
        return out
