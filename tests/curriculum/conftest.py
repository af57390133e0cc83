"""One store and one run for the whole room."""

import pytest
from planted import World, make_store, train


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once; tests must not write into it."""
    folder = tmp_path_factory.mktemp("planted")
    marked = make_store(folder / "store.h5")
    return World(folder / "store.h5", train(folder / "store.h5", folder / "run"), marked)
