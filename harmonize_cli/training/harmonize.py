"""From the config's section `harmonize` to the engine."""

from torch import nn

from harmonize_cli.harmony import Gate, Harmonizer
from harmonize_cli.training.config import HarmonizeConfig, PretrainConfig


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
        gate=build_gate(section, steps) if section.mode in ("curriculum", "both") else None,
        granularity=section.granularity,
        gram=section.gram,
        control=section.control if section.mode != "none" else None,
        seed=config.seed,
    )


def build_gate(section: HarmonizeConfig, steps: int) -> Gate:
    """The curriculum: gamma from start to end over the run's steps."""
    return Gate(
        schedule=section.schedule,
        start=section.gamma_start,
        end=section.gamma_end,
        steps=max(1, steps - section.warmup),
        warmup=section.warmup,
        min_share=section.min_kept,
        rejected=section.reject,
    )
