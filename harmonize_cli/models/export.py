"""A trained encoder as a folder to give away: weights, config, model card, loading example."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from harmonize_cli.errors import BadInput
from harmonize_cli.files import read_json, sha256_file, shaped, write_json, write_text
from harmonize_cli.locks import is_lock, one_writer
from harmonize_cli.models.base import Model
from harmonize_cli.models.checkpoint import WEIGHTS, LoadedModel, build, write_file
from harmonize_cli.models.inputs import InputSpec

CONFIG, CARD, EXAMPLE = "config.json", "README.md", "example.py"
FORMAT = 1


@one_writer("out")
def export_encoder(loaded: LoadedModel, out: Path, *, heads: bool, vocab: list[str] | None) -> int:
    """Write the folder `out`; returns the number of parameters in it.

    Raises:
        BadInput: `out` exists and isn't empty.
    """
    if out.exists() and (not out.is_dir() or not all(map(is_lock, out.iterdir()))):
        raise BadInput(f"{out}: exists already; name a new folder")
    try:
        return _write(loaded, out, heads=heads, vocab=vocab)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _write(loaded: LoadedModel, out: Path, *, heads: bool, vocab: list[str] | None) -> int:
    out.mkdir(parents=True, exist_ok=True)
    weights = {k: v for k, v in loaded.model.state_dict().items() if heads or not k.startswith("head.")}
    write_file(out / WEIGHTS, save({k: v.cpu().contiguous() for k, v in weights.items()}))
    write_json(
        out / CONFIG,
        {
            "format": FORMAT,
            "model": loaded.config["model"],
            "inputs": {m: spec.to_dict() for m, spec in loaded.specs.items()},
            "heads": heads,
            "vocab": vocab if _reads_words(loaded) else None,
            "run": {"weights_hash": loaded.weights_hash, "step": loaded.step},
        },
    )
    write_text(out / EXAMPLE, _example(loaded))
    count: int = sum(v.numel() for v in weights.values())
    write_text(out / CARD, _card(loaded, heads=heads, parameters=count, digest=sha256_file(out / WEIGHTS)))
    return count


@dataclass(frozen=True, slots=True)
class _Exported:
    """config.json of an exported encoder, as far as it is needed to load it."""

    model: dict[str, Any]
    inputs: dict[str, InputSpec]
    heads: bool


def load_encoder(folder: Path | str) -> Model:
    """The model of an exported folder, in eval mode; `encode` gives pooled features.

    Raises:
        BadInput: no such folder, one of another version, or weights that do not fit its config.
    """
    folder = Path(folder)
    file = folder / CONFIG
    if not file.exists():
        raise BadInput(f"{folder}: no exported encoder; `harmonize export encoder` makes one")
    values = read_json(file, dict[str, Any])
    if values.get("format") != FORMAT:
        raise BadInput(f"{folder}: export format {values.get('format')}, this version reads {FORMAT}")
    about = shaped(_Exported, values, str(file))
    return build(about.model, about.inputs, folder / WEIGHTS, f"{file}: model", with_head=about.heads).eval()


def _tensors(loaded: LoadedModel) -> dict[str, str]:
    """Per modality: shape and type of the input tensor."""
    shapes = {}
    for modality, spec in loaded.specs.items():
        if spec.kind == "tokens":
            shapes[modality] = f"torch.zeros(1, {spec.candidates}, {spec.rows}, dtype=torch.long)"
        elif modality == "text":
            sizes = ", ".join(str(n) for n in (1, spec.candidates, *spec.row_shape))
            shapes[modality] = f"torch.zeros({sizes})"
        else:
            sizes = ", ".join(str(n) for n in (1, spec.rows, *spec.row_shape))
            dtype = ", dtype=torch.uint8" if spec.kind == "frames" else ""
            shapes[modality] = f"torch.zeros({sizes}{dtype})"
    return shapes


def _example(loaded: LoadedModel) -> str:
    lines = [f'    "{modality}": {tensor},' for modality, tensor in _tensors(loaded).items()]
    return "\n".join(
        [
            "from pathlib import Path",
            "import torch",
            "from harmonize_cli.models.export import load_encoder",
            "",
            "encoder = load_encoder(Path(__file__).parent)",
            "inputs = {",
            *lines,
            "}",
            "with torch.inference_mode():",
            "    print({modality: tuple(z.shape) for modality, z in encoder.encode(inputs).items()})",
            "",
        ]
    )


def _reads_words(loaded: LoadedModel) -> bool:
    """Not open_clip's tokens: a store may hold both."""
    spec = loaded.specs.get("text")
    return spec is not None and spec.kind == "tokens" and not spec.encoder.startswith("open_clip")


def _card(loaded: LoadedModel, *, heads: bool, parameters: int, digest: str) -> str:
    words = " and the vocabulary" if _reads_words(loaded) else ""
    config, harmony = loaded.config, loaded.config["harmonize"]
    inputs = "\n".join(
        f"| {m} | {spec.kind} | {spec.rows} | {list(spec.row_shape)} | {spec.encoder} |"
        for m, spec in loaded.specs.items()
    )
    method = harmony["mode"]
    if method != "none":
        method += f" (rule {harmony['rule']}, scope {harmony['scope']}, {harmony['granularity']})"
    model = config["model"]
    kind = model.get("kind", "vatt")
    title, what, size = f"Encoder {kind}", f"model kind `{kind}`", kind
    if kind == "vatt":
        title, what = "VATT encoder", "VATT, arXiv 2104.11178"
        size = f"{model['preset']}, modality-{model['sharing']}"
    return f"""# {title}

A {"-".join(loaded.specs)} encoder ({what}), pre-trained with `harmonize pretrain`.

| | |
| --- | --- |
| model | {size} |
| parameters here | {parameters:,} ({"with" if heads else "without"} projection heads) |
| gradient harmonization (arXiv 2211.02077) | {method} |
| steps, clips per step | {loaded.step}, {config["batch"]} |
| seed | {config["seed"]} |
| SHA-256 of {WEIGHTS} | `{digest}` |
| SHA-256 of the run's checkpoint | `{loaded.weights_hash}` |

## Inputs

| modality | kind | rows | row shape | made by |
| --- | --- | --- | --- | --- |
{inputs}

Frames are uint8 or float in [-1, 1]; waveforms are float in [-1, 1]; `{CONFIG}` has all settings{words}.
`{EXAMPLE}` loads the model.

## Data, licence, limits

Fill in before you publish: what it was trained on, under which licence the weights may be used, what they
were evaluated on. Pre-training on narrated web video carries that video's biases over.
"""
