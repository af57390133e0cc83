"""Embeddings and right answers of each retrieval direction, for mteb and BEIR tools."""

from harmonize_cli.cli.eval_common import listed, open_source
from harmonize_cli.cli.exporters import EXPORTERS
from harmonize_cli.cli.options import (
    Annotations,
    BatchSize,
    Checkpoint,
    Config,
    Device,
    Keys,
    NewOut,
    NoCache,
    Official,
    Retrieval,
    RunOrStore,
    Set,
    Split,
    StorePath,
    Untrained,
    VerifyStore,
)
from harmonize_cli.cli.say import answer
from harmonize_cli.locks import one_writer


@EXPORTERS.register("mteb")
@one_writer("out")
def mteb(
    run: RunOrStore,
    store: StorePath,
    *,
    out: NewOut,
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
    no_cache: NoCache = False,
    verify_store: VerifyStore = True,
) -> None:
    """Write what `eval retrieval` ranks for mteb and BEIR tools: embeddings and right answers.

    With mteb 2 installed: from harmonize_cli.evaluation.mteb_adapter import Exported, load_task;
    mteb.evaluate(Exported(DIR), load_task(DIR)) with DIR such as export/text-to-video.

    Example: harmonize export mteb runs/mine features -o export --split test
    """
    from harmonize_cli.evaluation.export import export_tasks
    from harmonize_cli.evaluation.protocols import PROTOCOLS, adjusted
    from harmonize_cli.evaluation.retrieval import RetrievalTask

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
    rows, name, _ = task.chosen
    about: dict[str, object] = {
        "split": name,
        "protocol": settled.as_dict(),
        "model": source.about(),
        "model_hash": source.weights_hash,
        "store_hash": opened.content_hash,
    }
    written = export_tasks(task.pool(), settled, out, about)
    answer(
        {"directions": written, "samples": len(rows), "out": out},
        f"export: {len(written)} directions of {len(rows)} samples ({', '.join(written)}) -> {out}",
    )
