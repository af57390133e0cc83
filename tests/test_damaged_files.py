"""Every kind of file that we write, damaged: read right or refused with its name, never a traceback.

A few mutations of each kind here; 500 in the long tests.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import damaged_bytes, damaged_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_run import small_run, small_store

from harmonize_cli.config import load_config
from harmonize_cli.curriculum.audit import add_combined
from harmonize_cli.curriculum.guide import make_guide
from harmonize_cli.curriculum.ledger import read_ledger
from harmonize_cli.curriculum.plan import read_plan
from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.curriculum.score import ScoreSettings, score
from harmonize_cli.curriculum.scores import add_column, draw_histograms, read_scores
from harmonize_cli.errors import HarmonizeError
from harmonize_cli.evaluation.comparison import compare_results
from harmonize_cli.evaluation.overview import overview
from harmonize_cli.evaluation.protocols import PROTOCOLS
from harmonize_cli.evaluation.retrieval import RetrievalTask
from harmonize_cli.evaluation.sources import RunSource
from harmonize_cli.evaluation.task import Options, evaluate
from harmonize_cli.models.checkpoint import load_model, read_loss_state
from harmonize_cli.models.export import export_encoder, load_encoder
from harmonize_cli.reporting.collect import read_runs
from harmonize_cli.reporting.page import write_page
from harmonize_cli.store.export import to_parquet, to_webdataset
from harmonize_cli.store.reader import Store
from harmonize_cli.store.rearrange import merge
from harmonize_cli.store.summary import describe_store, summary_lines
from harmonize_cli.store.verify import verify
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.runs import find_runs, show_runs

CHECKPOINT = "run/checkpoints/step-00000006"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each: a store, a run with ledger, curriculum, results, audit, scores, an exported encoder."""
    out = tmp_path_factory.mktemp("good")
    store = small_store(out / "store.h5")
    small_run(out / "run", store)
    score(out / "run", store, out / "scores", ScoreSettings(indicators=("loss_vt", "similarity_vt")))
    scores = read_scores(out / "scores")
    add_column(out / "scores", "extra", np.zeros(len(scores), np.float32), noisy="high", about="")
    grid = [0.0, 0.5, 1.0]
    kept = {"names": ["loss_vt"], "grids": [grid], "weights": [1.0], "bias": 0.0}
    (out / "audit").mkdir()
    (out / "audit" / "combination.json").write_text(json.dumps({"caption-elsewhere": kept}))
    cell = {"value": 0.5, "low": 0.4, "high": 0.6}
    audit = {"kinds": {"a": {"loss_vt": {"auroc": cell, "ap": cell}}}, "samples": 9, "split": "val"}
    (out / "run" / "audit").mkdir()
    (out / "run" / "audit" / "audit.json").write_text(json.dumps(audit))
    plan = "scores: scores\nphases:\n- until: 0.5\n- until: 1.0\n  cut: {indicator: loss_vt, share: 0.2}\n"
    (out / "plan.yaml").write_text(plan)
    opened = Store.open(store)
    rows = opened.select("train")
    guide = make_guide(out / "plan.yaml", out / "run", opened, rows, batch=8, steps=6, seed=0, first=0)
    assert guide is not None
    guide.keep(out / "run", opened)
    loaded = load_model(out / "run")
    options = Options(draws=20, out=out / "run" / "eval" / "r.json")
    evaluate(RetrievalTask(RunSource(loaded), opened, PROTOCOLS["vatt"], split="test"), options)
    export_encoder(loaded, out / "encoder", heads=True, vocab=opened.vocab)
    return out


def _report(place: Path) -> None:
    write_page(place / "page.html", read_runs([place / "run"]), [], None)


def _compare(place: Path) -> None:
    files = [place / "run" / "eval" / "r.json"]
    compare_results(files, files, patterns=("*",), draws=20)
    overview(files)


def _guide(place: Path) -> None:
    store = Store.open(place / "store.h5")
    rows = store.select("train")
    guide = make_guide(None, place / "run", store, rows, batch=8, steps=6, seed=0, first=0)
    if guide is not None:
        for epoch in range(2):
            guide.order(epoch)


def _resume(place: Path) -> None:
    pretrain(place / "store.h5", place / "run")


def _combine(place: Path) -> None:
    add_combined(place / "scores", place / "audit", "caption-elsewhere")


def _scores(place: Path) -> None:
    read_scores(place / "scores")
    draw_histograms(place / "scores", place / "h.png")


def _store(place: Path) -> None:
    store = Store.open(place / "store.h5")
    for line in summary_lines(describe_store(store)):
        assert line
    list(verify(place / "store.h5"))
    for copy in (lambda: merge([store], place / "m.h5"), lambda: to_webdataset(store, place / "tar")):
        try:
            copy()
        except HarmonizeError:
            continue
    to_parquet(store, place / "pq")


