"""`harmonize demo ...`: an embedded data set, and the whole pipeline on it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harmonize_cli.cli.app import App
from harmonize_cli.cli.options import Config, Overwrite, Set, Workers
from harmonize_cli.cli.say import answer, say
from harmonize_cli.cli.stops import kept

app = App(
    help="A small synthetic data set of three modalities, and the whole pipeline on it.", no_args_is_help=True
)


@app.command("make-data")
@kept("finished files are kept, the same command goes on from there")
def make_data(
    out: Annotated[Path, typer.Argument(help="New folder for videos, captions, manifest and truth.")],
    *,
    config: Config = None,
    overrides: Set = None,
    workers: Workers = 1,
) -> None:
    """Make "dialpad": handwritten digits, DTMF tones and captions in long mp4 files.

    The videos show numbers in real handwriting (scikit-learn's scans), the audio has their DTMF tones, timed
    captions say them in words; a share of the training captions is wrong. Train, val and test share
    neither numbers nor scans; val and test are clean. truth.jsonl says which captions are wrong; no stage
    reads it.

    Example: harmonize demo make-data data/dialpad --set misaligned=0.4
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.demo.make_data import MANIFEST, TRUTH
    from harmonize_cli.demo.make_data import make_data as make
    from harmonize_cli.demo.settings import DialpadSettings

    settings = load_config(DialpadSettings, config, overrides or ())
    report = make(out, settings, jobs=workers)
    answer(
        report,
        f"{report.clips} clips in {report.files} files ({report.hours:.1f} h, {report.made} files made now): "
        f"{out / MANIFEST}; which captions are wrong: {out / TRUTH}",
    )


@app.command()
@kept("finished steps are kept, the same command goes on from there")
def run(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything.")] = Path("runs/demo"),
    *,
    config: Config = None,
    overrides: Set = None,
    overwrite: Overwrite = False,
    workers: Workers = 1,
) -> None:
    """Run the whole pipeline on dialpad data: make, extract, pretrain twice, score, evaluate, compare.

    Prints each command as it runs it. A second call goes on where the first one stopped.

    Example: harmonize demo run -o runs/demo
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.demo.config import DemoConfig
    from harmonize_cli.demo.pipeline import run_demo
    from harmonize_cli.files import read_json

    def tell(line: str) -> None:
        say(line)
        sys.stdout.flush()

    settings = load_config(DemoConfig, config, overrides or ())
    report = run_demo(out, settings, fresh=overwrite, jobs=workers, say=tell)
    answer(
        read_json(out / "summary.json", list[Any]),
        f"\n{report.table}\n{out / 'summary.json'}, {out / 'summary.png'}",
    )
