"""Texts as open_clip's byte-pair tokens, for a model that is to read what CLIP's text tower reads."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harmonize_cli.config import StageConfig
from harmonize_cli.encoders.base import ENCODERS, EncoderEntry
from harmonize_cli.encoders.tokens import PAD, clean_words
from harmonize_cli.files import sha256_json
from harmonize_cli.store.schema import FeatureSpec

CLIP_BPE = "open_clip:bpe"


class ClipTokensConfig(StageConfig):
    """Encoder `clip_tokens`."""

    context: int = Field(default=77, ge=3, le=4096)
    """Tokens kept of a text, the start and end marks among them (CLIP: 77)."""


class ClipTokens:
    """One row of ids for each text candidate, int32 [C, context]: start, byte pairs, end, then 0 as padding.

    Key text/clip_tokens. The tokenizer is the one that all of CLIP's own models share; it comes with
    open_clip. A text without words is all padding, as with word tokens: no candidate.
    """

    batch = 0

    def __init__(self, config: ClipTokensConfig) -> None:
        import open_clip

        self._tokenizer = open_clip.SimpleTokenizer()
        self._length = config.context
        params = {"vocab_size": self._tokenizer.vocab_size, "pad_id": PAD, "max_words": config.context}
        self.spec = FeatureSpec(
            key="text/clip_tokens",
            kind="tokens",
            encoder=CLIP_BPE,
            dtype="int32",
            row_shape=(config.context,),
            params=params,
            preprocessing_hash=sha256_json([params, self._tokenizer.encoder]),
        )

    def encode(self, text: str, length: int) -> npt.NDArray[np.int32]:
        """int32 [length]; a longer text ends with the end mark at its last place."""
        ids: npt.NDArray[np.int32] = self._tokenizer([text], length)[0].numpy().astype(np.int32)
        return ids

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """C texts to int32 [C, context]."""
        rows = np.full((len(texts), self._length), PAD, np.int32)
        for row, text in zip(rows, texts, strict=True):
            if clean_words(text):
                row[:] = self.encode(text, self._length)
        return rows


ENCODERS.add(
    "clip_tokens",
    EncoderEntry(
        config=ClipTokensConfig,
        make=lambda argument, config, vocab: [ClipTokens(config)],
        keys=("text/clip_tokens",),
        about="open_clip's byte pairs",
    ),
)
