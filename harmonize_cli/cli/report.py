"""`harmonize report`."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.options import scored_columns
from harmonize_cli.cli.say import answer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page.")] = Path("report.html"),
    results: Annotated[
        list[Path] | None, typer.Option(help="Further result files or folders (RUN/eval is read anyway).")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Folder of `harmonize curriculum score`: the samples to look at.")
    ] = None,
    indicator: Annotated[
        str | None,
        typer.Option(
            show_default="similarity_vt, else the first",
            help="Column of the scores (TAB lists all): chooses the samples, both ends.",
            autocompletion=scored_columns,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(show_default="train, else all", help="Samples to choose from, or all.")
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Samples on the page.")] = 400,
    figures: Annotated[Path | None, typer.Option(help="Also write every chart as PNG and SVG here.")] = None,
) -> None:
    """Put runs, results and samples on one self-contained HTML page; no network, opens from a file.

    Example: harmonize report runs/demo/runs/* --results runs/demo/results --scores runs/demo/scores
    """
    from harmonize_cli.curriculum.hints import explain_worst
    from harmonize_cli.curriculum.scores import read_scores, scored_store, trained_part
    from harmonize_cli.reporting.charts import write_figures
    from harmonize_cli.reporting.collect import read_runs
    from harmonize_cli.reporting.page import write_page
    from harmonize_cli.reporting.samples import describe, pick

    found = read_runs(runs, results or ())
    read, rows, hints, part = None, [], [], ""
    if scores is not None:
        read = read_scores(scores)
        store = scored_store(scores, read)
        places, part = trained_part(store, read, split)
        read = read.of(places)
        name = indicator or ("similarity_vt" if "similarity_vt" in read.columns else next(iter(read.columns)))
        rows = describe(store, read, pick(read, name, samples).tolist())
        hints = explain_worst(store, read.index, read.suspicion(name))
    write_page(
        out, found, rows, read, hints=hints, title="harmonize: " + ", ".join(run.name for run in found)
    )
    written = write_figures(found, figures) if figures is not None else []
    more = f"; {len(written)} figures in {figures}" if written else ""
    of = f" of split {part}" if scores is not None else ""
    answer(
        {"runs": [run.name for run in found], "samples": len(rows), "page": out, "figures": written},
        f"{len(found)} runs, {len(rows)} samples{of}: {out} ({out.stat().st_size / 1e6:.1f} MB){more}",
    )
