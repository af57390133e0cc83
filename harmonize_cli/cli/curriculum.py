"""`harmonize curriculum ...`: find misaligned samples and train around them."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.app import App
from harmonize_cli.cli.options import (
    Checkpoint,
    Config,
    Device,
    Draws,
    Indicators,
    NegativesBatch,
    Overwrite,
    RunFolder,
    Seed,
    Set,
    StorePath,
    Workers,
    scored_columns,
)
from harmonize_cli.cli.registries import LISTED, completion
from harmonize_cli.cli.say import answer
from harmonize_cli.cli.stops import kept
from harmonize_cli.locks import one_writer

_MISALIGNMENTS = completion("misalignments")
app = App(help="Score every sample for noise, audit the scores, plan a curriculum.", no_args_is_help=True)


@app.command()
@kept("complete parts are kept, the same command goes on from there")
def score(
    run: RunFolder,
    store: StorePath,
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder for the scores.")],
    *,
    split: Annotated[
        str | None, typer.Option(show_default="all samples", help="Score one split of the store.")
    ] = None,
    checkpoint: Checkpoint = "last",
    indicator: Indicators = None,
    batch_size: NegativesBatch = None,
    combine: Annotated[
        Path | None,
        typer.Option(help="Folder of an audit: add the column `combined`, learned from its injected noise."),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(help=f"With --combine: noise of this kind ({LISTED}).", autocompletion=_MISALIGNMENTS),
    ] = "caption-elsewhere",
    seed: Seed = 0,
    workers: Workers = 1,
    device: Device = "auto",
) -> None:
    """Score every sample of a store: gradient conflict, norms, losses, similarities and more.

    Goes on where an interrupted call stopped. Writes parts (npz), scores.json and histogram.png.

    Example: harmonize curriculum score runs/demo/baseline data/store -o runs/demo/scores
    """
    import numpy as np

    from harmonize_cli.curriculum.audit import add_combined
    from harmonize_cli.curriculum.score import ScoreSettings
    from harmonize_cli.curriculum.score import score as run_scoring
    from harmonize_cli.curriculum.scores import column_values, draw_histograms

    settings = ScoreSettings(
        split=split,
        checkpoint=checkpoint,
        batch=batch_size,
        indicators=tuple(indicator) if indicator else None,
        seed=seed,
        device=device,
    )
    report = run_scoring(run, store, out, settings, jobs=workers)
    if combine is not None:
        add_combined(out, combine, kind)
    draw_histograms(out, out / "histogram.png")
    conflict = ""
    if "cosine_backbone" in report.columns:
        cosine = column_values(out, "cosine_backbone")
        known = cosine[np.isfinite(cosine)]
        conflict = f", {np.mean(known < 0):.0%} of {len(known)} in conflict" if len(known) else ""
    rate = f" ({report.scored / report.seconds:.0f} clips/s)" if report.scored else " (all done before)"
    answer(
        report,
        f"{report.samples} samples, {len(report.columns)} indicators{conflict}; "
        f"{report.scored} scored now{rate}: {out}",
    )


@app.command()
def audit(
    run: RunFolder,
    store: StorePath,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", show_default="RUN/audit", help="Folder for the result.")
    ] = None,
    *,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            show_default="all",
            help=f"How samples are misaligned ({LISTED}). Repeatable.",
            autocompletion=_MISALIGNMENTS,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(show_default="val, else test, else all", help="Samples to audit on.")
    ] = None,
    share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share to misalign.")] = 0.4,
    indicator: Indicators = None,
    checkpoint: Checkpoint = "last",
    batch_size: NegativesBatch = None,
    draws: Draws = 300,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Misalign held-out samples on purpose and see which indicator finds them: which one to trust.

    Writes audit.json, and combination.json for `harmonize curriculum score --combine`.

    Example: harmonize curriculum audit runs/demo/runs/baseline runs/demo/store.h5
    """
    from harmonize_cli.curriculum.audit import AuditSettings, table
    from harmonize_cli.curriculum.audit import audit as run_audit
    from harmonize_cli.curriculum.inject import MISALIGNMENTS

    settings = AuditSettings(
        kinds=tuple(kind) if kind else tuple(MISALIGNMENTS),
        split=split,
        share=share,
        indicators=tuple(indicator) if indicator else None,
        checkpoint=checkpoint,
        batch=batch_size,
        draws=draws,
        seed=seed,
        device=device,
    )
    folder = out or run / "audit"
    result = run_audit(run, store, folder, settings)
    answer(result, f"{table(result)}\n{folder / 'audit.json'}")


