"""A curriculum as data: which samples take part when, and what a suspect one loses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from harmonize_cli.config import StageConfig, dump_yaml, load_config
from harmonize_cli.curriculum.indicators import INDICATORS
from harmonize_cli.errors import BadInput
from harmonize_cli.files import write_text
from harmonize_cli.objectives.config import LETTERS
from harmonize_cli.registry import Registry

Share = Annotated[float, Field(ge=0, le=1)]
PLAN = "plan.yaml"


@dataclass(frozen=True, slots=True)
class Action:
    """What a suspect sample loses: these modalities; with `draws` instead its place in the batches, where it
    is suspect before the batch is drawn."""

    about: str
    modalities: tuple[str, ...]
    draws: bool = False


ACTIONS: Registry[Action] = Registry("action", group="harmonize.actions")
ACTIONS.add("sample", Action("its place in the batches", ("audio", "text"), draws=True))
ACTIONS.add("caption", Action("its captions", ("text",)))
ACTIONS.add("audio", Action("its audio", ("audio",)))


def _action(name: str) -> str:
    name = "audio" if name == "sound" else name  # what plans called it before
    if name not in ACTIONS:
        raise ValueError(f"unknown; choose from {', '.join(ACTIONS)}")
    return name


ActionName = Annotated[str, AfterValidator(_action)]


class Cut(StageConfig):
    """Which samples are suspect: by rank in an indicator, by its value, or by name: one of the three."""

    indicator: str = ""
    """A column of the scores, or `random` for the control."""
    share: Share | None = None
    """This share with the most suspicious values ..."""
    beyond: float | None = None
    """... or the samples beyond this value, on the suspicious side ..."""
    ids: str | None = None
    """... or the samples that this file lists, an id a line (the report exports such lists); a relative
    path starts at the plan's folder."""

    @model_validator(mode="after")
    def _one(self) -> "Cut":
        if sum(x is not None for x in (self.share, self.beyond, self.ids)) != 1:
            raise ValueError("give share (of the samples), beyond (a value) or ids (a file), one of them")
        if bool(self.indicator) == (self.ids is not None):
            raise ValueError("indicator goes with share and beyond, and with them only")
        return self


class Gate(StageConfig):
    """An online gate: in each batch, what the present model finds most suspicious loses something, for this
    step only. The paper's gate is `{by: cosine_backbone, unit: value, start: -0.3, end: 0.0}`."""

    by: str = "loss_vt"
    """An indicator that a training step has at hand: a loss, similarity or margin of a pair, or the conflict,
    cosine_SCOPE, which the gradient engine measures (at `harmonize.scope`, with mode none or realign)."""
    unit: Literal["share", "value"] = "share"
    """What start and end are: a share of the batch, or the value that suspicious samples lie beyond."""
    start: float = 0.0
    """At the phase's begin ..."""
    end: float = 0.3
    """... and at its end; in between on a straight line."""
    action: ActionName | None = None
    """What a rejected sample loses. Default: the second modality that `by` compares (va: audio, vt and at:
    the caption); by cosine_SCOPE always the sample."""

    @property
    def scope(self) -> str | None:
        """Where the gradients are compared, for a gate by conflict."""
        return self.by.removeprefix("cosine_") if self.by.startswith("cosine_") else None

    @property
    def takes(self) -> str:
        """`action`, resolved."""
        last = (LETTERS.get(self.by[-1:]),)  # of va: audio
        found = next((name for name, action in ACTIONS.items() if action.modalities == last), "sample")
        return self.action or ("sample" if self.scope else found)

    def level(self, done: float) -> float:
        """Share or value at `done`, the share of the phase that lies behind."""
        return self.start + min(max(done, 0.0), 1.0) * (self.end - self.start)

    @model_validator(mode="after")
    def _online(self) -> "Gate":
        kind = INDICATORS.get(self.by.partition("_")[0])
        if kind is None or not kind.online:
            why = "unknown" if kind is None else "needs more than a training step has: cut by its scores"
            able = ", ".join(f"{name}_*" for name, kind in INDICATORS.items() if kind.online)
            raise ValueError(f"by: {self.by} {why}; gates can look at {able}")
        if self.unit == "share" and not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise ValueError("start and end are shares, between 0 and 1, unless `unit: value` is given")
        if self.scope and self.action not in (None, "sample"):
            raise ValueError(f"by {self.by} takes the sample, not only its {self.action}; leave action out")
        return self


