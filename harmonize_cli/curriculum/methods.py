"""The methods that `harmonize curriculum compare` puts side by side, all at one budget of steps."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harmonize_cli.curriculum.plan import Plan
from harmonize_cli.registry import Registry

if TYPE_CHECKING:
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
    control: "Control | None" = None


METHODS: Registry[Method] = Registry("method")
for _name, _method in {
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
}.items():
    METHODS.add(_name, _method)


def plan_for(method: Method, *, share: float, warmup: float, indicator: str, scores: str) -> Plan | None:
    """The plan of a method; None for those that need none.

    share: of the captions that a cut or gate takes away. scores: folder of the cut's scores.
    """
    last: dict[str, Any] = {"until": 1.0}
    values: dict[str, Any] = {"phases": [{"until": warmup}, last]}
    if not method.plan:
        return None
    if method.plan == "gate":
        last["gate"] = {"by": "loss_vt", "start": share / 2, "end": share}
        return Plan.model_validate(values)
    last["action"] = "caption"
    if method.plan == "cut:random":
        last["cut"] = {"indicator": "random", "share": share}
        return Plan.model_validate(values)
    last["cut"] = {"indicator": indicator, "share": share}
    if method.plan == "cut:truth":
        last["cut"] = {"indicator": TRUTH, "beyond": 0.5}
        values["phases"] = [last]
    return Plan.model_validate({"scores": scores, **values})
