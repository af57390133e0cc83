"""`harmonize extract`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harmonize_cli.cli.options import Config, Set, Workers
from harmonize_cli.cli.registries import LISTED, completion
from harmonize_cli.cli.say import answer, say, say_line
from harmonize_cli.cli.stops import kept
from harmonize_cli.errors import BadInput, ErrorList, TooManyFailed

if TYPE_CHECKING:
    from harmonize_cli.extraction.inputs import Inputs

_INPUT, _RUNNING, _OUTPUT = "Input", "Running", "Output"


@kept("complete shards are kept, the same command goes on from there")
def extract(
    manifest: Annotated[
        Path | None, typer.Argument(help="Manifest: CSV, JSONL or Parquet.", show_default=False)
    ] = None,
    depth: Annotated[str | None, typer.Argument(hidden=True, show_default=False)] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Store: NAME.h5, or a folder of shards.",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help=f"Instead of a manifest, a public data set as it lies in --root ({LISTED}).",
            autocompletion=completion("data sets"),
            rich_help_panel=_INPUT,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="Option of the data set, such as split=test; may be repeated.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(min=0.1, help="Cut long videos in windows of so many seconds.", rich_help_panel=_INPUT),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only look: name bad rows and files, expected size and time. --check deep also decodes the "
            "first second of each file.",
            rich_help_panel=_RUNNING,
        ),
    ] = False,
    config: Config = None,
    overrides: Set = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            "-e",
            help=f"Encoder, NAME or NAME:ARGUMENT ({LISTED}); may be repeated (encoders).",
            autocompletion=completion("encoders"),
            show_default="raw, waveform, tokens",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    vocab: Annotated[
        Path | None,
        typer.Option(help="Store or text file whose words to use (tokens.vocab).", rich_help_panel=_INPUT),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder that paths are relative to.", show_default="the manifest's", rich_help_panel=_INPUT
        ),
    ] = None,
    allow_outside: Annotated[
        bool,
        typer.Option(
            "--allow-outside", help="Let paths of the manifest leave the root.", rich_help_panel=_INPUT
        ),
    ] = False,
    workers: Workers = 1,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="Decoder by name, those in this process only for files that you trust; auto: the fastest "
            f"that works ({LISTED}; decoder).",
            autocompletion=completion("decoders", "auto"),
            show_default="ffmpeg",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: this machine; ray: a Ray cluster (extra ray).", rich_help_panel=_RUNNING),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster, such as auto or ray://host:10001.",
            show_default="a local one",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    mode: Annotated[
        Literal["incremental", "overwrite", "extend", "retry-failed"],
        typer.Option(
            help="incremental: go on where it stopped; overwrite: start anew; extend: add the features of "
            "encoders that the store lacks; retry-failed: try failed samples again.",
            rich_help_panel=_RUNNING,
        ),
    ] = "incremental",
    shard: Annotated[
        str | None,
        typer.Option(
            help="I/N: this is job I of N on the same store (counted from 0).", rich_help_panel=_RUNNING
        ),
    ] = None,
    max_failed: Annotated[
        str | None,
        typer.Option(
            help="Maximum number (or share, such as 5%) of failed samples tolerated; more: exit code 3.",
            show_default="any, but not all",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Write coverage, silence, drift, duplicates and lengths here, and a figure beside.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    allow_download: Annotated[
        bool,
        typer.Option("--allow-download", help="Let open_clip download weights.", rich_help_panel=_RUNNING),
    ] = False,
) -> None:
    """Turn videos, audio and captions into a store of features.

    `harmonize config explain extract` lists every setting.

    Example: harmonize extract clips.jsonl -o store.h5 --encoder raw --encoder logmel --encoder tokens
    --set raw.size=64 --set raw.rate=5 --workers 4

    Look first: harmonize extract clips.jsonl --check (or --check deep)

    A benchmark as it lies: harmonize extract --dataset msrvtt --root data/MSRVTT --data split=test -o msrvtt/

    Ready embeddings: harmonize extract clips.csv -o clip/ --encoder open_clip:ViT-B-32/weights.safetensors
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.extraction.config import ExtractConfig
    from harmonize_cli.extraction.pipeline import RunOptions
    from harmonize_cli.extraction.pipeline import extract as run_extract
    from harmonize_cli.extraction.plan import parse_share
    from harmonize_cli.store.schema import Status

    flags = {
        "encoders": tuple(encoder) if encoder else None,
        "decoder": decoder,
        "tokens.vocab": str(vocab) if vocab else None,
        "open_clip.allow_download": allow_download or None,
    }
    manifest, deep = _manifest_and_depth(manifest, depth, check)
    settings = load_config(ExtractConfig, config, overrides or [], flags)
    limit = _limit(max_failed)
    share = parse_share(shard) if shard else (0, 1)
    if out is None and not check:
        raise BadInput("-o: name the store, for example -o store.h5 (or look first with --check)")
    if out is not None and share[1] > 1 and out.suffix == ".h5":
        raise BadInput(
            f"--shard: several jobs need a folder of shards; name one without .h5 instead of {out}"
        )
    errors = ErrorList(str(manifest)) if check else None
    inputs = _inputs(manifest, dataset, root, data or (), window, allow_outside, errors)
    # where nobody set a limit, a data set is taken as far as it goes
    problems = inputs.problems if max_failed is not None else 0
    if out is None or check:
        for line in errors.first if errors else ():
            say_line(f"bad: {line}")
        try:
            _check(inputs.rows, settings, workers, limit, problems, deep)
        finally:
            if errors:
                errors.raise_if_any()
        return
    options = RunOptions(
        workers=workers,
        mode=mode,
        share=share,
        engine=engine,
        ray_address=ray_address,
        root=inputs.root,
        attrs={
            "stage": "extract",
            "config": settings.model_dump(mode="json"),
            "input": inputs.name,
            "coverage": inputs.coverage,
        },
    )
    report = run_extract(inputs.rows, out, settings, options)
    counts = report.counts
    status = {f"{m} {Status(s).name.lower()}": n for (m, s), n in sorted(counts.by_status.items())}
    found = {"samples": counts.samples, "failed": counts.failed, "status": status, "out": out}
    answer(found | {"reasons": counts.reasons}, f"extract: {report.line()}")
    if report_file is not None:
        _write_quality(out, report_file)
    for reason, count in report.counts.reasons.most_common(5):
        say_line(f"  {count} x {reason}", err=True)
    if report.failed + problems > limit(report.samples):
        more = f", and there are {problems} problems in the data set" if problems else ""
        raise TooManyFailed(
            f"{report.failed} of {report.samples} samples of the store failed{more}; the reasons are in the "
            f"store (`harmonize store info {out}`)"
        )


