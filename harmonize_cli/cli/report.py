"""`harmonize report`."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.say import say


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
    indicator: Annotated[str, typer.Option(help="Chooses the samples, both ends.")] = "similarity_vt",
    samples: Annotated[int, typer.Option(min=2, help="Samples on the page.")] = 400,
    figures: Annotated[Path | None, typer.Option(help="Also write every chart as PNG and SVG here.")] = None,
) -> None:
    """Put runs, results and samples on one self-contained HTML page; no network, opens from a file.

    Example: harmonize report runs/demo/runs/* --results runs/demo/results --scores runs/demo/scores
    """
    from harmonize_cli.curriculum.hints import explain_worst
    from harmonize_cli.curriculum.scores import check_rows, read_scores
    from harmonize_cli.errors import BadInput
    from harmonize_cli.reporting.charts import write_figures
    from harmonize_cli.reporting.collect import read_runs
    from harmonize_cli.reporting.page import write_page
    from harmonize_cli.reporting.samples import describe, pick
    from harmonize_cli.store.reader import Store

    found = read_runs(runs, results or ())
    read, rows, hints = None, [], []
    if scores is not None:
        read = read_scores(scores)
        if "store" not in read.about:
            raise BadInput(f"{scores}: does not say which store was scored; score it again")
        store = Store.open(Path(read.about["store"]))
        check_rows(read, store)
        name = indicator if indicator in read.columns else next(iter(read.columns))
        rows = describe(store, read, pick(read, name, samples).tolist())
        hints = explain_worst(store, read.index, read.suspicion(name))
    write_page(
        out, found, rows, read, hints=hints, title="harmonize: " + ", ".join(run.name for run in found)
    )
    written = write_figures(found, figures) if figures is not None else []
    more = f"; {len(written)} figures in {figures}" if written else ""
    say(f"{len(found)} runs, {len(rows)} samples: {out} ({out.stat().st_size / 1e6:.1f} MB){more}")
