"""Started by tests in processes of its own: a run that may kill itself.

python run_worker.py STORE RUN CONFIG.json|resume [--kill-at STEP | --kill-after SECONDS | --slow-flush]
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.ranks import rank
from harmonize_cli.training.config import PretrainConfig


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt:
    """A recorder that ends the process, without any goodbye, inside step `step`."""

    def __init__(self, step: int) -> None:
        self.step = step

    def record(self, step, epoch, batch, terms, report) -> None:
        if step == self.step:
            die()

    def flush(self, step) -> None: ...

    def rewind(self, step) -> None: ...


class SlowFlush:
    """A recorder that takes a second to bring its records to the disk, on the second rank."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def record(self, step, epoch, batch, terms, report) -> None: ...

    def flush(self, step) -> None:
        if rank() == 1:
            time.sleep(1)
            (self.run / "flushed").touch()

    def rewind(self, step) -> None: ...


if __name__ == "__main__":
    torch.set_num_threads(1)
    store, run, config = sys.argv[1:4]
    recorders = []
    if "--kill-at" in sys.argv:
        recorders = [KillAt(int(sys.argv[sys.argv.index("--kill-at") + 1]))]
    if "--slow-flush" in sys.argv:
        recorders = [SlowFlush(Path(run))]
    if "--kill-after" in sys.argv:
        seconds = float(sys.argv[sys.argv.index("--kill-after") + 1])
        # the clock starts with training, not with the imports
        threading.Timer(seconds, die).start()
    settings = (
        None if config == "resume" else PretrainConfig.model_validate(json.loads(Path(config).read_text()))
    )
    pretrain(Path(store), Path(run), settings, recorders=recorders)
