"""`harmonize pretrain`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from harmonize_cli.cli.options import Config, Set, StorePath
from harmonize_cli.cli.say import answer, say
from harmonize_cli.cli.stops import kept
from harmonize_cli.errors import BadInput


@kept("the last checkpoint is kept; go on with: harmonize pretrain STORE -o RUN --resume")
def pretrain(
    store: StorePath,
    *,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder.", show_default=False)] = None,
    config: Config = None,
    overrides: Set = None,
    harmonize: Annotated[
        Literal["none", "realign", "curriculum", "both"] | None,
        typer.Option(help="What is done about conflicting gradients (harmonize.mode)."),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="representation, backbone, all or module paths (harmonize.scope).")
    ] = None,
    curriculum: Annotated[
        Path | None,
        typer.Option(help="Plan of `harmonize curriculum plan`; with --resume: from here on."),
    ] = None,
    ledger: Annotated[
        bool, typer.Option(help="Keep every sample's losses and conflict, visit by visit, in RUN/ledger.")
    ] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the run folder.")] = False,
    print_model: Annotated[
        bool, typer.Option("--print-model", help="Print the model's layers, losses and scope; don't train.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Check a batch's harmonized gradients by brute force; don't train."),
    ] = False,
) -> None:
    """Train a video-audio-text model on a store.

    Example: harmonize pretrain store.h5 -o runs/both --harmonize both --set batch=128 --set steps=500

    Where it stopped: harmonize pretrain store.h5 -o runs/both --resume

    On several processes or machines: torchrun --nproc-per-node 8 -m harmonize_cli pretrain store/ -o runs/a
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.curriculum.ledger import Ledger
    from harmonize_cli.curriculum.pretrain import pretrain as run_pretrain
    from harmonize_cli.heap import keep_freed_memory
    from harmonize_cli.ranks import is_first
    from harmonize_cli.training.config import PretrainConfig

    flags = {
        "harmonize.mode": harmonize,
        "harmonize.scope": scope,
    }
    given = config is not None or overrides or any(value is not None for value in flags.values())
    if resume and given:
        raise BadInput("--resume goes on with the run's own config.yaml; leave --config, --set and flags out")
    settings = None if resume else load_config(PretrainConfig, config, overrides or [], flags)
    if print_model:
        _print_model(store, settings or PretrainConfig())
        return
    if verify:
        from harmonize_cli.training.plan import verify_gradients

        say(f"verify: {verify_gradients(store, settings or PretrainConfig())}")
        return
    if out is None:
        raise BadInput("-o is missing: name the run folder, for example -o runs/first")
    keep_freed_memory()
    recorders = [Ledger(out)] if ledger else []
    done = run_pretrain(store, out, settings, recorders=recorders, curriculum=curriculum)
    if is_first():
        rate = done.clips / max(done.seconds, 1e-9)
        state = "" if done.steps == done.planned else f" of {done.planned} (stopped; go on with --resume)"
        bad = f", {done.bad_steps} bad steps left out" if done.bad_steps else ""
        answer(
            {**asdict(done), "run": out},
            f"pretrain: {done.steps} steps{state}, {done.clips} clips in {done.seconds:.1f} s "
            f"({rate:.0f} clips/s){bad} -> {out}",
        )


def _print_model(store: Path, settings: object) -> None:
    from harmonize_cli.data.windows import resolve_inputs
    from harmonize_cli.store.reader import Store
    from harmonize_cli.training.config import PretrainConfig
    from harmonize_cli.training.overview import describe_model, show_model

    assert isinstance(settings, PretrainConfig)
    rows = describe_model(resolve_inputs(Store.open(store), settings.inputs), settings)
    say(show_model(rows, settings.harmonize.scope))
