"""What an extraction makes of files: rows, times, statuses, reasons."""

import errno
import json
import tempfile

import numpy as np
import pytest
from media_samples import levels, tone
from small_clips import config, row, status

from harmonize_cli.datasets.manifest import ManifestRow, read_manifest
from harmonize_cli.errors import HarmonizeError
from harmonize_cli.extraction.free_space import named_when_full
from harmonize_cli.extraction.pipeline import RunOptions, extract
from harmonize_cli.store.reader import Store


def test_segments_of_one_video_are_cut_at_their_times(media, tmp_path):
    spans = [(0.0, 1.0), (0.5, 2.0), (2.0, 4.0), (1.25, 1.75)]
    rows = [
        row(media, "a.mkv", f"s{i}", a, b, labels=("x",), split="train") for i, (a, b) in enumerate(spans)
    ]
    report = extract(rows, tmp_path / "s.h5", config(), RunOptions(root=media))
    store = Store.open(tmp_path / "s.h5")
    assert report.counts.samples == len(store) == 4
    assert report.counts.failed == 0
    level, wave = levels(40).astype(int), tone(4.0)
    for i, (a, b) in enumerate(spans):
        n = store.index(f"s{i}")
        frames, times = store.read("video/frames", n), store.times("video/frames", n)
        first, last = int(np.ceil(a * 10)), int(np.ceil(b * 10))
        assert np.array_equal(frames.reshape(len(frames), -1).mean(1).round(), level[first:last])
        assert np.allclose(times, np.arange(first, last) / 10)
        sound = store.read("audio/waveform", n)
        assert np.abs(sound - wave[round(a * 16000) : round(b * 16000)]).max() < 2e-3
        assert store.times("audio/waveform", n)[0] == pytest.approx(a)
        assert store.sources(n) == "a.mkv"
        assert store.span(n) == (a, b)
        assert store.facts(n)["drift"] == pytest.approx(0, abs=0.1)
    assert store.labels[0] == ("x",)
    assert store.vocab == ["<pad>", "<unk>", "one", "two"]
    assert store.read("text/tokens", 0).tolist() == [[2, 3] + [0] * 14]


def test_every_bad_file_has_its_reason_and_the_rest_is_fine(media, tmp_path):
    names = ["a.mkv", "mute.mkv", "silent.mkv", "sound.wav", "empty.mp4", "cut.mkv"]
    rows = [row(media, name) for name in names]
    rows += [
        row(media, "gone.mp4"),
        row(media, "a.mkv", "late", 9.0, 10.0),
        row(media, "a.mkv", "half", 3.0, 4.9),
        row(media, "a.mkv", "sliver", 3.9, 10.0),
        row(media, "a.mkv", "wordless", texts=("?!",)),
        row(media, "", "text only"),
        ManifestRow(id="two files", video=media / "mute.mkv", audio=media / "sound.wav", group="x"),
        ManifestRow(id="audio only", audio=media / "sound.wav", group="x"),
    ]
    report = extract(rows, tmp_path / "s", config(encoders=("raw", "waveform", "logmel", "tokens")))
    store = Store.open(tmp_path / "s")
    assert sorted(store.ids) == sorted(r.id for r in rows)
    seen = {id: status(store, id) for id in store.ids}
    assert seen["a.mkv"] == {"audio": ("OK", ""), "text": ("OK", ""), "video": ("OK", "")}
    assert seen["mute.mkv"]["audio"] == ("MISSING", "no sound track")
    assert seen["mute.mkv"]["video"] == ("OK", "")
    assert seen["silent.mkv"]["audio"][0] == "SILENT"
    assert seen["sound.wav"]["video"] == ("MISSING", "no picture track")
    assert seen["sound.wav"]["audio"] == ("OK", "")
    assert seen["empty.mp4"]["video"] == ("FAILED", "the file is empty (0 bytes)")
    assert seen["empty.mp4"]["text"] == ("OK", "")
    assert seen["cut.mkv"]["video"][0] == "FAILED"
    assert "% of the segment" in seen["cut.mkv"]["video"][1]
    assert seen["gone.mp4"]["audio"] == ("FAILED", "no such file")
    assert "starts at 9 s, but the picture track ends at 4.00 s" in seen["late"]["video"][1]
    assert seen["half"]["video"][0] == "OK"
    assert "53% of the segment, the picture track ends at 4.00 s" in seen["half"]["video"][1]
    assert seen["sliver"]["audio"][0] == "FAILED"
    assert seen["wordless"]["text"] == ("MISSING", "no words in the text")
    assert seen["text only"]["video"] == ("MISSING", "the manifest names no file for it")
    assert {m: s for m, (s, _) in seen["two files"].items()} == {
        "audio": "OK",
        "text": "MISSING",
        "video": "OK",
    }
    assert seen["audio only"]["video"] == ("MISSING", "the manifest names no file for it")
    assert seen["audio only"]["audio"] == ("OK", "")
    assert report.counts.failed == sum(any(s == "FAILED" for s, _ in v.values()) for v in seen.values())
    assert "failed" in report.line()
    assert store.read("audio/logmel", store.index("a.mkv")).shape == (188, 80)


