"""What the process keeps between steps."""

import subprocess
import sys

import pytest

from harmonize_cli.heap import keep_freed_memory

STEPS = """
import resource, sys
import torch
from harmonize_cli.heap import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no glibc")
for step in range(10):
    if step == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(100_000) for _ in range(400)]  # 160 MB
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", STEPS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_freed_memory_is_there_for_the_next_step():
    if sys.platform != "linux":
        pytest.skip("the heap of glibc")
    # each page of 4 KiB that is handed back and asked for again is a fault
    assert faults("keep") < 1000 < faults("default")


def test_says_whether_it_could():
    assert keep_freed_memory() in (True, False)
