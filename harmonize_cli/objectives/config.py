"""Settings of the losses; the defaults are VATT's. Without torch, so that configs are read fast."""

from collections import Counter
from collections.abc import Collection
from itertools import combinations
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from harmonize_cli.config import StageConfig
from harmonize_cli.errors import BadInput

LETTERS = {"v": "video", "a": "audio", "t": "text"}
"""A loss names the modalities that it compares by their letters."""
PAIRS: dict[str, tuple[str, ...]] = {
    "".join(letters): tuple(LETTERS[x] for x in letters) for n in (2, 3) for letters in combinations("vat", n)
}
"""va, vt, at, vat -> modalities."""
SPACES = {
    on: tuple(f"{modality}_{'va' if on == 'va' else 'vt'}" for modality in modalities)
    for on, modalities in PAIRS.items()
}
"""The embeddings compared: video and audio in their own space, all else in the space one step above."""


class TermConfig(StageConfig):
    """One loss and the modalities that it compares. A kind with settings of its own adds them to these."""

    kind: str = "nce"
    """Which loss: nce (with several captions MIL-NCE), siglip, rince, gramian, symile, or one of an installed
    package."""
    on: str
    """Which modalities: va, vt, at or vat."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """The total is the mean of the losses by these weights."""
    name: Annotated[str, Field(pattern="^[a-z0-9_]*$")] = ""
    """What logs and gates call it; default `on`, where several compare the same modalities KIND_ON."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Divides the similarities; where learned, where it starts."""
    learn_temperature: bool = False
    """Learn the temperature, within 0.01 and 1."""

    @field_validator("on")
    @classmethod
    def _in_order(cls, on: str) -> str:
        letters = "".join(sorted(on, key="vat".find))
        if letters not in PAIRS:
            raise ValueError(f"expected one of {', '.join(PAIRS)}")
        return letters


class NceConfig(TermConfig):
    """NCE of a pair; with several captions MIL-NCE."""

    symmetric: bool = False
    """Two log-sum-exps (rows, columns), added, instead of one over both."""


def _section(term: Any) -> dict[str, Any]:
    """A term as a section: `ON` and `KIND:ON` written out."""
    if isinstance(term, TermConfig):
        return term.model_dump()
    if isinstance(term, str):
        kind, colon, on = term.rpartition(":")
        return {"kind": kind, "on": on} if colon else {"on": on}
    return dict(term) if isinstance(term, dict) else {"on": term}


def _short(term: dict[str, Any]) -> dict[str, Any]:
    """`symmetric` for all terms means those that know it."""
    return term if term.get("kind", "nce") == "nce" else {k: v for k, v in term.items() if k != "symmetric"}


def _term(term: Any) -> TermConfig:
    section = _section(term)
    if section.get("kind", "nce") == "nce":
        return NceConfig.model_validate(section)
    from harmonize_cli.objectives.base import LOSSES

    try:
        kind = LOSSES.find(str(section["kind"]))
    except BadInput as e:
        raise ValueError(str(e)) from None
    made = kind.Config.model_validate(section)
    if len(made.on) not in kind.takes:
        raise ValueError(
            f"{made.kind} compares {' or '.join(map(str, kind.takes))} modalities, not {made.on}"
        )
    return made


class LossConfig(StageConfig):
    """The losses of a run. `loss.va`, `loss.vt` and `loss.at` are short for NCE terms with these weights, and
    `loss.temperature`, `loss.learn_temperature` and `loss.symmetric` for the setting of every term."""

    terms: tuple[Annotated[SerializeAsAny[TermConfig], BeforeValidator(_term)], ...] = (
        NceConfig(on="va"),
        NceConfig(on="vt"),
    )
    """Losses, each `ON`, `KIND:ON` or a section with kind, on, weight and the kind's own settings."""
    ignore_same_group: bool = False
    """Other samples of the same source (group) are not negatives."""
    ignore_same_text: bool = False
    """Samples that share a caption word for word are not each other's negatives where text is compared."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        weights = {on: values.pop(on) for on in ("va", "vt", "at") if on in values}
        if weights:
            if "terms" in values:
                raise ValueError(
                    f"{', '.join(weights)}: give these weights in terms, for example {{on: vt, weight: 2}}"
                )
            weights = {"va": 1.0, "vt": 1.0, "at": 0.0} | weights
            values["terms"] = [{"on": on, "weight": w} for on, w in weights.items() if w != 0]
            if not values["terms"]:
                raise ValueError("one of va, vt, at must be above 0")
        shared = {k: values.pop(k) for k in ("temperature", "learn_temperature", "symmetric") if k in values}
        if shared:
            terms = values.get("terms", ["va", "vt"])
            values["terms"] = [_short(shared | _section(term)) for term in terms]
        return values

    @model_validator(mode="after")
    def _names_differ(self) -> "LossConfig":
        if not self.terms:
            raise ValueError("terms: at least one loss is needed")
        if twice := [name for name, count in Counter(self._names()).items() if count > 1]:
            raise ValueError(f"terms: several are called {', '.join(twice)}; set name")
        return self

    @property
    def named(self) -> dict[str, TermConfig]:
        """The terms by name."""
        return dict(zip(self._names(), self.terms, strict=True))

    def fed_by(self, modalities: Collection[str]) -> list[str]:
        """Names of the losses that a run with these inputs has."""
        return [name for name, term in self.named.items() if set(PAIRS[term.on]) <= set(modalities)]

    def _names(self) -> list[str]:
        on = Counter(term.on for term in self.terms)
        return [t.name or (t.on if on[t.on] == 1 else f"{t.kind}_{t.on}") for t in self.terms]