class Phase(StageConfig):
    """One part of the run."""

    until: Annotated[float, Field(gt=0, le=1)]
    """End of the phase as a share of the run; the last phase ends at 1."""
    cut: Cut | None = None
    """Suspect samples; none: all take part alike."""
    action: ActionName = "sample"
    """What a suspect sample loses: its place in the batches, only its caption, or only its audio."""
    weight: Share = 0.0
    """action sample: how often a suspect sample is drawn, compared with another (replay)."""
    softness: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """action sample: width of a soft edge in shares of the samples, instead of a hard cut."""
    gate: Gate | None = None
    """A decision in each batch, by the present model, instead of scores."""

    @model_validator(mode="after")
    def _fits(self) -> "Phase":
        if not ACTIONS[self.action].draws and (self.weight or self.softness):
            raise ValueError(f"weight and softness belong to action: sample, not to {self.action}")
        if self.softness and (self.cut is None or self.cut.share is None):
            raise ValueError("softness needs a cut by share")
        return self


class Floor(StageConfig):
    """No source or class may lose more than this, whatever the scores say."""

    by: Literal["group", "label"] = "group"
    share: Share = 0.25
    """Share of each group's (first label's) samples that always takes part, the least suspicious ones."""


class Plan(StageConfig):
    """`harmonize curriculum plan` writes it, `harmonize pretrain --curriculum` follows it."""

    scores: str | None = None
    """Folder of `harmonize curriculum score`; a relative path starts at the plan's folder."""
    phases: Annotated[list[Phase], Field(min_length=1)]
    floor: Floor | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the indicator `random`."""

    @model_validator(mode="after")
    def _ordered(self) -> "Plan":
        ends = [phase.until for phase in self.phases]
        if ends != sorted(set(ends)):
            raise ValueError(f"phases must end later and later; their `until` are {ends}")
        if ends[-1] != 1:
            raise ValueError(f"the last phase must end at 1, not at {ends[-1]}")
        if self.scores is None and any(p.cut and p.cut.indicator not in ("", "random") for p in self.phases):
            raise ValueError("a cut needs scores: name the folder in `scores`")
        return self

    def phase(self, done: float) -> Phase:
        """The phase at `done`, the share of the run that lies behind (0 <= done < 1)."""
        return next((phase for phase in self.phases if done < phase.until), self.phases[-1])

    def begin(self, phase: Phase) -> float:
        """Where a phase begins, as a share of the run."""
        place = self.phases.index(phase)
        return self.phases[place - 1].until if place else 0.0


def read_plan(path: Path) -> Plan:
    """A plan file, or a folder with plan.yaml.

    Raises:
        BadInput: all its errors at once.
    """
    file = path / PLAN if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"{file}: no such plan; `harmonize curriculum plan SCORES -o {path}` makes one")
    return load_config(Plan, file)


def check_unchanged(plan: Plan, file: Path) -> None:
    """Refuse to replace another plan, which a person may have edited.

    Raises:
        BadInput: one is there.
    """
    if file.exists() and file.read_bytes() != _text(plan).encode():
        raise BadInput(f"{file}: holds another plan; give another -o, or --overwrite to replace it")


def _text(plan: Plan) -> str:
    return dump_yaml(plan, exclude_defaults=True)


def write_plan(plan: Plan, file: Path) -> None:
    """Write a plan without what is default."""
    write_text(file, _text(plan))


def scores_folder(plan: Plan, file: Path) -> Path | None:
    """Where the plan's scores are."""
    if plan.scores is None:
        return None
    base = file if file.is_dir() else file.parent
    return base / plan.scores
