"""Which checkpoints a run folder has. Without torch, so that `harmonize runs` is fast."""

import re
from pathlib import Path

MANIFEST = "manifest.json"


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoint folders, oldest first."""
    folders = [path.parent for path in (run / "checkpoints").glob(f"step-*/{MANIFEST}")]
    named = [path for path in folders if re.fullmatch(r"step-\d{1,18}", path.name)]
    return sorted(named, key=step_of)


def step_of(folder: Path) -> int:
    """The step that a checkpoint folder is named by."""
    return int(folder.name.removeprefix("step-"))
