"""What the benchmarks share: interleaved runs, ratios, a command line that prints and keeps the figures.

A benchmark is a function whose keyword arguments become options with their defaults,
`--json FILE` beside them.
"""

import argparse
import inspect
import statistics
import time
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonize_cli.errors import HarmonizeError
from harmonize_cli.files import write_json
from harmonize_cli.progress import progress

Row = dict[str, Any]
"""name, value, unit, ratio: the ratio is to the plain way of the same round, None where there is none."""


def row(name: str, value: float, unit: str = "", ratio: float | None = None, **more: Any) -> Row:
    """One figure."""
    return {"name": name, "value": value, "unit": unit, "ratio": ratio, **more}


def seconds(work: Callable[[], object], device: Any = "cpu") -> float:
    """How long `work` takes, with the device's queue empty before and after."""
    wait: Callable[[], object] = lambda: None  # noqa: E731
    if str(device).startswith("cuda"):
        import torch

        wait = lambda: torch.cuda.synchronize(device)  # noqa: E731
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def interleaved(
    ways: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 1,
    budget: float = 0.0,
    warm: int = 0,
    clock: Callable[[Callable[[], Any]], float] = seconds,
) -> dict[str, list[float]]:
    """Seconds of every way and round, the ways in turn, so that a slow spell of the machine meets all.

    After `rounds` rounds it goes on until `budget` seconds are over; `warm` rounds before are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    done, end = -warm, float("inf")
    with progress(desc="rounds", total=rounds + warm) as bar:
        while done < rounds or time.perf_counter() < end:
            if done == 0:
                end = time.perf_counter() + budget
            for name, way in ways.items():
                took = clock(way)
                if done >= 0:
                    times[name].append(took)
            done += 1
            bar.update()
    return times


def ratio(times: Sequence[float], plain: Sequence[float]) -> float:
    """Median over the rounds of time over the plain way's time."""
    return statistics.median(a / b for a, b in zip(times, plain, strict=True))


def show_rows(rows: Iterable[Row]) -> list[Row]:
    """Print each row as soon as it is there."""
    kept = []
    for each in rows:
        beside = f"  {each['ratio']:.3f}" if each["ratio"] is not None else ""
        print(f"{each['name']:<64} {each['value']:>10.3f} {each['unit']:<5}{beside}", flush=True)
        kept.append(each)
    return kept


def run(
    bench: Callable[..., Any], arguments: Sequence[str] | None = None, show: Callable[[Any], Any] = show_rows
) -> None:
    """Call `bench` with the options of the command line, print what it finds, write it to --json."""
    parser = argparse.ArgumentParser(
        description=bench.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    hints = typing.get_type_hints(bench)
    for name, parameter in inspect.signature(bench).parameters.items():
        kind = next(k for k in (typing.get_args(hints[name]) or (hints[name],)) if k is not type(None))
        choices = typing.get_args(hints[name]) if isinstance(kind, str) else None
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=parameter.default,
            type=kind if isinstance(kind, type) else str,
            choices=choices,
            help=" ",
        )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = vars(parser.parse_args(arguments))
    file = options.pop("json")
    try:
        found = show(bench(**options))
    except HarmonizeError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    if file:
        write_json(file, found)
