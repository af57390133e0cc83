import numpy as np
import open_clip
import pytest

from harmonize_cli.encoders.clip_tokens import ClipTokens, ClipTokensConfig
from harmonize_cli.encoders.registry import EncodersConfig, build_encoders, text_tokeniser
from harmonize_cli.errors import BadInput

TEXTS = ["a dog barks", "Don't stop, NOW!", "naïve 日本 ...", "word " * 200]


@pytest.fixture(scope="module")
def tokens():
    return ClipTokens(ClipTokensConfig())


def test_ids_are_open_clips_own(tokens):
    want = open_clip.get_tokenizer("ViT-B-32")(TEXTS).numpy()
    assert np.array_equal(tokens.encode_texts(TEXTS), want)
    assert tokens.spec.row_shape == (77,)
    assert want.max() < tokens.spec.params["vocab_size"] == 49408


def test_a_text_without_words_is_no_candidate(tokens):
    rows = tokens.encode_texts(["", "?!", "a"])
    assert rows.any(axis=1).tolist() == [False, False, True]
    assert tokens.encode_texts([]).shape == (0, 77)


def test_a_shorter_context_ends_with_the_end_mark():
    (encoder,) = build_encoders(["clip_tokens"], EncodersConfig(clip_tokens={"context": 8}), None)
    row = encoder.encode_texts([TEXTS[3]])[0]
    assert (row[0], row[-1]) == (49406, 49407)
    assert encoder.spec.preprocessing_hash != ClipTokens(ClipTokensConfig()).spec.preprocessing_hash


def test_prompts_are_tokenised_as_the_store_was(tokens, tmp_path):
    encode = text_tokeniser(tokens.spec.encoder, tmp_path / "none.json")
    assert np.array_equal(encode("a dog", 77), tokens.encode_texts(["a dog"])[0])
    with pytest.raises(BadInput, match=r"none\.json: missing"):
        text_tokeniser("words", tmp_path / "none.json")
    (tmp_path / "v.json").write_text('["<pad>", "<unk>", "dog"]')
    assert text_tokeniser("words", tmp_path / "v.json")("a dog", 3).tolist() == [1, 2, 0]