# file, whether it is JSON, what reads it
KINDS: dict[str, tuple[str, bool, Callable[[Path], object]]] = {
    "manifest": (f"{CHECKPOINT}/manifest.json", True, lambda p: load_model(p / "run")),
    "manifest, resumed": (f"{CHECKPOINT}/manifest.json", True, _resume),
    "weights": (f"{CHECKPOINT}/weights.safetensors", False, lambda p: load_model(p / "run", verify=False)),
    "loss state": (f"{CHECKPOINT}/state.pt", False, lambda p: read_loss_state(p / CHECKPOINT)),
    "state": (f"{CHECKPOINT}/state.pt", False, _resume),
    "versions": ("run/versions.json", True, lambda p: show_runs(find_runs([p / "run"]))),
    "metrics, listed": ("run/metrics.jsonl", False, lambda p: show_runs(find_runs([p / "run"]))),
    "metrics": ("run/metrics.jsonl", False, _report),
    "config, listed": ("run/config.yaml", False, lambda p: show_runs(find_runs([p / "run"]))),
    "config": ("run/config.yaml", False, lambda p: load_config(PretrainConfig, p / "run" / "config.yaml")),
    "config, reported": ("run/config.yaml", False, _report),
    "ledger": ("run/ledger/rank-000-00000001-00000003.npz", False, lambda p: read_ledger(p / "run")),
    "curriculum": ("run/curriculum/step-00000000.npz", False, _guide),
    "curriculum's plan": ("run/curriculum/step-00000000.yaml", False, _guide),
    "plan": ("plan.yaml", False, lambda p: read_plan(p / "plan.yaml")),
    "audit": ("run/audit/audit.json", True, _report),
    "result": ("run/eval/r.json", True, _compare),
    "result, reported": ("run/eval/r.json", True, _report),
    "queries": ("run/eval/r.queries.npz", False, _compare),
    "scores": ("scores/scores.json", True, _scores),
    "part": ("scores/part-00000.npz", False, _scores),
    "added column": ("scores/added-extra.npz", False, _scores),
    "combination": (
        "audit/combination.json", True, _combine,
    ),
    "encoder": ("encoder/config.json", True, lambda p: load_encoder(p / "encoder")),
    "encoder's weights": ("encoder/weights.safetensors", False, lambda p: load_encoder(p / "encoder")),
    "store": ("store.h5", False, _store),
}  # fmt: skip


def try_one(good: Path, place: Path, kind: str, seed: int) -> None:
    """Damage one file of a copy; what reads it must read it or refuse it."""
    name, is_json, read = KINDS[kind]
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place, symlinks=True)
    raw = (good / name).read_bytes()
    damage = damaged_json if is_json and seed % 3 else damaged_bytes
    changed = damage(raw, seed)
    (place / name).write_bytes(changed)
    if kind in ("queries", "loss state", "state"):
        _vouch(place, kind)
    try:
        read(place)
    except HarmonizeError as e:
        said = str(e)
    else:
        said = ""
    assert "Traceback" not in said
    assert len(said) < 20_000


def _vouch(place: Path, kind: str) -> None:
    """A checksum that fits: a stranger can write one too."""
    from harmonize_cli.files import sha256_file

    if kind == "queries":
        about, file = place / "run/eval/r.json", place / "run/eval/r.queries.npz"
        values = json.loads(about.read_text())
        values["queries"]["sha256"] = sha256_file(file)
    else:
        about, file = place / CHECKPOINT / "manifest.json", place / CHECKPOINT / "state.pt"
        values = json.loads(about.read_text())
        values["files"]["state.pt"] = sha256_file(file)
    about.write_text(json.dumps(values))


SLOW = {"manifest, resumed", "state", "store", "metrics", "config, reported", "audit", "result, reported"}
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named(good: Path, tmp_path: Path, kind: str) -> None:
    @settings(
        max_examples=3 if kind in SLOW else 8, deadline=None, derandomize=True, suppress_health_check=QUIET
    )
    @given(st.integers(0, 1 << 30))
    def check(seed: int) -> None:
        try_one(good, tmp_path / "place", kind, seed)

    check()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_much_damage_is_named(good: Path, tmp_path: Path, kind: str) -> None:
    @settings(max_examples=500, deadline=None, database=None, suppress_health_check=QUIET)
    @given(st.integers(0, 1 << 30))
    def check(seed: int) -> None:
        try_one(good, tmp_path / "place", kind, seed)

    check()


