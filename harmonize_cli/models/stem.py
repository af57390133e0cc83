"""All that a modality owns before the transformer: tokeniser, pre_proj, positions, DropToken, AGG."""

import math

import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.models.config import ModelConfig
from harmonize_cli.models.inputs import InputSpec, spectrum_patch, video_patch, waveform_patch
from harmonize_cli.models.positions import AggToken, Positions
from harmonize_cli.models.tokenisers import (
    FeatureTokens,
    SpectrumPatches,
    Tokeniser,
    VideoPatches,
    WaveformPatches,
    WordTokens,
)


class Stem(nn.Module):
    """Tokens of one modality, ready for the transformer.

    forward(x, mask) -> (tokens [N, 1 + n, D], key mask [N, 1 + n] or None); the AGG token comes first.
    `mask` [N, n] is True where a token is real.
    """

    def __init__(self, modality: str, shape: InputSpec, config: ModelConfig) -> None:
        super().__init__()
        width = config.size(modality).width
        self.tokeniser, grid = _tokeniser(modality, shape, config, width)
        agnostic = config.sharing == "agnostic"
        fan_in = config.word_dim if shape.kind == "tokens" else width
        self.pre_proj = nn.Linear(fan_in, width) if agnostic or fan_in != width else None
        self.positions = Positions(grid, width, prefix=modality == "text")
        self.agg = AggToken(width)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.drop_token = config.drop_token_rate if self.tokeniser.drops else 0.0
        self.per_sample = config.drop_token_per_sample
        self.kept_tokens = self._count(math.prod(grid))
        """Tokens in training, without AGG."""

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See the class."""
        grid = self.tokeniser.grid(x)
        keep = self._kept(len(x), math.prod(grid), x.device)
        tokens = self.tokeniser(x, keep)
        if self.pre_proj is not None:
            tokens = nn.functional.gelu(self.pre_proj(tokens))
        tokens = self.dropout(tokens + self.positions(len(x), grid, keep))
        tokens = torch.cat([self.agg(len(x)).to(tokens.dtype), tokens], dim=1)
        if mask is None:
            return tokens, None
        if keep is not None:
            mask = mask.index_select(1, keep) if keep.dim() == 1 else mask.gather(1, keep)
        return tokens, nn.functional.pad(mask, (1, 0), value=True)

    def _kept(self, samples: int, tokens: int, device: torch.device) -> Tensor | None:
        if not self.training or not self.drop_token:
            return None
        kept = self._count(tokens)
        if self.per_sample:
            return torch.rand(samples, tokens, device=device).argsort(dim=1)[:, :kept]
        return torch.randperm(tokens, device=device)[:kept]

    def _count(self, tokens: int) -> int:
        return max(1, int(tokens * (1 - self.drop_token)))


def _tokeniser(
    modality: str, shape: InputSpec, config: ModelConfig, width: int
) -> tuple[Tokeniser, tuple[int, ...]]:
    """The tokeniser for this kind of input, and the grid of its position tables."""
    if shape.kind == "frames":
        patch = video_patch(config, shape)
        height, breadth, channels = shape.row_shape
        grid = (shape.rows // patch[0], height // patch[1], breadth // patch[2])
        return VideoPatches(patch, channels, width, standardise=config.standardises), grid
    if shape.kind == "waveform":
        size = waveform_patch(config, shape)
        return WaveformPatches(size, width, standardise=config.standardises), (-(-shape.rows // size),)
    if shape.kind in ("logmel", "mfcc"):
        time, height = spectrum_patch(config, shape)
        tokens = SpectrumPatches((time, height), width, standardise=config.standardises)
        return tokens, (-(-shape.rows // time), shape.row_shape[0] // height)
    if shape.kind == "tokens":
        words = WordTokens(shape.vocabulary, config.word_dim, frozen=config.freeze_words)
        return words, (shape.rows,)
    if shape.kind == "embedding":
        if modality == "text":
            if len(shape.row_shape) > 2:
                raise BadInput(
                    f"{shape.key}: rows of shape {shape.row_shape}; a text feature is a vector (D,) or a "
                    "sequence (L, D) for each candidate"
                )
            return FeatureTokens(shape.row_shape[-1], width, drops=False), (shape.rows,)
        return FeatureTokens(math.prod(shape.row_shape), width), (shape.rows,)
    raise BadInput(f"{modality}: the model can't read features of kind {shape.kind!r}")
