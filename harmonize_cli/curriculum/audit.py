"""`harmonize curriculum audit`: misalign samples on purpose and see which indicator finds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.curriculum.combine import Combination, cross_fitted, learn
from harmonize_cli.curriculum.inject import MISALIGNMENTS, inject
from harmonize_cli.curriculum.score import batch_size, scoring_order
from harmonize_cli.curriculum.scorer import Rows, Scorer
from harmonize_cli.curriculum.scores import add_column, read_scores
from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.data.windows import check_inputs
from harmonize_cli.errors import BadInput
from harmonize_cli.files import read_json, write_json
from harmonize_cli.locks import one_writer
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.progress import progress
from harmonize_cli.ranks import pick_device
from harmonize_cli.store.reader import Store

FORMAT = "harmonize-audit/1"
RESULT, COMBINATION = "audit.json", "combination.json"
COMBINED = "combined"
Floats = NDArray[np.floating]
METRICS = ("auroc", "ap", "p@1%", "p@5%", "p@10%")


@dataclass(frozen=True, slots=True)
class Detection:
    """metrics: name -> (value, low, high). defined: share of samples with a score."""

    metrics: dict[str, tuple[float, float, float]]
    defined: float


def detect(
    suspicion: Floats,
    wrong: NDArray[np.bool_],
    groups: Sequence[str] | None = None,
    *,
    draws: int = 300,
    seed: int = 0,
) -> Detection:
    """Metrics of `suspicion` [N] (high: noisy) against the truth `wrong` [N]; NaN scores are left out.

    Intervals: 95% percentiles of `draws` resamples of the `groups` [N], the samples' sources: what the
    segments of one video have in common is no evidence twice.
    """
    ok = np.isfinite(suspicion)
    x, y = np.asarray(suspicion, np.float64)[ok], wrong[ok]
    if not y.any() or y.all():
        return Detection(dict.fromkeys(METRICS, (float("nan"),) * 3), float(ok.mean()))
    keys = np.arange(len(x)) if groups is None else np.asarray(groups)[ok]
    _, group = np.unique(keys, return_inverse=True)
    count, rng = int(group.max()) + 1, np.random.default_rng(seed)
    point, resampled = detection_metrics(x, y, np.ones(len(x))), []
    for _ in range(draws):
        weights = np.bincount(rng.integers(count, size=count), minlength=count)[group]
        if weights[y].any() and weights[~y].any():
            resampled.append(detection_metrics(x, y, weights))
    unknown = [[float("nan")] * len(METRICS)]
    low, high = np.quantile(np.array(resampled or unknown), [0.025, 0.975], axis=0)
    return Detection(
        {n: (float(p), float(a), float(b)) for n, p, a, b in zip(METRICS, point, low, high, strict=True)},
        float(ok.mean()),
    )


def detection_metrics(x: Floats, y: NDArray[np.bool_], weights: NDArray[Any]) -> list[float]:
    """METRICS of scores `x` [N] for `y` [N], where sample i counts `weights[i]` times; ties are shared.

    AUROC: the chance that a wrong sample scores above a right one. AP: mean precision at each wrong sample.
    P@K: the share of wrong samples among the K highest scores.
    """
    order = np.argsort(-x, kind="stable")
    last = np.append(np.flatnonzero(np.diff(x[order])), len(x) - 1)  # of each run of equal scores
    hits, total = (np.cumsum(w[order])[last] for w in (weights * y, weights))
    recall, false = hits / hits[-1], (total - hits) / (total[-1] - hits[-1])
    precision = hits / np.maximum(total, 1)
    auroc = np.trapezoid(np.append(0, recall), np.append(0, false))
    found = [float(auroc), float((np.diff(recall, prepend=0.0) * precision).sum())]
    for share in (0.01, 0.05, 0.1):
        k = max(1, round(share * float(total[-1])))
        found.append(float(np.interp(k, np.append(0, total), np.append(0, hits)) / k))
    return found


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """share of the samples that each kind of misalignment is injected into; most: samples used at most.
    indicators: None for all but the costly ones."""

    kinds: tuple[str, ...] = tuple(MISALIGNMENTS)
    split: str | None = None
    share: float = 0.4
    most: int = 4000
    indicators: tuple[str, ...] | None = None
    checkpoint: str = "last"
    batch: int | None = None
    draws: int = 300
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Audit:
    """found: kind -> indicator -> how well it detects; samples that it was measured on, and their split."""

    found: dict[str, dict[str, Detection]]
    samples: int
    split: str

    def best(self, kind: str) -> str:
        """The indicator with the highest AUROC."""
        return max(
            self.found[kind], key=lambda name: np.nan_to_num(self.found[kind][name].metrics["auroc"][0])
        )


@one_writer("out")
def audit(run: Path, store_path: Path, out: Path, settings: AuditSettings) -> Audit:
    """Measure every indicator on every kind; writes audit.json and combination.json (of captions) to `out`.

    Held-out samples are used, those of split `val` where the store has it: what the model learned by heart
    would look better aligned than it is.

    Raises:
        BadInput: no run, no store, or a kind that can't be done to it.
    """
    loaded = load_model(run, settings.checkpoint, pick_device(settings.device))
    store = Store.open(store_path, verifies=True)
    specs = check_inputs(store, loaded.specs)
    dataset = StoreDataset(store, specs, cache_bytes=1 << 28)
    rows, split = held_out(store, settings)
    batch = batch_size(loaded, settings.batch, len(rows))
    others = np.setdiff1d(np.arange(len(store)), rows)
    scorer = Scorer(loaded, specs, settings.indicators)
    company = others if len(others) >= len(rows) else rows
    scorer.fill_bank(dataset, company, batch=batch, seed=settings.seed)
    noisy = {column.name: column.noisy for column in scorer.columns}
    kinds = [kind for kind in settings.kinds if MISALIGNMENTS.find(kind).modality in specs]
    found: dict[str, dict[str, Detection]] = {}
    combinations: dict[str, Combination] = {}
    for kind in progress(kinds, desc="audit", unit="kind"):
        injection = inject(dataset, rows, kind, share=settings.share, seed=settings.seed)
        order = scoring_order(rows, settings.seed)
        _, columns = scorer.rows(injection.make, order, batch, range(len(order)))
        suspicions = {name: x if noisy[name] == "high" else -x for name, x in columns.items()}
        wrong = np.array([int(i) in injection.wrong for i in order])
        groups = [store.groups[i] for i in order]
        combinations[kind] = learn(suspicions, wrong)
        suspicions[COMBINED] = cross_fitted(suspicions, wrong, groups)
        found[kind] = {n: detect(x, wrong, groups, draws=settings.draws) for n, x in suspicions.items()}
    result = Audit(found, len(rows), split)
    write_json(out / RESULT, _to_json(result, run, store_path, settings))
    write_json(out / COMBINATION, {kind: model.to_json() for kind, model in combinations.items()})
    return result


def held_out(store: Store, settings: AuditSettings) -> tuple[Rows, str]:
    """The samples to audit on and the name of their split."""
    split = settings.split
    if split is None:
        known = set(store.splits)
        split = next((name for name in ("val", "validation", "dev", "test") if name in known), None)
    rows = store.select(split)
    if len(rows) > settings.most:
        rows = np.sort(np.random.default_rng([settings.seed, 74]).choice(rows, settings.most, replace=False))
    if len(rows) < 20:
        raise BadInput(
            f"{store.path}: only {len(rows)} samples of split {split!r}; an audit needs 20 at least"
        )
    return rows, split or "all"


def read_combination(folder: Path, kind: str) -> Combination:
    """The combination that an audit learned for a kind of misalignment.

    Raises:
        BadInput: no audit there, or not of this kind.
    """
    file, hint = folder / COMBINATION, "`harmonize curriculum audit` makes it"
    values = read_json(file, dict[str, Any], hint=hint)
    if kind not in values:
        raise BadInput(f"{file}: has no {kind!r}; it has {', '.join(values)}")
    return Combination.from_json(values[kind], f"{file}: {kind}")


def add_combined(scores_folder: Path, audit_folder: Path, kind: str) -> None:
    """Add the column `combined` to scores: the combination that an audit learned.

    Raises:
        BadInput: no scores, no audit, or scores that lack an indicator of the combination.
    """
    model, scores = read_combination(audit_folder, kind), read_scores(scores_folder)
    values = model({name: scores.suspicion(name) for name in model.names})
    about = f"logistic regression on {len(model.names)} indicators, learned from injected {kind}"
    add_column(scores_folder, COMBINED, values, noisy="high", about=about)


def table(result: Audit, kinds: Sequence[str] | None = None, *, most: int = 12) -> str:
    """Indicators by AUROC, per kind, with intervals."""
    lines = []
    for kind in kinds or result.found:
        found = result.found[kind]
        order = sorted(found, key=lambda n: -np.nan_to_num(found[n].metrics["auroc"][0], nan=-1))
        shown = order[:most] + [n for n in order[most:] if n.startswith("cosine")]
        lines.append(f"{kind} ({MISALIGNMENTS[kind].about}); {result.samples} samples of {result.split}")
        lines.append(f"  {'indicator':<24}" + "".join(f"{name:>22}" for name in METRICS))
        for name in shown:
            cells = [found[name].metrics[m] for m in METRICS]
            row = "".join(f"{v:>8.3f} [{a:.3f},{b:.3f}]".rjust(22) for v, a, b in cells)
            lines.append(f"  {name:<24}{row}")
        lines.append(f"  trust {result.best(kind)} for this kind")
    return "\n".join(lines)


def _to_json(result: Audit, run: Path, store: Path, settings: AuditSettings) -> dict[str, Any]:
    def cell(triple: tuple[float, float, float]) -> dict[str, float | None]:
        names = ("value", "low", "high")
        return {n: None if np.isnan(v) else v for n, v in zip(names, triple, strict=True)}

    kinds = {
        kind: {
            name: {"defined": d.defined, **{m: cell(t) for m, t in d.metrics.items()}}
            for name, d in found.items()
        }
        for kind, found in result.found.items()
    }
    return {
        "format": FORMAT,
        "run": str(run),
        "store": str(store),
        "split": result.split,
        "samples": result.samples,
        "share": settings.share,
        "seed": settings.seed,
        "best": {kind: result.best(kind) for kind in result.found},
        "kinds": kinds,
    }
