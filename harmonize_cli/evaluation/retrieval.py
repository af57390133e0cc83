"""Zero-shot retrieval in six directions between the modalities of one pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation import metrics
from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.evaluation.ranks import positive_ranks
from harmonize_cli.evaluation.relevance import Relevance
from harmonize_cli.evaluation.statistics import DRAWS, Interval, bootstrap

Floats = NDArray[np.float32]


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


@dataclass(frozen=True, slots=True)
class Embedded:
    """One pool of samples, embedded.

    Attributes:
        ids: of the samples, [N].
        texts: captions of each sample, [N] tuples.
        present: modality -> bool [N]; a sample without sound, or with a silent track, has no audio.
        vectors: space -> float32 [N, D], mean over windows (of unit vectors for "mean-of-similarities");
            rows of absent modalities are meaningless.
        captions: float32 [M, D], one row per embedded caption, or [0, D].
        caption_of: int64 [M], the sample of each caption.
    """

    ids: Sequence[str]
    texts: Sequence[tuple[str, ...]]
    present: Mapping[str, NDArray[np.bool_]]
    vectors: Mapping[str, Floats]
    captions: Floats
    caption_of: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Metrics by full name ("text-to-video/R@10"), chance levels, pool sizes, values of every query."""

    metrics: dict[str, Interval]
    chance: dict[str, float]
    pools: dict[str, dict[str, int]]
    queries: dict[str, NDArray[np.generic]]


def retrieve(
    pool: Embedded,
    protocol: RetrievalProtocol,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    clusters: Sequence[str] | None = None,
    device: str = "cpu",
) -> Outcome:
    """Evaluate every direction that the pool has embeddings for.

    Args:
        draws, seed: of the bootstrap over queries.
        clusters: one key per sample; queries of one key are resampled together.

    Raises:
        BadInput: where no direction has a single query.
    """
    outcome = Outcome({}, {}, {}, {})
    for direction in DIRECTIONS:
        items = sides_of(pool, direction, protocol)
        if items is None:
            continue
        (query, query_of), (gallery, gallery_of) = items
        relevance = relevance_of(pool, direction, protocol, query_of, gallery_of)
        ranks = positive_ranks(query, gallery, relevance, tie=protocol.tie, device=device)
        scores = metrics.per_query(ranks, relevance)
        keys = None if clusters is None else [clusters[i] for i in query_of]
        for name in metrics.NAMES:
            values, statistic = metrics.samples_of(name, scores)
            full = f"{direction.name}/{name}"
            outcome.metrics[full] = bootstrap(values, statistic, clusters=keys, draws=draws, seed=seed)
            if (level := metrics.chance(name, len(gallery))) is not None and len(relevance.items) == len(
                query
            ):
                outcome.chance[full] = level
        outcome.pools[direction.name] = {"queries": len(query), "gallery": len(gallery)}
        outcome.queries[f"{direction.name}/id"] = np.asarray([pool.ids[i] for i in query_of])
        if keys is not None:
            outcome.queries[f"{direction.name}/group"] = np.asarray(keys)
        outcome.queries.update({f"{direction.name}/{k}": v for k, v in scores.items()})
    if not outcome.metrics:
        counts = ", ".join(f"{m}: {int(p.sum())}" for m, p in pool.present.items())
        raise BadInput(
            f"no direction has a query: of {len(pool.ids)} samples have {counts}. "
            "--set pool=all asks per direction only for the modalities it needs"
        )
    return outcome


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


def unit(vectors: Floats) -> Floats:
    """Rows over their length; a zero row stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)


def relevance_of(
    pool: Embedded,
    direction: Direction,
    protocol: RetrievalProtocol,
    query_of: NDArray[np.int64],
    gallery_of: NDArray[np.int64],
) -> Relevance:
    """Right answers: items of the same sample; with `same_text: shared`, of all with the same captions."""
    if protocol.same_text == "shared" and "text" in (direction.query, direction.gallery):
        keys = [tuple(" ".join(text.lower().split()) for text in texts) for texts in pool.texts]
        return Relevance.by_key([keys[i] for i in query_of], [keys[i] for i in gallery_of])
    return Relevance.by_key(query_of.tolist(), gallery_of.tolist())
