"""`harmonize demo make-data`: the whole dialpad data set in a folder."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from harmonize_cli.demo.captions import manifest_lines, truth_lines, webvtt
from harmonize_cli.demo.movie import make_movie
from harmonize_cli.demo.numbers import load_scans
from harmonize_cli.demo.schedule import FilePlan, plan_files
from harmonize_cli.demo.settings import DialpadSettings
from harmonize_cli.errors import BadInput
from harmonize_cli.files import write_json, write_text
from harmonize_cli.progress import progress

MANIFEST = "manifest.jsonl"
TRUTH = "truth.jsonl"
SETTINGS = "dialpad.json"
FORMAT = 1  # raise it when the same settings give other data


@dataclass(frozen=True)
class DialpadReport:
    """What a folder holds."""

    files: int
    clips: int
    hours: float
    made: int
    """Files written now; the others were there already."""


def make_data(out: Path, settings: DialpadSettings, *, jobs: int = 2) -> DialpadReport:
    """Write videos, WebVTT, manifest and truth under `out`; what an interrupted run left is kept.

    The manifest is written last: a folder with a manifest is complete.

    Raises:
        BadInput: `out` holds a data set of other settings, or something else.
    """
    wanted = {"format": FORMAT, **settings.model_dump(mode="json")}
    _claim(out, wanted)
    scans = load_scans(settings.seed)
    files = plan_files(settings, scans)
    missing = [file for file in files if not (out / "videos" / f"{file.name}.mp4").exists()]
    bar: tqdm[object] = progress(desc="dialpad", total=len(missing), unit="file")
    context = multiprocessing.get_context("spawn")  # the parent may hold threads of other libraries
    with bar, ProcessPoolExecutor(max(1, min(jobs, len(missing))), context) as pool:
        parts = [missing[i :: max(1, 4 * jobs)] for i in range(4 * jobs)]
        tasks = [pool.submit(_make_files, part, settings, out) for part in parts if part]
        for task in as_completed(tasks):
            bar.update(task.result())
    write_text(out / TRUTH, truth_lines(files, settings))
    write_text(out / MANIFEST, manifest_lines(files, settings))
    return DialpadReport(
        files=len(files),
        clips=sum(len(file.segments) for file in files),
        hours=sum(file.frames for file in files) / settings.frame_rate / 3600,
        made=len(missing),
    )


def _claim(out: Path, wanted: dict[str, object]) -> None:
    """Make `out` ours, or say why it can't be."""
    marker = out / SETTINGS
    if marker.exists():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != wanted:
            differing = sorted(k for k in wanted if not isinstance(found, dict) or found.get(k) != wanted[k])
            raise BadInput(
                f"{marker}: this folder holds a data set of other settings (differs in: "
                f"{', '.join(differing)}); choose another folder, or remove this one"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: exists and is no dialpad data set; choose a new or empty folder")
    else:
        write_json(marker, wanted)


def _make_files(files: list[FilePlan], settings: DialpadSettings, out: Path) -> int:
    """Runs in a worker process."""
    scans = load_scans(settings.seed)
    for file in files:
        write_text(out / "videos" / f"{file.name}.vtt", webvtt(file, settings))
        make_movie(file, settings, scans.pixels, out / "videos" / f"{file.name}.mp4")
    return len(files)
