"""The HTML page: one file, no network. What comes from outside is escaped by jinja2 or set as text."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import harmonize_cli
from harmonize_cli.curriculum.hints import HintShare
from harmonize_cli.curriculum.scores import Scores
from harmonize_cli.errors import BadInput
from harmonize_cli.files import read_bytes, write_text
from harmonize_cli.reporting.charts import CHARTS, svg
from harmonize_cli.reporting.collect import Run, comparable

_MOST_PICTURE = 16 << 20
MAIN = ("text-to-video/R@1", "text-to-video/R@10", "audio-to-video/R@10", "video/top-1")


def write_page(
    path: Path,
    runs: Sequence[Run],
    samples: Sequence[dict[str, Any]],
    scores: Scores | None,
    *,
    hints: Sequence[HintShare] = (),
    title: str = "harmonize",
) -> None:
    """Write the report. samples: from `samples.describe`; scores: what their indicators mean."""
    environment = Environment(
        loader=PackageLoader("harmonize_cli.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = {name: figure for name, draw in CHARTS.items() if (figure := draw(runs)) is not None}
    noisy = {} if scores is None else {name: scores.noisy.get(name, "high") for name in scores.columns}
    page = environment.get_template("report.html.j2").render(
        title=title,
        version=harmonize_cli.__version__,
        runs=runs,
        rows=[_summary(run, metrics) for run, metrics in zip(runs, comparable(runs), strict=True)],
        metrics=MAIN,
        tables=[_table(run) for run in runs if run.results],
        audits=[_audit(run) for run in runs if run.audit],
        # as images: nothing of a drawing can become part of the page
        charts={
            name: "data:image/svg+xml;base64," + base64.b64encode(svg(figure).encode()).decode()
            for name, figure in charts.items()
        },
        hints=hints,
        explorer={"samples": list(samples), "noisy": noisy},
        scored=0 if scores is None else len(scores),
    )
    write_text(path, page)


def _summary(run: Run, metrics: Mapping[str, Any]) -> dict[str, Any]:
    last = run.metrics[-1] if run.metrics else {}
    return {
        "name": run.name,
        "mode": run.mode,
        "step": last.get("step", 0),
        "loss": next((line["loss"] for line in reversed(run.metrics) if "loss" in line), None),
        "metrics": {name: metrics.get(name) for name in MAIN},
    }


def _table(run: Run) -> dict[str, Any]:
    """Every evaluation of a run with all of its metrics."""
    results = [
        {
            "task": result.task + (" of fresh weights" if result.untrained else ""),
            "protocol": result.protocol.get("name", ""),
            "split": result.split,
            "coverage": result.coverage,
            "metrics": sorted(result.metrics.items()),
            "chance": result.chance,
        }
        for result in run.results.values()
    ]
    pictures = {name: _image(path) for name, path in run.pictures.items()}
    return {"name": run.name, "results": results, "pictures": pictures}


def _image(path: Path) -> str:
    raw = read_bytes(path, most=_MOST_PICTURE)
    if not raw.startswith(b"\x89PNG\r\n"):
        raise BadInput(f"{path}: is not a PNG file")
    return "data:image/png;base64," + base64.b64encode(raw).decode()


def _audit(run: Run) -> dict[str, Any]:
    assert run.audit is not None
    kinds = {}
    for kind, indicators in run.audit.kinds.items():
        rows = sorted(indicators.items(), key=lambda item: -(item[1].auroc.value or 0))
        kinds[kind] = [(name, found.auroc, found.ap) for name, found in rows]
    return {"name": run.name, "kinds": kinds, "samples": run.audit.samples, "split": run.audit.split}
