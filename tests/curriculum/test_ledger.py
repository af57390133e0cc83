"""The ledger holds every visit once, across kills, and its averages are the plain ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from planted import CONFIG, World, make_store
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.curriculum.ledger import Ledger, dynamics, read_ledger, write_dynamics
from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.curriculum.scores import read_scores
from harmonize_cli.errors import BadInput
from harmonize_cli.store.reader import Store

CHECKPOINT = CONFIG.checkpoint.model_copy(update={"every": 5, "keep": 9})
SHORT = CONFIG.model_copy(update={"steps": 13, "batch": 20, "checkpoint": CHECKPOINT})
REALIGN = SHORT.model_copy(update={"harmonize": SHORT.harmonize.model_copy(update={"mode": "realign"})})


def _trained(store: Path, run: Path) -> Path:
    pretrain(store, run, REALIGN, recorders=[Ledger(run)])
    return run


def test_every_visit_once_and_the_run_unchanged(world: World, tmp_path: Path) -> None:
    run = _trained(world.store, tmp_path / "run")
    visits = read_ledger(run)
    assert len(visits["index"]) == 13 * 20
    assert sorted(set(visits["step"].tolist())) == list(range(1, 14))
    assert {"loss_va", "loss_vt", "cosine", "norm_va", "norm_vt", "kept"} <= set(visits)
    store = Store.open(world.store)
    silent = store.status("audio")[visits["index"]] != 0
    assert np.isnan(visits["loss_va"][silent]).all()
    assert np.isfinite(visits["loss_va"][~silent]).all()
    pretrain(world.store, tmp_path / "without", REALIGN)
    weights = "last/weights.safetensors"
    assert (run / weights).read_bytes() == (tmp_path / "without" / weights).read_bytes()


def test_a_kill_between_checkpoints_neither_loses_nor_doubles(world: World, tmp_path: Path) -> None:
    whole = read_ledger(_trained(world.store, tmp_path / "run"))
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "run", cut, symlinks=True)
    shutil.rmtree(cut / "checkpoints" / "step-00000013")  # killed after the ledger was written, before the
    shutil.rmtree(cut / "checkpoints" / "step-00000010")  # checkpoint became visible
    pretrain(world.store, cut, recorders=[Ledger(cut)])
    again = read_ledger(cut)
    for name, column in whole.items():
        np.testing.assert_array_equal(again[name], column, err_msg=name)


def test_rewind_into_a_part(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger._visits = [{"index": np.array([1, 2]), "step": np.array([s, s])} for s in (1, 2, 3)]
    ledger.flush(3)
    Ledger(tmp_path).rewind(2)
    assert read_ledger(tmp_path)["step"].tolist() == [1, 1, 2, 2]
    Ledger(tmp_path).rewind(0)
    with pytest.raises(BadInput, match="has no ledger"):
        read_ledger(tmp_path)


def test_fewer_processes_rewind_for_those_that_are_gone(tmp_path: Path) -> None:
    for name in ("rank-000", "rank-001"):
        visits = {"index": np.arange(3), "step": np.array([1, 2, 3])}
        (tmp_path / "ledger").mkdir(exist_ok=True)
        np.savez(tmp_path / "ledger" / f"{name}-00000001-00000003.npz", **visits)
    Ledger(tmp_path).rewind(2)
    assert read_ledger(tmp_path)["step"].tolist() == [1, 1, 2, 2]


def test_dynamics_against_plain_sums() -> None:
    loss = np.array([4.0, 1.0, 2.0, 1.0, np.nan, 5.0], np.float32)
    visits = {
        "index": np.array([7, 3, 7, 7, 7, 3]),
        "step": np.array([1, 1, 2, 3, 4, 2]),
        "loss_vt": loss,
        "cosine": -loss,
    }
    index, columns, noisy = dynamics(visits)
    assert index.tolist() == [3, 7]
    assert columns["visits"].tolist() == [2, 4]
    np.testing.assert_allclose(columns["loss_vt_mean"], [3, 7 / 3])
    np.testing.assert_allclose(
        columns["loss_vt_ema"], [1 * 0.7 + 5 * 0.3, (4 * 0.7 + 2 * 0.3) * 0.7 + 0.3], rtol=1e-6
    )
    assert columns["loss_vt_forgotten"].tolist() == [1, 0]
    assert (noisy["loss_vt_mean"], noisy["cosine_ema"]) == ("high", "low")


def test_command_and_table(world: World, tmp_path: Path) -> None:
    pa_parquet = pytest.importorskip("pyarrow.parquet")
    run = _trained(world.store, tmp_path / "run")
    words = ["curriculum", "ledger", str(run), str(world.store), "-o", str(tmp_path / "dynamics")]
    done = CliRunner().invoke(app, [*words, "--table", str(tmp_path / "d.parquet")])
    assert done.exit_code == 0, done.output
    table = pa_parquet.read_table(tmp_path / "d.parquet")
    scores = read_scores(tmp_path / "dynamics")
    assert table["id"].to_pylist() == scores.ids.tolist()
    assert "cosine_ema" in table.column_names
    refused = CliRunner().invoke(app, words)
    assert "dynamics: holds scores already; give another -o, or --overwrite" in str(refused.exception)
    refused = CliRunner().invoke(app, [*words, "--overwrite", "--table", str(tmp_path / "d.xls")])
    assert "ends in .parquet or .csv" in str(refused.exception)
    assert len(write_dynamics(run, world.store, tmp_path / "again")) == len(scores)
    make_store(tmp_path / "other.h5", samples=300)
    with pytest.raises(BadInput, match=r"other\.h5: holds other samples than the store that"):
        write_dynamics(run, tmp_path / "other.h5", tmp_path / "wrong")
