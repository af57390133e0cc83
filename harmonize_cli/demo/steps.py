"""Steps of the demo: real commands, each skipped once it is done with the same settings."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.files import read_json, sha256_json, write_json

JOURNAL = "steps.json"


@dataclass(frozen=True, slots=True)
class Step:
    """A command (without the leading `harmonize`) and the file that it leaves.

    depends: further values that its result depends on. resume: the command that goes on with what an
    interrupted one left, where that is another one; used if `started` exists.
    """

    name: str
    words: Sequence[str]
    result: Path
    depends: Sequence[Any] = ()
    resume: Sequence[str] = ()
    started: Path | None = None


@dataclass
class Journal:
    """What was done in a folder, with what settings, in how many seconds."""

    folder: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        """The journal of a folder, empty where there is none."""
        try:
            return cls(folder, read_json(folder / JOURNAL, dict[str, dict[str, Any]]))
        except BadInput:
            return cls(folder)

    def seconds(self, name: str) -> float:
        """How long a step took when it was made."""
        return float(self.done[name]["seconds"])

    def make(self, step: Step, before: str, say: Callable[[str], None]) -> str:
        """Make a step unless it was made already; `before` is the key of the step it builds on.

        Returns this step's key.

        Raises:
            HarmonizeError: the command failed; what it said stands above.
        """
        key = sha256_json([before, list(step.words), list(step.depends)])
        if self.done.get(step.name, {}).get("key") == key and step.result.exists():
            say(f"$ harmonize {shlex.join(step.words)}    # done before")
            return key
        resumed = step.started is not None and step.started.exists() and step.resume
        words = list(step.resume if resumed else step.words)
        say(f"$ harmonize {shlex.join(words)}")
        began = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", "harmonize_cli", *words], check=False).returncode
        if code or not step.result.exists():
            raise HarmonizeError(
                f"demo: step {step.name} failed (exit code {code}); its message stands above. "
                "Call the demo again to go on from here, or with --overwrite to start anew"
            )
        self.done[step.name] = {"key": key, "seconds": round(time.perf_counter() - began, 2)}
        write_json(self.folder / JOURNAL, self.done)
        return key
