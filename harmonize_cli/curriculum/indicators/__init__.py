"""Noise indicators, one small file each: a number per sample, and the end of it that speaks of misalignment.

    @indicator("words", noisy="low", about="words of the caption", modalities=("text",))
    def words(view: BatchView) -> Tensor:            # [B]
        return (view.batch.inputs["text"] != 0).sum((1, 2)).float()

An indicator becomes one column of the scores, or one for each loss, pair of modalities or scope of a run. A
column is NaN for samples that lack a modality it needs, whatever the function returned for them; the function
itself returns NaN where it is not defined (a zero gradient). Indicators of installed packages come from the
entry points `harmonize.indicators`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from harmonize_cli.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from harmonize_cli.curriculum.view import BatchView

End = Literal["high", "low"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the scores. losses: those (or pairs) that it compares; scope: of its gradients."""

    name: str
    kind: "Indicator"
    losses: tuple[str, ...]
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
        ok = view.has(self.kind.modalities)
        for loss in self.losses:
            ok = ok & view.valid(loss)
        value: Tensor = self.compute(view).masked_fill(~ok, float("nan"))
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

    def columns(self, losses: Sequence[str], pairs: Sequence[str]) -> Iterator[Column]:
        """The columns for a run with these losses, whose embeddings allow to compare these pairs."""
        choices: dict[str, list[tuple[str, ...]]] = {
            "": [()],
            "loss": [(loss,) for loss in losses],
            "pair": [(pair,) for pair in pairs],
            "losses": [tuple(losses)] if len(losses) > 1 else [],
        }
        for scope in self.scopes or ("",):
            for compared in choices[self.each]:
                shown = compared if len(compared) == 1 else ()
                about = self.about.format(" and ".join(compared)) + (f" at scope {scope}" if scope else "")
                compute = partial(self.function, **({"scope": scope} if scope else {}))
                if shown:
                    compute = partial(compute, **{"loss" if self.each == "loss" else "pair": shown[0]})
                name = "_".join((self.name, *shown, *([scope] if scope else [])))
                yield Column(name, self, compared, scope, about, scope in self.costly, compute)


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


def columns_of(losses: Sequence[str]) -> dict[str, Column]:
    """Every column that a run with these losses allows, by name.

    Video is the hub of VATT's embeddings: what is compared with it can be compared with each other, too.
    """
    pairs = [*losses, *(["at"] if {"va", "vt"} <= set(losses) and "at" not in losses else [])]
    found = (column for kind in INDICATORS.values() for column in kind.columns(losses, pairs))
    return {column.name: column for column in found}
