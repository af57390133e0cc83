"""`harmonize eval ...`: numbers that say exactly what they are."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli import eval_results
from harmonize_cli.cli.eval_common import divisions, listed, open_source, pick_device, show_result
from harmonize_cli.cli.options import (
    Annotations,
    BatchSize,
    Checkpoint,
    Clusters,
    Config,
    Device,
    Draws,
    Keys,
    Label,
    NoCache,
    Official,
    Out,
    Overwrite,
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

app = typer.Typer(help="Evaluate a run: retrieval, probes, comparisons, tables.", no_args_is_help=True)


@app.command(
    epilog="Example: harmonize eval retrieval runs/mine features --split test --protocol vatt",
)
@kept("embeddings are kept under RUN/cache, the same command goes on from there")
@one_writer("out")
def retrieval(
    run: RunOrStore,
    store: StorePath,
    *,
    protocol: Annotated[str, typer.Option(help="vatt, mil-nce or clip.")] = "vatt",
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

    Settings (for --set): windows, pooling, captions, same_text, tie, text_words, pool.
    """
    from harmonize_cli.evaluation.evaluate_retrieval import evaluate_retrieval
    from harmonize_cli.evaluation.protocols import PROTOCOLS, adjusted
    from harmonize_cli.evaluation.stage import Options

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
    result, path = evaluate_retrieval(
        source,
        opened,
        settled,
        split=split,
        expected=listed(official, annotations, split),
        options=Options(draws, seed, by_group, out, overwrite),
    )
    show_result(result, path)


@app.command(epilog="Example: harmonize eval probe runs/mine features --modality audio --label 0")
@kept("embeddings are kept under RUN/cache, the same command goes on from there")
@one_writer("out")
def probe(
    run: RunOrStore,
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
    label: Label = 0,
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
    """Train a classifier on frozen features (before the heads) and judge it on unseen samples.

    A store with folds is crossed over them, --official ucf101 (hmdb51) averages the three official splits;
    otherwise a training and a test split are needed. Settings (for --set): classifier, train_windows,
    test_windows, scaling, c, inner_folds, solver, neighbours, tau, steps, seed.
    """
    from harmonize_cli.evaluation.evaluate_probe import evaluate_probe
    from harmonize_cli.evaluation.protocols import PROBES, adjusted
    from harmonize_cli.evaluation.stage import Options

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
    result, path = evaluate_probe(
        source,
        opened,
        settled,
        modalities=modality or (),
        label=label,
        train=train,
        test=test,
        official=divisions(official, annotations),
        options=Options(draws, seed, by_group, out, overwrite),
    )
    show_result(result, path)


@app.command(
    epilog="Example: harmonize eval zeroshot runs/mine features --templates prompts.txt --modality video"
)
@kept("embeddings are kept under RUN/cache, the same command goes on from there")
@one_writer("out")
def zeroshot(
    run: RunFolder,
    store: StorePath,
    *,
    templates: Annotated[Path | None, typer.Option(help="A sentence a line, {} for the class name.")] = None,
    names: Annotated[Path | None, typer.Option(help="CSV of label,words: how classes are said.")] = None,
    modality: Annotated[list[str] | None, typer.Option(help="video or audio; both by default.")] = None,
    label: Label = 0,
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
    """Classify clips, by picture and by sound, as the class whose prompts lie nearest. No training."""
    from harmonize_cli.encoders.registry import text_tokeniser
    from harmonize_cli.evaluation.evaluate_zeroshot import Prompts, evaluate_zeroshot
    from harmonize_cli.evaluation.prompts import read_names, read_templates
    from harmonize_cli.evaluation.sources import RunSource
    from harmonize_cli.evaluation.stage import Options
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.store.reader import Store

    sentences = read_templates(templates)
    loaded = load_model(run, checkpoint, pick_device(device))
    spec = loaded.specs.get("text")
    encode = text_tokeniser(spec.encoder if spec else "", run / "vocab.json")
    result, path = evaluate_zeroshot(
        RunSource(loaded, batch_size, not no_cache),
        Store.open(store, verifies=verify_store),
        lambda classes: Prompts(classes, read_names(names, classes), sentences),
        encode,
        modalities=modality or (),
        label=label,
        split=split,
        windows=windows,
        options=Options(draws, seed, by_group, out, overwrite),
    )
    show_result(result, path)


@app.command(epilog="Example: harmonize eval finetune runs/mine features -o runs/mine-tuned --set steps=5000")
@kept("the last checkpoint is kept, the same command goes on from there")
@one_writer("out")
def finetune(
    run: RunFolder,
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
    by_group: Clusters = False,
    overwrite: Overwrite = False,
    verify_store: VerifyStore = True,
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
            load_model(run, checkpoint, pick_device(device)),
            Store.open(store, verifies=verify_store),
            out,
            settled,
            test=test,
            augment=Augmentation(changes) if augment else None,
            stop=lambda: signal.asked,
            options=Options(draws, seed, by_group, overwrite=overwrite),
        )
    if result is None:
        say(f"stopped; the same command goes on from {out}")
    else:
        show_result(result, path)


eval_results.register(app)
