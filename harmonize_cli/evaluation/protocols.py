"""How clips become embeddings and ranks: the settings that published numbers differ in, by name.

Sources: VATT (arXiv 2104.11178, appendix A.3.3 and the authors' code), MIL-NCE (arXiv 1912.06430 and the
authors' PyTorch code). A protocol fixes what happens after the store: frame rate, size and crop were decided
when the store was extracted, and are named in the store.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harmonize_cli.config import StageConfig

Pooling = Literal["mean-then-normalise", "mean-of-similarities", "mean-raw"]


class RetrievalProtocol(StageConfig):
    """Zero-shot retrieval between the three modalities of one pool."""

    name: str = "vatt"
    """Shown in results; "custom" once any setting was changed."""
    windows: int = Field(default=4, ge=1, le=100)
    """Linearly spaced windows per clip; a clip no longer than one window is seen once."""
    pooling: Pooling = "mean-then-normalise"
    """From windows to a score: the mean of raw embeddings, normalised; the mean of cosine similarities; the
    mean of raw embeddings with the dot product as it is."""
    captions: Literal["first", "all", "mean"] = "first"
    """With several captions per clip: the first one, every one as an item of its own, or their mean."""
    same_text: Literal["distinct", "shared"] = "distinct"
    """Whether a clip with word for word the same caption is a wrong answer (the literature's habit; the tie
    rule shares the rank) or a right one."""
    tie: Literal["expected", "optimistic", "pessimistic"] = "expected"
    """The rank of tied items: mean over all orders, best, or worst."""
    text_words: int = Field(default=16, ge=1, le=512)
    """Captions are cut after so many words (never longer than the store holds)."""
    pool: Literal["complete", "all"] = "complete"
    """Samples with all three modalities, so that the six directions share one pool; or, per direction, all
    samples that have what it needs."""


PROTOCOLS: dict[str, RetrievalProtocol] = {
    "vatt": RetrievalProtocol(),
    "mil-nce": RetrievalProtocol(name="mil-nce", pooling="mean-raw", text_words=30),
}
