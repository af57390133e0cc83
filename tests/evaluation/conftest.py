"""A small real store and a small real run."""

from types import SimpleNamespace

import pytest
from small_world import make_run, make_store

from harmonize_cli.cli.main import app


@pytest.fixture
def small_store(tmp_path):
    return make_store(tmp_path / "store.h5", long=(13,), silent=(14,))


@pytest.fixture
def small_run(tmp_path, small_store):
    return make_run(tmp_path / "run", small_store)


@pytest.fixture
def command(capsys, monkeypatch):
    """As `harmonize`, in this process: the import of torch is paid once. Returns .stdout."""

    def run(*args, cwd=None):
        if cwd:
            monkeypatch.chdir(cwd)
        app([str(a) for a in args], standalone_mode=False)
        return SimpleNamespace(stdout=capsys.readouterr().out)

    return run
