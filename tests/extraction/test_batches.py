import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from media_samples import grey_frames, make_clip

from harmonize_cli.config import load_config
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.encoders.frames import FramesConfig, RawFrames
from harmonize_cli.encoders.open_clip import ClipFrames, ClipModel, ClipTexts, OpenClipConfig
from harmonize_cli.encoders.tokens import Tokens, TokensConfig, Vocab
from harmonize_cli.extraction.batches import Batcher
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.extraction.pipeline import extract
from harmonize_cli.media.decode import FileDecode
from harmonize_cli.media.requests import Span
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Sample


class Counting(RawFrames):
    """Raw frames in batches, with a note of the batches' sizes."""

    def __init__(self, batch):
        super().__init__(FramesConfig(size=1))
        self.batch, self.sizes = batch, []

    def encode_frames(self, frames):
        self.sizes.append(len(frames))
        return super().encode_frames(frames)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 7))
def test_batches_are_full_whatever_the_clips(lengths, batch):
    encoder = Counting(batch)
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 255, (n, 1, 1, 3), np.uint8) for n in lengths]
    batcher = Batcher([encoder])
    done = []
    for i, frames in enumerate(clips):
        done += batcher.add(Sample(id=str(i)), {encoder.spec.key: frames} if len(frames) else {})
    done += batcher.flush()
    assert [s.id for s in done] == [str(i) for i in range(len(clips))]
    for sample, frames in zip(done, clips, strict=True):
        assert np.array_equal(sample.features.get(encoder.spec.key, frames[:0]), frames)
    assert sum(encoder.sizes) == sum(lengths)
    assert all(size <= batch for size in encoder.sizes)
    flushes = 1 + sum(lengths) // (4 * batch)
    assert sum(size < batch for size in encoder.sizes) <= flushes


class CountingTexts(Tokens):
    """Tokens in batches, with a note of the batches' sizes."""

    def __init__(self, batch):
        super().__init__(TokensConfig(max_words=1), Vocab([f"w{i}" for i in range(300)]))
        self.batch, self.sizes = batch, []

    def encode_texts(self, texts):
        self.sizes.append(len(texts))
        return super().encode_texts(texts)


def test_texts_are_gathered_across_samples():
    encoder = CountingTexts(batch=10)
    batcher = Batcher([encoder])
    clips = [[f"w{3 * i}", f"w{3 * i + 1}", f"w{3 * i + 2}"][: i % 4] for i in range(60)]
    done = [s for i, texts in enumerate(clips)
            for s in batcher.add(Sample(id=str(i)), {encoder.spec.key: texts} if texts else {})]  # fmt: skip
    done += batcher.flush()
    assert [s.id for s in done] == [str(i) for i in range(60)]
    for sample, texts in zip(done, clips, strict=True):
        found = sample.features.get(encoder.spec.key, [])
        assert [encoder.vocab.decode(row) for row in found] == texts
    assert sorted(encoder.sizes) == [2, 2, 6, *[10] * 8], "full but at the end of a flush"
    assert sum(encoder.sizes) == 90


def test_samples_that_wait_are_bounded_in_bytes():
    batcher = Batcher([CountingTexts(batch=1000)])
    held = most = 0
    for i in range(40):
        sample = Sample(id=str(i), features={"video/frames": np.zeros((1, 1 << 25), np.uint8)})
        held += 1 - len(list(batcher.add(sample, {"text/tokens": ["w1"]})))
        most = max(most, held)
    assert 2 <= most <= 8


def test_open_clip_in_one_pass_with_raw_frames(tmp_path):
    import open_clip

    tiny = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    (tmp_path / "tiny-extract.json").write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path / "tiny-extract.json")
    rows = []
    for i in range(3):
        path = make_clip(tmp_path / f"{i}.mkv", grey_frames(20 + 3 * i, 40, 64)[i:])
        rows.append(ManifestRow(id=f"{i}", video=path, group=f"{i}", texts=("a dog", "a cat")))
    name = "tiny-extract/random"
    sets = ["raw.size=8", "open_clip.rate=5", "open_clip.batch=4", "open_clip.device=cpu"]
    config = load_config(ExtractConfig, None, sets, {"encoders": ("raw", f"open_clip:{name}")})
    extract(rows, tmp_path / "s", config)
    store = Store.open(tmp_path / "s")
    assert store.features["video/open_clip"].encoder == f"open_clip:{name}"
    assert len(store.features["video/open_clip"].weights_hash) == 64
    model = ClipModel(name, OpenClipConfig(device="cpu", rate=5))
    encoder, said = ClipFrames(model), ClipTexts(model).encode_texts(["a dog", "a cat"])
    for i, row in enumerate(rows):
        chunks = FileDecode(row.video, [encoder.request], Span()).chunks()
        want = encoder.encode_frames(np.concatenate([chunk.rows for chunk in chunks]))
        got = store.read("video/open_clip", store.index(row.id))
        assert np.allclose(got.astype(np.float32), want.astype(np.float32), atol=3e-3)
        assert np.allclose(np.diff(store.times("video/open_clip", i)), 0.2)
        assert np.allclose(store.read("text/open_clip", i), said, atol=3e-3)
