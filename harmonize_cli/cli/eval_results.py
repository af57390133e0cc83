"""`harmonize eval compare, table, list`: what is done with results and benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.app import App
from harmonize_cli.cli.options import (
    Draws,
    FormatOption,
    Seed,
)
from harmonize_cli.cli.say import answer


def register(app: App) -> None:
    """Add these commands to `harmonize eval`."""
    app.command("compare")(compare)
    app.command("table")(table)
    app.command("list")(list_)


def compare(
    a: Annotated[str, typer.Argument(help="Result file, run folder or folder of runs; several with commas.")],
    b: Annotated[str, typer.Argument(help="The same for the other side.")],
    *,
    metric: Annotated[
        list[str] | None, typer.Option(help="Pattern such as 'text-to-video/*'. Default: R@10, MedR, top-1.")
    ] = None,
    form: FormatOption = "terminal",
    draws: Draws = 2000,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write JSON here.")] = None,
) -> None:
    """Is B better than A? Paired by queries: interval of the difference, permutation test, Holm's adjustment.

    Only results of one question (task, protocol, split, store) are compared. Several results of a side are
    its seeds: the interval then resamples seeds too.

    Example: harmonize eval compare runs/baseline runs/realign; several seeds:
    harmonize eval compare runs/base-0,runs/base-1 runs/realign-0,runs/realign-1
    """
    from harmonize_cli.evaluation.comparison import FORMAT, compare_results, show
    from harmonize_cli.evaluation.questions import spread
    from harmonize_cli.files import write_json

    found = compare_results(spread(a), spread(b), patterns=metric or (), draws=draws, seed=seed)
    answer([one.as_dict() for one in found], "\n\n".join(show(one, form) for one in found))
    if out:
        write_json(out, {"format": FORMAT, "comparisons": [one.as_dict() for one in found]})


def table(
    runs: Annotated[list[Path], typer.Argument(help="Result files, run folders or folders of runs.")],
    *,
    metric: Annotated[list[str] | None, typer.Option(help="Pattern of metric names; repeatable.")] = None,
    form: FormatOption = "terminal",
    over_seeds: Annotated[bool, typer.Option(help="One line for runs that differ in their seed.")] = False,
    intervals: Annotated[bool, typer.Option(help="Show 95% intervals.")] = True,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write here instead.")] = None,
) -> None:
    """Results of many runs side by side, one table for each question that they answer.

    Example: harmonize eval table runs/ --metric '*/R@10' --format markdown
    """
    from harmonize_cli.evaluation.overview import overview
    from harmonize_cli.evaluation.questions import by_question
    from harmonize_cli.files import write_text

    text = overview(runs, patterns=metric or (), over_seeds=over_seeds, intervals=intervals, form=form)
    if out:
        write_text(out, text + "\n")
    found = [
        {"question": question, "run": run, "metrics": result.metrics}
        for question, entries in by_question(runs).items()
        for run, result in entries
    ]
    answer(found, None if out else text)


def list_(
    root: Annotated[
        list[Path] | None, typer.Option(help="Folder with data sets, one folder each. Repeatable.")
    ] = None,
    annotations: Annotated[list[Path] | None, typer.Option(help="Folder of those lists.")] = None,
) -> None:
    """Benchmarks, how to run each, the files that it needs and what is missing here.

    Example: harmonize eval list --root data --annotations data/annotations
    """
    from harmonize_cli.evaluation.catalogue import availability, show

    found = availability([*(root or [Path()]), *(annotations or [])])
    answer(found, show(found))
