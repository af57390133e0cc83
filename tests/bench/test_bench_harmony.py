"""`make bench-harmony` measures every variant and finds the engines equal."""

import json
from pathlib import Path

import pytest
import torch
from bench_harmony import _show, bench_harmony, show_harmony
from harmony_worker import measure
from harness import run

from harmonize_cli.errors import BadInput


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_engines_agree_and_rows_are_complete(tmp_path: Path) -> None:
    rows, grams = {}, {}
    for i, name in enumerate(["plain", "exact", "gram ours", "gram vmap", "gram loop"]):
        rows[name] = measure(name, "tiny", "cpu", 0.0, str(tmp_path / f"{i}.pt"))
        if name != "plain":
            grams[name] = torch.load(tmp_path / f"{i}.pt")
            torch.testing.assert_close(grams[name], grams["exact"], rtol=1e-4, atol=1e-7)
    for row in rows.values():
        assert row["ms"] > 0
        assert row["ratio_to_plain"] > 0
        assert row["peak_mb"] >= 0
    blank = {"gram_error": None, "cosine_rms": None}
    assert len(show_harmony([row | blank for row in rows.values()]).splitlines()) == 2 + len(rows)


@pytest.mark.long
def test_the_command_writes_its_rows(tmp_path: Path, capsys) -> None:
    pytest.importorskip("torchjd")
    file = tmp_path / "rows.json"
    run(bench_harmony, ["--preset", "tiny", "--seconds", "0", "--json", str(file)], _show)
    rows = {row["name"]: row for row in json.loads(file.read_text())}
    assert {"name", "ms", "ratio_to_plain", "peak_mb"} <= rows["plain"].keys()
    for name in ("gram torchjd", "gram vmap", "gram loop"):
        assert rows[name]["gram_error"] < 1e-4
    assert 1 < rows["exact"]["flop_ratio"] < 3
    assert "| exact |" in capsys.readouterr().out


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(BadInput, match="huge"):
        bench_harmony(preset="huge")