def _json(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        values = json.loads(file.read_text())
        changed = change(values)
        file.write_text(json.dumps(values if changed is None else changed))

    return damage


_CELL = {"value": 0.5, "low": 0.4, "high": 0.6}


def _deep(values: dict[str, Any]) -> None:
    deep: Any = 1
    for _ in range(900):
        deep = {"a": deep}
    values["columns"]["loss_vt"]["about"] = deep


@pytest.mark.parametrize(
    ("kind", "damage", "told"),
    [
        ("manifest", lambda f: f.write_text("[]"), "should be a valid dictionary"),
        ("manifest", _json(lambda v: v.update(step="x")), "step: Input should be a valid integer"),
        ("manifest", _json(lambda v: v.update(step=5)), "step 5 in the folder step-00000006"),
        ("manifest", _json(lambda v: v["inputs"]["video"].update(rows=-3)), "inputs: video: rows"),
        ("manifest", _json(lambda v: v["config"]["model"].update(width=1 << 19)), "not the weights of"),
        ("manifest", _json(lambda v: v["files"].update({"../../x": "y"})), "files: expected"),
        ("weights", lambda f: f.write_bytes(b"\xff\xff\xff\xff\x05" + f.read_bytes()), "can't be read"),
        ("weights", lambda f: f.write_bytes((99 << 20).to_bytes(8, "little") + b"{"), "can't be read"),
        ("loss state", lambda f: torch.save([1], f), "holds a list"),
        ("state", lambda f: torch.save({"loss": {}}, f), "is not the state of this run"),
        ("metrics", lambda f: f.write_text('{"step": 1}\n{"st\n'), r"metrics\.jsonl:2: invalid JSON"),
        ("metrics", lambda f: f.write_text('{"step": "x"}\n'), r"metrics\.jsonl:1: expected an object with"),
        ("metrics", lambda f: f.write_text('{"step": 1, "loss": "x"}\n'), r"metrics\.jsonl: step 1: loss"),
        ("config", lambda f: f.write_text("a: !!python/object/apply:os.system ['true']"), "invalid YAML"),
        ("config, reported", lambda f: f.write_text("a: !!python/name:os.system"), "invalid YAML"),
        ("config", lambda f: f.write_text("a: " + "[" * 5000), "nested too deeply"),
        ("config", lambda f: f.write_text("a: 2024-99-99"), "invalid YAML"),
        ("part", lambda f: f.write_bytes(f.read_bytes()[:400]), r"part-00000\.npz: damaged"),
        ("scores", _json(_deep), "nested deeper than 64"),
        ("scores", _json(lambda v: v.update(parts=["../../x.npz"])), "parts: 0: String should match"),
        ("scores", _json(lambda v: v.update(parts=[])), "parts: List should have at least 1 item"),
        ("scores", _json(lambda v: v["added"].update({"../x": v["added"]["extra"]})), "added"),
        ("result", _json(lambda v: v["queries"].update(file="../../../x.npz")), "file beside it"),
        ("result", _json(lambda v: v["metrics"].update(x={"value": 1})), "expected value, low and high"),
        ("result", _json(lambda v: v["coverage"].update(present=None)), "coverage: present: Input should"),
        ("result", _json(lambda v: v["metrics"].update({"a/R@x": _CELL})), "a/R@x: unknown; known: "),
        (
            "combination",
            _json(lambda v: v["caption-elsewhere"].update(grids=[[]])),
            "grids: expected at least one value",
        ),
        ("ledger", lambda f: np.savez(f, index=np.zeros(3), step=np.zeros(2)), "differ in length"),
        ("encoder", lambda f: f.write_text("7"), "should be a valid dictionary"),
    ],
)  # fmt: skip
def test_what_was_found_in_strangers_folders(
    good: Path, tmp_path: Path, kind: str, damage: Callable[[Path], object], told: str
) -> None:
    name, _, read = KINDS[kind]
    place = tmp_path / "place"
    shutil.copytree(good, place, symlinks=True)
    damage(place / name)
    if kind == "state":
        _vouch(place, kind)
    with pytest.raises(HarmonizeError, match=told) as caught:
        read(place)
    assert str(place) in str(caught.value)


def test_an_interval_that_an_audit_left_out_is_a_dash(good: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(good, place, symlinks=True)
    cells = {"auroc": {**_CELL, "low": None}, "ap": {**_CELL, "value": None}}
    _json(lambda v: v.update(kinds={"a": {"loss_vt": cells}}))(place / "run/audit/audit.json")
    _report(place)
    assert "0.500 <small>[-, 0.600]</small></td><td>-</td>" in (place / "page.html").read_text()


def test_folders_named_like_checkpoints_are_none(good: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(good, place, symlinks=True)
    for name in ("step-evil", "step-", "step-1e9", "step-²"):
        shutil.copytree(place / CHECKPOINT, place / "run" / "checkpoints" / name)
    (place / "run" / "curriculum" / "step-evil.yaml").write_text("x")
    assert load_model(place / "run").step == 6
    assert [run.state for run in find_runs([place])] == ["done"]
    _resume(place)
