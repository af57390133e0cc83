"""The harness measures in turn, and the wheel holds no benchmark."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from harness import Row, interleaved, ratio, row, run

ROOT = Path(__file__).parents[2]


def test_ways_take_turns_and_warm_rounds_are_not_counted() -> None:
    order: list[str] = []
    ways = {name: (lambda name=name: order.append(name) or len(order)) for name in ("a", "b")}
    times = interleaved(ways, rounds=2, warm=1, clock=lambda way: way())
    assert order == ["a", "b"] * 3
    assert times == {"a": [3, 5], "b": [4, 6]}
    assert ratio(times["a"], times["b"]) == (3 / 4 + 5 / 6) / 2


def test_options_come_from_the_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def bench(*, rows: int = 3, folder: Path | None = None) -> list[Row]:
        """What it measures."""
        return [row("rows", rows, "", 0.5), row(f"{folder}", 1.0)]

    run(bench, ["--rows", "7", "--folder", "x", "--json", str(tmp_path / "f.json")])
    assert [each["name"] for each in json.loads((tmp_path / "f.json").read_text())] == ["rows", "x"]
    assert "7.000" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["harmony", "train", "extract", "store", "retrieval", "probe"])
def test_make_has_a_recipe_for_each(name: str) -> None:
    command = ["make", "-n", f"bench-{name}", "ARGS=--rounds 2", f"VENV={sys.prefix}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert f"tests/bench/bench_{name}.py --json runs/bench/{name}.json --rounds 2" in done.stdout
    assert (ROOT / f"tests/bench/bench_{name}.py").exists()


def test_the_wheel_holds_no_benchmark() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["harmonize_cli"]}
    assert not list((ROOT / "harmonize_cli").rglob("*bench*"))
