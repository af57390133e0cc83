"""Checkpoints: a folder that is whole or not there.

RUN/checkpoints/step-00000100/weights.safetensors   what to use the model with (EMA where it is on)
                              state.pt              what training needs to go on (weights_only=True)
                              manifest.json         step, config, inputs, SHA-256 of the files
RUN/last, RUN/best                                  links to such folders, set after they are complete
"""

import io
import os
import shutil
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors.torch import load_file, save

from harmonize_cli.config import StageConfig, validate
from harmonize_cli.errors import BadInput, list_errors
from harmonize_cli.files import naming, read_json, sha256_file, shaped, sync_file, sync_folder, write_json
from harmonize_cli.models.base import Model, make_model
from harmonize_cli.models.checkpoint_folders import MANIFEST, list_checkpoints, step_of
from harmonize_cli.models.config import AnyModel, ModelSettings
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.printing import printable
from harmonize_cli.ranks import rank

FORMAT = 1
WEIGHTS, STATE = "weights.safetensors", "state.pt"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model of a run, in eval mode. `specs`: the run's inputs by modality."""

    model: Model
    config: dict[str, Any]
    specs: dict[str, InputSpec]
    weights_hash: str
    run: Path
    step: int
    checkpoint: Path


def load_model(
    run: Path, which: str = "last", device: torch.device | str = "cpu", *, verify: bool = True
) -> LoadedModel:
    """The model of a run folder's checkpoint: `which` is last, best or a name such as step-00000100.

    Raises:
        BadInput: no run folder, no checkpoint in it, a damaged one, one of another version, or weights that
            do not fit its config.
    """
    folder = find_checkpoint(run, which)
    manifest = read_manifest(folder)
    if verify and (damage := find_damage(folder, manifest)):
        raise BadInput(f"{folder}: damaged checkpoint ({damage}); choose another with --checkpoint")
    specs = dict(manifest.inputs)
    model = build(manifest.config.get("model"), specs, folder / WEIGHTS, f"{folder / MANIFEST}: model")
    model = model.to(device).eval()
    return LoadedModel(model, manifest.config, specs, manifest.files[WEIGHTS], run, manifest.step, folder)


def build(
    settings: Any, specs: Mapping[str, InputSpec], file: Path, source: str, *, with_head: bool = True
) -> Model:
    """The model of `settings` with the weights of a safetensors file.

    Raises:
        BadInput: settings that are none (`source` says where they stand), a damaged file, or one of another
            model. This is found out before the model takes any memory: a file can claim any size.
    """
    # the start values are overwritten: a file of word vectors need not exist any more
    config = read_settings(settings, source).fresh()
    weights = read_weights(file)
    try:
        with torch.device("meta"):
            check_weights(make_model(config, specs, with_head=with_head), weights, file)
        model = make_model(config, specs, with_head=with_head)
    except (RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError, KeyError) as e:
        raise BadInput(f"{source}: makes no model of these inputs ({e})") from e
    model.load_state_dict(weights)
    return model


class _Holder(StageConfig):
    model: AnyModel


