"""Online gates: which samples of a batch the present model finds too suspicious to learn from."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from harmonize_cli.curriculum.indicators import REGISTRY
from harmonize_cli.curriculum.plan import Gate
from harmonize_cli.curriculum.view import BatchView
from harmonize_cli.errors import BadInput, list_faults
from harmonize_cli.harmony import Gate as CosineGate
from harmonize_cli.ranks import gather, own_rows
from harmonize_cli.training.config import PretrainConfig


def rejected(gate: Gate, level: float, view: BatchView) -> Tensor:
    """[B] bool: this rank's samples beyond `level`, a share of all ranks' samples or a value.

    A sample whose indicator is undefined is never rejected.
    """
    indicator = REGISTRY[gate.by]
    high = indicator.noisy == "high"
    with torch.no_grad():
        value = indicator.measure(view).float()
    everyone = gather(value if high else -value)
    defined = ~everyone.isnan()
    if gate.unit == "value":
        found = everyone > (level if high else -level)
    else:
        found = torch.zeros_like(defined)
        count = int(level * int(defined.sum()))
        found[everyone.masked_fill(~defined, -torch.inf).topk(count).indices] = True
    return own_rows(found)


def engine_gate(gate: Gate, level: float) -> CosineGate:
    """A gate by conflict, as the gradient engine takes it, at one step."""
    return CosineGate("quantile" if gate.unit == "share" else "constant", start=level, end=level)


def check_gates(gates: Sequence[Gate], config: PretrainConfig, pairs: Collection[str]) -> None:
    """Refuse gates that a run can't have. pairs: those that it has a loss for.

    Raises:
        BadInput: a pair that the run lacks, or a conflict that its engine does not measure.
    """
    engine, faults = config.harmonize, []
    for by in dict.fromkeys(gate.by for gate in gates):
        lacking = [pair for pair in REGISTRY[by].pairs if pair not in pairs]
        if lacking:
            faults.append(
                f"gate by {by}: this run has no loss {' and '.join(lacking)}; gate by another, or set loss"
            )
    for scope in dict.fromkeys(gate.scope for gate in gates if gate.scope):
        if engine.mode in ("curriculum", "both"):
            other = "none" if engine.mode == "curriculum" else "realign"
            faults.append(f"harmonize.mode: {engine.mode} has a gate of its own; with this plan set {other}")
        if engine.scope != scope and not (engine.scope == "auto" and scope in ("backbone", "shared")):
            faults.append(f"harmonize.scope: is {engine.scope}, the gate looks at {scope}; set the same")
        if engine.granularity == "batch":
            faults.append("harmonize.granularity: within `batch` there is nothing to choose; set sample")
    if faults:
        raise BadInput(list_faults("curriculum: the plan's gate does not fit the run:", faults))
