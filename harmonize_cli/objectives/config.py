"""Settings of the objective; the defaults are VATT's."""

from typing import Annotated

from pydantic import Field, model_validator

from harmonize_cli.config import StageConfig

Weight = Annotated[float, Field(ge=0)]


class LossConfig(StageConfig):
    """Total = weighted mean of the losses: NCE (va), MIL-NCE (vt), on request NCE of audio and text (at)."""

    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Divides the cosine similarities; where learned, where it starts."""
    learn_temperature: bool = False
    """One learned temperature per loss instead of the fixed one."""
    symmetric: bool = False
    """Two log-sum-exps (rows, columns), added, instead of one over both."""
    va: Weight = 1.0
    """Weight of video-audio."""
    vt: Weight = 1.0
    """Weight of video-text."""
    at: Weight = 0.0
    """Weight of audio-text (off in VATT)."""
    ignore_same_group: bool = False
    """Other samples of the same source (group) are no negatives."""
    ignore_same_text: bool = False
    """Samples that share a caption word for word are no negatives of each other in vt and at."""

    @model_validator(mode="after")
    def _some_loss(self) -> "LossConfig":
        if not (self.va or self.vt or self.at):
            raise ValueError("one of va, vt, at must be above 0")
        return self
