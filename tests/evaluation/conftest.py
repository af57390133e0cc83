"""A small real store and a small real run."""

import pytest
from small_world import make_run, make_store


@pytest.fixture
def small_store(tmp_path):
    return make_store(tmp_path / "store.h5", long=(13,), silent=(14,))


@pytest.fixture
def small_run(tmp_path, small_store):
    return make_run(tmp_path / "run", small_store)
