"""Zero-shot retrieval on a validation split, now and then during training."""

import numpy as np

from harmonize_cli.evaluation.embed import device_of, embed_pool
from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.evaluation.retrieval import measure
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.store.reader import Store


def retrieval_scores(loaded: LoadedModel, store: Store, rows: np.ndarray) -> dict[str, float]:
    """R@1, R@10 and MedR of each direction among samples [N] of a store: one window per clip, ties at their
    expected rank. `score` is the mean R@10 over all directions that the data allow."""
    protocol = RetrievalProtocol(windows=1, pool="all")
    pool = embed_pool(loaded, store, rows, protocol, cache=False)
    queries = measure(pool, protocol, device=str(device_of(loaded))).queries
    found = {f"{way}/{name}": x for way, asked in queries.items() for name, x in asked.points().items()}
    r10 = [value for name, value in found.items() if name.endswith("/R@10")]
    shown = {name: v for name, v in found.items() if name.split("/")[1] in ("R@1", "R@10", "MedR")}
    return {"score": float(np.mean(r10)), **shown}
