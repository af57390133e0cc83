"""Counting what became of the samples, and the line that says so."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from harmonize_cli.store.schema import Sample, Status


@dataclass(slots=True)
class Counts:
    """Samples by modality and status. Adds up over units and workers."""

    samples: int = 0
    failed: int = 0
    """Samples of which at least one modality failed."""
    seconds: float = 0.0
    """Length of the segments, as far as known."""
    by_status: Counter[tuple[str, int]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        self.samples += 1
        self.failed += Status.FAILED in sample.status.values()
        self.seconds += (sample.end - sample.start) if sample.end is not None else 0.0
        for modality, status in sample.status.items():
            self.by_status[modality, int(status)] += 1
            if status == Status.FAILED:
                self.reasons[f"{modality}: {sample.reason.get(modality, '')}"] += 1

    def merge(self, other: "Counts") -> None:
        """Add the counts of another unit."""
        self.samples += other.samples
        self.failed += other.failed
        self.seconds += other.seconds
        self.by_status += other.by_status
        self.reasons += other.reasons

    def of(self, modality: str, status: Status) -> int:
        """Samples whose `modality` has `status`."""
        return self.by_status[modality, int(status)]


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """What a run did. `counts` are of this run; `skipped` samples were there already, `failed_before` of all
    that were there and were not tried again had failed."""

    out: Path
    counts: Counts
    skipped: int
    wall: float
    expected: int
    failed_before: int = 0

    @property
    def samples(self) -> int:
        """Samples of this run and those that were there."""
        return self.counts.samples + self.skipped

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return self.counts.failed + self.failed_before

    def line(self) -> str:
        """The one line at the end."""
        modalities = sorted({m for m, _ in self.counts.by_status})
        parts = []
        for modality in modalities:
            found = [(s, self.counts.of(modality, s)) for s in Status]
            parts.append(f"{modality} " + ", ".join(f"{n} {s.name.lower()}" for s, n in found if n))
        rate = self.counts.samples / self.wall if self.wall else 0.0
        head = f"{self.counts.samples} of {self.expected} samples extracted"
        if self.skipped:
            head += f", {self.skipped} were there"
        text = "; ".join([head, *parts])
        return (
            f"{text}; {self.counts.failed} failed; {rate:.1f} clips/s, {self.wall:.1f} s; store: {self.out}"
        )
