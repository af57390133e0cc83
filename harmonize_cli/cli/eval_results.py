"""`harmonize eval compare, table, export, list`: what is done with results and benchmarks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonize_cli.cli.eval_common import listed, open_source
from harmonize_cli.cli.options import (
    Annotations,
    BatchSize,
    Checkpoint,
    Config,
    Device,
    Draws,
    FormatOption,
    Keys,
    NoCache,
    Official,
    RunOrStore,
    Seed,
    Set,
    Split,
    StorePath,
    Untrained,
    VerifyStore,
)
from harmonize_cli.cli.say import say
from harmonize_cli.errors import BadInput
from harmonize_cli.locks import one_writer

if TYPE_CHECKING:
    from harmonize_cli.evaluation.tables import Format


def register(app: typer.Typer) -> None:
    """Add these commands to `harmonize eval`."""
    app.command(
        epilog="Example: harmonize eval compare runs/baseline runs/realign; several seeds: "
        "harmonize eval compare runs/base-0,runs/base-1 runs/realign-0,runs/realign-1"
    )(compare)
    app.command(epilog="Example: harmonize eval table runs/ --metric '*/R@10' --format markdown")(table)
    app.command(epilog="Example: harmonize eval export runs/mine features -o export --split test")(export)
    app.command("list", epilog="Example: harmonize eval list --root data --annotations data/annotations")(
        list_
    )


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
    """
    from harmonize_cli.evaluation.comparison import FORMAT, MAIN, compare_results, show
    from harmonize_cli.evaluation.questions import spread
    from harmonize_cli.files import write_json

    found = compare_results(spread(a), spread(b), patterns=metric or MAIN, draws=draws, seed=seed)
    say("\n\n".join(show(one, _form(form)) for one in found))
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
    """Results of many runs side by side, one table for each question that they answer."""
    from harmonize_cli.evaluation.overview import overview
    from harmonize_cli.files import write_text

    text = overview(runs, patterns=metric or (), over_seeds=over_seeds, intervals=intervals, form=_form(form))
    if out:
        write_text(out, text + "\n")
    else:
        say(text)


@one_writer("out")
def export(
    run: RunOrStore,
    store: StorePath,
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder.")],
    protocol: Annotated[str, typer.Option(help="vatt, mil-nce or clip.")] = "vatt",
    config: Config = None,
    settings: Set = None,
    split: Split = None,
    official: Official = None,
    annotations: Annotations = None,
    key: Keys = None,
    untrained: Untrained = None,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    no_cache: NoCache = False,
    verify_store: VerifyStore = True,
) -> None:
    """Embeddings and right answers of each direction as files for mteb and BEIR tools: what `eval retrieval`
    with the same options ranks.

    With mteb 2 installed: from harmonize_cli.evaluation.mteb_adapter import Exported, load_task;
    mteb.evaluate(Exported(DIR), load_task(DIR)) with DIR such as export/text-to-video.
    """
    from harmonize_cli.evaluation.export import export_tasks
    from harmonize_cli.evaluation.protocols import PROTOCOLS, adjusted
    from harmonize_cli.evaluation.splits import listed_rows

    settled = adjusted(PROTOCOLS, protocol, config, settings or ())
    opened, source = open_source(
        run,
        store,
        keys=key,
        checkpoint=checkpoint,
        device=device,
        fresh=untrained,
        batch_size=batch_size,
        cache=not no_cache,
        verifies=verify_store,
    )
    rows, name = listed_rows(opened, split, listed(official, annotations, split))
    about: dict[str, object] = {
        "split": name,
        "protocol": settled.model_dump(mode="json"),
        "model": source.about(),
        "model_hash": source.weights_hash,
        "store_hash": opened.content_hash,
    }
    written = export_tasks(source.pool(opened, rows, settled), settled, out, about)
    say(f"export: {len(written)} directions of {len(rows)} samples ({', '.join(written)}) -> {out}")


def list_(
    root: Annotated[
        list[Path] | None, typer.Option(help="Folder with data sets, one folder each. Repeatable.")
    ] = None,
    annotations: Annotated[
        list[Path] | None, typer.Option(help="Folder with their lists. Repeatable.")
    ] = None,
) -> None:
    """Benchmarks, how to run each, the files that it needs and what is missing here."""
    from harmonize_cli.datasets.layouts import LAYOUTS
    from harmonize_cli.datasets.locate import find_list
    from harmonize_cli.evaluation.catalogue import availability, show

    def count(name: str, place: Path, lists: Path) -> tuple[int, int]:
        found = LAYOUTS[name].find(place, annotations=lists)
        return found.present, found.expected

    folders = [*(root or [Path()]), *(annotations or [])]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise BadInput(f"{missing[0]}: no such folder")
    say(show(availability(LAYOUTS, folders, find_list, count)))


def _form(name: str) -> "Format":
    from harmonize_cli.evaluation.tables import FORMATS

    if name not in FORMATS:
        raise BadInput(f"--format {name}: expected {', '.join(FORMATS)}")
    return name
