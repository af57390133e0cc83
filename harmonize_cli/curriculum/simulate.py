"""What a plan would do, before any GPU hour: shares kept, effective data size, who suffers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harmonize_cli.curriculum.plan import ACTIONS, Plan
from harmonize_cli.curriculum.scores import Scores
from harmonize_cli.curriculum.weights import phase_weights
from harmonize_cli.files import atomic_path


@dataclass(frozen=True, slots=True)
class PhaseOutcome:
    """Of one phase. kept: share of the samples that are drawn ("samples"), and per modality that keep theirs.

    effective: (sum w)^2 / sum w^2, how many equally drawn samples the phase is worth.
    groups: per group the share of its samples that keeps everything, worst first.
    """

    begin: float
    end: float
    kept: dict[str, float]
    effective: float
    groups: list[tuple[str, float, int]]


def simulate(
    plan: Plan, scores: Scores | None, samples: Sequence[str], groups: Sequence[str], folder: Path = Path()
) -> list[PhaseOutcome]:
    """What each phase does to `samples` (ids, [N]) of `groups` [N]. Online gates can't be foreseen."""
    outcomes, begin = [], 0.0
    modalities = sorted({modality for action in ACTIONS.values() for modality in action.modalities})
    found = phase_weights(plan, samples, groups, scores, folder=folder)
    for phase, weights in zip(plan.phases, found, strict=True):
        draw, nothing = weights.draw, np.zeros(len(samples), bool)
        lost = {modality: weights.lost.get(modality, nothing) for modality in modalities}
        untouched = (draw >= 1) & ~np.any(list(lost.values()), axis=0)
        names, inverse = np.unique(np.asarray(groups), return_inverse=True)
        sizes = np.bincount(inverse)
        shares = np.bincount(inverse, weights=untouched) / sizes
        outcomes.append(
            PhaseOutcome(
                begin=begin,
                end=phase.until,
                kept={
                    "samples": float((draw > 0).mean()),
                    **{modality: float(1 - gone.mean()) for modality, gone in lost.items()},
                },
                effective=float(draw.sum() ** 2 / np.square(draw).sum()) if draw.any() else 0.0,
                groups=[
                    (str(names[i]), float(shares[i]), int(sizes[i]))
                    for i in np.argsort(shares, kind="stable")
                ],
            )
        )
        begin = phase.until
    return outcomes


def table(plan: Plan, outcomes: Sequence[PhaseOutcome], *, worst: int = 5) -> str:
    """Phases line by line, then the groups that lose most."""
    head = "".join(f"{name:>10}" for name in outcomes[0].kept)
    lines = [f"{'phase':<14}{head}{'effective size':>16}  gate"]
    for phase, o in zip(plan.phases, outcomes, strict=True):
        gate = "-"
        if phase.gate:
            form = ".0%" if phase.gate.unit == "share" else "g"
            gate = f"{phase.gate.by}: {phase.gate.start:{form}} to {phase.gate.end:{form}}"
        kept = "".join(f"{share:>10.1%}" for share in o.kept.values())
        lines.append(f"{f'{o.begin:.0%} to {o.end:.0%}':<14}{kept}{o.effective:>16.0f}  {gate}")
    losers = [g for g in outcomes[-1].groups if g[1] < 1][:worst]
    if losers:
        lines.append("sources that lose most in the last phase:")
        lines += [f"  {name}: {kept:.0%} of {size} samples keep everything" for name, kept, size in losers]
    return "\n".join(lines)


def draw(plan: Plan, outcomes: Sequence[PhaseOutcome], scores: Scores | None, path: Path) -> None:
    """Figure: shares over the run, where the cut lies, and how groups fare."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    over, cut, sources = figure.subplots(1, 3)
    edges = [outcomes[0].begin, *(o.end for o in outcomes)]
    for name in outcomes[0].kept:
        over.stairs([o.kept[name] for o in outcomes], edges, baseline=None, label=name, lw=2)
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
    with atomic_path(path) as tmp:
        figure.savefig(tmp, format="png", dpi=120)
