"""Fixtures for every room's tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# pytest-xdist runs one process per core: more threads each would only fight
os.environ.setdefault("OMP_NUM_THREADS", "1")

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


@pytest.fixture(scope="session")
def harmonize() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`harmonize("extract", path, ..., code=0)`: the real command in its own process, exit code checked."""

    def run(
        *args: object, code: int = 0, timeout: float = 240, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harmonize_cli", *map(str, args)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, **options
        )
        assert done.returncode == code, (
            f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run
