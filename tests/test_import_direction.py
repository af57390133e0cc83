"""The house's one-way streets: who may import whom (docs: README, section "Where things are")."""

import ast
from pathlib import Path

import pytest

import harmonize_cli

PACKAGE = Path(harmonize_cli.__file__).parent
HELPERS = {
    "errors",
    "files",
    "config",
    "heap",
    "interrupts",
    "locks",
    "printing",
    "processes",
    "progress",
    "ranks",
    "registry",
}

# room -> rooms that it may import (itself and the helpers always)
MAY_IMPORT = {
    "media": set(),
    "encoders": {"media", "store"},
    "datasets": {"media", "store"},
    "store": set(),
    "data": {"models", "store"},
    "models": set(),
    "objectives": set(),
    "harmony": set(),
    "extraction": {"datasets", "media", "encoders", "store"},
    "training": {"harmony", "objectives", "models", "store", "data"},
    "curriculum": {"harmony", "objectives", "models", "store", "data", "evaluation", "training"},
    "evaluation": {"harmony", "objectives", "models", "store", "data", "datasets"},
    "reporting": {"harmony", "objectives", "models", "store", "data", "evaluation", "curriculum"},
    "demo": {"media", "datasets", "reporting"},
}
FREE = {"cli"}  # it puts everything together


def _imports(file: Path) -> set[str]:
    """Names of the rooms and helpers of harmonize_cli that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("harmonize_cli.")}
    return found - {"__version__"}


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_room_is_known() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(MAY_IMPORT) | FREE


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_room_imports_only_what_it_may(room: str) -> None:
    for file in (PACKAGE / room).rglob("*.py"):
        extra = _imports(file) - MAY_IMPORT[room] - HELPERS - {room}
        assert not extra, f"{file.relative_to(PACKAGE)} imports {sorted(extra)}"


def test_nothing_imports_cli() -> None:
    for file in _files():
        inside = file.is_relative_to(PACKAGE / "cli") or file.name == "__main__.py"
        assert inside or "cli" not in _imports(file), file


def test_no_relative_imports() -> None:
    """They would slip past the checks above."""
    for file in _files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), file
