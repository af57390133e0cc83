"""`harmonize demo ...`: an embedded data set, and the whole pipeline on it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.say import say
from harmonize_cli.cli.stops import kept

app = typer.Typer(
    help="A small tri-modal data set made on the spot, and the whole pipeline on it.", no_args_is_help=True
)


@app.command("make-data")
@kept("finished files are kept, the same command goes on from there")
def make_data(
    out: Annotated[Path, typer.Argument(help="New folder for videos, captions, manifest and truth.")],
    *,
    digits: Annotated[int | None, typer.Option(show_default="3", help="Digits of a number (2 to 6).")] = None,
    clips: Annotated[
        int | None, typer.Option(show_default="3200", help="Numbers in the training part.")
    ] = None,
    seed: Annotated[int | None, typer.Option(show_default="0", help="Same seed, same bytes.")] = None,
    misaligned: Annotated[
        float | None, typer.Option(show_default="0.4", help="Share of training captions that are wrong.")
    ] = None,
    misaligned_from: Annotated[
        str | None,
        typer.Option(show_default="both", help="neighbour, elsewhere or both."),
    ] = None,
    misaligned_sound: Annotated[
        float | None,
        typer.Option(show_default="0", help="Share of clips with a wrong sound."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these and the other settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. --set digit_seconds=0.6")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Make "dialpad": handwritten digits, DTMF tones and captions in long mp4 files.

    The videos show numbers in real handwriting (scikit-learn's scans), the sound dials them, timed captions
    say them in words; a share of the training captions is wrong. Train, val and test share neither numbers
    nor scans; val and test are clean. Which captions are wrong stands in truth.jsonl, which no stage reads.

    Example: harmonize demo make-data data/dialpad --misaligned 0.4
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.demo.make_data import MANIFEST, TRUTH
    from harmonize_cli.demo.make_data import make_data as make
    from harmonize_cli.demo.settings import DialpadSettings

    flags = {
        "digits": digits,
        "clips": clips,
        "seed": seed,
        "misaligned": misaligned,
        "misaligned_from": misaligned_from,
        "misaligned_sound": misaligned_sound,
    }
    settings = load_config(DialpadSettings, config, set_ or (), flags)
    report = make(out, settings, jobs=jobs)
    say(
        f"{report.clips} clips in {report.files} files ({report.hours:.1f} h, {report.made} files made now): "
        f"{out / MANIFEST}; which captions are wrong: {out / TRUTH}"
    )


@app.command()
@kept("finished steps are kept, the same command goes on from there")
def run(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything.")] = Path("runs/demo"),
    *,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. --set pretrain.steps=600")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what an earlier demo made there.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that make and extract the data.")] = 2,
) -> None:
    """Run the whole pipeline on dialpad data: make, extract, pretrain twice, score, evaluate, compare.

    Prints each command as it runs it. A second call goes on where the first one stopped.

    Example: harmonize demo run -o runs/demo
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.demo.config import DemoConfig
    from harmonize_cli.demo.pipeline import run_demo

    def tell(line: str) -> None:
        say(line)
        sys.stdout.flush()

    settings = load_config(DemoConfig, config, set_ or ())
    report = run_demo(out, settings, fresh=fresh, jobs=jobs, say=tell)
    say(f"\n{report.table}\n{out / 'summary.json'}, {out / 'summary.png'}")
