"""Fine-tuning a pre-trained backbone on labels (VATT, appendix A.3: the Kinetics protocol)."""

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harmonize_cli.data.batches import Augment, Draw, StoreDataset
from harmonize_cli.data.windows import check_inputs, positions
from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.files import atomic_path, rewind_log, sha256_json, write_text
from harmonize_cli.locks import is_lock, one_writer
from harmonize_cli.models.base import Model
from harmonize_cli.models.checkpoint import LoadedModel, read_state
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.progress import progress
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import FinetuneConfig
from harmonize_cli.training.data import shuffled
from harmonize_cli.training.loggers import Loggers
from harmonize_cli.training.run_folder import METRICS
from harmonize_cli.training.step import take_step

STATE = "state.pt"
Rows = NDArray[np.int64]


class Tuner:
    """Fine-tunes a run's model into the folder `out`, or goes on where an earlier call stopped.

    Args:
        augment: changes frames or audio of a training window.
        stop: asked after each step; True saves and stops.

    Raises:
        BadInput: the run or the store has no such input.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        store: Store,
        out: Path,
        config: FinetuneConfig,
        *,
        augment: Augment | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.loaded, self.store, self.out, self.config = loaded, store, out, config
        self.augment, self.stop = augment, stop
        self.modality: str = config.modality
        self.label, self.train = config.label, config.train
        self.device = next(loaded.model.parameters()).device
        self._model: Tuned | None = None

    @property
    def state(self) -> Path:
        """The file of the trained weights."""
        return self.out / STATE

    def protocol(self) -> dict[str, Any]:
        """The settings, for a result."""
        return {
            "name": "kinetics" if self.config == FinetuneConfig() else "kinetics-modified",
            **self.config.model_dump(mode="json"),
            "augmented": self.augment is not None,
        }

    def fit(self, rows: Rows, labels: NDArray[np.int64], classes: Sequence[str]) -> bool:
        """Train on samples `rows` of the store; `labels` has the class number of every sample of the store.

        Returns:
            Whether all steps are made; False where it was stopped.

        Raises:
            BadInput: `out` holds something else, or no sample has the modality.
            HarmonizeError: a loss or a gradient that is not finite.
        """
        self.spec = fitting_spec(self.store, self.loaded.specs, self.modality)
        self._model, steps = _fit(self, rows, labels, classes, out=self.out)
        return steps == self.config.steps

    def usable(self, rows: Rows) -> Rows:
        """The samples among `rows` that have the modality."""
        found: Rows = rows[self._dataset().ok[self.modality][rows]]
        return found

    @torch.inference_mode()
    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Logits [N, C] of samples, averaged over windows and crops."""
        model, config, dataset = self._model, self.config, self._dataset()
        assert model is not None
        model.eval()
        found = []
        for start in progress(range(0, len(rows), config.batch), desc="test", unit="batch"):
            some = rows[start : start + config.batch]
            total: Tensor | float = 0.0
            count = 0
            for position in positions(config.windows):
                dataset.position = position
                batch = dataset.batch(some.tolist()).to(self.device)
                for inputs in test_crops(batch.inputs, config):
                    total = total + model(inputs).double()
                    count += 1
            found.append(np.asarray((torch.as_tensor(total) / count).cpu().numpy()))
        return np.concatenate(found)

    def _dataset(self, *, cache_bytes: int = 0) -> StoreDataset:
        return StoreDataset(
            self.store,
            {self.modality: self.spec},
            seed=self.config.seed,
            augment=self.augment,
            cache_bytes=cache_bytes,
        )


