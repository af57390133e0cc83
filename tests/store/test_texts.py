"""A text column reads like a tuple of str."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonize_cli.store.digest import decode_text, encode_text
from harmonize_cli.store.texts import TextColumn

TEXTS = st.lists(st.one_of(st.text(max_size=6), st.binary(max_size=4).map(decode_text)), max_size=8)


def _column(texts: list[str]) -> TextColumn:
    raw = [encode_text(text) for text in texts]
    return TextColumn(b"".join(raw), np.cumsum([0, *map(len, raw)]))


@given(TEXTS, TEXTS, st.slices(8))
def test_like_a_tuple(first: list[str], second: list[str], part: slice) -> None:
    column, texts = TextColumn.joined([_column(first), _column(second)]), first + second
    assert list(column) == texts
    assert column == texts
    assert column == tuple(texts)
    assert column != [*texts, "more"]
    assert [column[i] for i in range(-len(texts), len(texts))] == texts + texts
    assert column[part] == texts[part]
    assert pickle.loads(pickle.dumps(column)) == texts
    assert np.array(column).tolist() == np.array(texts).tolist()
    with pytest.raises(IndexError):
        column[len(texts)]


def test_more_texts_than_are_taken_at_once() -> None:
    texts = [str(i) for i in range(10_001)]
    assert list(_column(texts)) == texts
    assert "10000" in _column(texts)
