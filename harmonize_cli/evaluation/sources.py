"""Where vectors come from: a trained model, or a store's own embeddings and plain statistics."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from harmonize_cli.data.windows import check_inputs
from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.embed import (
    Embedded,
    Floats,
    Rows,
    device_of,
    embed_pool,
    unit,
    window_features,
)
from harmonize_cli.evaluation.metrics import Kind, versions_of
from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.evaluation.results import Result
from harmonize_cli.models.base import make_model
from harmonize_cli.models.checkpoint import LoadedModel, read_settings
from harmonize_cli.progress import progress
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Status

PLAIN_KINDS = ("embedding", "logmel", "mfcc")


class Source(Protocol):
    """What an evaluation asks for vectors."""

    @property
    def weights_hash(self) -> str:
        """Of whatever made the vectors."""

    @property
    def folder(self) -> Path:
        """Where results go by default."""

    @property
    def device(self) -> str:
        """Where further work is done."""

    def about(self) -> dict[str, Any]:
        """Run, step, seed and what else tells models apart."""

    def modalities(self, store: Store) -> list[str]:
        """Those of `store` that there are vectors for."""

    def pool(self, store: Store, rows: Rows, protocol: RetrievalProtocol) -> Embedded:
        """Embeddings of some samples."""

    def windows(self, store: Store, rows: Rows, modality: str, windows: int) -> tuple[Floats, Rows]:
        """Features [W, D] and the sample of each [W]."""


@dataclass(frozen=True, slots=True)
class RunSource:
    """A model of `harmonize pretrain`."""

    loaded: LoadedModel
    batch_size: int = 64
    cache: bool = True

    @property
    def weights_hash(self) -> str:
        return self.loaded.weights_hash

    @property
    def folder(self) -> Path:
        return self.loaded.run / "eval"

    @property
    def device(self) -> str:
        return str(device_of(self.loaded))

    def about(self) -> dict[str, Any]:
        config = self.loaded.config
        about = {"run": self.loaded.run.resolve().name, "step": self.loaded.step}
        return about | {k: config[k] for k in ("seed", "harmonize") if k in config}

    def modalities(self, store: Store) -> list[str]:
        return list(check_inputs(store, self.loaded.specs))

    def pool(self, store: Store, rows: Rows, protocol: RetrievalProtocol) -> Embedded:
        return embed_pool(self.loaded, store, rows, protocol, batch_size=self.batch_size, cache=self.cache)

    def windows(self, store: Store, rows: Rows, modality: str, windows: int) -> tuple[Floats, Rows]:
        return window_features(
            self.loaded,
            store,
            rows,
            modality,
            windows=windows,
            batch_size=self.batch_size,
            cache=self.cache,
        )


@dataclass(frozen=True, slots=True)
class PlainSource:
    """No model: the embeddings that a store holds (CLIP's), or mean and deviation over time of log-mel.

    Attributes:
        keys: the store's features to use; empty takes the only one that serves for each modality.
    """

    store: Store
    keys: tuple[str, ...] = ()

    @property
    def weights_hash(self) -> str:
        return self._features()[0].weights_hash

    @property
    def folder(self) -> Path:
        return self.store.path.parent / f"eval-{self.store.path.stem}"

    @property
    def device(self) -> str:
        return "cpu"

    def about(self) -> dict[str, Any]:
        features = self._features()
        keys = [f.key for f in features]
        return {"run": " + ".join(keys), "encoder": features[0].encoder, "features": sorted(keys)}

    def modalities(self, store: Store) -> list[str]:
        return [f.modality for f in self._features()]

    def pool(self, store: Store, rows: Rows, protocol: RetrievalProtocol) -> Embedded:
        features = {f.modality: f for f in self._features()}
        encoders = {f.encoder for f in features.values()}
        if len(features) < 2 or len(encoders) > 1 or any(f.kind != "embedding" for f in features.values()):
            have = ", ".join(f"{f.key} ({f.encoder})" for f in features.values())
            raise BadInput(
                f"{store.path}: retrieval without a run needs embeddings of two modalities by one encoder, "
                f"found {have}; `harmonize extract -e open_clip:MODEL` makes some, --key chooses"
            )
        ids, texts = store.ids, [store.texts(int(i)) for i in rows]
        present = {m: store.status(m)[rows] == int(Status.OK) for m in features}
        vectors: dict[str, Floats] = {}
        captions, caption_of = np.zeros((0, 1), np.float32), np.zeros(0, np.int64)
        units = protocol.pooling in ("mean-of-similarities", "mean-of-units-then-normalise")
        for modality, feature in features.items():
            kept, of = [], []
            for place, i in enumerate(progress(rows, desc=feature.key, unit="clip")):
                x = store.read(feature.key, int(i)).astype(np.float32) if present[modality][place] else None
                if x is None or not len(x):
                    present[modality][place] = False
                    x = np.zeros((1, *feature.row_shape), np.float32)
                x = unit(x) if units else x
                if modality != "text":
                    kept.append(x.mean(axis=0, keepdims=True))
                elif present[modality][place]:
                    chosen = {"first": x[:1], "all": x, "mean": x.mean(axis=0, keepdims=True)}
                    kept.append(chosen[protocol.captions])
                    of += [place] * len(kept[-1])
            if modality == "text":
                if kept:
                    captions, caption_of = np.concatenate(kept), np.asarray(of, dtype=np.int64)
            else:
                joined = np.concatenate(kept)
                vectors.update({f"{modality}_va": joined, f"{modality}_vt": joined})
        return Embedded([ids[i] for i in rows], texts, present, vectors, captions, caption_of)

    def windows(self, store: Store, rows: Rows, modality: str, windows: int) -> tuple[Floats, Rows]:
        """One vector a sample: the mean over rows of an embedding; mean and deviation of a spectrum."""
        feature = next(f for f in self._features() if f.modality == modality)
        ok = store.status(modality) == int(Status.OK)
        kept, of = [], []
        for i in progress(rows, desc=feature.key, unit="clip"):
            if not ok[i] or not len(x := store.read(feature.key, int(i)).astype(np.float32)):
                continue
            parts = [x.mean(axis=0)] if feature.kind == "embedding" else [x.mean(axis=0), x.std(axis=0)]
            kept.append(np.concatenate(parts))
            of.append(int(i))
        if not kept:
            raise BadInput(f"{store.path}: {feature.key}: none of {len(rows)} samples has any row")
        return np.stack(kept), np.asarray(of, dtype=np.int64)

    def _features(self) -> list[FeatureSpec]:
        known = self.store.features
        unknown = [key for key in self.keys if key not in known]
        if unknown:
            raise BadInput(f"--key {unknown[0]}: {self.store.path} has {', '.join(known)}")
        chosen = [known[key] for key in self.keys or known]
        usable = [f for f in chosen if f.kind in PLAIN_KINDS]
        if not usable:
            raise BadInput(
                f"{self.store.path}: without a run, embeddings or log-mel are needed; "
                f"it has {', '.join(known)}"
            )
        names = [f.modality for f in usable]
        for modality in names:
            if names.count(modality) > 1:
                keys = ", ".join(f.key for f in usable if f.modality == modality)
                raise BadInput(
                    f"{self.store.path}: several features serve for {modality}: choose --key of {keys}"
                )
        return usable


def planned(
    task: str,
    kind: Kind,
    source: Source,
    store: Store,
    *,
    protocol: Mapping[str, Any],
    split: str,
    coverage: Mapping[str, Any],
) -> Result:
    """A result without numbers: what is measured, by which version of the metrics, of what."""
    return Result(
        task=task,
        protocol=protocol,
        split=split,
        coverage=coverage,
        metrics={},
        chance={},
        model_hash=source.weights_hash,
        store_hash=store.content_hash,
        store=str(store.path),
        model=source.about(),
        versions={"metrics": versions_of(kind)},
    )


def chosen_modalities(wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """`wanted`, or all `known` where none was asked for.

    Raises:
        BadInput: one that run and store do not share.
    """
    for modality in wanted:
        if modality not in known:
            raise BadInput(f"--modality {modality}: run and store share {', '.join(known)}")
    return tuple(wanted or known)


def untrained(loaded: LoadedModel, seed: int) -> LoadedModel:
    """`loaded` randomly initialised from `seed`, with the run's own standardisation of inputs: the baseline
    that a pre-trained backbone has to beat. Step 0, with a hash of its own weights."""
    config = read_settings(loaded.config["model"], f"{loaded.run}: model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(config, loaded.specs)
    model.load_state_dict(loaded.model.input_statistics(), strict=False)
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    device = next(loaded.model.parameters()).device
    config_values = {**loaded.config, "seed": seed, "harmonize": {"mode": "untrained"}}
    return replace(
        loaded, model=model.to(device).eval(), weights_hash=digest.hexdigest(), step=0, config=config_values
    )