def test_same_file_same_content_hash(media, tmp_path):
    copy = tmp_path / "copy.mkv"
    copy.write_bytes((media / "a.mkv").read_bytes())
    rows = [row(media, "a.mkv"), row(media, "b.mkv"), ManifestRow(id="copy", video=copy, group="c")]
    extract(rows, tmp_path / "s", config())
    store = Store.open(tmp_path / "s")
    digest = {store.ids[i]: store.facts(i)["content_hash"] for i in range(3)}
    assert digest["copy"] == digest["a.mkv"] != digest["b.mkv"]


def test_awkward_names_all_the_way(media, tmp_path):
    """Blanks, quotes, a dash in front, a new line, other scripts: from the manifest into the store."""
    names = ["-dash.mkv", "two words.mkv", "quo'te\".mkv", "new\nline.mkv", "näïve-日本.mkv", "a:b %03d.mkv"]
    root = tmp_path / "ro ot"
    root.mkdir()
    for name in names:
        (root / name).write_bytes((media / "a.mkv").read_bytes())
    path = root / "m.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"{i}", "video": n, "end": 1.0}) + "\n" for i, n in enumerate(names))
    )
    extract(read_manifest(path), tmp_path / "s", config(encoders=("raw", "waveform")), RunOptions(root=root))
    store = Store.open(tmp_path / "s")
    assert len(store) == len(names)
    for i, sample in enumerate(store.ids):
        assert store.sources(i) == names[int(sample)]
        assert status(store, sample) == {"video": ("OK", ""), "audio": ("OK", "")}
        assert store.length("video/frames")[i] == 10


def test_workers_give_the_same_store(media, tmp_path):
    rows = [row(media, n) for n in ("a.mkv", "b.mkv", "mute.mkv", "empty.mp4")]
    settings = config("shard_samples=1")
    extract(rows, tmp_path / "one", settings)
    report = extract(rows, tmp_path / "two.h5", settings, RunOptions(workers=2))
    assert report.counts.samples == 4
    assert Store.open(tmp_path / "two.h5").content_hash == Store.open(tmp_path / "one").content_hash
    assert not (tmp_path / "two.h5.parts").exists()


def test_a_given_vocabulary_is_used(media, tmp_path):
    extract([row(media, "a.mkv")], tmp_path / "train", config())
    other = [row(media, "b.mkv", texts=("two three",))]
    extract(other, tmp_path / "test", config(**{"tokens.vocab": str(tmp_path / "train")}))
    store = Store.open(tmp_path / "test")
    assert store.vocab == Store.open(tmp_path / "train").vocab
    assert store.read("text/tokens", 0)[0, :3].tolist() == [3, 1, 0]


def test_several_rates_and_sizes_in_one_pass(media, tmp_path, monkeypatch):
    from harmonize_cli.media import ffmpeg_decoder

    started = []
    real = ffmpeg_decoder.Running
    monkeypatch.setattr(ffmpeg_decoder, "Running", lambda *a, **k: started.append(a) or real(*a, **k))
    settings = config(
        "mfcc.sample_rate=8000", "mfcc.f_max=4000", encoders=("raw", "waveform", "logmel", "mfcc")
    )
    extract([row(media, "a.mkv", f"s{k}", k, k + 1.0) for k in range(4)], tmp_path / "s", settings)
    assert len(started) == 1
    assert set(Store.open(tmp_path / "s").features) == {
        "video/frames",
        "audio/waveform",
        "audio/logmel",
        "audio/mfcc",
    }


def test_a_full_folder_for_temporary_files_is_named(tmp_path):
    """Rows of long clips wait in files without a name."""
    with pytest.raises(HarmonizeError, match=f"^{tempfile.gettempdir()}: no room left"), named_when_full([]):
        raise OSError(errno.ENOSPC, "No space left on device")
