"""`harmonize eval ...`: numbers that say exactly what they are."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli import eval_results
from harmonize_cli.cli.app import App
from harmonize_cli.cli.eval_common import (
    divisions,
    listed,
    open_source,
    pair_up,
    parse_label,
    pick_device,
    show_result,
)
from harmonize_cli.cli.options import (
    Annotations,
    BatchSize,
    Checkpoint,
    Clusters,
    Config,
    Device,
    Draws,
    FormatOption,
    Keys,
    Label,
    NoCache,
    Official,
    Out,
    Overwrite,
    Probe,
    Retrieval,
    RunFolder,
    RunOrStore,
    Seed,
    Set,
    Split,
    StorePath,
    Untrained,
    VerifyStore,
)
from harmonize_cli.cli.say import say
from harmonize_cli.cli.stops import kept
from harmonize_cli.locks import one_writer

app = App(help="Evaluate a run: retrieval, probes, comparisons, tables.", no_args_is_help=True)


@app.command()
@kept("embeddings are kept under RUN/cache, the same command goes on from there")
@one_writer("out")
def retrieval(
    run: RunOrStore,
    store: StorePath,
    *,
    protocol: Retrieval = "vatt",
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
    draws: Draws = 2000,
    seed: Seed = 0,
    by_group: Clusters = False,
    out: Out = None,
    overwrite: Overwrite = False,
    no_cache: NoCache = False,
    verify_store: VerifyStore = True,
) -> None:
    """Zero-shot retrieval between text, video and audio, six directions on one pool.

    Settings (for --set): windows, pooling, captions, same_text, tie, text_words, pool, relevance, label.

    Example: harmonize eval retrieval runs/mine features --split test --protocol vatt
    """
    from harmonize_cli.evaluation.protocols import PROTOCOLS, adjusted
    from harmonize_cli.evaluation.retrieval import RetrievalTask
    from harmonize_cli.evaluation.task import Options, evaluate

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
    task = RetrievalTask(source, opened, settled, split=split, expected=listed(official, annotations, split))
    show_result(*evaluate(task, Options(draws, seed, by_group, out, overwrite)))


@app.command()
@kept("embeddings are kept under RUN/cache, the same command goes on from there")
@one_writer("out")
def probe(
    run: RunOrStore,
    store: StorePath,
    *,
    protocol: Probe = "logistic",
    config: Config = None,
    settings: Set = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="video, audio or text; repeatable. Default: the run's first.")
    ] = None,
    label: Label = "0",
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
    verify_store: VerifyStore = True,
) -> None:
    """Train a classifier on frozen features (before the heads) and test it on unseen samples.

    A store with folds is crossed over them, --official ucf101 (hmdb51) averages the three official splits;
    otherwise a training and a test split are needed. Settings (for --set): classifier, train_windows,
    test_windows, scaling, c, inner_folds, solver, neighbours, tau, steps, seed.

    Example: harmonize eval probe runs/mine features --modality audio --label 0
    """
    from harmonize_cli.evaluation.probe import ProbeTask
    from harmonize_cli.evaluation.protocols import PROBES, adjusted
    from harmonize_cli.evaluation.task import Options, evaluate

    settled = adjusted(PROBES, protocol, config, settings or ())
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
    task = ProbeTask(
        source,
        opened,
        settled,
        modalities=modality or (),
        label=parse_label(label),
        train=train,
        test=test,
        official=divisions(official, annotations),
    )
    show_result(*evaluate(task, Options(draws, seed, by_group, out, overwrite)))


@app.command()
@kept("embeddings are kept under RUN/cache, the same command goes on from there")
@one_writer("out")
def zeroshot(
    run: RunFolder,
    store: StorePath,
    *,
    templates: Annotated[Path | None, typer.Option(help="A sentence a line, {} for the class name.")] = None,
    names: Annotated[Path | None, typer.Option(help="CSV of label,words: how classes are said.")] = None,
    modality: Annotated[list[str] | None, typer.Option(help="video or audio; both by default.")] = None,
    label: Label = "0",
    split: Split = None,
    windows: Annotated[int, typer.Option(min=1, max=100, help="Windows per clip.")] = 4,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    draws: Draws = 2000,
    seed: Seed = 0,
    by_group: Clusters = False,
    out: Out = None,
    overwrite: Overwrite = False,
    no_cache: NoCache = False,
    verify_store: VerifyStore = True,
) -> None:
    """Classify clips, by video and by audio, as the class whose prompts lie nearest. No training.

    Example: harmonize eval zeroshot runs/mine features --templates prompts.txt --modality video
    """
    from harmonize_cli.encoders.registry import text_tokeniser
    from harmonize_cli.evaluation.sources import RunSource
    from harmonize_cli.evaluation.task import Options, evaluate
    from harmonize_cli.evaluation.zeroshot import Prompts, ZeroshotTask, read_names, read_templates
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.store.reader import Store

    sentences = read_templates(templates)
    loaded = load_model(run, checkpoint, pick_device(device))
    spec = loaded.specs.get("text")
    encode = text_tokeniser(spec.encoder if spec else "", run / "vocab.json")
    task = ZeroshotTask(
        RunSource(loaded, batch_size, not no_cache),
        Store.open(store, verifies=verify_store),
        lambda classes: Prompts(classes, read_names(names, classes), sentences),
        encode,
        modalities=modality or (),
        label=parse_label(label),
        split=split,
        windows=windows,
    )
    show_result(*evaluate(task, Options(draws, seed, by_group, out, overwrite)))


@app.command()
@kept("the last checkpoint is kept, the same command goes on from there")
@one_writer("out")
def finetune(
    run: RunFolder,
    store: StorePath,
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the fine-tuned model.")],
    config: Config = None,
    settings: Set = None,
    test: Annotated[str, typer.Option(help="Test split(s).")] = "test",
    augment: Annotated[bool, typer.Option(help="Crop, flip and colour as VATT does.")] = False,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    draws: Draws = 2000,
    seed: Annotated[int, typer.Option("--bootstrap-seed", help="Seed of the bootstrap.")] = 0,
    by_group: Clusters = False,
    overwrite: Overwrite = False,
    verify_store: VerifyStore = True,
) -> None:
    """Fine-tune the backbone on labels (VATT's Kinetics protocol), then measure the test split.

    The same command again goes on where it stopped, after a kill too. Settings (for --set): modality, label,
    train, steps, batch, lr, warmup, momentum, smoothing, clip, dropout, windows, crops, seed, ...

    Example: harmonize eval finetune runs/mine features -o runs/mine-tuned --set steps=5000
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.evaluation.finetune_task import FinetuneTask, Stopped
    from harmonize_cli.evaluation.task import Options, evaluate
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.store.reader import Store
    from harmonize_cli.training.augment import Augmentation
    from harmonize_cli.training.config import AugmentConfig, FinetuneConfig
    from harmonize_cli.training.finetune import Tuner
    from harmonize_cli.training.signals import StopOnSignal

    settled = load_config(FinetuneConfig, config, settings or ())
    changes = AugmentConfig(crop="area", flip=0.5, colour=0.8, audio_noise=0.01)
    with StopOnSignal() as signal:
        tuner = Tuner(
            load_model(run, checkpoint, pick_device(device)),
            Store.open(store, verifies=verify_store),
            out,
            settled,
            augment=Augmentation(changes) if augment else None,
            stop=lambda: signal.asked,
        )
        try:
            show_result(
                *evaluate(FinetuneTask(tuner, test), Options(draws, seed, by_group, overwrite=overwrite))
            )
        except Stopped:
            say(f"stopped; the same command goes on from {out}")


@app.command(
    epilog="Example: harmonize eval run runs/a runs/b features/msrvtt --benchmark msrvtt; several data sets: "
    "harmonize eval run runs/a runs/b --benchmark msrvtt=features/msrvtt --benchmark esc50=features/esc50"
)
@kept("embeddings are kept under RUN/cache, the same command goes on from there")
def run(
    places: Annotated[
        list[str],
        typer.Argument(metavar="RUN... STORE...", help="Run folders (or - for the store's own), and stores."),
    ],
    *,
    benchmark: Annotated[
        list[str], typer.Option(help="Benchmark of `eval list`: NAME, or NAME=STORE. Repeatable.")
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(help="retrieval, probe, zeroshot or finetune. Default: the benchmark's usual one."),
    ] = None,
    annotations: Annotations = None,
    templates: Annotated[Path | None, typer.Option(help="As for zeroshot.")] = None,
    names: Annotated[Path | None, typer.Option(help="As for zeroshot.")] = None,
    key: Keys = None,
    untrained: Untrained = None,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    draws: Draws = 2000,
    seed: Seed = 0,
    by_group: Clusters = False,
    overwrite: Overwrite = False,
    no_cache: NoCache = False,
    verify_store: VerifyStore = True,
    form: FormatOption = "terminal",
) -> None:
    """Measure published benchmarks: every run on every store, with the protocol, splits and metrics that the
    benchmark declares. Results that are there already are not made again.
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.datasets.layouts import Benchmark
    from harmonize_cli.encoders.registry import text_tokeniser
    from harmonize_cli.errors import BadInput, list_errors
    from harmonize_cli.evaluation.catalogue import find_benchmark
    from harmonize_cli.evaluation.overview import overview
    from harmonize_cli.evaluation.sources import RunSource
    from harmonize_cli.evaluation.suite import Extras, patterns_of, tasks_of
    from harmonize_cli.evaluation.task import Options, evaluate
    from harmonize_cli.evaluation.zeroshot import Prompts, Tokenise, read_names, read_templates
    from harmonize_cli.store.reader import Store
    from harmonize_cli.training.config import FinetuneConfig
    from harmonize_cli.training.finetune import Tuner

    sentences = read_templates(templates)

    def tokeniser(source: RunSource) -> Tokenise:
        spec = source.loaded.specs.get("text")
        return text_tokeniser(spec.encoder if spec else "", source.loaded.run / "vocab.json")

    def tuner(source: RunSource, opened: Store, declared: Benchmark) -> Tuner:
        settings = {"modality": declared.modalities[0], "train": declared.train_split}
        out = source.loaded.run / f"finetune-{declared.name}"
        return Tuner(source.loaded, opened, out, load_config(FinetuneConfig, flags=settings))

    extras = Extras(
        annotations,
        lambda classes: Prompts(classes, read_names(names, classes), sentences),
        tokeniser,
        tuner,
    )
    options = Options(draws, seed, by_group, overwrite=overwrite)
    runs, pairs = pair_up(places, benchmark)
    results: dict[str, list[Path]] = {}
    failed: list[str] = []
    for name, store in pairs:
        declared = find_benchmark(name)
        for place in runs:
            try:
                opened, source = open_source(
                    place,
                    store,
                    keys=key,
                    checkpoint=checkpoint,
                    device=device,
                    fresh=untrained,
                    batch_size=batch_size,
                    cache=not no_cache,
                    verifies=verify_store,
                )
                for one in tasks_of(*declared, source, opened, task or (), extras):
                    results.setdefault(name, []).append(evaluate(one, options)[1])
            except BadInput as e:
                failed.append(f"{name}, {place} on {store}: {e}")
    for name, paths in results.items():
        say(overview(paths, patterns=patterns_of(find_benchmark(name)[1]), form=form))
    if failed:
        raise BadInput(
            list_errors(f"{len(failed)} of {len(runs) * len(pairs)} could not be measured", failed)
        )


eval_results.register(app)
