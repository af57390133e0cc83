"""Fixtures for every room's tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REAL_DATA = Path(os.environ.get("HARMONIZE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("grid_s1")`: a folder of real data, or a skip that says why where it is absent.

    The real data sets may not be redistributed, so users of the repository don't have them.
    Point HARMONIZE_TEST_DATA at a folder that holds them to run these tests.
    """

    def find(name: str) -> Path:
        folder = REAL_DATA / name
        if not folder.exists():
            pytest.skip(f"real test data {name!r} is not on this machine (HARMONIZE_TEST_DATA={REAL_DATA})")
        return folder

    return find
