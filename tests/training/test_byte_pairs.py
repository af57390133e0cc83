"""From videos to a run and back, with open_clip's byte pairs as text."""

import json

import numpy as np
import pytest
import torch
from media_samples import grey_frames, make_clip, tone
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.models.export import load_encoder
from harmonize_cli.store.reader import Store

ODD = "\"!($'+&x"  # its second token has the id 0, as padding has


def command(*args):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """24 clips of 1 s out of two files, and a run of 4 steps."""
    folder = tmp_path_factory.mktemp("bpe")
    rows = []
    for name, hz in (("low", 300), ("high", 900)):
        make_clip(folder / f"{name}.mkv", grey_frames(60, 16, 16), tone(12.0, hz=hz), fps=5)
        rows += [
            {
                "id": f"{name}{k}",
                "video": f"{name}.mkv",
                "start": k,
                "end": k + 1,
                "texts": [f"a {name} tone, number {k}", ODD][: 1 + k % 2],
                "label": name,
                "split": "test" if k % 3 == 2 else "train",
            }
            for k in range(12)
        ]
    (folder / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    sets = ["raw.size=16", "raw.rate=5", "logmel.sample_rate=16000", "logmel.n_mels=16"]
    encoders = [x for e in ("raw", "logmel", "clip_tokens") for x in ("-e", e)]
    command(
        "extract",
        folder / "m.jsonl",
        "-o",
        folder / "s.h5",
        *encoders,
        *(x for s in sets for x in ("--set", s)),
    )
    sets = ["batch=8", "steps=4", "model.width=32", "model.heads=2", "model.layers=1", "model.word_dim=16"]
    sets += ["harmonize.mode=realign", "data.workers=0"]
    command("pretrain", folder / "s.h5", "-o", folder / "run", *(x for s in sets for x in ("--set", s)))
    return folder


def test_a_run_reads_them(work):
    spec = load_model(work / "run").specs["text"]
    assert (spec.key, spec.kind, spec.rows, spec.vocabulary) == ("text/clip_tokens", "tokens", 77, 49408)
    steps = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([s["loss"] for s in steps if "loss" in s]).all()


def test_a_token_with_the_id_of_padding_is_read_and_padding_is_not(work):
    loaded = load_model(work / "run")
    store = Store.open(work / "s.h5")
    data = StoreDataset(store, loaded.specs)
    row = store.read("text/clip_tokens", store.index("low1"))[1]
    end = int(np.flatnonzero(row)[-1]) + 1
    assert (row[:end] == 0).any()
    alone = data.batch([store.index("low1")]).inputs["text"]
    assert alone.shape[-1] >= end
    text = torch.from_numpy(row)[None, None]
    with torch.no_grad():
        full = loaded.model.encode({"text": text})["text"]
        trimmed = loaded.model.encode({"text": text[..., :end]})["text"]
        seen = loaded.model.stems["text"](text[0], None)[0].requires_grad_()
    torch.testing.assert_close(full, trimmed)
    with torch.enable_grad():
        mask = loaded.model.stems["text"](text[0], torch.arange(77)[None] < end)[1]
        loaded.model.stack("text")(seen, mask, queries=1).sum().backward()
    reached = seen.grad[0].abs().sum(-1)[1:] > 0
    assert reached[:end].all()
    assert not reached[end:].any()


def test_zero_shot_prompts_go_through_the_same_tokenizer(work):
    out = command(
        "eval", "zeroshot", work / "run", work / "s.h5", "-o", work / "z.json", "--split", "test"
    ).output
    assert "top-1" in out


def test_an_exported_encoder_names_no_vocabulary(work):
    command("export", "encoder", work / "run", "-o", work / "encoder")
    about = json.loads((work / "encoder" / "config.json").read_text())
    assert about["vocab"] is None
    assert (
        load_encoder(work / "encoder")
        .encode({"text": torch.tensor([[[49406, 320, 49407]]])})["text"]
        .isfinite()
        .all()
    )
