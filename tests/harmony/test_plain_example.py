"""The example for plain PyTorch models runs and learns."""

import runpy
from pathlib import Path


def test_the_example_learns() -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "plain_pytorch.py"))
    accuracy, conflict = example["main"](steps=60)
    assert accuracy > 0.6
    assert 0 <= conflict <= 1