@one_writer("out")
def _fit(
    tuner: Tuner, rows: Rows, labels: NDArray[np.int64], classes: Sequence[str], *, out: Path
) -> "tuple[Tuned, int]":
    """The model, and the steps made; fewer than `config.steps` where it was stopped."""
    config, loaded, device = tuner.config, tuner.loaded, tuner.device
    torch.manual_seed(config.seed)
    model = Tuned(loaded.model, config.modality, len(classes), config.dropout).to(device)
    model.backbone.for_labels(config.modality, tuner.spec)
    about = {
        "config": {k: v for k, v in config.model_dump(mode="json").items() if k not in ("checkpoint_every",)},
        "augmented": tuner.augment is not None,
        "weights": loaded.weights_hash,
        "store": tuner.store.content_hash,
        "classes": list(classes),
    }
    backbone = model.backbone_parameters()
    optimizer = torch.optim.SGD(
        [*backbone, *model.classifier.parameters()], lr=config.lr, momentum=config.momentum
    )
    first = _restore(out, model, optimizer, sha256_json(about), device)
    if not first:
        write_text(out / "finetune.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    dataset = tuner._dataset(cache_bytes=1 << 30)
    usable = rows[dataset.ok[config.modality][rows]]
    if not len(usable):
        raise BadInput(f"no training sample of split {config.train} has {config.modality} and a label")
    started = time.perf_counter()
    draws, step = _draws(usable, config, first), first
    bar = progress(
        range(first, config.steps), desc="fine-tune", total=config.steps, unit="step", initial=first
    )
    with Loggers([], out) as log:
        for now in bar:
            torch.manual_seed(config.seed << 32 | now)  # dropout, too, follows from the step alone
            model.train()
            batch = dataset.batch([next(draws) for _ in range(config.batch)]).to(device)
            logits = model(train_crop(batch.inputs, config, now))
            target = torch.from_numpy(labels[batch.indices]).to(device)
            loss = cross_entropy(logits, target, label_smoothing=config.smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = take_step(optimizer, backbone, learning_rate(now, config), clip=config.clip)
            if not (math.isfinite(float(loss.detach())) and torch.isfinite(norm)):
                raise HarmonizeError(
                    f"step {now + 1}: the loss is {float(loss.detach())}, its gradient's norm {float(norm)}; "
                    "lower --set lr"
                )
            step = now + 1
            if step % config.log_every == 0 or step == config.steps:
                hits = float((logits.detach().argmax(1) == target).float().mean())
                seconds = time.perf_counter() - started
                log.write(step, {"loss": float(loss.detach()), "top-1": hits, "seconds": seconds})
            asked = tuner.stop()
            if step % config.checkpoint_every == 0 or step == config.steps or asked:
                _save(out, model, optimizer, step, sha256_json(about))
            if asked:
                break
    return model, step


class Tuned(nn.Module):
    """The backbone's pooled feature (AGG), dropout, one linear layer. forward(inputs) -> logits [B, C]."""

    def __init__(self, backbone: Model, modality: str, classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone, self.modality = backbone, modality
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.pooled_width(modality), classes)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits of the modality's pooled feature."""
        z = self.backbone.encode({k: v for k, v in inputs.items() if k.startswith(self.modality)})
        logits: Tensor = self.classifier(self.dropout(z[self.modality]))
        return logits

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Those that this modality's path trains."""
        parts = self.backbone.stages(self.modality)
        return [p for part in parts for p in part.parameters() if p.requires_grad]


def fitting_spec(store: Store, specs: Mapping[str, InputSpec], modality: str) -> InputSpec:
    """The run's input; frames may have another size than in pre-training (VATT: 224, then 320).

    Raises:
        BadInput: the run or the store has no such input, or of another kind.
    """
    if modality not in specs:
        raise BadInput(f"modality {modality}: the run reads {', '.join(specs)}")
    spec = specs[modality]
    feature = store.features.get(spec.key)
    if feature is not None and spec.kind == "frames" and feature.kind in ("frames", "jpeg"):
        if feature.row_shape[-1] != spec.row_shape[-1]:
            raise BadInput(
                f"{store.path}: {spec.key}: {feature.row_shape[-1]} channels, "
                f"the run reads {spec.row_shape[-1]}"
            )
        return replace(spec, row_shape=tuple(feature.row_shape), params_hash=feature.preprocessing_hash)
    return check_inputs(store, {modality: spec})[modality]


def train_crop(inputs: Mapping[str, Tensor], config: FinetuneConfig, step: int) -> Mapping[str, Tensor]:
    """A square at a random place of frames that are not square."""
    share = float(np.random.Generator(np.random.Philox(key=[config.seed, step])).random())
    return cropped(inputs, config.modality, share)


def test_crops(inputs: Mapping[str, Tensor], config: FinetuneConfig) -> Iterator[Mapping[str, Tensor]]:
    x = inputs[config.modality]
    square = x.dim() != 5 or x.shape[2] == x.shape[3]
    shares = [0.5] if square or config.crops == 1 else np.linspace(0, 1, config.crops).tolist()
    for share in shares:
        yield cropped(inputs, config.modality, share)


def cropped(inputs: Mapping[str, Tensor], modality: str, share: float) -> Mapping[str, Tensor]:
    x = inputs[modality]
    if x.dim() != 5 or x.shape[2] == x.shape[3]:
        return inputs
    side = min(x.shape[2], x.shape[3])
    top, left = (round(share * (size - side)) for size in (x.shape[2], x.shape[3]))
    return {**inputs, modality: x[:, :, top : top + side, left : left + side]}


def learning_rate(step: int, config: FinetuneConfig) -> float:
    """Of `step`, from 0: linear warm-up to `lr`, then half a cosine to zero."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    share = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (1 + math.cos(math.pi * share)) / 2


def _draws(usable: Rows, config: FinetuneConfig, first: int) -> Iterator[Draw]:
    """The samples from step `first` on, a function of (seed, step): batches run on into the next epoch."""
    order = shuffled(usable, config.seed)
    epoch, skipped = divmod(first * config.batch, len(usable))
    while True:
        for index in order(epoch)[skipped:]:
            yield Draw(int(index), epoch)
        epoch, skipped = epoch + 1, 0


def _save(out: Path, model: Tuned, optimizer: torch.optim.Optimizer, step: int, identity: str) -> None:
    state = {
        "step": step,
        "identity": identity,
        "model": model.state_dict(),
        "optimiser": optimizer.state_dict(),
    }
    buffer = io.BytesIO()  # torch's own way to a file hides that a disk is full
    torch.save(state, buffer)
    with atomic_path(out / STATE) as tmp:
        tmp.write_bytes(buffer.getbuffer())


def _restore(
    out: Path, model: Tuned, optimizer: torch.optim.Optimizer, identity: str, device: torch.device
) -> int:
    """Steps made so far; 0 for a new folder."""
    file = out / STATE
    if not file.exists():
        if out.exists() and any(
            p.name not in ("finetune.json", METRICS, "eval") and not is_lock(p) for p in out.iterdir()
        ):
            raise BadInput(f"{out}: exists and holds something else; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        (out / METRICS).unlink(missing_ok=True)
        return 0
    state = read_state(file, device)
    if state.get("identity") != identity:
        raise BadInput(
            f"{out}: was started with other settings, weights or data (see finetune.json); "
            "choose another folder"
        )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimiser"])
        step = int(state["step"])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as e:
        raise BadInput(f"{file}: is damaged ({type(e).__name__}: {e}); choose another folder") from e
    rewind_log(out / METRICS, step)
    return step
