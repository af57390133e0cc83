"""The command as a whole: fast help, one clear message for an error."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import harmonize_cli
from harmonize_cli.cli.gone import GONE
from harmonize_cli.cli.main import app
from harmonize_cli.errors import BadInput

HEAVY = ("torch", "numpy", "h5py", "sklearn", "matplotlib", "open_clip", "torchaudio")


def _commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = getattr(group, "commands", {})
    found = [path] if path else []
    for name, command in below.items():
        found += _commands(command, (*path, name))
    return found


COMMANDS = _commands(typer.main.get_command(app))
LEAVES = [c for c in COMMANDS if not any(other[: len(c)] == c and other != c for other in COMMANDS)]


def test_help_of_every_command_loads_nothing_heavy() -> None:
    """What makes `--help` slow is the import of torch and its like (pitfall 18)."""
    code = (
        "import sys\n"
        "from harmonize_cli.cli.main import app\n"
        f"for command in {[[], *map(list, COMMANDS)]!r}:\n"
        "    try: app([*command, '--help'])\n"
        "    except SystemExit as e: assert not e.code, (command, e.code)\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_help_shows_a_runnable_example(command: tuple[str, ...]) -> None:
    node: Any = typer.main.get_command(app)
    for name in command:
        node = node.commands[name]
    assert f"harmonize {' '.join(command)}" in (node.help or "") + (node.epilog or ""), (
        "no example in the help"
    )


def test_version(harmonize) -> None:
    assert harmonize("--version").stdout.strip() == f"harmonize {harmonize_cli.__version__}"


def test_unknown_command_is_bad_usage(harmonize) -> None:
    assert "No such command" in harmonize("extrakt", code=2).stderr


def test_an_error_is_one_message_without_traceback(harmonize, tmp_path: Path) -> None:
    done = harmonize("extract", tmp_path / "absent.csv", "-o", tmp_path / "store.h5", code=2)
    assert "absent.csv" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gone", GONE)
def test_what_is_gone_names_the_new_way(gone: str) -> None:
    error = CliRunner().invoke(app, gone.split()).exception
    assert isinstance(error, BadInput)
    assert str(error) == f"harmonize {gone} is gone; {GONE[gone]}"
