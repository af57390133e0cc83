import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonize_cli.media.requests import Chunk, FrameRequest, SoundRequest, Span
from harmonize_cli.media.rows import RowBuffer, release
from harmonize_cli.media.segments import Cutter


@pytest.mark.parametrize("limit", [0, 50, 10_000])
def test_rows_come_back_whatever_the_limit(limit):
    rows = np.arange(60, dtype=np.uint8).reshape(20, 3)
    buffer = RowBuffer((3,), np.uint8, limit=limit)
    for part in np.split(rows, [1, 5, 5, 13]):
        buffer.append(part)
    found = buffer.array()
    assert np.array_equal(found, rows)
    release(found)
    assert np.array_equal(found, rows)
    assert len(buffer) == 20


def test_no_rows():
    assert RowBuffer((2, 2), np.float32).array().shape == (0, 2, 2)


spans = st.lists(
    st.tuples(st.integers(0, 60), st.one_of(st.none(), st.integers(1, 40))).map(
        lambda t: Span(t[0] / 10, None if t[1] is None else (t[0] + t[1]) / 10)
    ),
    min_size=1,
    max_size=6,
)


@given(spans, st.lists(st.integers(1, 30), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_cutting_equals_cutting_the_whole(wanted, sizes, rng):
    """Any chunks, tracks interleaved at will: each segment gets the rows of its span, in order of ends."""
    frames, sound = FrameRequest(10, 1, 1, 1), SoundRequest(100)
    n = sum(sizes)
    times = np.arange(n) / 10
    rows = (np.arange(n) % 251).astype(np.uint8).reshape(n, 1, 1, 1)
    wave = np.arange(n * 10, dtype=np.float32)
    queue = [[], []]
    first = 0
    for size in sizes:
        queue[0].append(Chunk(0, times[first : first + size], rows[first : first + size]))
        queue[1].append(Chunk(1, times[first : first + 1], wave[first * 10 : (first + size) * 10]))
        first += size
    cutter = Cutter([frames, sound], wanted)
    found = []
    while any(queue):
        lane = rng.choice([q for q in queue if q])
        found += cutter.add(lane.pop(0))
    found += cutter.end()
    ends = [wanted[s.index].end or np.inf for s in found]
    assert sorted(s.index for s in found) == list(range(len(wanted)))
    assert ends == sorted(ends)
    for segment in found:
        span = wanted[segment.index]
        end = np.inf if span.end is None else span.end
        pick = (times >= span.start - 1e-6) & (times < end - 1e-6)
        assert np.array_equal(segment.rows[0], rows[pick])
        assert np.allclose(segment.times[0], times[pick])
        a = round(span.start * 100)
        b = len(wave) if span.end is None else round(span.end * 100)
        assert np.array_equal(segment.rows[1], wave[a:b])
