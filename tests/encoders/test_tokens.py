import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonize_cli.encoders.tokens import PAD, UNK, Tokens, TokensConfig, Vocab, clean_words
from harmonize_cli.errors import BadInput


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, NOW!", ["dont", "stop", "now"]),
        ("a\tb\n c", ["a", "b", "c"]),
        ("«Füße» — naïve", ["füße", "naïve"]),
        ("...!?", []),
        ("", []),
    ],
)
def test_cleaning(text, words):
    assert clean_words(text) == words


@given(st.text())
def test_cleaned_words_are_clean_and_stay_so(text):
    words = clean_words(text)
    assert all(w and not any(c.isspace() or c in string.punctuation for c in w) for w in words)
    assert clean_words(" ".join(words)) == words or any(not w.islower() for w in words)


def test_most_frequent_words_first_ties_by_alphabet():
    vocab = Vocab.build(["b a c", "b a", "b d"], 5)
    assert vocab.words == ["<pad>", "<unk>", "b", "a", "c"]


def test_ids_padding_unknown_and_length():
    encoder = Tokens(TokensConfig(max_words=4), Vocab(["one", "two"]))
    rows = encoder.encode_texts(["Two, one!", "one three two one one", ""])
    assert rows.tolist() == [[3, 2, PAD, PAD], [2, UNK, 3, 2], [PAD] * 4]
    assert rows.dtype == np.int32
    assert encoder.vocab.decode(rows[1]) == "one <unk> two one"
    assert encoder.spec.params["vocab_size"] == 4
    assert encoder.encode_texts([]).shape == (0, 4)


def test_other_words_are_another_preprocessing():
    config = TokensConfig()
    a, b = (Tokens(config, Vocab(words)).spec.preprocessing_hash for words in (["x", "y"], ["y", "x"]))
    assert a != b


@pytest.mark.parametrize("text", ["one\ntwo\n", "<pad>\n<unk>\none\ntwo"])
def test_vocab_files(tmp_path, text):
    path = tmp_path / "words.txt"
    path.write_text(text)
    assert Vocab.load(path).words == ["<pad>", "<unk>", "one", "two"]


def test_vocab_faults_are_named(tmp_path):
    with pytest.raises(BadInput, match="nothing"):
        Vocab.load(tmp_path / "nothing.txt")
    bad = tmp_path / "w.json"
    bad.write_text('{"a": 1}')
    with pytest.raises(BadInput, match="list of words"):
        Vocab.load(bad)
    with pytest.raises(BadInput, match="twice"):
        Vocab(["a", "a"])
