"""From a plan and scores to what each sample may do in each phase, and to the samples of an epoch.

Both are pure functions (of plan, seed, epoch), the same on every rank: a resume needs nothing but the step
number, and ranks need not communicate. `training.data.Schedule` cuts the order into each rank's batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.curriculum.plan import ACTIONS, Cut, Floor, Phase, Plan
from harmonize_cli.curriculum.scores import Scores
from harmonize_cli.errors import BadInput

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PhaseWeights:
    """draw [N]: how often a sample is drawn, relative to others; lost: modality -> [N], True where the sample
    loses it."""

    draw: Floats
    lost: dict[str, Flags]


def phase_weights(
    plan: Plan,
    samples: Sequence[str],
    groups: Sequence[str],
    scores: Scores | None,
    *,
    folder: Path = Path(),
) -> list[PhaseWeights]:
    """For each phase of a plan, what each of `samples` (ids, [N]) may do.

    groups: what the floor counts by, [N]. folder: where relative paths of the plan start. Samples without
    a score are never suspect.
    """
    return [_one_phase(plan, phase, samples, groups, scores, folder) for phase in plan.phases]


def suspicion_of(cut: Cut, plan: Plan, samples: Sequence[str], scores: Scores | None, folder: Path) -> Floats:
    """[N] suspicion in the order of `samples`; NaN where there is none.

    Raises:
        BadInput: a list of ids that can't be read, or that names none of the samples.
    """
    if cut.ids is not None:
        path = folder / cut.ids
        try:
            listed = set(map(str.strip, path.read_text(encoding="utf-8").splitlines()))
        except (OSError, UnicodeDecodeError) as e:
            raise BadInput(f"{path}: the plan's list of ids can't be read ({e})") from e
        found = np.array([float(sample in listed) for sample in samples])
        if not found.any():
            raise BadInput(f"{path}: names none of the samples")
        return found
    if cut.indicator == "random":
        return np.random.default_rng([plan.seed, 75]).random(len(samples))
    assert scores is not None
    column = dict(zip(scores.ids.tolist(), scores.suspicion(cut.indicator).tolist(), strict=True))
    return np.array([column.get(sample, np.nan) for sample in samples], np.float64)


def is_suspect(cut: Cut, suspicion: Floats, scores: Scores | None) -> Flags:
    """[N] the samples on the wrong side of a cut."""
    defined = np.isfinite(suspicion)
    found = np.zeros(len(suspicion), bool)
    if cut.ids is not None:
        return suspicion > 0
    if cut.beyond is not None:
        high = scores is None or scores.noisy.get(cut.indicator, "high") == "high"
        found[defined] = suspicion[defined] > (cut.beyond if high else -cut.beyond)
        return found
    assert cut.share is not None
    worst = np.argsort(-suspicion[defined], kind="stable")[: round(cut.share * int(defined.sum()))]
    found[np.flatnonzero(defined)[worst]] = True
    return found


def spare(suspect: Flags, suspicion: Floats, groups: Sequence[str], floor: Floor) -> Flags:
    """`suspect` without the least suspicious samples of groups that would lose too much."""
    _, inverse = np.unique(np.asarray(groups), return_inverse=True)
    order = np.lexsort((np.nan_to_num(suspicion, nan=-np.inf), inverse))
    sizes = np.bincount(inverse)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(suspect), np.int64)
    place[order] = np.arange(len(suspect)) - np.repeat(starts, sizes)
    lost: Flags = suspect & (place >= np.ceil(floor.share * sizes)[inverse])
    return lost


def weighted_order(rows: Rows, weights: Floats, seed: int, epoch: int) -> Rows:
    """As many draws as there are `rows` [N], sample i drawn N w_i / sum(w) times on average, shuffled.

    Systematic draws: a sample comes floor or ceil of its expected number of times, so equal weights give
    every sample exactly once. Weight 0 never comes.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    mixed = rng.permutation(len(rows))
    ends = np.cumsum(weights[mixed])
    if not ends[-1] > 0:
        raise ValueError("no sample has a weight above 0")
    points = (np.arange(len(rows)) + rng.random()) * (ends[-1] / len(rows))
    drawn = mixed[np.minimum(np.searchsorted(ends, points, side="right"), len(rows) - 1)]
    return np.asarray(rng.permutation(rows[drawn]))


def _one_phase(
    plan: Plan,
    phase: Phase,
    samples: Sequence[str],
    groups: Sequence[str],
    scores: Scores | None,
    folder: Path,
) -> PhaseWeights:
    draw = np.ones(len(samples))
    if phase.cut is None:
        return PhaseWeights(draw, {})
    suspicion = suspicion_of(phase.cut, plan, samples, scores, folder)
    suspect = is_suspect(phase.cut, suspicion, scores)
    spared = spare(suspect, suspicion, groups, plan.floor) if plan.floor else suspect
    action = ACTIONS[phase.action]
    if not action.draws:
        return PhaseWeights(draw, dict.fromkeys(action.modalities, spared))
    if phase.softness and phase.cut.share is not None:
        soft = _soft(suspicion, phase.cut.share, phase.softness)
        draw = phase.weight + (1 - phase.weight) * np.where(suspect & ~spared, 1.0, soft)
    else:
        draw = np.where(spared, phase.weight, 1.0)
    return PhaseWeights(draw, {})


def _soft(suspicion: Floats, share: float, width: float) -> Floats:
    """A logistic edge over ranks, centred where a hard cut would be."""
    defined = np.isfinite(suspicion)
    rank = np.zeros(len(suspicion))
    rank[defined] = np.argsort(np.argsort(suspicion[defined])) / max(1, int(defined.sum()))
    return np.where(defined, 1 / (1 + np.exp((rank - (1 - share)) / (width / 4))), 1.0)
