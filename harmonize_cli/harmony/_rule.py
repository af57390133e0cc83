"""What a rule is, and how one is found by its name.

A rule takes the Gram matrices over a sample's losses, [B, K, K] with gram[i, k, l] = <g[k, i], g[l, i]>, and
gives the weights [B, K] of its gradients; the update is sum_i sum_k weights[i, k] g[k, i].
"""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Self, TypeVar, cast

from torch import Tensor

from harmonize_cli.errors import BadInput

Weigh = Callable[[Tensor], Tensor]
ENTRY_POINTS = "harmonize.rules"
METHODS = ("observe", "state_dict", "load_state_dict")


class Rule(ABC):
    """Base class of all rules; `register_rule("name")` makes one known by name.

    The engine calls the rule once per step (with cached chunks: once per chunk) on the Gram matrices of the
    units of all ranks, then `observe`. A rule with a state keeps it in `state_dict`, which goes into
    checkpoints; it must follow from what it observed alone, so that it is the same on all ranks.
    """

    name: str = ""
    """As registered; in error messages."""
    values: ClassVar[str] = ""
    """What may follow the name and a colon, such as `RADIUS`."""

    @abstractmethod
    def __call__(self, gram: Tensor) -> Tensor:
        """Weights [B, K] from gram [B, K, K]."""

    def observe(self, cosine: Tensor) -> None:
        """After each step: the smallest cosine between two losses of each unit of all ranks, [B] with NaN."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold; empty for a rule without a state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        return

    @classmethod
    def from_text(cls, *values: str) -> Self:
        """From what follows the name, split at colons: numbers, in the order of `__init__`'s arguments.

        Raises:
            ValueError: not a number, or out of range.
            TypeError: too many values, or too few.
        """
        inspect.signature(cls).bind(*values)
        return cls(*(float(value) for value in values))


class FunctionRule(Rule):
    """A plain function gram [B, K, K] -> weights [B, K] as a rule.

    Where it has some of a rule's methods (a `torch.nn.Module` has a state_dict), these are used.
    """

    def __init__(self, function: Weigh) -> None:
        self.function = function
        for method in METHODS:
            if hasattr(function, method):
                setattr(self, method, getattr(function, method))

    def __call__(self, gram: Tensor) -> Tensor:
        """The function's weights."""
        return self.function(gram)


class _Rules(Mapping[str, Callable[..., Any]]):
    """Rules by name: ours, registered ones, and those of installed packages (entry points)."""

    def __init__(self) -> None:
        self._known: dict[str, Callable[..., Any]] = {}
        self._searched = False
        self.broken: dict[str, str] = {}

    def add(self, name: str, rule: Callable[..., Any]) -> None:
        if not name or ":" in name:
            raise ValueError(f"rule {name!r}: a name without a colon is expected")
        if name in self._known:
            raise ValueError(f"rule {name!r} is registered twice; choose another name")
        if inspect.isclass(rule) and issubclass(rule, Rule):
            rule.name = name
        elif inspect.isclass(rule) or not callable(rule):
            raise TypeError(f"rule {name!r}: expected a subclass of Rule or a function, got {rule!r}")
        self._known[name] = rule

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in self._known:
            self._search()
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        self._search()
        return iter(self._known)

    def __len__(self) -> int:
        self._search()
        return len(self._known)

    def _search(self) -> None:
        if self._searched:
            return
        self._searched = True
        for point in entry_points(group=ENTRY_POINTS):
            try:
                self._load(point)
            except Exception as e:  # whatever a foreign package raises must not take our rules away
                package = point.dist.name if point.dist is not None else "unknown"
                self.broken[point.name] = f"{package}: {e!r}"
                warnings.warn(
                    f"rule {point.name!r} of the installed package {package} is skipped: {e!r}", stacklevel=4
                )

    def _load(self, point: EntryPoint) -> None:
        found = point.load()
        if inspect.ismodule(found) or self._known.get(point.name) is found:
            return  # the package registers its rules itself
        self.add(point.name, found)


RULES = _Rules()
"""Rules by name; `make_rule` makes one."""

RuleT = TypeVar("RuleT", bound=Callable[..., Any])


def register_rule(name: str) -> Callable[[RuleT], RuleT]:
    """Decorator: a subclass of `Rule`, or a plain function gram -> weights, becomes the rule `name`.

    Raises:
        ValueError: the name is taken, or has a colon.
        TypeError: something else.
    """

    def put(rule: RuleT) -> RuleT:
        RULES.add(name, rule)
        return rule

    return put


def make_rule(rule: str | Weigh) -> Rule:
    """A rule by name, such as `realign`, `gradvac:0.1`, `gradvac:ema:0.05`, `cagrad:0.4`, `torchjd:UPGrad`.

    A `Rule` comes back as it is; a plain function gram -> weights and a TorchJD weighting become rules.

    Raises:
        BadInput: an unknown name, or a value that the rule does not take.
    """
    if not isinstance(rule, str):
        return _as_rule(rule)
    name, *values = rule.split(":")
    if name not in RULES:
        raise BadInput(f"rule: {rule!r} is unknown; choose one of {', '.join(RULES)}")
    found = RULES[name]
    if not inspect.isclass(found):
        if values:
            raise BadInput(f"rule: {rule!r}: {name} takes no value")
        return _as_rule(found)
    try:
        made: Rule = found.from_text(*values)  # type: ignore[attr-defined]
    except (ValueError, TypeError) as e:
        usage = f"{name}:{found.values}" if found.values else f"{name} without a value"  # type: ignore[attr-defined]
        raise BadInput(f"rule: {rule!r}: {e}; expected {usage}") from None
    return made


def _as_rule(rule: Weigh) -> Rule:
    if not callable(rule) or inspect.isclass(rule):
        raise BadInput(
            f"rule: {rule!r}: expected a name, a rule, or a function gram [B, K, K] -> weights [B, K]"
        )
    if any(kind.__module__.partition(".")[0] == "torchjd" for kind in type(rule).__mro__):
        return cast(Rule, RULES["torchjd"](rule))
    if all(hasattr(rule, method) for method in METHODS):
        return cast(Rule, rule)
    return FunctionRule(rule)
