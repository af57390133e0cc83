"""What this machine has for the work, what it lacks, and how to mend that."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harmonize_cli.errors import HarmonizeError
from harmonize_cli.media.binary import FFmpeg, find_ffmpeg
from harmonize_cli.media.run import Running

PACKAGES = (
    "harmonize-cli", "torch", "torchaudio", "torchvision", "open_clip_torch", "numpy", "h5py",
    "ffmpeg-python", "imageio-ffmpeg", "pydantic", "safetensors", "scikit-learn",
)  # fmt: skip
# module, extra, what for
EXTRAS = (
    ("pyarrow", "parquet", "Parquet manifests, ledgers and exports"),
    ("av", "pyav", "a decoder inside the process (extract --decoder pyav)"),
    ("torchcodec", "torchcodec", "decoding pictures on a GPU (extract --decoder torchcodec)"),
    ("ray", "ray", "extraction on a cluster (--engine ray)"),
    ("tensorboard", "tensorboard", "event files beside metrics.jsonl"),
    ("torchjd", "torchjd", "rules `torchjd:...` and the comparison in `make bench-harmony`"),
)
DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "aac", "mp3", "opus", "vorbis", "flac")
ENCODERS = ("libx264", "aac")
_LOW_DISK = 10 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `fix` is empty where nothing is missing."""

    name: str
    value: str
    fix: str = ""


def examine(folder: Path) -> list[Finding]:
    """Everything that `harmonize doctor` tells. Never fails: what can't be found out is a finding."""
    return [*_versions(), *_ffmpeg(), *_devices(), *_machine(folder), *_extras()]


def _versions() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} ({platform.platform()})")
    for name in PACKAGES:
        try:
            yield Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(
                name, "not installed", "pip install harmonize-cli again, its dependencies are incomplete"
            )


def _ffmpeg() -> Iterator[Finding]:
    try:
        found = find_ffmpeg()
    except HarmonizeError as e:
        yield Finding("ffmpeg", "none", str(e))
        return
    yield Finding("ffmpeg", f"{found.version} ({found.source}: {found.path})")
    for flag, wanted in (("-decoders", DECODERS), ("-encoders", ENCODERS)):
        listed = _listed(found, flag)
        lacking = [name for name in wanted if not _has(listed, name)]
        fix = (
            f"this ffmpeg lacks {', '.join(lacking)}; install a full build, or unset the system's"
            if lacking
            else ""
        )
        have = [name for name in wanted if name not in lacking]
        yield Finding(f"ffmpeg {flag[1:]}", " ".join(have), fix)


def _listed(ffmpeg: FFmpeg, flag: str) -> set[str]:
    try:
        with Running([ffmpeg.path, "-hide_banner", flag], deadline=30) as running:
            lines = running.stdout.read().decode(errors="replace").splitlines()
            running.wait()
    except HarmonizeError:
        return set()
    return {parts[1] for line in lines if len(parts := line.split()) > 1}


def _has(listed: set[str], codec: str) -> bool:
    return codec in listed or any(name.startswith(("lib", codec)) and codec in name for name in listed)


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as e:
        yield Finding(
            "torch import", f"fails: {e}", "install torch, torchvision and torchaudio of one family"
        )
        return
    for name in ("torchaudio", "torchvision"):
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as e:
            fix = "install torch, torchvision and torchaudio of one family (torch 2.11 or 2.12)"
            yield Finding(f"{name} import", f"fails: {e}", fix)
    yield Finding("CUDA of torch", torch.version.cuda or "none (CPU build)")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        yield Finding("GPU", "none; training and open_clip run on the CPU")
    for i in range(count):
        properties = torch.cuda.get_device_properties(i)
        yield Finding(f"GPU {i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _machine(folder: Path) -> Iterator[Finding]:
    yield Finding("cores", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}")
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        yield Finding("memory", f"{pages * size / 2**30:.1f} GiB")
    except (ValueError, OSError):
        yield Finding("memory", "unknown")
    try:
        free = shutil.disk_usage(folder).free
    except OSError as e:
        yield Finding("free disk", f"{folder}: {e.strerror}", "name a folder that exists with --folder")
        return
    low = (
        f"less than {_LOW_DISK >> 30} GiB free in {folder}; stores of frames are large"
        if free < _LOW_DISK
        else ""
    )
    yield Finding("free disk", f"{free / 2**30:.1f} GiB in {folder.resolve()}", low)


def _extras() -> Iterator[Finding]:
    for module, extra, purpose in EXTRAS:
        if importlib.util.find_spec(module) is None:
            fix = f"only for {purpose}: pip install 'harmonize-cli[{extra}]'"
            yield Finding(f"extra {extra}", "not installed", fix)
        else:
            yield Finding(f"extra {extra}", _version(module))


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "installed"
