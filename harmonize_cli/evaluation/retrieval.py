"""Zero-shot retrieval in six directions between the modalities of one pool."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.embed import Embedded, Floats, unit
from harmonize_cli.evaluation.metrics import Kind, Ranking
from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.evaluation.ranks import positive_ranks
from harmonize_cli.evaluation.relevance import Relevance
from harmonize_cli.evaluation.results import Result
from harmonize_cli.evaluation.sources import Source, planned
from harmonize_cli.evaluation.splits import Rows, coverage, label_column, listed_rows
from harmonize_cli.evaluation.task import Measured, Queries
from harmonize_cli.files import sha256_json
from harmonize_cli.store.reader import Store


@dataclass(frozen=True, slots=True)
class Direction:
    """Query modality, gallery modality, and the names of the embeddings of a space both live in."""

    query: str
    gallery: str
    query_space: str
    gallery_space: str

    @property
    def name(self) -> str:
        return f"{self.query}-to-{self.gallery}"


DIRECTIONS = (
    Direction("text", "video", "text_vt", "video_vt"),
    Direction("video", "text", "video_vt", "text_vt"),
    Direction("audio", "video", "audio_va", "video_va"),
    Direction("video", "audio", "video_va", "audio_va"),
    # audio has no head towards text: its va embedding goes through the video's step from va to vt
    Direction("audio", "text", "audio_vt", "text_vt"),
    Direction("text", "audio", "text_vt", "audio_vt"),
)


def measure(
    pool: Embedded, protocol: RetrievalProtocol, *, groups: Sequence[str] | None = None, device: str = "cpu"
) -> Measured:
    """Rank every direction that the pool has embeddings for.

    Args:
        groups: source group of each sample of the pool.

    Raises:
        BadInput: where no direction has a single query.
    """
    kind: Kind = "class-retrieval" if protocol.relevance == "label" else "retrieval"
    queries: dict[str, Queries] = {}
    pools: dict[str, dict[str, int]] = {}
    for direction in DIRECTIONS:
        items = sides_of(pool, direction, protocol)
        if items is None:
            continue
        (query, query_of), (gallery, gallery_of) = items
        relevance = relevance_of(pool, direction, protocol, query_of, gallery_of)
        ranks = positive_ranks(query, gallery, relevance, tie=protocol.tie, device=device)
        queries[direction.name] = Queries.ranked(
            kind,
            Ranking(ranks, relevance, len(gallery)),
            [pool.ids[i] for i in query_of],
            None if groups is None else [groups[i] for i in query_of],
        )
        pools[direction.name] = {"queries": len(query), "gallery": len(gallery)}
    if not queries:
        counts = ", ".join(f"{m}: {int(p.sum())}" for m, p in pool.present.items())
        raise BadInput(
            f"no direction has a query: of {len(pool.ids)} samples have {counts}. "
            "--set pool=all asks per direction only for the modalities it needs"
        )
    coverage: dict[str, Any] = {"pools": pools}
    if "text" in pool.present and len(pool.captions):
        coverage["captions"] = _captions(pool, protocol)
    return Measured(queries, coverage)


def _captions(pool: Embedded, protocol: RetrievalProtocol) -> dict[str, int]:
    """How many captions were embedded, and how many different ones they are."""
    used = [texts[:1] if protocol.captions == "first" else texts for texts in pool.texts]
    said = [_plain(text) for i in np.unique(pool.caption_of) for text in used[i]]
    return {"count": len(said), "distinct": len(set(said))}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def sides_of(
    pool: Embedded, direction: Direction, protocol: RetrievalProtocol
) -> tuple[tuple[Floats, NDArray[np.int64]], tuple[Floats, NDArray[np.int64]]] | None:
    """Vectors and their samples on both sides; None where this direction cannot be asked."""
    if not {direction.query, direction.gallery} <= set(pool.present):
        return None
    both = pool.present[direction.query] & pool.present[direction.gallery]
    if protocol.pool == "complete":
        everything = np.logical_and.reduce(list(pool.present.values()))
        wanted = {direction.query: everything, direction.gallery: everything}
    else:  # what lacks the query's modality still is a wrong answer
        wanted = {direction.query: both, direction.gallery: pool.present[direction.gallery]}
    sides = []
    for modality, space in (
        (direction.query, direction.query_space),
        (direction.gallery, direction.gallery_space),
    ):
        keep = wanted[modality]
        if modality == "text":
            rows = keep[pool.caption_of]
            vectors, of = pool.captions[rows], pool.caption_of[rows]
        else:
            if space not in pool.vectors:
                return None
            vectors, of = pool.vectors[space][keep], np.flatnonzero(keep).astype(np.int64)
        if not len(of):
            return None
        # "mean-of-similarities" arrives as the mean of unit vectors: the dot product is that mean already
        sides.append((unit(vectors) if protocol.pooling.endswith("then-normalise") else vectors, of))
    return sides[0], sides[1]


def relevance_of(
    pool: Embedded,
    direction: Direction,
    protocol: RetrievalProtocol,
    query_of: NDArray[np.int64],
    gallery_of: NDArray[np.int64],
) -> Relevance:
    """Right answers: items of the same sample; with `same_text: shared`, of all with the same captions; with
    `relevance: label`, of all of the same class."""
    keys: Sequence[Any] = range(len(pool.ids))
    if protocol.relevance == "label":
        keys = pool.classes
    elif protocol.same_text == "shared" and "text" in (direction.query, direction.gallery):
        keys = [tuple(map(_plain, texts)) for texts in pool.texts]
    return Relevance.by_key([keys[i] for i in query_of], [keys[i] for i in gallery_of])


@dataclass(frozen=True)
class RetrievalTask:
    """Six-direction retrieval on one pool of a store.

    Attributes:
        split: see `rows_of`.
        expected: ids of an official list: other samples stay out, missing ones lower the coverage.
    """

    source: Source
    store: Store
    protocol: RetrievalProtocol
    split: str | None = None
    expected: Collection[str] = ()

    @property
    def folder(self) -> Path:
        return self.source.folder

    @cached_property
    def chosen(self) -> tuple[Rows, str, list[str | None]]:
        """Samples, the name of their split, and the class of every sample of the store (or none).

        Raises:
            BadInput: an unknown split, or no sample with a class.
        """
        rows, split = listed_rows(self.store, self.split, frozenset(self.expected))
        if self.protocol.relevance == "pair":
            return rows, split, []
        classes = label_column(self.store, self.protocol.label)
        kept = np.asarray([i for i in rows if classes[i] is not None], dtype=np.int64)
        if not len(kept):
            raise BadInput(f"split {split}: none of its {len(rows)} samples has label {self.protocol.label}")
        return kept, split, classes

    def pool(self) -> Embedded:
        """The samples' embeddings."""
        rows, _, classes = self.chosen
        pool = self.source.pool(self.store, rows, self.protocol)
        return replace(pool, classes=[str(classes[i]) for i in rows]) if classes else pool

    def plan(self) -> Result:
        rows, split, _ = self.chosen
        listed = {"list": sha256_json(sorted(self.expected))} if self.expected else {}
        return planned(
            "retrieval",
            "class-retrieval" if self.protocol.relevance == "label" else "retrieval",
            self.source,
            self.store,
            protocol={**self.protocol.as_dict(), **listed},
            split=split,
            coverage=coverage(self.store, rows, self.source.modalities(self.store), self.expected),
        )

    def run(self) -> Measured:
        groups = self.store.groups
        measured = measure(
            self.pool(),
            self.protocol,
            groups=[groups[i] for i in self.chosen[0]],
            device=self.source.device,
        )
        said = measured.coverage.get("captions")
        if not said or said["distinct"] == said["count"] or self.protocol.relevance == "label":
            return measured
        note = (
            f"{said['distinct']} of {said['count']} captions are distinct: a clip is not found by a caption "
            "that others share. --set relevance=label ranks by class (mAP, P@K), --set same_text=shared "
            "takes all clips of a caption as right"
        )
        return replace(measured, notes=[note])