def _inputs(
    manifest: Path | None,
    dataset: str | None,
    root: Path | None,
    data: Sequence[str],
    window: float | None,
    allow_outside: bool,
    errors: ErrorList | None,
) -> "Inputs":
    """Rows of the manifest, whose invalid ones go to `errors` if given, or of the data set."""
    from harmonize_cli.extraction.inputs import from_dataset, from_manifest

    if (manifest is None) == (dataset is None):
        raise BadInput("name either a manifest or a data set: clips.csv, or --dataset msrvtt --root DIR")
    if manifest is not None:
        if data:
            raise BadInput(f"--data {data[0]}: is for --dataset; a manifest has columns instead")
        return from_manifest(manifest, root=root, window=window, allow_outside=allow_outside, errors=errors)
    assert dataset is not None
    inputs = from_dataset(dataset, root, data, window=window, allow_outside=allow_outside)
    there, expected = inputs.coverage["present"], inputs.coverage["expected"]
    say(f"{dataset}: {there} of {expected} samples are there", err=True)
    for line in inputs.problem_lines():
        say_line(line, err=True)
    return inputs


def _manifest_and_depth(manifest: Path | None, depth: str | None, check: bool) -> tuple[Path | None, bool]:
    """The manifest, and whether `--check` was followed by `deep`, wherever the two stand."""
    words = [str(word) for word in (manifest, depth) if word is not None]
    deep = check and "deep" in words
    if deep:
        words.remove("deep")
    if len(words) > 1:
        raise BadInput(f"{words[1]}: expected one manifest; after --check the word deep may follow")
    return (Path(words[0]) if words else None), deep


def _write_quality(store: Path, path: Path) -> None:
    from harmonize_cli.extraction.quality import quality_of
    from harmonize_cli.extraction.quality_figure import draw_quality
    from harmonize_cli.files import write_json
    from harmonize_cli.store.reader import Store

    found = quality_of(Store.open(store))
    write_json(path, found)
    draw_quality(found, path.with_suffix(".png"))
    say(f"report: {path}, {path.with_suffix('.png')}")


def _check(rows, settings, workers, limit, problems, deep) -> None:  # type: ignore[no-untyped-def]
    from harmonize_cli.extraction.check import check

    report = check(rows, settings, workers=workers, deep=deep)
    for line in report.bad:
        say_line(f"bad: {line}")
    answer(report, "\n".join(report.lines()))
    if report.bad_samples + problems > limit(report.samples):
        more = f", and there are {problems} problems in the data set" if problems else ""
        raise TooManyFailed(f"{report.bad_samples} of {report.samples} samples will fail{more}")


def _limit(text: str | None):  # type: ignore[no-untyped-def]
    """`--max-failed` as a function of the number of samples."""
    if text is None:
        return lambda n: n - 1 if n else 0
    number = text.removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if value < 0 or (text.endswith("%") and value > 100):
        raise BadInput(f"--max-failed {text}: expected a number such as 10, or a share such as 5%")
    return (lambda n: n * value / 100) if text.endswith("%") else (lambda n: value)