def read_settings(settings: Any, source: str) -> ModelSettings:
    """The model's section of a run's config.

    Raises:
        BadInput: not such a section, or of a model that is not installed; `source` says where it stands.
    """
    if not isinstance(settings, dict):
        raise BadInput(f"{source}: expected the model's settings, found {type(settings).__name__}")
    return validate(_Holder, {"model": settings}, source=source).model


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        BadInput: missing or damaged.
    """
    try:
        return load_file(file)
    except Exception as e:  # whatever safetensors and torch find wrong with bytes
        raise BadInput(f"{file}: can't be read ({e}); take another checkpoint") from e


def read_state(file: Path, device: torch.device | str = "cpu", **options: Any) -> dict[str, Any]:
    """A training state that torch saved: plain values and tensors, nothing else is loaded.

    Raises:
        BadInput: missing or damaged.
    """
    try:
        state = torch.load(file, map_location=device, weights_only=True, **options)
    except Exception as e:  # whatever zipfile, pickle and torch find wrong with bytes
        reason = (str(e).splitlines() or [type(e).__name__])[0][:200]
        raise BadInput(f"{file}: can't be read ({reason}); take another checkpoint") from e
    if not isinstance(state, dict):
        raise BadInput(
            f"{file}: holds a {type(state).__name__}, not a training state; take another checkpoint"
        )
    return state


def read_loss_state(folder: Path) -> dict[str, torch.Tensor]:
    """What a checkpoint's losses had learned (temperatures), by name; empty where it keeps no such state.

    Raises:
        BadInput: damaged.
    """
    file = folder / STATE
    if not file.is_file():
        return {}
    # mapped: the optimiser's state beside it, twice the weights in size, is not read
    loss = read_state(file, mmap=True).get("loss", {})
    if not isinstance(loss, dict) or not all(isinstance(x, torch.Tensor) for x in loss.values()):
        raise BadInput(f"{file}: loss: expected tensors by name; take another checkpoint")
    return dict(loss)


def put_weights(model: Model, weights: Mapping[str, torch.Tensor], file: Path) -> None:
    """Fill a model with weights that were read from `file`.

    Raises:
        BadInput: they are not those of this model; all tensors that differ are named.
    """
    check_weights(model, weights, file)
    model.load_state_dict(weights)


def check_weights(model: Model, weights: Mapping[str, torch.Tensor], file: Path) -> None:
    """Whether weights that were read from `file` fit a model.

    Raises:
        BadInput: as `put_weights`.
    """
    own = model.state_dict()
    errors = [f"{name}: missing in the file" for name in own if name not in weights]
    errors += [f"{name}: unknown to the model" for name in weights if name not in own]
    errors += [
        f"{name}: {list(weights[name].shape)} in the file, {list(tensor.shape)} in the model"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if errors:
        head = f"{file}: not the weights of the model that the run's config describes; was it edited?"
        raise BadInput(list_errors(head, errors))


def find_checkpoint(run: Path, which: str = "last") -> Path:
    """The folder of a checkpoint.

    Raises:
        BadInput: as `load_model`.
    """
    if not run.is_dir():
        raise BadInput(f"{run}: no such run folder; `harmonize pretrain STORE -o {run}` makes one")
    folder = run / which if which in ("last", "best") else run / "checkpoints" / which
    if not (folder / MANIFEST).is_file():
        names = [path.name for path in list_checkpoints(run)]
        if not names:
            resume = " --resume" if (run / "config.yaml").is_file() else ""
            raise BadInput(
                f"{run}: no checkpoint in it yet; `harmonize pretrain STORE -o {run}{resume}` writes one "
                "every checkpoint.every steps and at the end"
            )
        hint = " (best is marked by validation: validation.split)" if which == "best" else ""
        raise BadInput(f"{run}: no checkpoint {which!r}; it has {', '.join(names)}{hint}")
    return folder.resolve()


@dataclass(frozen=True, slots=True)
class Manifest:
    """manifest.json of a checkpoint. files: SHA-256 by name; config: of the run; inputs by modality."""

    step: Annotated[int, Field(ge=0, strict=True)]
    files: dict[str, str]
    config: dict[str, Any]
    inputs: dict[str, InputSpec]


def read_manifest(folder: Path) -> Manifest:
    """A checkpoint's manifest.

    Raises:
        BadInput: unreadable, damaged, or of another format.
    """
    file = folder / MANIFEST
    values = read_json(file, dict[str, Any], hint="take another checkpoint")
    if values.get("format") != FORMAT:
        raise BadInput(f"{file}: checkpoint format {values.get('format')}, this version reads {FORMAT}")
    manifest = shaped(Manifest, values, str(file), advice="; take another checkpoint")
    if not {WEIGHTS, STATE} >= manifest.files.keys() >= {WEIGHTS}:
        raise BadInput(f"{file}: files: expected {WEIGHTS} and {STATE}; take another checkpoint")
    if folder.name.startswith("step-") and folder.name != f"step-{manifest.step:08d}":
        raise BadInput(f"{file}: step {manifest.step} in the folder {folder.name}; take another checkpoint")
    return manifest


def newest_whole(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of a run; damaged ones that are passed over are reported."""
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            damage = find_damage(checkpoint, read_manifest(checkpoint))
        except BadInput as e:
            damage = str(e)
        if damage is None:
            return checkpoint
        if rank() == 0:
            message = f"{checkpoint}: damaged checkpoint ({damage}), going back to the one before"
            print(f"warning: {printable(message, lines=False)}", file=sys.stderr)
    return None


def find_damage(folder: Path, manifest: Manifest) -> str | None:
    """What is wrong with a checkpoint's files, None if nothing is."""
    for name, digest in manifest.files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256_file(folder / name) != digest:
            return f"{name} differs from its checksum"
    return None


def write_checkpoint(
    run: Path,
    step: int,
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Path:
    """Write a checkpoint folder whole, then point `last` at it. `about` needs "config" and "inputs"."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    tmp = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        tmp.mkdir(parents=True)
        write_file(tmp / WEIGHTS, save({k: v.detach().cpu().contiguous() for k, v in weights.items()}))
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_file(tmp / STATE, buffer.getbuffer())
        files = {name: sha256_file(tmp / name) for name in (WEIGHTS, STATE)}
        write_json(tmp / MANIFEST, {"format": FORMAT, "step": step, "files": files, **about})
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was rewound
        tmp.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    point(run, "last", folder)
    return folder


def write_file(path: Path, data: bytes | memoryview) -> None:
    """By Python's own write: on a full disk an OSError, where both libraries raise errors of their own."""
    with naming(path):
        path.write_bytes(data)
        sync_file(path)


def point(run: Path, name: str, folder: Path) -> None:
    """Make RUN/name a link to a checkpoint folder, in one atomic step."""
    tmp = run / f".{name}.{os.getpid()}.tmp"
    with suppress(FileNotFoundError):
        tmp.unlink()
    tmp.symlink_to(folder.relative_to(run))
    tmp.replace(run / name)
    sync_folder(run)


def prune(run: Path, keep: int, *, always: Collection[int] = ()) -> None:
    """Remove all but the newest `keep` checkpoints; those of the steps `always`, `last` and `best` stay."""
    kept = {(run / name).resolve() for name in ("last", "best")}
    kept |= {folder.resolve() for folder in list_checkpoints(run) if step_of(folder) in always}
    for folder in list_checkpoints(run)[: -keep or None]:
        if folder.resolve() not in kept:
            # the manifest goes first: a half-removed folder is no checkpoint
            (folder / MANIFEST).unlink()
            shutil.rmtree(folder, ignore_errors=True)
    for leftover in (run / "checkpoints").glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
