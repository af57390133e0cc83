"""Noise indicators, one small file each: a number per sample, and the end of it that speaks of misalignment.

    @indicator("words", noisy="low", about="words of the caption", modalities=("text",))
    def words(view: BatchView) -> Tensor:            # [B]
        return (view.batch.inputs["text"] != 0).sum((1, 2)).float()

An indicator becomes one column of the scores, or one for each loss, pair of modalities or scope of a run. A
column is NaN for samples that lack a modality it needs, whatever the function returned for them; the function
itself returns NaN where it is not defined (a zero gradient). Indicators of installed packages come from the
entry points `harmonize.indicators`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from harmonize_cli.objectives.config import PAIRS, SPACES, LossConfig
from harmonize_cli.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from harmonize_cli.curriculum.view import BatchView

End = Literal["high", "low"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the scores. modalities: those that a sample needs for it; scope: of its gradients."""

    name: str
    kind: "Indicator"
    modalities: tuple[str, ...]
    scope: str
    about: str
    costly: bool
    compute: "Callable[[BatchView], Tensor]"

    @property
    def noisy(self) -> End:
        """The end that speaks of a misaligned sample."""
        return self.kind.noisy

    def measure(self, view: "BatchView") -> "Tensor":
        """[B]; NaN where the sample lacks a modality that is needed."""
        value: Tensor = self.compute(view).masked_fill(~view.has(self.modalities), float("nan"))
        return value


@dataclass(frozen=True, slots=True)
class Indicator:
    """A kind of indicator; the fields are those of `indicator`."""

    name: str
    noisy: End
    about: str
    function: "Callable[..., Tensor]"
    each: Literal["", "loss", "pair", "losses"]
    scopes: tuple[str, ...]
    costly: tuple[str, ...]
    needs: Literal["", "bank", "agreement"]
    modalities: tuple[str, ...]
    online: bool

    def columns(self, losses: Mapping[str, str]) -> Iterator[Column]:
        """The columns for a run with these losses: name -> the modalities that it compares, as in va, vt."""
        choices: dict[str, list[dict[str, str]]] = {
            "": [{}],
            "loss": [{name: on} for name, on in losses.items()],
            "pair": [{pair: pair} for pair in _pairs(losses)],
            "losses": [dict(losses)] if len(losses) > 1 else [],
        }
        for scope in self.scopes or ("",):
            for chosen in choices[self.each]:
                only = next(iter(chosen)) if self.each in ("loss", "pair") else ""
                arguments = {self.each: only} if only else {}
                yield Column(
                    "_".join(filter(None, (self.name, only, scope))),
                    self,
                    (*self.modalities, *dict.fromkeys(m for on in chosen.values() for m in PAIRS[on])),
                    scope,
                    self.about.format(" and ".join(chosen)) + (f" at scope {scope}" if scope else ""),
                    scope in self.costly,
                    partial(self.function, **arguments, **({"scope": scope} if scope else {})),
                )


INDICATORS: Registry[Indicator] = Registry("indicator", group="harmonize.indicators", package=__name__)


def indicator(
    name: str,
    *,
    noisy: End,
    about: str,
    each: Literal["", "loss", "pair", "losses"] = "",
    scopes: tuple[str, ...] = (),
    costly: tuple[str, ...] = (),
    needs: Literal["", "bank", "agreement"] = "",
    modalities: tuple[str, ...] = (),
    online: bool | None = None,
) -> "Callable[[Callable[..., Tensor]], Indicator]":
    """Decorator: a function `(view) -> [B]` becomes the indicator `name`.

    Args:
        noisy: the end of the values that speaks of a misaligned sample.
        about: one line; `{}` is replaced by the losses or the pair.
        each: one column per "loss" of the run (the function also takes `loss`), per "pair" of modalities that
            its embeddings compare (`pair`), one over all "losses" where it has several, or a single one.
        scopes: one column per scope (`scope`) at which per-sample Gram matrices are taken: `view.grams`.
        costly: scopes whose columns are made only where they are asked for by name.
        needs: "bank" (embeddings of a part of the store) or "agreement" (with the batch's gradient).
        modalities: what a sample must have, beside both sides of the pair.
        online: whether a gate in training can look at it; default: it needs embeddings and losses alone.
    """
    able = not scopes and not needs if online is None else online

    def keep(function: "Callable[..., Tensor]") -> Indicator:
        made = Indicator(name, noisy, about, function, each, scopes, costly, needs, modalities, able)
        INDICATORS.add(name, made)
        return made

    return keep


def columns_of(losses: Mapping[str, str]) -> dict[str, Column]:
    """Every column that a run with these losses allows, by name."""
    found = (column for kind in INDICATORS.values() for column in kind.columns(losses))
    return {column.name: column for column in found}


def compared(config: LossConfig, modalities: Collection[str]) -> dict[str, str]:
    """The losses of a run that these modalities feed, with what each compares."""
    return {name: config.named[name].on for name in config.fed_by(modalities)}


def _pairs(losses: Mapping[str, str]) -> list[str]:
    """The pairs whose embeddings these losses train; audio and text through the video, too."""
    trained = [set(SPACES[on]) for on in losses.values()]
    pairs = [on for on in PAIRS if len(on) == 2 and any(set(SPACES[on]) <= spaces for spaces in trained)]
    return [*pairs, *(["at"] if {"va", "vt"} <= set(pairs) and "at" not in pairs else [])]
