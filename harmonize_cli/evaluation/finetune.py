"""Fine-tuning a pre-trained backbone on labels (VATT, appendix A.3: the Kinetics protocol)."""

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harmonize_cli.data.batches import Augment, Draw, StoreDataset
from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.evaluation.embed import device_of, positions
from harmonize_cli.evaluation.finetune_model import (
    FinetuneConfig,
    Tuned,
    fitting_spec,
    test_crops,
    train_crop,
)
from harmonize_cli.files import atomic_path, rewind_log, sha256_json, write_text
from harmonize_cli.locks import is_lock, one_writer
from harmonize_cli.models.checkpoint import LoadedModel, read_state
from harmonize_cli.progress import progress
from harmonize_cli.store.reader import Store

STATE, METRICS = "state.pt", "metrics.jsonl"
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Training samples of the store, the class number of every sample of the store, the classes' names."""

    rows: Rows
    labels: NDArray[np.int64]
    classes: Sequence[str]


@one_writer("out")
def tune(
    loaded: LoadedModel,
    store: Store,
    data: Labelled,
    out: Path,
    config: FinetuneConfig,
    *,
    augment: Augment | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Tuned, StoreDataset, int]:
    """Train into `out`, or go on where an earlier call of the same settings stopped.

    Args:
        augment: changes frames or audio of a training window.
        stop: asked after each step; True saves and returns early.

    Returns:
        Model, data set and the steps made; fewer than `config.steps` where it was stopped.

    Raises:
        BadInput: `out` holds something else, or the store does not fit.
        HarmonizeError: a loss that is not finite.
    """
    device = device_of(loaded)
    spec = fitting_spec(store, loaded.specs, config.modality)
    torch.manual_seed(config.seed)
    model = Tuned(loaded.model, config.modality, len(data.classes), config.dropout).to(device)
    model.backbone.for_labels(config.modality, spec)
    about = {
        "config": {k: v for k, v in config.model_dump(mode="json").items() if k not in ("checkpoint_every",)},
        "augmented": augment is not None,
        "weights": loaded.weights_hash,
        "store": store.content_hash,
        "classes": list(data.classes),
    }
    backbone = model.backbone_parameters()
    optimiser = torch.optim.SGD(
        [*backbone, *model.classifier.parameters()], lr=config.lr, momentum=config.momentum
    )
    first = _restore(out, model, optimiser, sha256_json(about), device)
    if not first:
        write_text(out / "finetune.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    dataset = StoreDataset(
        store, {config.modality: spec}, seed=config.seed, augment=augment, cache_bytes=1 << 30
    )
    usable = data.rows[dataset.ok[config.modality][data.rows]]
    if not len(usable):
        raise BadInput(f"no training sample of split {config.train} has {config.modality} and a label")
    started = time.perf_counter()
    step = first
    bar = progress(
        range(first, config.steps), desc="fine-tune", total=config.steps, unit="step", initial=first
    )
    with (out / METRICS).open("a", encoding="utf-8") as log:
        for now in bar:
            torch.manual_seed(config.seed << 32 | now)  # dropout, too, follows from the step alone
            model.train()
            batch = dataset.batch(list(_draws(usable, config, now))).to(device)
            inputs = train_crop(batch.inputs, config, now)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(now, config)
            logits = model(inputs)
            target = torch.from_numpy(data.labels[batch.indices]).to(device)
            loss = cross_entropy(logits, target, label_smoothing=config.smoothing)
            if not math.isfinite(float(loss.detach())):
                raise HarmonizeError(f"the loss of step {now + 1} is {float(loss.detach())}; lower --set lr")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if config.clip:
                nn.utils.clip_grad_norm_(backbone, config.clip)
            optimiser.step()
            step = now + 1
            if step % config.log_every == 0 or step == config.steps:
                hits = float((logits.detach().argmax(1) == target).float().mean())
                seconds = time.perf_counter() - started
                line = {"step": step, "loss": float(loss.detach()), "top-1": hits, "seconds": seconds}
                log.write(json.dumps(line) + "\n")
                log.flush()
            asked = stop()
            if step % config.checkpoint_every == 0 or step == config.steps or asked:
                _save(out, model, optimiser, step, sha256_json(about))
            if asked:
                break
    return model, dataset, step


@torch.inference_mode()
def predict(model: Tuned, dataset: StoreDataset, rows: Rows, config: FinetuneConfig) -> NDArray[np.float64]:
    """Logits [N, C] of samples, averaged over windows and crops."""
    model.eval()
    device = next(model.parameters()).device
    found = []
    for start in progress(range(0, len(rows), config.batch), desc="test", unit="batch"):
        some = rows[start : start + config.batch]
        total: Tensor | float = 0.0
        count = 0
        for position in positions(config.windows):
            dataset.position = position
            batch = dataset.batch(some.tolist()).to(device)
            for inputs in test_crops(batch.inputs, config):
                total = total + model(inputs).double()
                count += 1
        found.append(np.asarray((torch.as_tensor(total) / count).cpu().numpy()))
    return np.concatenate(found)


def learning_rate(step: int, config: FinetuneConfig) -> float:
    """Of `step`, from 0: linear warm-up to `lr`, then half a cosine to zero."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    share = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (1 + math.cos(math.pi * share)) / 2


def _draws(usable: Rows, config: FinetuneConfig, step: int) -> Iterator[Draw]:
    """The step's samples: a pure function of (seed, step), so that resuming needs no other state."""
    for place in range(step * config.batch, (step + 1) * config.batch):
        epoch, position = divmod(place, len(usable))
        yield Draw(int(usable[_order(config.seed, epoch, len(usable))[position]]), epoch)


_orders: dict[tuple[int, int, int], Rows] = {}


def _order(seed: int, epoch: int, n: int) -> Rows:
    key = (seed, epoch, n)
    if key not in _orders:
        _orders.clear()
        _orders[key] = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)
    return _orders[key]


def _save(out: Path, model: Tuned, optimiser: torch.optim.Optimizer, step: int, identity: str) -> None:
    state = {
        "step": step,
        "identity": identity,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    buffer = io.BytesIO()  # torch's own way to a file hides that a disk is full
    torch.save(state, buffer)
    with atomic_path(out / STATE) as tmp:
        tmp.write_bytes(buffer.getbuffer())


def _restore(
    out: Path, model: Tuned, optimiser: torch.optim.Optimizer, identity: str, device: torch.device
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
        optimiser.load_state_dict(state["optimiser"])
        step = int(state["step"])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as e:
        raise BadInput(f"{file}: is damaged ({type(e).__name__}: {e}); choose another folder") from e
    rewind_log(out / METRICS, step)
    return step
