"""The methods that `harmonize curriculum compare` puts side by side, all at one budget of steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harmonize_cli.curriculum.plan import Plan
from harmonize_cli.training.config import Control

ORACLE, BASELINE = "oracle", "baseline"
TRUTH = "truth"


@dataclass(frozen=True, slots=True)
class Method:
    """harmonize: mode of the engine, control: its control. plan: "", "gate", "cut:best", "cut:random" or
    "cut:truth".

    A cut by best or random begins after the warm-up; until then the run is the baseline's, bit for bit.
    """

    about: str
    harmonize: str = "none"
    plan: str = ""
    control: Control | None = None


METHODS: dict[str, Method] = {
    BASELINE: Method("plain training"),
    "realign": Method("per-sample gradient realignment", "realign"),
    "gate": Method("the paper's curriculum: samples in conflict are left out", "curriculum"),
    "gate-random": Method(
        "as many samples as the gate leaves out, at random", "curriculum", control="random"
    ),
    "both": Method("the paper's curriculum and realignment", "both"),
    "loss-gate": Method("online gate: the captions with the highest loss of each batch", plan="gate"),
    "best-plan": Method("captions cut by the best indicator of the audit", plan="cut:best"),
    "random": Method("the same share of captions cut at random", plan="cut:random"),
    ORACLE: Method("exactly the wrong captions cut, from the first step", plan="cut:truth"),
}


def plan_for(method: Method, *, share: float, warmup: float, indicator: str, scores: str) -> Plan | None:
    """The plan of a method; None for those that need none.

    share: of the captions that a cut or gate takes away. scores: folder of the cut's scores.
    """
    if not method.plan:
        return None
    if method.plan == "gate":
        phases: list[Mapping[str, Any]] = [
            {"until": warmup},
            {"until": 1.0, "gate": {"by": "loss_vt", "start": share / 2, "end": share}},
        ]
        return Plan.model_validate({"phases": phases})
    kind = method.plan.removeprefix("cut:")
    if kind == "truth":
        cut: dict[str, Any] = {"indicator": TRUTH, "beyond": 0.5}
        return Plan.model_validate(
            {"scores": scores, "phases": [{"until": 1.0, "cut": cut, "action": "caption"}]}
        )
    cut = {"indicator": "random" if kind == "random" else indicator, "share": share}
    values = {"phases": [{"until": warmup}, {"until": 1.0, "cut": cut, "action": "caption"}]}
    return Plan.model_validate(values if kind == "random" else {"scores": scores, **values})
