"""`harmonize demo make-data`: the whole dialpad data set in a folder."""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from harmonize_cli.demo.captions import manifest_lines, truth_lines, webvtt
from harmonize_cli.demo.movie import make_movie
from harmonize_cli.demo.numbers import load_scans
from harmonize_cli.demo.schedule import FilePlan, plan_files
from harmonize_cli.demo.settings import DialpadSettings
from harmonize_cli.errors import BadInput
from harmonize_cli.files import read_json, write_json, write_text
from harmonize_cli.locks import is_lock, one_writer
from harmonize_cli.processes import in_processes
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


@one_writer("out")
def make_data(out: Path, settings: DialpadSettings, *, jobs: int = 2) -> DialpadReport:
    """Write videos, WebVTT, manifest and truth under `out`; what an interrupted run left is kept.

    The manifest is written last: a folder with a manifest is complete.

    Raises:
        BadInput: `out` holds a data set of other settings, or something else, or another process fills it.
    """
    wanted = {"format": FORMAT, **settings.model_dump(mode="json")}
    _claim(out, wanted)
    scans = load_scans(settings.seed)
    files = plan_files(settings, scans)
    missing = [file for file in files if not (out / "videos" / f"{file.name}.mp4").exists()]
    bar: tqdm[object] = progress(desc="dialpad", total=len(missing), unit="file")
    make = partial(_make_file, settings, out)
    with bar:
        for _ in in_processes(make, missing, jobs, killed="run the same command again; made files are kept"):
            bar.update()
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
        found = read_json(marker, dict[str, Any], hint="choose another folder")
        if found != wanted:
            differing = sorted(k for k in wanted if found.get(k) != wanted[k])
            raise BadInput(
                f"{marker}: this folder holds a data set of other settings (differs in: "
                f"{', '.join(differing)}); choose another folder, or remove this one"
            )
    elif out.exists() and (not out.is_dir() or not all(map(is_lock, out.iterdir()))):
        raise BadInput(f"{out}: exists and is no dialpad data set; choose a new or empty folder")
    else:
        write_json(marker, wanted)


_scans = cache(load_scans)


def _make_file(settings: DialpadSettings, out: Path, file: FilePlan) -> None:
    """Runs in a worker process."""
    write_text(out / "videos" / f"{file.name}.vtt", webvtt(file, settings))
    make_movie(file, settings, _scans(settings.seed).pixels, out / "videos" / f"{file.name}.mp4")
