"""Why a sample may be misaligned: what extraction and the captions themselves say."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status

SHORT, SILENT, DRIFT = 1.0, 0.9, 0.3  # seconds, share of the clip, seconds
_WORDS = """
a an the and or but so to of in on at for with from by as is are was be it this that these those i you he
she we they my your his her our their me him us them do does did does not no yes oh okay ok um uh well now
here there then just like please
"""
_FUNCTION_WORDS = frozenset(_WORDS.split())


def repeated_captions(store: Store) -> frozenset[str]:
    """Captions that stand under more than one sample."""
    counts = Counter(text for i in range(len(store)) for text in set(store.texts(i)))
    return frozenset(text for text, count in counts.items() if count > 1)


def hints_of(store: Store, i: int, repeated: frozenset[str]) -> list[str]:
    """Facts of sample `i` that go along with misalignment, in words."""
    facts, texts = store.facts(i), store.texts(i)
    start, end = store.span(i)
    hints = []
    if facts.get("silent_share", 0.0) >= SILENT or (
        "audio" in store.modalities and store.status("audio")[i] == Status.SILENT
    ):
        hints.append("silent")
    if end is not None and end - start < SHORT:
        hints.append("very short")
    if abs(facts.get("drift", 0.0) or 0.0) >= DRIFT:
        hints.append("audio and video differ in length")
    if any(text in repeated for text in texts):
        hints.append("repeated caption")
    if texts and not any(_content(text) for text in texts):
        hints.append("no content words")
    if texts and len({_alphabet(text) for text in texts} - {""}) > 1:
        hints.append("captions in several alphabets")
    return hints


@dataclass(frozen=True, slots=True)
class HintShare:
    """How common a hint is among the most suspicious tenth and among the rest."""

    hint: str
    worst: float
    rest: float


def explain_worst(store: Store, index: NDArray[np.int64], suspicion: NDArray[np.floating]) -> list[HintShare]:
    """Hints by how much more common they are in the worst tenth. index: rows of the store [N]."""
    repeated = repeated_captions(store)
    found = [set(hints_of(store, int(i), repeated)) for i in index]
    defined = np.flatnonzero(np.isfinite(suspicion))
    order = defined[np.argsort(-suspicion[defined], kind="stable")]
    cut = max(1, len(order) // 10)
    worst, rest = order[:cut], order[cut:]
    shares = [
        HintShare(hint, _share(found, worst, hint), _share(found, rest, hint))
        for hint in sorted(set().union(*found))
    ]
    return sorted(shares, key=lambda s: s.rest - s.worst)


def _share(found: list[set[str]], places: NDArray[np.int64], hint: str) -> float:
    return float(np.mean([hint in found[i] for i in places])) if len(places) else 0.0


def _content(text: str) -> bool:
    return any(word.strip(".,!?'\"").lower() not in _FUNCTION_WORDS for word in text.split())


def _alphabet(text: str) -> str:
    """The script that most letters belong to, by Unicode name: LATIN, CYRILLIC, ..."""
    import unicodedata

    names = Counter(unicodedata.name(c, "").partition(" ")[0] for c in text if c.isalpha())
    return names.most_common(1)[0][0] if names else ""
