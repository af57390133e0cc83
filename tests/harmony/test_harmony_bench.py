"""`harmonize bench harmony` measures every variant and finds the engines equal."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harmonize_cli.benchmarks.harmony import bench_harmony
from harmonize_cli.cli.main import app
from harmonize_cli.errors import BadInput


def test_engines_agree_and_rows_are_complete() -> None:
    names = ["exact", "gram vmap"]
    rows = {row["name"]: row for row in bench_harmony("tiny", "cpu", 0.0, 1, names)}
    assert list(rows) == names
    for row in rows.values():
        assert row["ms"] > 0
        assert row["ratio_to_plain"] > 0
        assert row["peak_mb"] >= 0
    assert rows["gram vmap"]["gram_error"] < 1e-4
    assert 1 < rows["exact"]["flop_ratio"] < 3


@pytest.mark.long
def test_the_command_writes_its_rows(tmp_path: Path) -> None:
    pytest.importorskip("torchjd")
    file = tmp_path / "rows.json"
    arguments = ["bench", "harmony", "--preset", "tiny", "--seconds", "0", "--json", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(file.read_text())}
    assert {"name", "ms", "ratio_to_plain", "peak_mb"} <= rows["plain"].keys()
    for name in ("gram torchjd", "gram vmap", "gram loop"):
        assert rows[name]["gram_error"] < 1e-4
    assert "| exact |" in result.output


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(BadInput, match="huge"):
        bench_harmony("huge", "cpu", 0.0, 1)
