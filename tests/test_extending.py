"""docs/extending.md: every section is short, and its code registers a thing that does its job."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib import reload
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media_samples import grey_frames, make_clip
from small_run import SETTINGS, small_run, small_store
from typer.testing import CliRunner

from harmonize_cli import Store, extract, pretrain, score
from harmonize_cli.cli import export
from harmonize_cli.cli.exporters import EXPORTERS
from harmonize_cli.config import validate
from harmonize_cli.curriculum.indicators import INDICATORS
from harmonize_cli.curriculum.plan import ACTIONS, Plan
from harmonize_cli.curriculum.score import ScoreSettings
from harmonize_cli.curriculum.scores import read_scores
from harmonize_cli.curriculum.weights import phase_weights
from harmonize_cli.datasets.layouts import LAYOUTS
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.encoders.base import ENCODERS
from harmonize_cli.evaluation.metrics import METRICS, Ranking
from harmonize_cli.evaluation.relevance import Relevance
from harmonize_cli.evaluation.task import Queries
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.harmony import RULES, make_rule
from harmonize_cli.media.decoders import DECODERS
from harmonize_cli.models.base import MODELS
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.objectives.base import LOSSES
from harmonize_cli.objectives.config import LossConfig
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.loggers import LOGGERS

REGISTRIES: dict[str, Mapping[str, Any]] = {
    "encoders": ENCODERS, "decoders": DECODERS, "layouts": LAYOUTS, "losses": LOSSES, "models": MODELS,
    "rules": RULES, "indicators": INDICATORS, "metrics": METRICS, "exporters": EXPORTERS, "actions": ACTIONS,
    "loggers": LOGGERS,
}  # fmt: skip
PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = {part.splitlines()[0]: part for part in re.split(r"^## ", PAGE, flags=re.M)[1:]}
(TOML,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
POINTS: dict[str, dict[str, str]] = tomllib.loads(TOML)["project"]["entry-points"]


def code_of(section: str) -> str:
    """The Python of a section."""
    (code,) = re.findall(r"```python\n(.*?)```", SECTIONS[section], re.S)
    return str(code)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """What the page registers is gone afterwards."""
    for registry in REGISTRIES.values():
        len(registry)  # loads it
    kept = [(r, "_known" if r is RULES else "_entries") for r in REGISTRIES.values()]
    before = [dict(getattr(registry, name)) for registry, name in kept]
    yield
    for (registry, name), entries in zip(kept, before, strict=True):
        setattr(registry, name, entries)


def run_code(section: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code_of(section), section, "exec"), names)
    return names


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_under_40_lines(section: str) -> None:
    assert len(SECTIONS[section].strip().splitlines()) < 40


def test_an_encoder_is_extracted(tmp_path: Path) -> None:
    run_code("Encoder")
    path = make_clip(tmp_path / "a.mkv", grey_frames(10, 16, 16))
    settings = validate(ExtractConfig, {"encoders": ("mean",)}, source="test")
    extract([ManifestRow(id="a", video=path, group="a")], tmp_path / "s", settings)
    assert Store.open(tmp_path / "s").read("video/mean", 0).shape == (5, 3)


def test_a_decoder_fills_a_store(tmp_path: Path) -> None:
    run_code("Decoder")
    frames = np.repeat(np.arange(50, dtype=np.uint8), 8 * 8 * 3).reshape(50, 8, 8, 3)
    np.save(tmp_path / "a.npy", frames)
    given = {"encoders": ("raw",), "decoder": "arrays", "raw": {"rate": 5, "size": 16}}
    settings = validate(ExtractConfig, given, source="test")
    row = ManifestRow(id="a", video=tmp_path / "a.npy", start=1.0, group="a")
    report = extract([row], tmp_path / "s", settings)
    assert report.counts.failed == 0
    rows = Store.open(tmp_path / "s").read("video/frames", 0)
    assert rows[:, 0, 0, 0].tolist() == [25, 30, 35, 40, 45]


def test_a_layout_finds_its_clips_and_declares_its_benchmark(tmp_path: Path) -> None:
    run_code("Layout and benchmark")
    (tmp_path / "clips.csv").write_text("name,caption,split\na,a soup,test\nb,a cake,train\n")
    (tmp_path / "a.mp4").touch()
    found = LAYOUTS["cooking"].find(tmp_path)
    assert [(row.id, row.texts, row.split) for row in found.rows] == [("a", ("a soup",), "test")]
    assert found.missing == ["b"]
    assert LAYOUTS["cooking"].benchmark.main_score == "R@10"


def test_a_loss_gives_gradients() -> None:
    run_code("Loss")
    config = LossConfig.model_validate({"terms": [{"kind": "alignment", "on": "vt", "power": 1}]})
    (term,) = config.terms
    video = torch.eye(4).unsqueeze(1).requires_grad_()
    text = torch.eye(4).roll(1, 0).unsqueeze(1).repeat(1, 2, 1).requires_grad_()
    real = torch.ones(4, 2, dtype=torch.bool)
    real[3] = False
    out = LOSSES[term.kind](term)([video, text], [torch.ones(4, 1, dtype=torch.bool), real], None)
    torch.testing.assert_close(out.per_sample, torch.tensor([2.0, 2, 2, 0]).sqrt())
    assert out.valid.tolist() == [True, True, True, False]
    out.value.backward()
    assert text.grad is not None
    assert bool((text.grad[:3] != 0).any())
    assert not text.grad[3].any()


def test_a_model_and_a_logger_take_part_in_a_run(tmp_path: Path) -> None:
    run_code("Model")
    run_code("Logger")
    store = small_store(tmp_path / "s.h5")
    more = {"model": {"kind": "averages"}, "loggers": ["csv"], "harmonize": {"mode": "realign"}}
    pretrain(store, tmp_path / "run", validate(PretrainConfig, {**SETTINGS, **more}, source="test"))
    assert type(load_model(tmp_path / "run").model).__name__ == "Averages"
    lines = (tmp_path / "run/figures.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in lines} == {"1", "2", "3", "4", "5", "6"}


def test_a_rule_gives_weights() -> None:
    run_code("Rule")
    gram = torch.tensor([[[4.0, -1.0], [-1.0, 1.0]]])
    assert make_rule("shortest:0.5")(gram).tolist() == [[0, 0.5]]


def test_an_indicator_becomes_a_column(tmp_path: Path) -> None:
    run_code("Indicator")
    store = small_store(tmp_path / "s.h5")
    small_run(tmp_path / "run", store, steps=1, checkpoint={}, validation={})
    score(tmp_path / "run", store, tmp_path / "scores", ScoreSettings(indicators=("words",)))
    assert set(read_scores(tmp_path / "scores").columns["words"]) == {2.0}


def test_a_metric_is_among_the_results() -> None:
    run_code("Metric")
    ranking = Ranking(np.array([1.0, 4.0]), Relevance.paired(2), 4)
    assert Queries.ranked("retrieval", ranking, ["a", "b"]).points()["MRR"] == 0.625


def test_an_exporter_is_a_command(tmp_path: Path) -> None:
    run_code("Exporter")
    store, out = small_store(tmp_path / "s.h5", samples=3), tmp_path / "ids.csv"
    done = CliRunner().invoke(reload(export).app, ["ids", str(store), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text().splitlines() == ["id,split", "s000,train", "s001,train", "s002,train"]


def test_an_action_takes_what_it_says(tmp_path: Path) -> None:
    run_code("Plan action")
    (tmp_path / "bad.txt").write_text("b\n")
    phase = {"until": 1, "cut": {"ids": "bad.txt"}, "action": "partners"}
    plan = validate(Plan, {"phases": [phase]}, source="test")
    (weights,) = phase_weights(plan, ["a", "b"], ["a", "b"], None, folder=tmp_path)
    assert {modality: lost.tolist() for modality, lost in weights.lost.items()} == {
        "audio": [False, True],
        "text": [False, True],
    }


ASK = """
import sys, warnings
sys.path[:0] = [{tests!r}, {folder!r}]
warnings.simplefilter("error")
import test_extending
for kind, known in test_extending.REGISTRIES.items():
    print(*(f"harmonize.{{kind}}:{{name}}" for name in known))
"""


def test_a_package_with_these_entry_points_brings_them_all(tmp_path: Path) -> None:
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    for section in SECTIONS:
        if section != "Entry points":
            (package / f"{section.split()[0].lower()}.py").write_text(code_of(section))
    about = tmp_path / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    lines = [f"[{group}]\n{name} = {target}" for group, of in POINTS.items() for name, target in of.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))
    ask = ASK.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(POINTS) == {f"harmonize.{kind}" for kind in REGISTRIES}
    assert {f"{group}:{name}" for group, of in POINTS.items() for name in of} <= set(done.stdout.split())
