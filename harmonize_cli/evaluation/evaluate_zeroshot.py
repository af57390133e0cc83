"""`harmonize eval zeroshot`: classification of video and sound by text prompts, without any training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation import probe as probing
from harmonize_cli.evaluation.confusion import confusion, draw_matrices
from harmonize_cli.evaluation.embed import device_of
from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.evaluation.results import Result, intervals
from harmonize_cli.evaluation.retrieval import unit
from harmonize_cli.evaluation.sources import RunSource
from harmonize_cli.evaluation.splits import coverage, label_column, rows_of
from harmonize_cli.evaluation.stage import Options, Queries, finish, place, provenance
from harmonize_cli.evaluation.statistics import Interval
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.store.reader import Store

Floats = NDArray[np.float32]
Tokenise = Callable[[str, int], NDArray[np.int32]]
"""(text, length) -> word ids [length]; 0 is padding, 1 an unknown word."""
UNKNOWN = 1
SPACES = {"video": "video_vt", "audio": "audio_vt"}


@dataclass(frozen=True, slots=True)
class Prompts:
    """`classes` as labels of the store, `names` as they are said, `templates` with {} for the name."""

    classes: Sequence[str]
    names: Sequence[str]
    templates: Sequence[str]


def evaluate_zeroshot(
    source: RunSource,
    store: Store,
    prompts: Callable[[Sequence[str]], Prompts],
    tokenise: Tokenise,
    *,
    modalities: Sequence[str] = (),
    label: int = 0,
    split: str | None = None,
    windows: int = 4,
    options: Options | None = None,
) -> tuple[Result, Path]:
    """The class whose mean prompt embedding is nearest to the clip's embedding, by cosine.

    Args:
        prompts: given the sorted classes of the split, what to say for each.
        modalities: video and audio by default, as far as run and store have them.
        windows: of a clip; the mean of their raw embeddings is normalised, as in VATT's retrieval.

    Raises:
        BadInput: a run without text, classes none of whose words the run knows, unknown labels or splits.
    """
    options = options or Options()
    known = [m for m in source.modalities(store) if m in SPACES]
    wanted = tuple(modalities) or tuple(known)
    if "text" not in source.loaded.specs or source.loaded.specs["text"].kind != "tokens":
        raise BadInput(f"{source.loaded.run}: prompts need a run that was trained on word tokens")
    for modality in wanted:
        if modality not in known:
            raise BadInput(f"--modality {modality}: run and store share {', '.join(known)}")
    rows, split_name = rows_of(store, split)
    column = label_column(store, label)
    rows = np.asarray([i for i in rows if column[i] is not None], dtype=np.int64)
    said = prompts(sorted({name for i in rows if (name := column[i]) is not None}))
    result = Result(
        task="zeroshot",
        protocol={
            "name": "prompts",
            "templates": list(said.templates),
            "names": list(said.names),
            "modalities": list(wanted),
            "label": label,
            "windows": windows,
            "interval": options.as_dict(),
        },
        split=split_name,
        coverage=coverage(store, rows, wanted),
        metrics={},
        chance={},
        **provenance(source, store),
    )

    def work() -> tuple[Result, Queries]:
        text, unknown = _class_embeddings(source.loaded, said, tokenise)
        pool = source.pool(store, rows, RetrievalProtocol(windows=windows))
        ids, groups = store.ids, store.groups
        number = {name: k for k, name in enumerate(said.classes)}
        metrics: dict[str, Interval] = {}
        queries: dict[str, NDArray[np.generic]] = {}
        for modality in wanted:
            has = pool.present[modality]
            if not has.any():
                raise BadInput(f"split {split_name}: no sample has {modality}")
            scores = (unit(pool.vectors[SPACES[modality]][has]) @ text.T).astype(np.float64)
            truth = np.asarray([number[str(column[i])] for i in rows[has]], dtype=np.int64)
            judged = probing.Judged(split_name, rows[has], truth, scores)
            values, per_query = probing.metrics_of(
                [judged],
                len(said.classes),
                clusters=groups if options.clusters else None,
                draws=options.draws,
                seed=options.seed,
            )
            metrics.update({f"{modality}/{name}": value for name, value in values.items()})
            matrix, classes = confusion([judged], [said.classes])
            queries[f"{modality}/confusion"], queries[f"{modality}/classes"] = matrix, np.asarray(classes)
            queries[f"{modality}/id"] = np.asarray([ids[i] for i in per_query.pop("row")])
            queries.update({f"{modality}/{name}": value for name, value in per_query.items()})
        share = 1 / len(said.classes)
        chance = {f"{m}/{name}": share for m in wanted for name in ("top-1", "mean per class")}
        notes = [f"classes with unknown words: {', '.join(unknown)}"] if unknown else []
        return replace(result, metrics=intervals(metrics), chance=chance, notes=notes), queries

    done, path = finish(result, work, place(source, options, result), overwrite=options.overwrite)
    draw_matrices(done, path)
    return done, path


@torch.inference_mode()
def _class_embeddings(loaded: LoadedModel, said: Prompts, tokenise: Tokenise) -> tuple[Floats, list[str]]:
    """Unit vectors [C, D], the mean over templates of unit vectors; classes with words that nobody knows."""
    length = loaded.specs["text"].rows
    plain = [tokenise(name, 64) for name in said.names]
    unknown = [c for c, ids in zip(said.classes, plain, strict=True) if (ids == UNKNOWN).any()]
    hopeless = [c for c, ids in zip(said.classes, plain, strict=True) if not (ids > UNKNOWN).any()]
    if hopeless:
        raise BadInput(
            f"the run's vocabulary has no word of the classes {', '.join(hopeless[:5])}"
            f"{' ...' if len(hopeless) > 5 else ''}; --names says them in other words"
        )
    ids = np.stack([[tokenise(t.replace("{}", name), length) for t in said.templates] for name in said.names])
    batch = torch.from_numpy(ids).to(device_of(loaded))
    x = loaded.model({"text": batch}).embeddings["text_vt"].float().cpu().numpy()  # [C, templates, D]
    return unit(unit(x).mean(axis=1)), unknown
