"""How two stores differ in content, whatever their order and shards."""

from dataclasses import dataclass, field

import numpy as np

from harmonize_cli.store.compatibility import difference
from harmonize_cli.store.description import description
from harmonize_cli.store.reader import Store


@dataclass
class Difference:
    """What is in one store and not, or not so, in the other."""

    kind: str = ""
    """How the features or vocabularies differ; "" if they are the same."""
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)
    """Id -> fields and features that differ."""

    def __bool__(self) -> bool:
        return bool(self.kind or self.only_a or self.only_b or self.changed)


def diff(a: Store, b: Store) -> Difference:
    """Compare by the digests made when the stores were written; fields of changed samples by value."""
    found = Difference()
    if a.features != b.features:
        found.kind = difference(a.features, b.features)
    elif a.vocab != b.vocab:
        found.kind = "the vocabularies"
    found.only_a = [sample for sample in a.ids if sample not in b]
    found.only_b = [sample for sample in b.ids if sample not in a]
    shared = [(i, b.index(sample)) for i, sample in enumerate(a.ids) if sample in b]
    if not shared:
        return found
    rows = np.array(shared)
    different = (a.digests()[rows[:, 0]] != b.digests()[rows[:, 1]]).any(axis=1)
    for i, j in rows[different].tolist():
        found.changed[a.ids[i]] = _what_differs(a, i, b, j) or ["digest"]
    return found


def _what_differs(a: Store, i: int, b: Store, j: int) -> list[str]:
    one, other = description(a, i), description(b, j)
    names = [name for name in one if one[name] != other[name]]
    shared = a.features.keys() & b.features.keys()
    names += sorted(key for key in shared if a.feature_digest(key, i) != b.feature_digest(key, j))
    return names + sorted(a.features.keys() ^ b.features.keys())
