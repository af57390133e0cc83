"""What a plan would do, before any GPU hour: shares kept, effective data size, who suffers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harmonize_cli.curriculum.pictures import save
from harmonize_cli.curriculum.plan import Gate, Plan
from harmonize_cli.curriculum.scores import Scores
from harmonize_cli.curriculum.weights import PhaseWeights, phase_weights


@dataclass(frozen=True, slots=True)
class PhaseOutcome:
    """Of one phase. drawn, captions, sounds: shares of the samples that come, and of those that keep theirs.

    effective: (sum w)^2 / sum w^2, how many equally drawn samples the phase is worth.
    groups: per group the share of its samples that keeps everything, worst first.
    """

    begin: float
    end: float
    drawn: float
    captions: float
    sounds: float
    effective: float
    groups: list[tuple[str, float, int]]


def simulate(
    plan: Plan, scores: Scores | None, samples: Sequence[str], groups: Sequence[str]
) -> list[PhaseOutcome]:
    """What each phase does to `samples` (ids, [N]) of `groups` [N]. Online gates can't be foreseen."""
    outcomes, begin = [], 0.0
    for phase, weights in zip(plan.phases, phase_weights(plan, samples, groups, scores), strict=True):
        draw = weights.draw
        outcomes.append(
            PhaseOutcome(
                begin=begin,
                end=phase.until,
                drawn=float((draw > 0).mean()),
                captions=float(weights.caption.mean()),
                sounds=float(weights.sound.mean()),
                effective=float(draw.sum() ** 2 / np.square(draw).sum()) if draw.any() else 0.0,
                groups=_by_group(weights, groups),
            )
        )
        begin = phase.until
    return outcomes


def table(plan: Plan, outcomes: Sequence[PhaseOutcome], *, worst: int = 5) -> str:
    """Phases line by line, then the groups that lose most."""
    lines = [f"{'phase':<14}{'samples':>9}{'captions':>10}{'sounds':>9}{'effective size':>16}  gate"]
    for phase, o in zip(plan.phases, outcomes, strict=True):
        gate = _gate(phase.gate) if phase.gate else "-"
        span = f"{o.begin:.0%} to {o.end:.0%}"
        lines.append(
            f"{span:<14}{o.drawn:>9.1%}{o.captions:>10.1%}{o.sounds:>9.1%}{o.effective:>16.0f}  {gate}"
        )
    losers = [g for g in outcomes[-1].groups if g[1] < 1][:worst]
    if losers:
        lines.append("sources that lose most in the last phase:")
        lines += [f"  {name}: {kept:.0%} of {size} samples keep everything" for name, kept, size in losers]
    return "\n".join(lines)


def draw(plan: Plan, outcomes: Sequence[PhaseOutcome], scores: Scores | None, path: Path) -> None:
    """Picture: shares over the run, where the cut lies, and how groups fare."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    over, cut, sources = figure.subplots(1, 3)
    edges = [outcomes[0].begin, *(o.end for o in outcomes)]
    for name in ("drawn", "captions", "sounds"):
        over.stairs([getattr(o, name) for o in outcomes], edges, baseline=None, label=name, lw=2)
    over.set(xlabel="share of the run", ylabel="share kept", ylim=(0, 1.05))
    over.legend(fontsize=8)
    last = plan.phases[-1].cut
    if scores is not None and last is not None and last.indicator in scores.columns:
        x = scores.suspicion(last.indicator)
        x = x[np.isfinite(x)]
        cut.hist(x, bins=50, color="#3b6ea5")
        high = scores.noisy.get(last.indicator, "high") == "high"
        edge = float(np.quantile(x, 1 - last.share)) if last.share is not None else (last.beyond or 0.0)
        cut.axvline(edge if last.share is not None or high else -edge, color="#c0392b", lw=2)
        cut.set(xlabel=f"suspicion by {last.indicator}", ylabel="samples")
    kept = [share for _, share, _ in outcomes[-1].groups]
    sources.plot(np.linspace(0, 1, len(kept)), kept, lw=2)
    sources.set(xlabel="sources, worst first", ylabel="share of samples untouched", ylim=(0, 1.05))
    save(figure, path)


def _gate(gate: Gate) -> str:
    form = ".0%" if gate.unit == "share" else "g"
    return f"{gate.by}: {gate.start:{form}} to {gate.end:{form}}"


def _by_group(weights: PhaseWeights, groups: Sequence[str]) -> list[tuple[str, float, int]]:
    untouched: NDArray[np.bool_] = (weights.draw >= 1) & weights.caption & weights.sound
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(inverse)
    shares = np.bincount(inverse, weights=untouched) / sizes
    order = np.argsort(shares, kind="stable")
    return [(str(names[i]), float(shares[i]), int(sizes[i])) for i in order]
