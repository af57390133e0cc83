"""Scopes: at which parameters the losses' gradients are compared."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from harmonize_cli.errors import BadInput

NAMED = ("representation", "backbone", "all")


@dataclass(frozen=True, slots=True)
class Scope:
    """`representation`, `backbone`, `all`, or module path patterns (comma-separated, or a list).

    - representation: the cotangents of the pooled vectors that at least two losses reach;
    - backbone: the layers that every pooled vector passes through, so those that the modalities share;
    - all: every layer;
    - patterns: layers whose path matches, or lies below a match: `transformer`, `blocks.*.attention`.
    """

    name: str
    patterns: tuple[str, ...] = ()

    @classmethod
    def parse(cls, scope: str | Iterable[str]) -> "Scope":
        """From what a user writes."""
        if isinstance(scope, str) and scope in NAMED:
            return cls(scope)
        parts = scope.split(",") if isinstance(scope, str) else scope
        patterns = tuple(part.strip() for part in parts if part.strip())
        if not patterns:
            raise BadInput(f"scope: {scope!r} is empty; give one of {', '.join(NAMED)} or module paths")
        return cls(",".join(patterns), patterns)

    def choose(self, parts: Iterable[Collection[str]], known: Collection[str]) -> set[str]:
        """Names of the layers in scope. parts: the layers that each pooled vector passes through.

        Raises:
            BadInput: no layer is in scope.
        """
        layers: list[set[str]] = [set(part) for part in parts]
        called = set[str]().union(*layers)
        if self.patterns:
            chosen = {name for name in called if any(_below(name, pattern) for pattern in self.patterns)}
        elif self.name == "all":
            chosen = called
        else:
            chosen = set.intersection(*layers) if layers else set()
        if not chosen:
            raise BadInput(self._nothing(known))
        return chosen

    def covers(self, name: str) -> bool:
        """True where a layer of this name would have to be in scope."""
        return self.name == "all" or any(_below(name, pattern) for pattern in self.patterns)

    def _nothing(self, known: Collection[str]) -> str:
        tops = sorted({name.split(".")[0] for name in known if name})
        if self.patterns:
            return f"scope: no recorded layer matches {self.name!r}; top-level modules: {', '.join(tops)}"
        return (
            f"scope: no recorded layer for scope {self.name!r}. Run the encoder inside `with "
            "harmonizer.record():`; where the modalities share no layer, use scope representation, all or "
            f"module paths ({', '.join(tops)})"
        )


def _below(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))
