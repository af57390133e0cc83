import threading
import time

import pytest

from harmonize_cli.extraction.prefetch import prefetch


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert not [t for t in set(threading.enumerate()) - before if t.is_alive()]


def test_order_is_kept():
    makers = [lambda k=k: iter(range(k * 10, k * 10 + k)) for k in range(8)]
    assert list(prefetch(makers, depth=3)) == [k * 10 + i for k in range(8) for i in range(k)]


def test_the_next_runs_while_the_first_is_read():
    began = threading.Event()

    def second():
        began.set()
        yield 2

    items = prefetch([lambda: iter([1, 1]), second], depth=1)
    assert next(items) == 1
    assert began.wait(5)
    items.close()


def test_an_error_comes_at_its_place_and_ends_the_rest():
    def broken():
        yield "b"
        raise KeyError("here")

    items = prefetch([lambda: iter("a"), broken, lambda: iter("c")])
    assert [next(items), next(items)] == ["a", "b"]
    with pytest.raises(KeyError):
        next(items)


def test_closing_early_closes_the_iterators():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield time.monotonic()
        finally:
            closed.set()

    items = prefetch([endless, endless])
    next(items)
    items.close()
    assert closed.wait(5)


def test_no_more_than_a_few_items_are_held():
    made = []

    def many():
        for i in range(100):
            made.append(i)
            yield i

    items = prefetch([many])
    next(items)
    time.sleep(0.2)
    assert len(made) <= 8
    items.close()
