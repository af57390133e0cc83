"""From the config's section `harmonize` to the engine."""

from torch import nn

from harmonize_cli.harmony import Gate, Harmonizer
from harmonize_cli.training.config import GateConfig, PretrainConfig


def build_harmonizer(
    model: nn.Module, loss: nn.Module, config: PretrainConfig, steps: int, *, gated: bool = False
) -> Harmonizer | None:
    """The engine for this mode; with mode none one that only looks, or None where nobody wants to look.

    gated: a plan is going to set its gate.

    Chunked batches are made by the engine even then: at scope representation that costs nothing.
    """
    section = config.harmonize
    looks = bool(section.log_every) or gated
    if section.mode == "none" and not looks and not config.chunk:
        return None
    idle = section.mode == "none" and not looks
    return Harmonizer(
        {"": model, "loss": loss},
        rule=section.rule if section.mode in ("realign", "both") else "sum",
        scope="representation" if idle else section.scope,
        gate=build_gate(section.gate, steps) if section.mode in ("curriculum", "both") else None,
        granularity=section.granularity,
        gram=section.gram,
        control=section.control if section.mode != "none" else None,
        seed=config.seed,
    )


def build_gate(gate: GateConfig, steps: int) -> Gate:
    """The curriculum of a run of `steps` steps."""
    return Gate(**gate.model_dump() | {"steps": gate.steps or max(1, steps - gate.warmup)})
