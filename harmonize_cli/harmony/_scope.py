"""What is compared: the parameters in scope, and the units that get a weight of their own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

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


@dataclass(frozen=True, slots=True)
class Granularity:
    """`sample`, `microbatch:N` (N neighbours in the batch) or `batch` (classic PCGrad).

    Weights of samples and microbatches are local to a rank; those of `batch` come from the gradients summed
    over all ranks.
    """

    share: int
    """Samples per unit; 0 for the whole batch."""

    @classmethod
    def parse(cls, text: str) -> "Granularity":
        """From what a user writes."""
        kind, _, number = text.partition(":")
        if kind == "sample" and not number:
            return cls(1)
        if kind == "batch" and not number:
            return cls(0)
        if kind == "microbatch" and number.isdecimal() and int(number) > 0:
            return cls(int(number))
        raise BadInput(f"granularity: {text!r}; choose sample, microbatch:N (such as microbatch:8) or batch")

    @property
    def whole(self) -> bool:
        """One unit for the batches of all ranks."""
        return self.share == 0

    def units(self, samples: int) -> int:
        """Units in a batch of `samples` on this rank."""
        if self.whole:
            return 1
        if samples % self.share:
            raise BadInput(f"granularity: microbatches of {self.share} don't divide a batch of {samples}")
        return samples // self.share


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the samples lie in a tensor: along `axis`, of size outer x samples x inner.

    Batch-first is axis 0 with outer = 1; sequence-first axis 1; a flattened [T, B] axis 0 with outer = T.
    """

    axis: int = 0
    outer: int = 1

    def split(self, t: Tensor, units: int) -> Tensor:
        """[..., outer * U * n, ...] -> [U, ..., outer * n, ...]: the rows of each unit, in order."""
        if self.axis == 0 and self.outer == 1:
            return t.reshape(units, t.shape[0] // units, *t.shape[1:])
        before, after = t.shape[: self.axis], t.shape[self.axis + 1 :]
        rows = t.reshape(*before, self.outer, units, -1, *after).movedim(self.axis + 1, 0)
        return rows.flatten(1 + self.axis, 2 + self.axis)

    def scale(self, t: Tensor, weights: Tensor) -> Tensor:
        """t with the rows of sample or unit i times weights[i]; a new tensor."""
        inner = t.shape[self.axis] // (self.outer * len(weights))
        rows = weights.to(t.dtype).repeat_interleave(inner).repeat(self.outer)
        return t * rows.view(-1, *[1] * (t.dim() - 1 - self.axis))


def any_in_unit(flags: Tensor, units: int) -> Tensor:
    """[B] -> [U] True where any sample of the unit is."""
    return flags.view(units, -1).any(1)


def spread(of_units: Tensor, samples: int) -> Tensor:
    """[U, ...] -> [B, ...], each unit's row for each of its samples."""
    return of_units.repeat_interleave(samples // len(of_units), dim=0)


def sum_units(of_samples: Tensor, units: int) -> Tensor:
    """[B, ...] -> [U, ...]"""
    return torch.stack([part.sum(0) for part in of_samples.chunk(units)])
