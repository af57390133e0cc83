"""`harmonize eval ...`: numbers that say exactly what they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonize_cli.errors import BadInput

if TYPE_CHECKING:
    from harmonize_cli.evaluation.results import Result
    from harmonize_cli.evaluation.sources import Source
    from harmonize_cli.evaluation.tables import Format
    from harmonize_cli.store.reader import Store

app = typer.Typer(help="Evaluate a run: retrieval, probes, comparisons, tables.", no_args_is_help=True)

Run = Annotated[
    str,
    typer.Argument(
        help="Run folder of `harmonize pretrain`, or - for what the store itself holds (CLIP, log-mel)."
    ),
]
StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="Feature store of `harmonize extract`.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: key=value. Repeatable.")]
Config = Annotated[Path | None, typer.Option(help="YAML with settings of the protocol.")]
Keys = Annotated[list[str] | None, typer.Option("--key", help="With RUN -: features to use. Repeatable.")]
Untrained = Annotated[
    int | None, typer.Option(help="Judge the run's architecture with fresh weights of this seed.")
]
Official = Annotated[str | None, typer.Option(help="Data set whose official lists decide, such as ucf101.")]
Annotations = Annotated[Path | None, typer.Option(help="Folder of those lists.")]
Checkpoint = Annotated[str, typer.Option(help="last, best or a name such as step-00001000.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Clips per forward pass.")]
Draws = Annotated[int, typer.Option(min=10, help="Resamples of the bootstrap.")]
Seed = Annotated[int, typer.Option(help="Seed of the bootstrap.")]
Clusters = Annotated[bool, typer.Option("--by-group", help="Resample source groups, not single queries.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="Result file; default under RUN/eval.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another result at that place.")]
FormatOption = Annotated[str, typer.Option("--format", help="terminal, markdown, csv or latex.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no embeddings under RUN/cache.")]


@app.command(
    epilog="Example: harmonize eval retrieval runs/mine features --split test --protocol vatt",
)
def retrieval(
    run: Run,
    store: StorePath,
    *,
    protocol: Annotated[str, typer.Option(help="vatt, mil-nce or clip.")] = "vatt",
    config: Config = None,
    settings: Set = None,
    split: Annotated[
        str | None, typer.Option(help="Split(s), or all. Default: test if there is one.")
    ] = None,
    official: Official = None,
    annotations: Annotations = None,
    key: Keys = None,
    untrained: Untrained = None,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    draws: Draws = 2000,
    seed: Seed = 0,
    by_group: Clusters = False,
    out: Out = None,
    overwrite: Overwrite = False,
    no_cache: NoCache = False,
) -> None:
    """Zero-shot retrieval between text, video and audio, six directions on one pool.

    Settings (for --set): windows, pooling, captions, same_text, tie, text_words, pool.
    """
    from harmonize_cli.evaluation.evaluate_retrieval import evaluate_retrieval
    from harmonize_cli.evaluation.protocols import PROTOCOLS, adjusted
    from harmonize_cli.evaluation.stage import Options

    settled = adjusted(PROTOCOLS, protocol, config, settings or ())
    opened, source = _open(
        run,
        store,
        keys=key,
        checkpoint=checkpoint,
        device=device,
        fresh=untrained,
        batch_size=batch_size,
        cache=not no_cache,
    )
    wanted = (split or "test").split(",")
    divisions = _divisions(official, annotations)
    expected = {i for division in divisions.values() for i, part in division.items() if part in wanted}
    result, path = evaluate_retrieval(
        source,
        opened,
        settled,
        split=split,
        expected=expected,
        options=Options(draws, seed, by_group, out, overwrite),
    )
    _print(result, path)


@app.command(epilog="Example: harmonize eval probe runs/mine features --modality audio --label 0")
def probe(
    run: Run,
    store: StorePath,
    *,
    protocol: Annotated[
        str, typer.Option(help="logistic, vatt, vatt-svm, mmv, mil-nce or knn.")
    ] = "logistic",
    config: Config = None,
    settings: Set = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="video, audio or text; repeatable. Default: the run's first.")
    ] = None,
    label: Annotated[int, typer.Option(min=0, help="Which of a sample's labels, from 0.")] = 0,
    train: Annotated[str, typer.Option(help="Training split(s), where the store has no folds.")] = "train",
    test: Annotated[str, typer.Option(help="Test split(s), where the store has no folds.")] = "test",
    official: Official = None,
    annotations: Annotations = None,
    key: Keys = None,
    untrained: Untrained = None,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    draws: Draws = 2000,
    seed: Seed = 0,
    by_group: Clusters = False,
    out: Out = None,
    overwrite: Overwrite = False,
    no_cache: NoCache = False,
) -> None:
    """Train a classifier on frozen features (before the heads) and judge it on unseen samples.

    A store with folds is crossed over them, --official ucf101 (hmdb51) averages the three official splits;
    otherwise a training and a test split are needed. Settings (for --set): classifier, train_windows,
    test_windows, scaling, c, inner_folds, solver, neighbours, tau, steps, seed.
    """
    from harmonize_cli.evaluation.evaluate_probe import evaluate_probe
    from harmonize_cli.evaluation.protocols import PROBES, adjusted
    from harmonize_cli.evaluation.stage import Options

    settled = adjusted(PROBES, protocol, config, settings or ())
    opened, source = _open(
        run,
        store,
        keys=key,
        checkpoint=checkpoint,
        device=device,
        fresh=untrained,
        batch_size=batch_size,
        cache=not no_cache,
    )
    result, path = evaluate_probe(
        source,
        opened,
        settled,
        modalities=modality or (),
        label=label,
        train=train,
        test=test,
        official=_divisions(official, annotations),
        options=Options(draws, seed, by_group, out, overwrite),
    )
    _print(result, path)


@app.command(
    epilog="Example: harmonize eval zeroshot runs/mine features --templates prompts.txt --modality video"
)
def zeroshot(
    run: Annotated[Path, typer.Argument(help="Run folder of `harmonize pretrain`.")],
    store: StorePath,
    *,
    templates: Annotated[Path | None, typer.Option(help="A sentence a line, {} for the class name.")] = None,
    names: Annotated[Path | None, typer.Option(help="CSV of label,words: how classes are said.")] = None,
    modality: Annotated[list[str] | None, typer.Option(help="video or audio; both by default.")] = None,
    label: Annotated[int, typer.Option(min=0, help="Which of a sample's labels, from 0.")] = 0,
    split: Annotated[
        str | None, typer.Option(help="Split(s), or all. Default: test if there is one.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows per clip.")] = 4,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    draws: Draws = 2000,
    seed: Seed = 0,
    by_group: Clusters = False,
    out: Out = None,
    overwrite: Overwrite = False,
    no_cache: NoCache = False,
) -> None:
    """Classify clips, by picture and by sound, as the class whose prompts lie nearest. No training."""
    from harmonize_cli.encoders.tokens import Vocab
    from harmonize_cli.evaluation.evaluate_zeroshot import Prompts, evaluate_zeroshot
    from harmonize_cli.evaluation.prompts import read_names, read_templates
    from harmonize_cli.evaluation.sources import RunSource
    from harmonize_cli.evaluation.stage import Options
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.store.reader import Store

    sentences = read_templates(templates)
    loaded = load_model(run, checkpoint, _device(device))
    words = run / "vocab.json"
    if not words.is_file():
        raise BadInput(f"{words}: missing; prompts need a run that was trained on word tokens")
    result, path = evaluate_zeroshot(
        RunSource(loaded, batch_size, not no_cache),
        Store.open(store),
        lambda classes: Prompts(classes, read_names(names, classes), sentences),
        Vocab.load(words).encode,
        modalities=modality or (),
        label=label,
        split=split,
        windows=windows,
        options=Options(draws, seed, by_group, out, overwrite),
    )
    _print(result, path)


@app.command(epilog="Example: harmonize eval finetune runs/mine features -o runs/mine-tuned --set steps=5000")
def finetune(
    run: Annotated[Path, typer.Argument(help="Run folder of `harmonize pretrain`.")],
    store: StorePath,
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the fine-tuned model.")],
    config: Annotated[Path | None, typer.Option(help="YAML with settings.")] = None,
    settings: Set = None,
    test: Annotated[str, typer.Option(help="Test split(s).")] = "test",
    augment: Annotated[bool, typer.Option(help="Crop, flip and colour as VATT does.")] = False,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    draws: Draws = 2000,
    seed: Annotated[int, typer.Option("--bootstrap-seed", help="Seed of the bootstrap.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tune the backbone on labels (VATT's Kinetics protocol), then judge the test split.

    The same command again goes on where it stopped, after a kill too. Settings (for --set): modality, label,
    train, steps, batch, lr, warmup, momentum, smoothing, clip, dropout, windows, crops, seed, ...
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.evaluation.evaluate_finetune import evaluate_finetune
    from harmonize_cli.evaluation.finetune_model import FinetuneConfig
    from harmonize_cli.evaluation.stage import Options
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.store.reader import Store
    from harmonize_cli.training.augment import Augmentation, AugmentConfig
    from harmonize_cli.training.signals import StopOnSignal

    settled = load_config(FinetuneConfig, config, settings or ())
    changes = AugmentConfig(crop="area", flip=0.5, colour=0.8, audio_noise=0.01)
    with StopOnSignal() as signal:
        result, path = evaluate_finetune(
            load_model(run, checkpoint, _device(device)),
            Store.open(store),
            out,
            settled,
            test=test,
            augment=Augmentation(changes) if augment else None,
            stop=lambda: signal.asked,
            options=Options(draws, seed, overwrite=overwrite),
        )
    if result is None:
        typer.echo(f"stopped; the same command goes on from {out}")
    else:
        _print(result, path)


@app.command(
    epilog="Example: harmonize eval compare runs/baseline runs/realign; several seeds: "
    "harmonize eval compare runs/base-0,runs/base-1 runs/realign-0,runs/realign-1",
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
    typer.echo("\n\n".join(show(one, _form(form)) for one in found))
    if out:
        write_json(out, {"format": FORMAT, "comparisons": [one.as_dict() for one in found]})


@app.command(epilog="Example: harmonize eval table runs/ --metric '*/R@10' --format markdown")
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
        typer.echo(text)


@app.command(epilog="Example: harmonize eval export runs/mine features -o export --split test")
def export(
    run: Run,
    store: StorePath,
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder.")],
    protocol: Annotated[str, typer.Option(help="vatt, mil-nce or clip.")] = "vatt",
    settings: Set = None,
    split: Annotated[
        str | None, typer.Option(help="Split(s), or all. Default: test if there is one.")
    ] = None,
    key: Keys = None,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    batch_size: BatchSize = 64,
) -> None:
    """Embeddings and right answers of each direction as files for mteb and BEIR tools.

    With mteb 2 installed: from harmonize_cli.evaluation.mteb_adapter import Exported, load_task;
    mteb.evaluate(Exported(DIR), load_task(DIR)) with DIR such as export/text-to-video.
    """
    from harmonize_cli.evaluation.export import export_tasks
    from harmonize_cli.evaluation.protocols import PROTOCOLS, adjusted
    from harmonize_cli.evaluation.splits import rows_of

    settled = adjusted(PROTOCOLS, protocol, None, settings or ())
    opened, source = _open(
        run,
        store,
        keys=key,
        checkpoint=checkpoint,
        device=device,
        fresh=None,
        batch_size=batch_size,
        cache=run != "-",
    )
    rows, name = rows_of(opened, split)
    about: dict[str, object] = {
        "split": name,
        "protocol": settled.model_dump(mode="json"),
        "model": source.about(),
        "model_hash": source.weights_hash,
        "store_hash": opened.content_hash,
    }
    written = export_tasks(source.pool(opened, rows, settled), settled, out, about)
    typer.echo(f"export: {len(written)} directions of {len(rows)} samples ({', '.join(written)}) -> {out}")


@app.command("list", epilog="Example: harmonize eval list --root data --annotations data/annotations")
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
    typer.echo(show(availability(LAYOUTS, folders, find_list, count)))


def _open(
    run: str,
    store: Path,
    *,
    keys: list[str] | None,
    checkpoint: str,
    device: str,
    fresh: int | None,
    batch_size: int,
    cache: bool,
) -> "tuple[Store, Source]":
    from harmonize_cli.evaluation.sources import PlainSource, RunSource
    from harmonize_cli.evaluation.untrained import untrained
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.store.reader import Store

    opened = Store.open(store)
    if run == "-":
        return opened, PlainSource(opened, tuple(keys or ()))
    if keys:
        raise BadInput("--key goes with RUN -: a run reads the features that it was trained on")
    loaded = load_model(Path(run), checkpoint, _device(device))
    return opened, RunSource(loaded if fresh is None else untrained(loaded, fresh), batch_size, cache)


def _divisions(official: str | None, annotations: Path | None) -> dict[str, dict[str, str]]:
    if official is None:
        return {}
    from harmonize_cli.datasets.official import official_divisions

    return official_divisions(official, annotations or Path())


def _form(name: str) -> "Format":
    from harmonize_cli.evaluation.tables import FORMATS

    if name not in FORMATS:
        raise BadInput(f"--format {name}: expected {', '.join(FORMATS)}")
    return name


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as e:
        raise BadInput(f"--device {name}: not usable here ({str(e).splitlines()[0]})") from None
    return name


def _print(result: "Result", path: Path) -> None:
    from harmonize_cli.evaluation.show import summary

    typer.echo(summary(result, path))
