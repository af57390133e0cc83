"""open_clip's image and text towers. Nothing is downloaded unless the user allows it."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harmonize_cli.config import StageConfig
from harmonize_cli.encoders.base import ENCODERS, EncoderEntry
from harmonize_cli.errors import BadInput
from harmonize_cli.files import sha256_json
from harmonize_cli.media.requests import Fit, FrameRequest, Scaling
from harmonize_cli.store.schema import FeatureSpec

if TYPE_CHECKING:
    import torch

RANDOM = "random"
_FITS: dict[str, Fit] = {"shortest": "crop", "squash": "stretch", "longest": "pad"}
"""open_clip's resize_mode as a decoder's way to fit a frame."""


class OpenClipConfig(StageConfig):
    """Encoders `open_clip:MODEL[/TAG or weights file]`."""

    rate: float = Field(default=1.0, gt=0, le=240)
    """Frames a second that are encoded."""
    batch: int = Field(default=64, ge=1, le=65_536)
    """Frames or texts at once, gathered across clips."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on a GPU, fp32 on the CPU."""
    allow_download: bool = False
    """Let open_clip fetch the weights of a tag that is not on this machine."""


class ClipModel:
    """One loaded model, shared by its two towers.

    Raises:
        BadInput: unknown model or tag, weights not on this machine, a weights file that does not fit.
    """

    def __init__(self, name: str, config: OpenClipConfig) -> None:
        self.name = name
        self.config = config
        model_name, self.tag = split_name(name)
        if not config.allow_download:
            # read once at import; set here it also binds libraries that come with open_clip
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import open_clip
        import torch

        from harmonize_cli.ranks import pick_device

        if model_name not in open_clip.list_models():
            raise BadInput(
                f"open_clip:{name}: unknown model {model_name!r}; `python -c 'import open_clip; "
                "print(open_clip.list_models())'` lists them"
            )
        self.device = pick_device(config.device)
        weights = self._weights(model_name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # `random` weights are the same in every process and on every machine
            try:
                self.model: Any = open_clip.create_model(
                    model_name, weights, weights_only=True, pretrained_text=False, pretrained_image=False
                )
            except Exception as e:  # open_clip raises many kinds for files that don't fit
                raise BadInput(f"open_clip:{name}: can't load these weights: {_first_line(e)}") from e
        self.weights_hash = hash_weights(self.model)
        self.model.eval().requires_grad_(False)
        bf16 = config.precision == "bf16" or (config.precision == "auto" and self.device.type == "cuda")
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.model.to(self.device, self.dtype)
        try:
            self.tokenizer: Any = open_clip.get_tokenizer(model_name)
        except OSError as e:
            raise BadInput(
                f"open_clip:{name}: its tokenizer is not on this machine ({_first_line(e)}); "
                "allow the download with --allow-download"
            ) from e
        self.preprocess = _preprocessing(model_name, self.tag, self.model)
        if self.preprocess["fill_color"] or self.preprocess["resize_mode"] not in _FITS:
            raise BadInput(f"open_clip:{name}: its preprocessing is not supported: {self.preprocess}")
        size = self.preprocess["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.mean, self.std = (
            torch.tensor(self.preprocess[name], device=self.device).expand(3).reshape(3, 1, 1)
            for name in ("mean", "std")
        )
        with torch.inference_mode():
            self.width = int(self.texts(["a"]).shape[1])

    def images(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        """uint8 [N, H, W, 3] to unit vectors float16 [N, D]."""
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device).permute(0, 3, 1, 2)
            pixels = (pixels.float() / 255 - self.mean) / self.std
            return _unit(self.model.encode_image(pixels.to(self.dtype)))

    def texts(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """C texts to unit vectors float16 [C, D]."""
        import torch

        with torch.inference_mode():
            return _unit(self.model.encode_text(self.tokenizer(list(texts)).to(self.device)))

    def spec(self, key: str, rate: float | None) -> FeatureSpec:
        """The description of one tower's rows."""
        usual = open_clip_default()
        params = {"size": list(self.size), "mean": list(self.preprocess["mean"]), "normalised": True}
        # where it is CLIP's own it was never written down, and stores of before stay what they are
        for name in ("std", "interpolation", "resize_mode"):
            value = self.preprocess[name]
            if value != usual[name]:
                params[name] = list(value) if isinstance(value, tuple) else value
        return FeatureSpec(
            key=key,
            kind="embedding",
            encoder=f"open_clip:{self.encoder_name}",
            dtype="float16",
            row_shape=(self.width,),
            rate=rate,
            params={**params, "precision": str(self.dtype).removeprefix("torch.")},
            weights_hash=self.weights_hash,
            preprocessing_hash=sha256_json([params, rate]),
        )

    @property
    def encoder_name(self) -> str:
        """MODEL/TAG; of a weights file only its name, since paths differ between machines."""
        model_name, tag = split_name(self.name)
        return f"{model_name}/{Path(tag).name}"

    def _weights(self, model_name: str) -> str | None:
        import open_clip

        if self.tag == RANDOM:
            return None
        if Path(self.tag).is_file():
            return self.tag
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        if self.tag not in tags:
            raise BadInput(
                f"open_clip:{self.name}: {self.tag!r} is neither a weights file nor a tag of {model_name}; "
                f"tags: {', '.join(tags) or 'none'}; or say {RANDOM!r}"
            )
        if not self.config.allow_download and not is_cached(model_name, self.tag):
            raise BadInput(
                f"open_clip:{self.name}: the weights of {self.tag!r} are not on this machine; "
                "allow the download with --allow-download, "
                f"or give a weights file: open_clip:{model_name}/FILE"
            )
        return self.tag


def open_clip_default() -> dict[str, Any]:
    """CLIP's own preprocessing, as open_clip names it: size, mean, std, interpolation, resize_mode, ..."""
    from dataclasses import asdict

    from open_clip.transform import PreprocessCfg

    return asdict(PreprocessCfg())


def _preprocessing(model_name: str, tag: str, model: Any) -> dict[str, Any]:
    """How the model wants its frames. A tag says so itself; of a weights file it is what stands in the
    `open_clip_config.json` beside it, or what all published weights of the model share."""
    import open_clip

    found = {**open_clip_default(), **open_clip.get_model_preprocess_cfg(model)}
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if tag in tags:
        return found
    beside = Path(tag).with_name("open_clip_config.json")
    if tag != RANDOM and beside.is_file():
        try:
            found |= json.loads(beside.read_bytes()).get("preprocess_cfg", {})
            return found
        except (OSError, ValueError, AttributeError, TypeError) as e:
            raise BadInput(f"{beside}: not a configuration of open_clip ({e})") from None
    names = ("mean", "std", "interpolation", "resize_mode")
    published = [
        {name: entry[name] for name in names if entry.get(name)}
        for entry in (open_clip.get_pretrained_cfg(model_name, known) for known in tags)
    ]
    return found | published[0] if published and all(one == published[0] for one in published) else found


def split_name(name: str) -> tuple[str, str]:
    """MODEL[/TAG or file] in two; without a tag or file it is an error, nothing is guessed."""
    model, sep, tag = name.partition("/")
    if not model or not sep or not tag:
        raise BadInput(
            f"open_clip:{name}: expected open_clip:MODEL/TAG, open_clip:MODEL/weights.safetensors "
            f"or open_clip:MODEL/{RANDOM}"
        )
    return model, tag


def is_cached(model_name: str, tag: str) -> bool:
    """Whether a tag's weights are on this machine already."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    entry = open_clip.get_pretrained_cfg(model_name, tag)
    hub = entry.get("hf_hub", "")
    if hub:
        repo, file = os.path.split(hub)
        names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        if any(isinstance(try_to_load_from_cache(repo, n), str) for n in names):
            return True
    url = entry.get("url", "")
    return bool(url) and not hub and (Path("~/.cache/clip").expanduser() / Path(url).name).is_file()


def hash_weights(model: Any) -> str:
    """SHA-256 over the names and values of all weights."""
    import torch

    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().cpu().flatten().view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()


class ClipFrames:
    """Frames through the image tower. Key video/open_clip, rows (D,)."""

    def __init__(self, model: ClipModel) -> None:
        self._model = model
        self.batch = model.config.batch
        fit, bilinear = (
            _FITS[model.preprocess["resize_mode"]],
            model.preprocess["interpolation"] == "bilinear",
        )
        scaling: Scaling = "bilinear" if bilinear else "bicubic"
        self.request = FrameRequest(model.config.rate, *model.size, fit=fit, scaling=scaling)
        self.spec = model.spec("video/open_clip", model.config.rate)

    def encode_frames(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        """uint8 [N, H, W, 3] to float16 [N, D]."""
        return self._model.images(frames)


class ClipTexts:
    """Texts through the text tower. Key text/open_clip, rows (D,)."""

    def __init__(self, model: ClipModel) -> None:
        self._model = model
        self.batch = model.config.batch
        self.spec = model.spec("text/open_clip", None)

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """C texts to float16 [C, D]."""
        if not texts:
            return np.empty((0, self._model.width), np.float16)
        return self._model.texts(texts)


def _unit(vectors: "torch.Tensor") -> npt.NDArray[np.float16]:
    vectors = vectors.float()
    unit: npt.NDArray[np.float16] = (vectors / vectors.norm(dim=-1, keepdim=True)).half().cpu().numpy()
    return unit


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _make(name: str, config: OpenClipConfig, vocab: object) -> list[ClipFrames | ClipTexts]:
    model = ClipModel(name, config)
    return [ClipFrames(model), ClipTexts(model)]


ENCODERS.add(
    "open_clip",
    EncoderEntry(
        config=OpenClipConfig,
        make=_make,
        keys=("video/open_clip", "text/open_clip"),
        about="image and text tower of an open_clip model",
        argument="MODEL/TAG",
        check=split_name,
        heavy=True,
    ),
)
