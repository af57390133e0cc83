"""`harmonize bench ...`: measured ratios against the obvious alternative, in the same run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from harmonize_cli.cli.options import JsonFile
from harmonize_cli.cli.say import say

app = typer.Typer(help="Measure speed here, as ratios to the obvious alternative.", no_args_is_help=True)


@app.callback()
def _bench() -> None:
    pass


@app.command()
def train(
    *,
    preset: Annotated[str, typer.Option(help="tiny (demo sizes), small, base, medium or large.")] = "tiny",
    batch: Annotated[int, typer.Option(min=2, help="Clips per step.")] = 128,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Times that each case is measured.")] = 8,
    store: Annotated[
        Path | None, typer.Option(help="Store for the loading test. [default: noise]", show_default=False)
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Whole training steps: clips/s, utilisation, plain against harmonized, waiting for data, scaling.

    Example: harmonize bench train --preset medium --precision bf16 --batch 64 --json train.json
    """
    from harmonize_cli.benchmarks.train_report import bench_train, show_bench
    from harmonize_cli.errors import BadInput
    from harmonize_cli.models.config import SIZES
    from harmonize_cli.ranks import pick_device

    if preset not in SIZES:
        raise BadInput(f"--preset {preset}: choose one of {', '.join(SIZES)}")
    if precision not in ("fp32", "bf16"):
        raise BadInput(f"--precision {precision}: choose fp32 or bf16")
    found = bench_train(
        preset=preset,
        batch=batch,
        precision=precision,
        device=pick_device(device),
        rounds=rounds,
        store=store,
    )
    _keep(found, json_file)
    say(show_bench(found))


@app.command()
def store(
    *,
    clips: Annotated[int, typer.Option(min=10, help="Clips of 393 kB in the store.")] = 1500,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read at once.")] = 2,
    folder: Annotated[
        Path | None, typer.Option(help="Disk to measure. [default: temporary files]", show_default=False)
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Random clips from the feature store against np.memmap on the same bytes; writing; size.

    Example: harmonize bench store --workers 8 --json store.json
    """
    from harmonize_cli.benchmarks.store import bench_store

    _show(bench_store(clips=clips, workers=workers, folder=folder), json_file)


@app.command()
def retrieval(
    *,
    rows: Annotated[int, typer.Option(min=10, help="Queries and gallery of the comparison.")] = 10_000,
    large: Annotated[
        int, typer.Option(min=0, help="The large size, measured once; 0 leaves it out.")
    ] = 100_000,
    dims: Annotated[int, typer.Option(min=1, help="Of the embeddings.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of which the median counts.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json_file: JsonFile = None,
) -> None:
    """Exact ranks by blocks against a plain full matrix in numpy; 100,000 x 100,000 with its peak memory.

    Example: harmonize bench retrieval --large 0
    """
    from harmonize_cli.benchmarks.retrieval import bench_retrieval

    _show(bench_retrieval(rows=rows, large=large, dims=dims, rounds=rounds, device=device), json_file)


@app.command()
def probe(
    *,
    rows: Annotated[int, typer.Option(min=100, help="Training samples.")] = 100_000,
    dims: Annotated[int, typer.Option(min=2, help="Of the features.")] = 1024,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10,
    c: Annotated[float, typer.Option(help="Weight of the losses.")] = 0.1,
    device: Annotated[str, typer.Option(help="cpu or cuda; scikit-learn stays on the CPU.")] = "cpu",
    json_file: JsonFile = None,
) -> None:
    """Logistic regression: the torch solver against scikit-learn, until both stand at the same optimum.

    Example: harmonize bench probe --rows 20000 --dims 256
    """
    from harmonize_cli.benchmarks.probe import bench_probe

    _show(bench_probe(rows=rows, dims=dims, classes=classes, c=c, device=device), json_file)


@app.command()
def extract(
    *,
    folder: Annotated[
        Path | None, typer.Option(help="Videos to measure with. [default: made ones]", show_default=False)
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Short files.")] = 100,
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the long file.")] = 5.0,
    clip_frames: Annotated[
        int, typer.Option(min=0, help="Frames through open_clip ViT-B-32; 0 leaves it out.")
    ] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of which the median counts.")] = 3,
    decoder: Annotated[str, typer.Option(help="ffmpeg, pyav, torchcodec or auto.")] = "ffmpeg",
    json_file: JsonFile = None,
) -> None:
    """Extraction against ffmpeg alone with the same filters, and against one call per segment; open_clip.

    Example: harmonize bench extract --folder videos --json extract.json
    """
    from harmonize_cli.benchmarks.extract import bench_extract

    found = bench_extract(
        folder=folder,
        clips=clips,
        minutes=minutes,
        clip_frames=clip_frames,
        rounds=rounds,
        decoder=decoder,
    )
    _show(found, json_file)


@app.command()
def harmony(
    *,
    preset: Annotated[
        str, typer.Option(help="default, tiny, or VATT's base and medium (for a GPU).")
    ] = "default",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seconds: Annotated[float, typer.Option(min=0, help="Time to measure each variant.")] = 10.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    json_file: JsonFile = None,
) -> None:
    """What harmonization costs: each way to harmonize, and other engines, against the plain step.

    Example: harmonize bench harmony --json harmony.json
    """
    from harmonize_cli.benchmarks.harmony import bench_harmony, show_harmony

    rows = bench_harmony(preset, device, seconds, threads)
    _keep(rows, json_file)
    say(show_harmony(rows))


def _show(found: Iterable[dict[str, Any]], json_file: Path | None) -> None:
    """Print each row as it comes, keep them all."""
    rows = []
    for row in found:
        ratio = f"  {row['ratio']:.3f}" if row["ratio"] is not None else ""
        say(f"{row['name']:<64} {row['value']:>10.3f} {row['unit']:<5}{ratio}")
        rows.append(row)
    _keep(rows, json_file)


def _keep(found: Any, json_file: Path | None) -> None:
    from harmonize_cli.files import write_json

    if json_file:
        write_json(json_file, found)
