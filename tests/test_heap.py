"""What the process keeps between steps."""

import os
import subprocess
import sys

import pytest

from harmonize_cli.heap import keep_freed_memory

STEPS = """
import resource, sys
import torch
from harmonize_cli.heap import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(10):
    if step == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(100_000) for _ in range(400)]  # 160 MB
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    # a fixed limit: what glibc hands back by itself depends on what happens to lie at the heap's end
    handed_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", STEPS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=handed_back)
    return int(done.stdout)


def test_freed_memory_is_there_for_the_next_step():
    if not keep_freed_memory():
        pytest.skip("not on glibc")
    # each page of 4 KiB that is handed back and asked for again is a fault
    assert faults("keep") < 1000 < faults("default")
