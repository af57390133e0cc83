"""`harmonize eval zeroshot`: classification of video and audio by text prompts, without any training."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.classification import (
    Label,
    Labels,
    Predictions,
    classified,
    multi_labelled,
)
from harmonize_cli.evaluation.embed import Floats, Rows, device_of, unit
from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.evaluation.results import Result
from harmonize_cli.evaluation.sources import RunSource, chosen_modalities, planned
from harmonize_cli.evaluation.splits import coverage, rows_of
from harmonize_cli.evaluation.task import Measured, Queries
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.store.reader import Store

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


@dataclass(frozen=True)
class ZeroshotTask:
    """The class whose mean prompt embedding is nearest to the clip's embedding, by cosine.

    Attributes:
        prompts: given the sorted classes of the split, what to say for each.
        modalities: video and audio by default, as far as run and store have them.
        label: which of a sample's labels, or "all" where samples have several.
        windows: of a clip; the mean of their raw embeddings is normalised, as in VATT's retrieval.
    """

    source: RunSource
    store: Store
    prompts: Callable[[Sequence[str]], Prompts]
    tokenise: Tokenise
    modalities: Sequence[str] = ()
    label: Label = 0
    split: str | None = None
    windows: int = 4

    @property
    def folder(self) -> Path:
        return self.source.folder

    @cached_property
    def wanted(self) -> tuple[str, ...]:
        known = [m for m in self.source.modalities(self.store) if m in SPACES]
        text = self.source.loaded.specs.get("text")
        if text is None or text.kind != "tokens":
            raise BadInput(f"{self.source.loaded.run}: prompts need a run that was trained on word tokens")
        return chosen_modalities(self.modalities, known)

    @cached_property
    def labels(self) -> Labels:
        return Labels.of(self.store, self.label)

    @cached_property
    def chosen(self) -> tuple[Rows, str, Prompts]:
        """Labelled samples, the name of their split, and the prompts of their classes."""
        rows, split = rows_of(self.store, self.split)
        labelled = rows[self.labels.has[rows]]
        if not len(labelled):
            raise BadInput(
                f"split {split}: none of its {len(rows)} samples has label {self.label}; "
                "--split and --label choose others"
            )
        return labelled, split, self.prompts(self.labels.classes(labelled))

    def plan(self) -> Result:
        wanted, (rows, split, said) = self.wanted, self.chosen
        return planned(
            "zeroshot",
            "multi-label" if self.labels.several else "classification",
            self.source,
            self.store,
            protocol={
                "name": "prompts",
                "templates": list(said.templates),
                "names": list(said.names),
                "modalities": list(wanted),
                "label": self.label,
                "windows": self.windows,
            },
            split=split,
            coverage=coverage(self.store, rows, wanted),
        )

    def run(self) -> Measured:
        rows, split, said = self.chosen
        text, unknown = _class_embeddings(self.source.loaded, said, self.tokenise)
        notes = [f"classes with unknown words: {', '.join(unknown)}"] if unknown else []
        pool = self.source.pool(self.store, rows, RetrievalProtocol(windows=self.windows))
        truth = self.labels.numbered(said.classes)
        queries: dict[str, Queries] = {}
        for modality in self.wanted:
            has = pool.present[modality]
            if not has.any():
                raise BadInput(f"split {split}: no sample has {modality}")
            scores = (unit(pool.vectors[SPACES[modality]][has]) @ text.T).astype(np.float64)
            found = [Predictions(split, rows[has], truth[rows[has]], scores)]
            if self.labels.several:
                queries[modality], _ = multi_labelled(found, said.classes)
            else:
                queries[modality] = classified(found, [said.classes], self.store.ids, self.store.groups)
        return Measured(queries, notes=notes)


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


def read_templates(file: Path | None) -> list[str]:
    """One template a line, with {} where the class name goes; blank lines and lines with # are left out.

    Raises:
        BadInput: naming the file and the line without {}.
    """
    if file is None:
        return ["{}"]
    found = []
    for number, line in enumerate(_lines(file), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.count("{}") != 1:
            raise BadInput(f"{file}:{number}: expected {{}} once, where the class name goes: {text[:60]!r}")
        found.append(text)
    if not found:
        raise BadInput(f"{file}: no template; write one a line, such as: a video of {{}}")
    return found


def read_names(file: Path | None, classes: Sequence[str]) -> list[str]:
    """How each class is said: from a CSV file of label,words, or the label with blanks for underscores.

    Raises:
        BadInput: a class that the file lacks.
    """
    if file is None:
        return [name.replace("_", " ") for name in classes]
    said: dict[str, str] = {}
    for number, row in enumerate(csv.reader(_lines(file)), 1):
        if len(row) != 2:
            raise BadInput(f"{file}:{number}: expected label,words, found {len(row)} columns")
        said[row[0].strip()] = row[1].strip()
    missing = [name for name in classes if name not in said]
    if missing:
        raise BadInput(f"{file}: no words for {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    return [said[name] for name in classes]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"{file}: can't be read as text ({e})") from None
