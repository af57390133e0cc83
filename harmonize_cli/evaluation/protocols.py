"""How clips become embeddings and ranks: the settings that published numbers differ in, by name.

Sources: VATT (arXiv 2104.11178, appendix A.3.3 and the authors' code), MIL-NCE (arXiv 1912.06430 and the
authors' PyTorch code). A protocol fixes what happens after the store: frame rate, size and crop were decided
when the store was extracted, and are named in the store.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from harmonize_cli.config import StageConfig, load_config
from harmonize_cli.errors import BadInput

Pooling = Literal["mean-then-normalise", "mean-of-similarities", "mean-of-units-then-normalise", "mean-raw"]


class RetrievalProtocol(StageConfig):
    """Zero-shot retrieval between the three modalities of one pool."""

    name: str = "vatt"
    """Shown in results; "custom" once any setting was changed."""
    windows: int = Field(default=4, ge=1, le=100)
    """Linearly spaced windows per clip; a clip no longer than one window is seen once."""
    pooling: Pooling = "mean-then-normalise"
    """From windows to a score: the mean of raw embeddings, normalised; the mean of cosine similarities; the
    mean of unit vectors, normalised (CLIP4Clip's mean pooling); the mean of raw embeddings with the dot
    product as it is."""
    captions: Literal["first", "all", "mean"] = "first"
    """With several captions per clip: the first one, every one as an item of its own, or their mean."""
    same_text: Literal["distinct", "shared"] = "distinct"
    """Whether a clip with word for word the same caption is a wrong answer (the literature's habit; the tie
    rule shares the rank) or a right one."""
    tie: Literal["expected", "optimistic", "pessimistic"] = "expected"
    """The rank of tied items: mean over all orders, best, or worst."""
    text_words: int = Field(default=16, ge=1, le=512)
    """Captions are cut after so many words (never longer than the store holds)."""
    pool: Literal["complete", "all"] = "complete"
    """Samples with all three modalities, so that the six directions share one pool; or, per direction, all
    samples that have what it needs."""
    relevance: Literal["pair", "label"] = "pair"
    """Which items are right answers: those of the same clip, or all of the same class, which gives mAP and
    P@K in place of R@K and ranks."""
    label: int = Field(default=0, ge=0)
    """Which of a sample's labels is its class, from 0 (relevance: label)."""

    def as_dict(self) -> dict[str, Any]:
        """For results. Pairs are as they were before there were classes, so that their results stay valid."""
        unused = {"relevance", "label"} if self.relevance == "pair" else set()
        return self.model_dump(mode="json", exclude=unused)


PROTOCOLS: dict[str, RetrievalProtocol] = {
    "vatt": RetrievalProtocol(),
    "mil-nce": RetrievalProtocol(name="mil-nce", pooling="mean-raw", text_words=30),
    # mean pooling of frame embeddings (CLIP4Clip, arXiv 2104.08860)
    "clip": RetrievalProtocol(name="clip", pooling="mean-of-units-then-normalise", text_words=77, pool="all"),
}


class ProbeProtocol(StageConfig):
    """A classifier on frozen features, and the way clips become its examples."""

    name: str = "logistic"
    """Shown in results."""
    classifier: Literal["logistic", "svm", "low-rank", "neighbours"] = "logistic"
    """Logistic regression; linear SVM, one against the rest; VATT's low-rank softmax; weighted k-NN."""
    train_windows: int = Field(default=1, ge=1, le=100)
    """Windows of a training clip, each one example; 1 is the middle one."""
    test_windows: int = Field(default=4, ge=1, le=100)
    """Windows of a test clip; their probabilities or decision values are averaged."""
    scaling: Literal["standard", "l2", "none"] = "standard"
    """Of features: mean and deviation of the training part, rows to unit length, or as they are."""
    c: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
    """C of logistic regression and of the SVM; several values are chosen from by folds inside the training
    part."""
    inner_folds: int = Field(default=5, ge=2, le=20)
    """Folds of that choice; samples of one group stay together."""
    solver: Literal["auto", "sklearn", "torch"] = "auto"
    """Of logistic regression: scikit-learn, the torch solver (same optimum), or by the size of the set."""
    neighbours: int = Field(default=20, ge=1)
    """k of k-NN."""
    tau: float = Field(default=0.07, gt=0)
    """Temperature of k-NN's votes."""
    steps: int = Field(default=50_000, ge=1)
    """Adam steps of the low-rank classifier."""
    seed: int = 0
    """Start and order of the low-rank classifier."""

    @model_validator(mode="after")
    def _some_c(self) -> "ProbeProtocol":
        if not self.c or min(self.c) <= 0:
            raise ValueError("c: at least one value, all above 0")
        return self


_MMV = {"classifier": "svm", "train_windows": 10, "test_windows": 10}
PROBES: dict[str, ProbeProtocol] = {
    "logistic": ProbeProtocol(),
    # VATT: middle clip in training, four windows in test, softmax averaged, features as they are
    "vatt": ProbeProtocol(name="vatt", classifier="low-rank", scaling="none"),
    # the SVM that VATT's code has as a comment, after MMV's recipe
    "vatt-svm": ProbeProtocol(name="vatt-svm", classifier="svm", c=(6e-5,)),
    # MMV draws ten random augmented windows of a training clip; here they are linearly spaced
    "mmv": ProbeProtocol.model_validate({"name": "mmv", **_MMV, "c": (1e-3,)}),
    "mil-nce": ProbeProtocol.model_validate({"name": "mil-nce", **_MMV, "c": (100.0,), "scaling": "none"}),
    "knn": ProbeProtocol(name="knn", classifier="neighbours"),
}
ProtocolT = TypeVar("ProtocolT", RetrievalProtocol, ProbeProtocol)


def adjusted(
    known: Mapping[str, ProtocolT], name: str, file: Path | None = None, overrides: Sequence[str] = ()
) -> ProtocolT:
    """A named protocol with some settings changed; then the name says "modified".

    Raises:
        BadInput: an unknown name, or every faulty setting.
    """
    if name not in known:
        raise BadInput(f"--protocol {name}: known are {', '.join(known)}")
    base = known[name]
    if file is None and not overrides:
        return base
    asked = load_config(type(base), file, overrides)
    chosen = {field: getattr(asked, field) for field in asked.model_fields_set}
    changed = base.model_copy(update=chosen)
    if "name" not in chosen and changed != base:
        changed = changed.model_copy(update={"name": f"{name}-modified"})
    return changed
