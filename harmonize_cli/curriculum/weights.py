"""From a plan and scores to what each sample may do in each phase."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.curriculum.plan import Cut, Floor, Phase, Plan
from harmonize_cli.curriculum.scores import Scores
from harmonize_cli.errors import BadInput

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PhaseWeights:
    """draw [N]: how often a sample is drawn, relative to others; caption, sound [N]: what it keeps."""

    draw: Floats
    caption: Flags
    sound: Flags


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
    plan = plan.model_copy(update={"phases": [_with_path(phase, folder) for phase in plan.phases]})
    return [_one_phase(plan, phase, samples, groups, scores) for phase in plan.phases]


def suspicion_of(cut: Cut, plan: Plan, samples: Sequence[str], scores: Scores | None) -> Floats:
    """[N] suspicion in the order of `samples`; NaN where there is none.

    Raises:
        BadInput: a list of ids that can't be read, or that names none of the samples.
    """
    if cut.ids is not None:
        listed = _read_ids(Path(cut.ids))
        found = np.array([float(sample in listed) for sample in samples])
        if not found.any():
            raise BadInput(f"{cut.ids}: names none of the samples")
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


def _one_phase(
    plan: Plan, phase: Phase, samples: Sequence[str], groups: Sequence[str], scores: Scores | None
) -> PhaseWeights:
    size = len(samples)
    draw, whole = np.ones(size), np.ones(size, bool)
    if phase.cut is None:
        return PhaseWeights(draw, whole, whole)
    suspicion = suspicion_of(phase.cut, plan, samples, scores)
    suspect = is_suspect(phase.cut, suspicion, scores)
    spared = spare(suspect, suspicion, groups, plan.floor) if plan.floor else suspect
    if phase.action == "caption":
        return PhaseWeights(draw, ~spared, whole)
    if phase.action == "sound":
        return PhaseWeights(draw, whole, ~spared)
    if phase.softness and phase.cut.share is not None:
        soft = _soft(suspicion, phase.cut.share, phase.softness)
        draw = phase.weight + (1 - phase.weight) * np.where(suspect & ~spared, 1.0, soft)
    else:
        draw = np.where(spared, phase.weight, 1.0)
    return PhaseWeights(draw, whole, whole)


def _with_path(phase: Phase, folder: Path) -> Phase:
    if phase.cut is None or phase.cut.ids is None:
        return phase
    return phase.model_copy(update={"cut": phase.cut.model_copy(update={"ids": str(folder / phase.cut.ids)})})


def _read_ids(path: Path) -> set[str]:
    try:
        return {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"{path}: the plan's list of ids can't be read ({e})") from e


def _soft(suspicion: Floats, share: float, width: float) -> Floats:
    """A logistic edge over ranks, centred where a hard cut would be."""
    defined = np.isfinite(suspicion)
    rank = np.zeros(len(suspicion))
    rank[defined] = np.argsort(np.argsort(suspicion[defined])) / max(1, int(defined.sum()))
    return np.where(defined, 1 / (1 + np.exp((rank - (1 - share)) / (width / 4))), 1.0)
