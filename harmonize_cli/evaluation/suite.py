"""`harmonize eval run`: benchmarks as their data sets declare them, as tasks for a run and a store."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harmonize_cli.datasets.layouts import Benchmark, Layout
from harmonize_cli.datasets.official import official_divisions, official_ids
from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.classification import Label
from harmonize_cli.evaluation.finetune_task import FinetuneTask, Tuner
from harmonize_cli.evaluation.metrics import METRICS
from harmonize_cli.evaluation.probe import ProbeTask
from harmonize_cli.evaluation.protocols import PROBES, PROTOCOLS, adjusted
from harmonize_cli.evaluation.retrieval import RetrievalTask
from harmonize_cli.evaluation.sources import RunSource, Source
from harmonize_cli.evaluation.task import Task
from harmonize_cli.evaluation.zeroshot import Prompts, Tokenise, ZeroshotTask
from harmonize_cli.store.reader import Store


@dataclass(frozen=True, slots=True)
class Extras:
    """What benchmarks need beyond their declaration.

    Attributes:
        annotations: folder of the official lists; without it splits are those of the store.
        prompts, tokeniser: for zero-shot classification, the words of the classes and the run's tokeniser.
        tuner: for fine-tuning, what trains.
    """

    annotations: Path | None = None
    prompts: Callable[[Sequence[str]], Prompts] = lambda classes: Prompts(classes, classes, ["{}"])
    tokeniser: Callable[[RunSource], Tokenise] | None = None
    tuner: Callable[[RunSource, Store, Benchmark], Tuner] | None = None


def tasks_of(
    layout: Layout,
    benchmark: Benchmark,
    source: Source,
    store: Store,
    names: Collection[str] = (),
    extras: Extras | None = None,
) -> Iterator[Task]:
    """The benchmark's usual task, or those of `names`.

    Raises:
        BadInput: a task that the benchmark lacks, or that asks for a run or lists that are not there.
    """
    extras = extras or Extras()
    for name in names or benchmark.tasks[:1]:
        if name not in benchmark.tasks:
            raise BadInput(f"--task {name}: {benchmark.name} has {', '.join(benchmark.tasks)}")
        settings = [f"{key}={value}" for key, value in benchmark.settings.items()]
        split = ",".join(benchmark.splits) or None
        if name == "retrieval":
            lists = extras.annotations if layout.divisions else None
            listed = official_ids(layout.name, lists, benchmark.splits) if lists else ()
            yield RetrievalTask(
                source,
                store,
                adjusted(PROTOCOLS, benchmark.protocol or "vatt", None, settings),
                split=split,
                expected=listed,
            )
            continue
        for label in _labels(benchmark):
            if name == "probe":
                yield ProbeTask(
                    source,
                    store,
                    adjusted(PROBES, benchmark.protocol or "logistic", None, settings),
                    modalities=_shared(benchmark, source, store),
                    label=label,
                    train=benchmark.train_split,
                    test=split or "test",
                    official=_divisions(layout, extras),
                )
                continue
            if not isinstance(source, RunSource):
                raise BadInput(f"{name} needs a run: features of a store can't be prompted or fine-tuned")
            if name == "zeroshot":
                if extras.tokeniser is None:
                    raise BadInput("zeroshot needs a tokeniser")
                yield ZeroshotTask(
                    source,
                    store,
                    extras.prompts,
                    extras.tokeniser(source),
                    modalities=_shared(benchmark, source, store),
                    label=label,
                    split=split,
                )
            elif label != "all":
                if extras.tuner is None:
                    raise BadInput("finetune needs a tuner")
                yield FinetuneTask(extras.tuner(source, store, benchmark), split or "test")


def patterns_of(benchmark: Benchmark) -> list[str]:
    """Names of the metrics that published numbers have, for tables: the main score first."""
    leaves = sorted(benchmark.metrics, key=lambda name: name != benchmark.main_score)
    groups = list(benchmark.modalities)
    if benchmark.tasks[0] == "retrieval":
        one, other = groups
        groups = [f"{other}-to-{one}", f"{one}-to-{other}"]
    return [f"{group}/{leaf}" for group in groups for leaf in leaves]


def _labels(benchmark: Benchmark) -> list[Label]:
    """All labels for metrics over classes, the first one for accuracies."""
    kinds = {kind for name in benchmark.metrics for kind in METRICS.find(name).kinds}
    several: list[Label] = ["all"] if benchmark.multi_label and "multi-label" in kinds else []
    return [*several, 0] if "classification" in kinds else several


def _shared(benchmark: Benchmark, source: Source, store: Store) -> list[str]:
    known = source.modalities(store)
    shared = [modality for modality in benchmark.modalities if modality in known]
    if not shared:
        raise BadInput(
            f"{benchmark.name} is measured on {', '.join(benchmark.modalities)}; run and store share "
            f"{', '.join(known) or 'nothing'}"
        )
    return shared


def _divisions(layout: Layout, extras: Extras) -> Mapping[str, Mapping[str, str]] | None:
    if layout.divisions < 2:
        return None
    if extras.annotations is None:
        raise BadInput(
            f"{layout.name}: its score is the mean over {layout.divisions} official divisions: --annotations "
            "names the folder of their lists"
        )
    return official_divisions(layout.name, extras.annotations)
