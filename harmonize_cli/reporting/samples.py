"""The explorer's samples: scores, captions, hints, a strip of thumbnails and the audio of each."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harmonize_cli.curriculum.hints import hints_of, repeated_captions
from harmonize_cli.curriculum.scores import Scores
from harmonize_cli.reporting.sound import sound_url
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status

FRAMES, HEIGHT = 5, 48


def pick(scores: Scores, indicator: str, most: int) -> NDArray[np.int64]:
    """Places of the most and of the least suspicious samples, half each; all where they are few enough.

    Where only some have a score, it is of these.
    """
    if len(scores) <= most:
        return np.arange(len(scores))
    suspicion = scores.suspicion(indicator)
    defined = np.flatnonzero(np.isfinite(suspicion))
    order = defined[np.argsort(-suspicion[defined], kind="stable")]
    if len(order) <= most:
        return order
    half = most // 2
    return np.concatenate([order[:half], order[len(order) - (most - half) :]])


def describe(store: Store, scores: Scores, places: Sequence[int]) -> list[dict[str, Any]]:
    """Plain values of each sample for the page; images and audio as data URLs."""
    repeated = repeated_captions(store)
    rows = []
    for place in places:
        i = int(scores.index[place])
        values = {name: _number(column[place]) for name, column in scores.columns.items()}
        rows.append(
            {
                "id": str(scores.ids[place]),
                "texts": list(store.texts(i)),
                "source": store.sources(i),
                "span": [store.span(i)[0], store.span(i)[1]],
                "labels": list(store.labels[i]),
                "split": store.splits[i],
                "scores": values,
                "hints": hints_of(store, i, repeated),
                "strip": _strip(store, i),
                "sound": sound_url(store, i),
                "spectrum": _spectrum(store, i),
            }
        )
    return rows


def _strip(store: Store, i: int) -> str | None:
    key = next((k for k, f in store.features.items() if f.kind in ("frames", "jpeg")), None)
    if key is None or store.status("video")[i] != Status.OK:
        return None
    length = int(store.length(key)[i])
    wanted = np.unique(np.linspace(0, length - 1, min(FRAMES, length)).round().astype(int))
    frames = [store.read_rows(key, i, int(t), int(t) + 1)[0] for t in wanted]
    pictures = [Image.fromarray(f[..., 0] if f.shape[-1] == 1 else f).convert("RGB") for f in frames]
    width = max(1, round(HEIGHT * pictures[0].width / pictures[0].height))
    sheet = Image.new("RGB", (len(pictures) * width, HEIGHT))
    for k, picture in enumerate(pictures):
        sheet.paste(picture.resize((width, HEIGHT)), (k * width, 0))
    return _data_url(sheet, "JPEG")


def _spectrum(store: Store, i: int) -> str | None:
    """The log-mel bands as an image, where the store keeps them."""
    key = next((k for k, f in store.features.items() if f.kind == "logmel"), None)
    if key is None or store.status("audio")[i] != Status.OK:
        return None
    x = store.read(key, i).astype(np.float32).T[::-1]
    x = (x - x.min()) / max(float(np.ptp(x)), 1e-6)
    return _data_url(Image.fromarray((255 * x).astype(np.uint8)).resize((160, HEIGHT)), "PNG")


def _data_url(picture: Image.Image, kind: str) -> str:
    out = io.BytesIO()
    picture.save(out, kind, **({"quality": 70} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64," + base64.b64encode(out.getvalue()).decode()


def _number(value: np.floating) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None
