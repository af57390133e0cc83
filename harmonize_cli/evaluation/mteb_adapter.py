"""Exported embeddings as an mteb model and task (mteb 2): `mteb.evaluate(Exported(DIR), load_task(DIR))`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from harmonize_cli.errors import BadInput
from harmonize_cli.files import read_json

MODALITIES = ("text", "video", "audio")


class Exported:
    """A search model (mteb's SearchProtocol) over the files of one direction of `harmonize export mteb`."""

    def __init__(self, folder: Path | str) -> None:
        """Read ids and embeddings of `folder`.

        Raises:
            BadInput: not such a folder.
        """
        self.folder = folder = Path(folder)
        try:
            self._queries = dict(
                zip(_ids(folder / "queries.jsonl"), np.load(folder / "queries.npy"), strict=True)
            )
            self._corpus = dict(
                zip(_ids(folder / "corpus.jsonl"), np.load(folder / "corpus.npy"), strict=True)
            )
        except (OSError, ValueError, KeyError) as e:
            raise BadInput(f"{folder}: not a direction written by `harmonize export mteb` ({e})") from None
        self._index: list[str] = []

    def index(self, corpus: Any, **_: Any) -> None:
        """Take the ids of the task's corpus."""
        self._index = [str(i) for i in corpus["id"]]
        self._table = np.stack([self._corpus[i] for i in self._index])

    def search(self, queries: Any, *, top_k: int, **_: Any) -> dict[str, dict[str, float]]:
        """Scores of the best `top_k` for every query."""
        found = {}
        for query in (str(i) for i in queries["id"]):
            scores = self._table @ self._queries[query]
            best = np.argsort(-scores, kind="stable")[:top_k]
            found[query] = {self._index[i]: float(scores[i]) for i in best}
        return found

    @property
    def mteb_model_meta(self) -> Any:
        """A name for mteb's result files."""
        from mteb.models import ModelMeta  # type: ignore[import-not-found,unused-ignore]

        return ModelMeta.create_empty(
            {
                "name": f"harmonize/{self.folder.name}",
                "revision": "exported",
                "modalities": task_metadata(self.folder)["modalities"],
            }
        )


def task_metadata(folder: Path | str) -> dict[str, Any]:
    """A direction as mteb describes it: which modalities it goes from and to, and where its files are.

    Raises:
        BadInput: not such a folder.
    """
    file = Path(folder) / "about.json"
    about = read_json(file, dict[str, Any], hint="expected a direction written by `harmonize eval export`")
    query, gallery = str(about.get("query", "")), str(about.get("gallery", ""))
    if query not in MODALITIES or gallery not in MODALITIES:
        raise BadInput(
            f"{file}: query {query!r}, gallery {gallery!r}: expected two of {', '.join(MODALITIES)}"
        )
    return {
        "name": f"Harmonize{query.title()}To{gallery.title()}",
        "description": f"{query}-to-{gallery} retrieval exported by harmonize",
        "dataset": {"path": str(Path(folder).resolve()), "revision": "exported"},
        "type": "Any2AnyRetrieval",
        "category": f"{query[0]}2{gallery[0]}",
        "modalities": [query, gallery],
        "eval_splits": ["test"],
        "eval_langs": ["eng-Latn"],
        "main_score": "ndcg_at_10",
    }


def load_task(folder: Path | str) -> Any:
    """The direction's pairs as an mteb retrieval task.

    Raises:
        BadInput: mteb is not installed, or too old for these modalities.
    """
    try:
        from mteb.abstasks.retrieval import (  # type: ignore[import-not-found,unused-ignore]
            AbsTaskRetrieval,
        )
        from mteb.abstasks.task_metadata import (  # type: ignore[import-not-found,unused-ignore]
            TaskMetadata,
        )
    except ImportError:
        raise BadInput("mteb tasks need mteb 2: pip install 'mteb>=2'") from None
    about = task_metadata(folder)
    try:
        metadata = TaskMetadata(**about)
    except ValueError as e:
        raise BadInput(
            f"{folder}: this mteb has no {about['category']} tasks ({e}); install a newer one"
        ) from e
    return type(about["name"], (AbsTaskRetrieval,), {"metadata": metadata})()


def _ids(file: Path) -> list[str]:
    with file.open(encoding="utf-8") as f:
        return [str(json.loads(line)["id"]) for line in f]
