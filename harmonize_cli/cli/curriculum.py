"""`harmonize curriculum ...`: find misaligned samples and train around them."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Score every sample for noise, audit the scores, plan a curriculum.", no_args_is_help=True
)


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="Run folder of `harmonize pretrain`.")],
    store: Annotated[Path, typer.Argument(help="Feature store.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder for the scores.")],
    *,
    split: Annotated[
        str | None, typer.Option(show_default="all samples", help="Score one split of the store.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="last, best or a name such as step-00000100.")] = "last",
    indicator: Annotated[
        list[str] | None, typer.Option(show_default="all", help="Only these indicators (may be repeated).")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=2, show_default="the run's", help="Samples that are each other's negatives."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Deals the samples to batches.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Score every sample of a store: gradient conflict, norms, losses, similarities and more.

    Goes on where an interrupted call stopped. Writes parts (npz), scores.json and histogram.png.

    Example: harmonize curriculum score runs/demo/baseline data/store -o runs/demo/scores
    """
    import numpy as np

    from harmonize_cli.curriculum.pictures import draw_histograms
    from harmonize_cli.curriculum.score import score as run_scoring
    from harmonize_cli.curriculum.score_parts import ScoreSettings
    from harmonize_cli.curriculum.scores import read_scores

    settings = ScoreSettings(
        split=split,
        checkpoint=checkpoint,
        batch=batch,
        indicators=tuple(indicator) if indicator else None,
        seed=seed,
        device=device,
    )
    report = run_scoring(run, store, out, settings, jobs=jobs)
    scores = read_scores(out)
    draw_histograms(scores, out / "histogram.png")
    conflict = ""
    if (cosine := scores.columns.get("cosine_backbone")) is not None and np.isfinite(cosine).any():
        known = cosine[np.isfinite(cosine)]
        conflict = f", {np.mean(known < 0):.0%} of {len(known)} in conflict"
    rate = f" ({report.scored / report.seconds:.0f} clips/s)" if report.scored else " (all done before)"
    typer.echo(
        f"{report.samples} samples, {len(report.columns)} indicators{conflict}; "
        f"{report.scored} scored now{rate}: {out}"
    )


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="Run folder of `harmonize pretrain`.")],
    store: Annotated[Path, typer.Argument(help="Feature store.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", show_default="RUN/audit", help="Folder for the result.")
    ] = None,
    *,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            show_default="all",
            help="caption-elsewhere, caption-neighbour, sound-elsewhere or sound-shifted (may be repeated).",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(show_default="val, else test, else all", help="Samples to audit on.")
    ] = None,
    share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share to misalign.")] = 0.4,
    checkpoint: Annotated[str, typer.Option(help="last, best or a name such as step-00000100.")] = "last",
    batch: Annotated[int | None, typer.Option(min=2, show_default="the run's")] = None,
    draws: Annotated[int, typer.Option(min=10, help="Resamples of the bootstrap.")] = 300,
    seed: Annotated[int, typer.Option(help="Chooses what is misaligned.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Misalign held-out samples on purpose and see which indicator finds them: which one to trust.

    Writes audit.json, and combination.json for `harmonize curriculum plan`.

    Example: harmonize curriculum audit runs/demo/runs/baseline runs/demo/store.h5
    """
    from harmonize_cli.curriculum.audit import AuditSettings, table
    from harmonize_cli.curriculum.audit import audit as run_audit
    from harmonize_cli.curriculum.inject import KINDS

    settings = AuditSettings(
        kinds=tuple(kind) if kind else tuple(KINDS),
        split=split,
        share=share,
        checkpoint=checkpoint,
        batch=batch,
        draws=draws,
        seed=seed,
        device=device,
    )
    folder = out or run / "audit"
    result = run_audit(run, store, folder, settings)
    typer.echo(f"{table(result)}\n{folder / 'audit.json'}")
