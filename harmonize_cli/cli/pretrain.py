"""`harmonize pretrain`."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.errors import BadInput

EXAMPLE = """
Example: harmonize pretrain store.h5 -o runs/both --harmonize both --set batch=128 --set steps=500

On several processes or machines: torchrun --nproc-per-node 8 -m harmonize_cli pretrain store/ -o runs/a
"""


def pretrain(
    store: Annotated[Path, typer.Argument(help="Store that `harmonize extract` made.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="Run folder.", show_default=False)],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the config; may be repeated.")
    ] = None,
    harmonize: Annotated[
        str | None, typer.Option(help="none, realign, curriculum or both (harmonize.mode).")
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="representation, backbone, all or module paths (harmonize.scope)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the run folder.")] = False,
) -> None:
    """Train a video-audio-text model on a store."""
    from harmonize_cli.config import load_config
    from harmonize_cli.training.config import PretrainConfig
    from harmonize_cli.training.parallel import is_first
    from harmonize_cli.training.pretrain import pretrain as run_pretrain

    flags = {"harmonize.mode": harmonize, "harmonize.scope": scope}
    if resume and (config or overrides or harmonize or scope):
        raise BadInput(f"--resume goes on with {out / 'config.yaml'}; leave --config, --set and flags out")
    settings = None if resume else load_config(PretrainConfig, config, overrides or [], flags)
    done = run_pretrain(store, out, settings)
    if is_first():
        rate = done.clips / max(done.seconds, 1e-9)
        state = "" if done.steps == done.planned else f" of {done.planned} (stopped; go on with --resume)"
        typer.echo(
            f"pretrain: {done.steps} steps{state}, {done.clips} clips in {done.seconds:.1f} s "
            f"({rate:.0f} clips/s) -> {out}"
        )


pretrain.__doc__ = f"{pretrain.__doc__}\n{EXAMPLE}"
