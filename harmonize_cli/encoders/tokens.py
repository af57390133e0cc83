"""Word tokens: cleaning, vocabulary and ids, as in VATT (dmvr's word tokenizer)."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harmonize_cli.config import StageConfig
from harmonize_cli.encoders.base import ENCODERS, EncoderEntry
from harmonize_cli.errors import BadInput
from harmonize_cli.files import sha256_json
from harmonize_cli.store.schema import FeatureSpec

PAD, UNK = 0, 1
PAD_WORD, UNK_WORD = "<pad>", "<unk>"


class TokensConfig(StageConfig):
    """Encoder `tokens`."""

    max_words: int = Field(default=16, ge=1, le=4096)
    """Words kept of a text (VATT: 16)."""
    vocab_size: int = Field(default=65_536, ge=3)
    """At most this many ids, padding and unknown among them (VATT: 2^16)."""
    vocab: Path | None = None
    """Take the words from this store or text file (a word a line), instead of from the training texts."""


def clean_words(text: str) -> list[str]:
    """Punctuation and symbols out, lower case, split at white space."""
    kept = (
        c
        for c in unicodedata.normalize("NFKC", text)
        if unicodedata.category(c)[0] not in "PSC" or c.isspace()
    )
    return "".join(kept).lower().split()


class Vocab:
    """Words and their ids; 0 is padding and 1 stands for every unknown word. `words[i]` has id i."""

    def __init__(self, words: Sequence[str]) -> None:
        """`words` with or without the two leading specials."""
        if list(words[:2]) != [PAD_WORD, UNK_WORD]:
            words = [PAD_WORD, UNK_WORD, *words]
        self.words = list(words)
        self._ids = {word: i for i, word in enumerate(self.words) if i > UNK}
        if len(self._ids) != len(self.words) - 2:
            raise BadInput("vocabulary: a word occurs twice")

    def __len__(self) -> int:
        return len(self.words)

    @staticmethod
    def build(texts: Iterable[str], size: int) -> "Vocab":
        """The most frequent words of `texts`, ties in alphabetical order, `size` ids in all."""
        counts = Counter(word for text in texts for word in clean_words(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return Vocab(ranked[: size - 2])

    @staticmethod
    def load(path: Path) -> "Vocab":
        """From a store, or a text file with a word a line (or a JSON list).

        Raises:
            BadInput: neither.
        """
        if path.is_dir() or path.suffix == ".h5":
            from harmonize_cli.store.reader import Store

            words = Store.open(path).vocab
            if words is None:
                raise BadInput(f"{path}: this store has no vocabulary; name one that was made with tokens")
            return Vocab(words)
        try:
            text = path.read_text(encoding="utf-8")
            found = json.loads(text) if path.suffix == ".json" else text.split()
        except (OSError, ValueError) as e:
            raise BadInput(f"{path}: can't be read as a vocabulary ({e}); expected a word a line") from None
        if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
            raise BadInput(f"{path}: expected a JSON list of words")
        return Vocab(found)

    def encode(self, text: str, length: int) -> npt.NDArray[np.int32]:
        """int32 [length]: ids of the first words, then padding. No start and end marks."""
        ids = [self._ids.get(word, UNK) for word in clean_words(text)[:length]]
        return np.array(ids + [PAD] * (length - len(ids)), np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The words of `ids`, padding left out."""
        return " ".join(self.words[i] for i in ids if i != PAD)


class Tokens:
    """One row of word ids for each text candidate, int32 [C, max_words]. Key text/tokens."""

    batch = 0

    def __init__(self, config: TokensConfig, vocab: Vocab) -> None:
        self.vocab = vocab
        self._length = config.max_words
        params = {"vocab_size": len(vocab), "pad_id": PAD, "unk_id": UNK, "max_words": config.max_words}
        self.spec = FeatureSpec(
            key="text/tokens",
            kind="tokens",
            encoder="words",
            dtype="int32",
            row_shape=(config.max_words,),
            params=params,
            # ids mean nothing without their words
            preprocessing_hash=sha256_json([params, vocab.words]),
        )

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """C texts to int32 [C, max_words]."""
        if not texts:
            return np.empty((0, self._length), np.int32)
        return np.stack([self.vocab.encode(text, self._length) for text in texts])


def _make(argument: str, config: TokensConfig, vocab: Vocab | None) -> list[Tokens]:
    if vocab is None:
        raise ValueError("tokens need a vocabulary")
    return [Tokens(config, vocab)]


ENCODERS.add(
    "tokens",
    EncoderEntry(
        config=TokensConfig, make=_make, keys=("text/tokens",), about="ids of words", needs_vocab=True
    ),
)
