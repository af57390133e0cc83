"""From raw inputs or features to tokens. forward(x, keep) -> [N, n, D] makes only the kept tokens: a token
depends on its own patch alone, so leaving it out early is DropToken at no cost.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from harmonize_cli.models.positions import pick
from harmonize_cli.models.standardise import Standardise


class Tokeniser(nn.Module, ABC):
    """Base: `grid(x)` is the token grid of an input, its product the number of tokens."""

    drops = True
    """Whether DropToken applies (video and audio, never text)."""

    @abstractmethod
    def grid(self, x: Tensor) -> tuple[int, ...]:
        """Tokens along each axis for this input."""

    @abstractmethod
    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Tokens [N, n, D] at `keep`."""


class PatchTokens(Tokeniser):
    """A linear map of each patch; `features` numbers a patch."""

    def __init__(self, features: int, width: int, *, standardise: bool = False) -> None:
        super().__init__()
        self.standardise = Standardise(features) if standardise else None
        self.proj = nn.Linear(features, width)

    @abstractmethod
    def patches(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """[N, n, features] of the kept patches, as floats."""

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """See `Tokeniser`."""
        patches = self.patches(x, keep)
        tokens: Tensor = self.proj(patches if self.standardise is None else self.standardise(patches))
        return tokens


class VideoPatches(PatchTokens):
    """Non-overlapping patches of (t, h, w), a linear map each: the 3-D convolution of VATT.

    x: [B, T, H, W, C], uint8 in [0, 255] (mapped to [-1, 1] here) or float. What does not fill a whole
    patch at the end of an axis is left out, as a convolution without padding does.
    """

    def __init__(
        self, patch: tuple[int, int, int], channels: int, width: int, *, standardise: bool = False
    ) -> None:
        super().__init__(math.prod(patch) * channels, width, standardise=standardise)
        self.patch = patch

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """(T/t, H/h, W/w)."""
        return tuple(x.shape[axis + 1] // size for axis, size in enumerate(self.patch))

    def patches(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """See `PatchTokens`."""
        (t, h, w), (nt, nh, nw) = self.patch, self.grid(x)
        x = x[:, : nt * t, : nh * h, : nw * w]
        x = x.reshape(len(x), nt, t, nh, h, nw, w, x.shape[-1]).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return _pixels(pick(x.reshape(len(x), nt * nh * nw, -1), keep), self.proj.weight.dtype)


class WaveformPatches(PatchTokens):
    """Patches of consecutive samples, a linear map each. x: [B, samples] in [-1, 1]; the end is padded."""

    def __init__(self, patch: int, width: int, *, standardise: bool = False) -> None:
        super().__init__(patch, width, standardise=standardise)
        self.patch = patch

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """(samples / patch,), rounded up."""
        return (-(-x.shape[1] // self.patch),)

    def patches(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """See `PatchTokens`."""
        (n,) = self.grid(x)
        x = nn.functional.pad(x, (0, n * self.patch - x.shape[1]))
        return pick(x.reshape(len(x), n, self.patch), keep).to(self.proj.weight.dtype)


class SpectrumPatches(PatchTokens):
    """Patches of (time, bins) of a spectrogram, a linear map each. x: [B, T, bins]; time is padded."""

    def __init__(self, patch: tuple[int, int], width: int, *, standardise: bool = False) -> None:
        super().__init__(math.prod(patch), width, standardise=standardise)
        self.patch = patch

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """(T / time, rounded up; bins / height)."""
        return -(-x.shape[1] // self.patch[0]), x.shape[2] // self.patch[1]

    def patches(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """See `PatchTokens`."""
        (t, f), (nt, nf) = self.patch, self.grid(x)
        x = nn.functional.pad(x[:, :, : nf * f], (0, 0, 0, nt * t - x.shape[1]))
        x = x.reshape(len(x), nt, t, nf, f).transpose(2, 3).reshape(len(x), nt * nf, t * f)
        return pick(x, keep).to(self.proj.weight.dtype)


class FeatureTokens(Tokeniser):
    """One token per feature row, a linear map each. x: [N, T, *row_shape]."""

    def __init__(self, features: int, width: int, *, drops: bool = True) -> None:
        super().__init__()
        self.drops = drops
        self.proj = nn.Linear(features, width)

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """(T,)."""
        return (x.shape[1],)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """See the class."""
        tokens: Tensor = self.proj(pick(x.flatten(2), keep).to(self.proj.weight.dtype))
        return tokens


class WordTokens(Tokeniser):
    """A vector per word, or per byte pair. x: [N, L] ids, 0 = padding at the end."""

    drops = False

    def __init__(self, vocabulary: int, width: int, *, frozen: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.words.weight)
        with torch.no_grad():
            self.words.weight[0].zero_()
        self.words.weight.requires_grad_(not frozen)

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """(L,)."""
        return (x.shape[1],)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """See the class."""
        tokens: Tensor = self.words(x.long() if keep is None else x.long().gather(1, keep))
        return tokens


def _pixels(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).mul_(2 / 255).sub_(1) if x.dtype == torch.uint8 else x.to(dtype)