@app.command()
@kept("finished runs are kept, the same command goes on from there")
def compare(
    store: Annotated[Path, typer.Argument(help="Feature store whose noise is known.")],
    truth: Annotated[Path, typer.Option(help="JSONL with id and caption_misaligned.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder; finished runs in it are not repeated.")],
    *,
    config: Config = None,
    overrides: Set = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            show_default="all",
            help=f"Method to train ({LISTED}). Repeatable.",
            autocompletion=completion("methods"),
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ...")] = 5,
    warmup: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the run before a cut.")] = 0.2,
    share: Annotated[
        float | None, typer.Option(show_default="the wrong share", help="Share of captions to cut.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(show_default="text-to-video/R@1 and R@10", help="To print.")
    ] = None,
    workers: Workers = 1,
) -> None:
    """Train every method at one budget over several seeds, where it is known which captions are wrong.

    Prints what each method closes of the gap between plain training and the oracle that drops exactly
    the wrong captions.

    Example: harmonize curriculum compare store.h5 --truth data/truth.jsonl -o runs/compare --seeds 5
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.curriculum.compare import CompareSettings
    from harmonize_cli.curriculum.compare import compare as run_compare
    from harmonize_cli.curriculum.compare_table import table
    from harmonize_cli.curriculum.methods import METHODS
    from harmonize_cli.training.config import PretrainConfig

    settings = CompareSettings(
        methods=tuple(method) if method else tuple(METHODS), seeds=seeds, warmup=warmup, share=share
    )
    base = load_config(PretrainConfig, config, overrides or ())
    result = run_compare(store, truth, out, base, settings, jobs=workers)
    names = metric or ("text-to-video/R@1", "text-to-video/R@10")
    answer(result, "".join(f"{table(result, name)}\n\n" for name in names) + f"{out / 'compare.json'}")


@app.command()
@one_writer("out")
def plan(
    scores: Annotated[Path, typer.Argument(help="Folder of `harmonize curriculum score`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder for plan.yaml and its figure.")],
    *,
    split: Annotated[
        str | None, typer.Option(show_default="train, else all", help="Samples to simulate on, or all.")
    ] = None,
    indicator: Annotated[
        str,
        typer.Option(
            help="Column of the scores (TAB lists all); its most suspicious samples are cut.",
            autocompletion=scored_columns,
        ),
    ] = "similarity_vt",
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of the samples to cut.")] = 0.3,
    action: Annotated[
        str,
        typer.Option(help=f"What they lose ({LISTED}).", autocompletion=completion("actions")),
    ] = "caption",
    overrides: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a curriculum as a file to edit, and simulate it: who takes part when, and which sources suffer.

    The plan has two phases, a fifth of the run without a cut (phases.0) and the rest with it (phases.1).
    --set changes any setting of it, such as phases.0.until=0.1, phases.1.weight=0.2, floor.share=0.25 or
    phases.1.gate.start=0.3 (`harmonize config explain curriculum`).

    Example: harmonize curriculum plan runs/scores -o runs/plan --indicator neighbours_vt --share 0.4
    Then: harmonize pretrain store.h5 -o runs/clean --curriculum runs/plan
    """
    import os

    from harmonize_cli.config import load_config
    from harmonize_cli.curriculum.plan import PLAN, Plan, check_unchanged, write_plan
    from harmonize_cli.curriculum.scores import read_scores, scored_store, trained_part
    from harmonize_cli.curriculum.simulate import draw, simulate, table

    read = read_scores(scores)
    store = scored_store(scores, read)
    places, name = trained_part(store, read, split)
    read = read.of(places)
    last: dict[str, object] = {
        "until": 1.0,
        "cut": {"indicator": indicator, "share": share},
        "action": action,
    }
    values = {"scores": os.path.relpath(scores, out), "phases": [{"until": 0.2}, last]}
    made = load_config(Plan, None, overrides or (), values, first=True)
    read.suspicion(indicator)  # refuses an unknown one
    if not overwrite:
        check_unchanged(made, out / PLAN)
    groups = [store.groups[i] for i in read.index]
    outcomes = simulate(made, read, read.ids.tolist(), groups)
    draw(made, outcomes, read, out / "plan.png")
    write_plan(made, out / PLAN)  # last: a plan is complete
    answer(
        {"samples": len(read), "split": name, "plan": made.model_dump(mode="json"), "phases": outcomes},
        f"{len(read)} samples of split {name}\n{table(made, outcomes)}\n{out / PLAN}, {out / 'plan.png'}",
    )


@app.command()
def ledger(
    run: RunFolder,
    store: Annotated[Path, typer.Argument(help="The store that it was trained on.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder of scores.")],
    *,
    table: Annotated[
        Path | None, typer.Option(help="Also as one table to join by id: NAME.parquet or NAME.csv.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn the ledger of a run (each visit of each sample) into scores: means, averages, forgetting.

    Example: harmonize curriculum ledger runs/a store.h5 -o runs/a/dynamics --table runs/a/dynamics.parquet
    """
    from harmonize_cli.curriculum.ledger import write_dynamics, write_table

    scores = write_dynamics(run, store, out, overwrite=overwrite)
    if table is not None:
        write_table(scores, table)
    visits = int(scores.columns["visits"].sum())
    answer(
        {"samples": len(scores), "visits": visits, "columns": list(scores.columns), "out": out},
        f"{len(scores)} samples, {visits} visits, {len(scores.columns)} columns: {out}"
        + (f", {table}" if table else ""),
    )
