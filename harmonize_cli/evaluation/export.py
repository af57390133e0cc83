"""Embeddings and relevance as files that mteb and BEIR tools read."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.embed import Embedded
from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.evaluation.retrieval import DIRECTIONS, Direction, relevance_of, sides_of
from harmonize_cli.files import atomic_path, write_array, write_json, write_text
from harmonize_cli.locks import is_lock, one_writer

CARD = """---
configs:
- config_name: corpus
  data_files:
  - split: test
    path: corpus.jsonl
- config_name: queries
  data_files:
  - split: test
    path: queries.jsonl
- config_name: qrels
  data_files:
  - split: test
    path: qrels.jsonl
---
"""


@one_writer("out")
def export_tasks(
    pool: Embedded, protocol: RetrievalProtocol, out: Path, about: dict[str, object]
) -> list[str]:
    """One folder per direction: corpus.jsonl, queries.jsonl, qrels.jsonl, qrels/test.tsv and embeddings.

    `corpus.npy` and `queries.npy` are float32 [G, D] and [Q, D] in the order of the files, ready for a dot
    product. The JSONL files have the columns of mteb (id, text) and BEIR (_id is written as id).

    Returns:
        The directions written.

    Raises:
        BadInput: `out` is not empty, or no direction has a query.
    """
    if out.exists() and (not out.is_dir() or not all(map(is_lock, out.iterdir()))):
        raise BadInput(f"{out}: exists already; choose a new folder")
    written = []
    for direction in DIRECTIONS:
        sides = sides_of(pool, direction, protocol)
        if sides is None:
            continue
        (query, query_of), (gallery, gallery_of) = sides
        relevance = relevance_of(pool, direction, protocol, query_of, gallery_of)
        folder = out / direction.name
        query_ids, gallery_ids = _unique(pool, query_of), _unique(pool, gallery_of)
        _lines(folder / "queries.jsonl", _items(pool, direction.query, query_of, query_ids))
        _lines(folder / "corpus.jsonl", _items(pool, direction.gallery, gallery_of, gallery_ids))
        pairs = [
            (query_ids[q], gallery_ids[g])
            for q, g in zip(relevance.rows.tolist(), relevance.items.tolist(), strict=True)
        ]
        _lines(folder / "qrels.jsonl", ({"query-id": q, "corpus-id": g, "score": 1} for q, g in pairs))
        tsv = "".join(f"{q}\t{g}\t1\n" for q, g in pairs)
        write_text(folder / "qrels" / "test.tsv", f"query-id\tcorpus-id\tscore\n{tsv}")
        write_array(folder / "queries.npy", query)
        write_array(folder / "corpus.npy", gallery)
        write_text(folder / "README.md", CARD)
        write_json(folder / "about.json", {**about, **_described(direction)})
        written.append(direction.name)
    if not written:
        raise BadInput("no direction has a query: nothing to export")
    return written


def _described(direction: Direction) -> dict[str, str]:
    return {"direction": direction.name, "query": direction.query, "gallery": direction.gallery}


def _unique(pool: Embedded, of: NDArray[np.int64]) -> list[str]:
    """Sample ids; the second and later captions of a sample get #2, #3, ..."""
    seen: dict[int, int] = {}
    names = []
    for i in of.tolist():
        seen[i] = seen.get(i, 0) + 1
        names.append(pool.ids[i] if seen[i] == 1 else f"{pool.ids[i]}#{seen[i]}")
    return names


def _items(
    pool: Embedded, modality: str, of: NDArray[np.int64], ids: Sequence[str]
) -> Iterator[dict[str, str]]:
    for i, name in zip(of.tolist(), ids, strict=True):
        nth = int(name.rpartition("#")[2]) - 1 if name != pool.ids[i] else 0
        text = pool.texts[i][nth] if modality == "text" and nth < len(pool.texts[i]) else ""
        # tools insist on a text; what has none is named
        yield {"id": name, "text": text or f"{modality} of {name}", "title": ""}


def _lines(file: Path, rows: Iterator[dict[str, object]] | Iterator[dict[str, str]]) -> None:
    with atomic_path(file) as tmp, tmp.open("w", encoding="utf-8", errors="backslashreplace") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
