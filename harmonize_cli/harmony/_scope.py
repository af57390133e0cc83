"""Scopes: at which parameters the losses' gradients are compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from harmonize_cli.errors import BadInput

NAMED = ("auto", "representation", "backbone", "shared", "all")


@dataclass(frozen=True, slots=True)
class Scope:
    """A name, or module path patterns (comma-separated, or a list).

    - representation: the cotangents of the pooled vectors that at least two losses reach;
    - backbone: the parameters that every pooled vector depends on, so those that the modalities share;
    - shared: the parameters that at least two losses reach, whatever the modality;
    - auto: backbone, or shared in a model whose modalities have no parameter in common;
    - all: every parameter;
    - patterns: parameters whose path matches, or lies below a match: `transformer`, `blocks.*.attention`.

    In a step that only one loss reaches, such as a batch without text, what two losses reach is what that one
    reaches: there is nothing to compare, and the step is a plain one.
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

    def choose(
        self, leaves: Sequence[set[int]], losses: Sequence[set[int]], names: Mapping[int, Sequence[str]]
    ) -> tuple[str, set[int]]:
        """The scope's name (`auto` resolved) and the ids of the parameters in it.

        leaves: per pooled vector, ids of the parameters that it depends on. losses: per pooled vector, the
        losses that reach it. names: per parameter id, its paths.

        Raises:
            BadInput: no parameter is in scope.
        """
        leaves = [found & names.keys() for found in leaves]
        reached = [found for found, by in zip(leaves, losses, strict=True) if by]
        every = set[int]().union(*reached)
        common = set.intersection(*leaves) & every if leaves else set()
        alone = len(set[int]().union(*losses)) < 2
        if self.patterns:
            chosen = {i for i in every if any(self._matches(name) for name in names[i])}
            absent = alone and any(self._matches(name) for of in names.values() for name in of)
            return self.name, chosen if chosen or absent else self._nothing(names)
        if self.name == "all":
            return "all", every or self._nothing(names)
        if self.name == "backbone" or (self.name == "auto" and common):
            return "backbone", common or self._nothing(names)
        by_loss = {
            i: set[int]().union(*(by for found, by in zip(leaves, losses, strict=True) if i in found))
            for i in every
        }
        shared = {i for i, by in by_loss.items() if len(by) > 1 or alone}
        return "shared", shared or self._nothing(names)

    def _matches(self, name: str) -> bool:
        parts = name.split(".")
        return any(
            fnmatchcase(".".join(parts[:n]), pattern)
            for n in range(1, len(parts) + 1)
            for pattern in self.patterns
        )

    def _nothing(self, names: Mapping[int, Sequence[str]]) -> set[int]:
        tops = ", ".join(sorted({name.split(".")[0] for of in names.values() for name in of}))
        if self.patterns:
            raise BadInput(f"scope: no trained parameter matches {self.name!r}; top-level modules: {tops}")
        if self.name == "backbone":
            raise BadInput(
                "scope backbone is empty: no parameter is passed by every pooled vector, as with separate "
                "towers. Use scope shared (the parameters that at least two losses reach), "
                "representation, all, or "
                f"module paths ({tops})"
            )
        raise BadInput(
            f"scope {self.name}: no parameter is reached by two losses, so nothing can be compared; make two "
            f"losses read one pooled vector, or use scope all or module paths ({tops})"
        )
