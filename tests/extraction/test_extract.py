import errno
import json
import shutil
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from media_samples import grey_frames, levels, make_clip, tone

from harmonize_cli.config import load_config
from harmonize_cli.datasets.manifest import ManifestRow, read_manifest
from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.extraction.output import Output
from harmonize_cli.extraction.pipeline import RunOptions, extract
from harmonize_cli.extraction.plan import plan_units
from harmonize_cli.extraction.ray_engine import DecodeActor
from harmonize_cli.extraction.room import named_when_full
from harmonize_cli.extraction.tasks import Task
from harmonize_cli.extraction.unit import Job
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status


def config(*overrides, **flags):
    small = ["raw.size=8", "raw.rate=10", "waveform.sample_rate=16000", "logmel.sample_rate=16000"]
    return load_config(ExtractConfig, None, [*small, *overrides], flags)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Good and bad files, 4 s each."""
    folder = tmp_path_factory.mktemp("media")
    make_clip(folder / "a.mkv", grey_frames(40, 16, 16), tone(4.0))
    make_clip(folder / "b.mkv", grey_frames(40, 16, 16)[::-1], tone(4.0, hz=700))
    make_clip(folder / "mute.mkv", grey_frames(40, 16, 16))
    make_clip(folder / "silent.mkv", grey_frames(40, 16, 16), np.zeros(64000, np.float32))
    make_clip(folder / "sound.wav", wave=tone(4.0), acodec="pcm_s16le")
    (folder / "empty.mp4").write_bytes(b"")
    whole = (folder / "a.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 5])
    return folder


def row(media, name, id="", start=0.0, end=None, **more):
    path = media / name if name else None
    more.setdefault("texts", ("one two",))
    return ManifestRow(id=id or name, video=path, start=start, end=end, group=name, **more)


def status(store, id):
    i = store.index(id)
    return {m: (Status(store.status(m)[i]).name, store.reason(m, i)) for m in store.modalities}


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


def test_resume_skips_what_is_there_and_equals_one_go(media, tmp_path):
    rows = [row(media, n, f"{n}{k}", k, k + 1.0) for k in range(3) for n in ("a.mkv", "b.mkv", "mute.mkv")]
    settings = config("shard_samples=2", "tokens.vocab_size=4")
    extract(rows, tmp_path / "once", settings)
    first = extract(rows, tmp_path / "twice", settings)
    parts = sorted((tmp_path / "twice").iterdir())
    assert len(parts) == 3
    parts[1].unlink()
    kept = {p: p.stat().st_ino for p in parts if p.exists()}
    again = extract(rows, tmp_path / "twice", settings)
    assert (first.skipped, again.skipped, again.counts.samples) == (0, 6, 3)
    assert {p: p.stat().st_ino for p in kept} == kept
    one, two = Store.open(tmp_path / "once"), Store.open(tmp_path / "twice")
    assert one.content_hash == two.content_hash
    assert one.ids == two.ids


def test_a_longer_manifest_adds_to_the_store(media, tmp_path):
    rows = [row(media, "a.mkv", f"s{k}", k, k + 1.0, texts=(f"word{k}",)) for k in range(4)]
    extract(rows[:2], tmp_path / "s", config())
    report = extract(rows, tmp_path / "s", config())
    store = Store.open(tmp_path / "s")
    assert report.counts.samples == 2
    assert sorted(store.ids) == ["s0", "s1", "s2", "s3"]
    assert store.vocab == ["<pad>", "<unk>", "word0", "word1"]  # ids keep their meaning


def test_other_encoders_or_settings_are_refused(media, tmp_path):
    rows = [row(media, "a.mkv")]
    extract(rows, tmp_path / "s", config())
    with pytest.raises(BadInput, match=r"video/frames: row_shape.*--mode overwrite"):
        extract(rows, tmp_path / "s", config("raw.size=16"))
    with pytest.raises(BadInput, match="audio/waveform is there, but not asked for"):
        extract(rows, tmp_path / "s", config(encoders=("raw", "tokens")))
    report = extract(rows, tmp_path / "s", config("raw.size=16"), RunOptions(mode="overwrite"))
    assert report.counts.samples == 1
    assert Store.open(tmp_path / "s").features["video/frames"].row_shape == (16, 16, 3)


def test_a_folder_with_other_things_is_left_alone(media, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"notes\.txt"):
        extract([row(media, "a.mkv")], tmp_path, config())


def test_jobs_of_an_array_fill_one_store(media, tmp_path):
    rows = [row(media, n) for n in ("a.mkv", "b.mkv", "mute.mkv", "silent.mkv")]
    settings = config("shard_samples=1")
    extract(rows, tmp_path / "one", settings)
    for job in range(3):
        extract(rows, tmp_path / "many", settings, RunOptions(share=(job, 3)))
    assert Store.open(tmp_path / "many").content_hash == Store.open(tmp_path / "one").content_hash


def test_job_arrays_workers_and_actors_of_a_cluster_resume_each_other(media, tmp_path):
    names = ("a.mkv", "b.mkv", "mute.mkv", "silent.mkv", "sound.wav", "empty.mp4")
    rows = [row(media, n) for n in names]
    settings = config("shard_samples=1")
    extract(rows, tmp_path / "one", settings)
    out = tmp_path / "mixed"
    extract(rows, out, settings, RunOptions(share=(1, 3)))
    words = tuple(Store.open(out).vocab)
    units = plan_units(rows, 1)
    DecodeActor(Job(settings, words, None), [], []).write(Task(units[2], out / "part-00002.h5"))
    extract(rows[:4], out, settings, RunOptions(workers=2))
    last = extract(rows, out, settings)
    assert (last.skipped, last.counts.samples) == (5, 1)
    assert Store.open(out).content_hash == Store.open(tmp_path / "one").content_hash


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


def test_failed_samples_are_tried_again(media, tmp_path):
    late = tmp_path / "late.mkv"
    late.write_bytes(b"")
    rows = [row(media, "a.mkv"), ManifestRow(id="late", video=late, group="l"), row(media, "b.mkv")]
    extract(rows, tmp_path / "s", config())
    late.write_bytes((media / "b.mkv").read_bytes())
    assert extract(rows, tmp_path / "s", config()).counts.samples == 0
    report = extract(rows, tmp_path / "s", config(), RunOptions(mode="retry-failed"))
    store = Store.open(tmp_path / "s")
    assert (report.counts.samples, report.counts.failed) == (1, 0)
    assert len(store) == 3
    assert status(store, "late")["video"] == ("OK", "")
    assert store.facts(store.index("late"))["attempts"] == 2
    assert np.array_equal(
        store.read("video/frames", store.index("late")), store.read("video/frames", store.index("b.mkv"))
    )


def test_jobs_of_an_array_share_the_failed_samples_out(media, tmp_path):
    late = [tmp_path / f"late{i}.mkv" for i in range(6)]
    for path in late:
        path.write_bytes(b"")
    rows = [ManifestRow(id=path.stem, video=path, group=path.stem) for path in late]
    extract(rows, tmp_path / "s", config("shard_samples=1"))
    for path in late:
        path.write_bytes((media / "b.mkv").read_bytes())
    jobs = [RunOptions(mode="retry-failed", share=(number, 3)) for number in range(3)]
    tried = [extract(rows, tmp_path / "s", config("shard_samples=1"), job).counts.samples for job in jobs]
    assert sum(tried) == 6
    assert max(tried) < 6
    store = Store.open(tmp_path / "s")
    assert all(store.facts(i)["attempts"] == 2 for i in range(6))


@pytest.mark.parametrize("name", ["s", "s.h5"])
def test_extend_adds_features_and_keeps_the_rest(media, tmp_path, name):
    rows = [row(media, n, f"{n}{k}", k, k + 1.0) for k in range(3) for n in ("a.mkv", "mute.mkv")]
    settings = config("shard_samples=2", encoders=("raw", "tokens"))
    extract(rows, tmp_path / name, settings)
    both = config("shard_samples=2", encoders=("raw", "tokens", "logmel"))
    report = extract(rows, tmp_path / name, both, RunOptions(mode="extend"))
    extract(rows, tmp_path / "direct", both)
    one, two = Store.open(tmp_path / name), Store.open(tmp_path / "direct")
    assert report.counts.samples == 6
    assert set(one.features) == {"video/frames", "text/tokens", "audio/logmel"}
    for sample in two.ids:
        i, j = one.index(sample), two.index(sample)
        for key in one.features:
            assert np.array_equal(one.read(key, i), two.read(key, j))
        assert status(one, sample) == status(two, sample)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "direct"])
    with pytest.raises(BadInput, match="nothing to extend"):
        extract(rows, tmp_path / name, both, RunOptions(mode="extend"))


def test_an_extension_killed_while_it_takes_the_place_of_the_old_store(media, tmp_path):
    """Between the two renames nothing has the store's name; the next run mends that."""
    rows = [row(media, "a.mkv"), row(media, "b.mkv")]
    extract(rows, tmp_path / "s", config(encoders=("raw",)))
    both = config(encoders=("raw", "tokens"))
    extract(rows, tmp_path / "whole", both)
    (tmp_path / "s").rename(tmp_path / "s.replaced-by-extend")
    (tmp_path / "whole").rename(tmp_path / "s.extending")
    report = extract(rows, tmp_path / "s", both)
    assert (report.counts.samples, report.skipped) == (0, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_copy_that_a_user_made_is_left_alone(media, tmp_path):
    rows = [row(media, "a.mkv")]
    extract(rows, tmp_path / "s", config(encoders=("raw",)))
    shutil.copytree(tmp_path / "s", tmp_path / "s.old")
    extract(rows, tmp_path / "s", config(encoders=("raw", "tokens")), RunOptions(mode="extend"))
    assert set(Store.open(tmp_path / "s.old").features) == {"video/frames"}


def test_a_run_killed_after_it_put_the_file_together(media, tmp_path):
    """The parts are still there beside the finished file; they are no second set of samples."""
    rows = [row(media, "a.mkv"), row(media, "b.mkv")]
    settings = config("shard_samples=1")
    extract(rows[:1], tmp_path / "parts", settings)
    extract(rows, tmp_path / "s.h5", settings)
    shutil.copytree(tmp_path / "parts", tmp_path / "s.h5.parts")
    (tmp_path / "s.h5.12345.tmp").touch()  # of another one, killed a little earlier
    more = [*rows, row(media, "mute.mkv")]
    report = extract(more, tmp_path / "s.h5", settings)
    assert (report.counts.samples, report.skipped) == (1, 2)
    assert sorted(Store.open(tmp_path / "s.h5").ids) == ["a.mkv", "b.mkv", "mute.mkv"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "s.h5"]


def test_a_full_folder_for_temporary_files_is_named(tmp_path):
    """Rows of long clips wait in files without a name."""
    with pytest.raises(HarmonizeError, match=f"^{tempfile.gettempdir()}: no room left"), named_when_full([]):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_overwrite_keeps_the_old_store_until_the_new_run_can_start(media, tmp_path):
    rows = [row(media, "a.mkv")]
    extract(rows, tmp_path / "s", config())
    before = Store.open(tmp_path / "s").content_hash
    broken = config(encoders=("raw", "open_clip:no-such-model/random"))
    with pytest.raises(BadInput, match="unknown model"):
        extract(rows, tmp_path / "s", broken, RunOptions(mode="overwrite"))
    assert Store.open(tmp_path / "s").content_hash == before


@pytest.mark.parametrize("mode", ["overwrite", "extend"])
def test_jobs_of_an_array_do_not_undo_each_others_work(media, tmp_path, mode):
    rows = [row(media, "a.mkv"), row(media, "b.mkv")]
    extract(rows, tmp_path / "s", config("shard_samples=1"))
    with pytest.raises(BadInput, match=f"--mode {mode}: is for one job"):
        extract(rows, tmp_path / "s", config("shard_samples=1"), RunOptions(mode=mode, share=(1, 2)))
    assert len(Store.open(tmp_path / "s")) == 2


def test_a_second_name_of_a_unit_is_no_other_units_first(tmp_path):
    output = Output(tmp_path / "s", "incremental")
    output.part(0).touch()
    assert output.part(0) != output.part(100_000)


def test_an_extension_goes_on_from_shards_as_they_are_now(media, tmp_path):
    """Killed half-way; then the failed samples are tried again, and the extension goes on."""
    late = tmp_path / "late.mkv"
    late.write_bytes(b"")
    rows = [row(media, "a.mkv"), ManifestRow(id="late", video=late, group="l", texts=("one",))]
    extract(rows, tmp_path / "s", config(encoders=("raw",)))
    both = config(encoders=("raw", "tokens"))
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    extract(rows, tmp_path / "copy", both, RunOptions(mode="extend"))
    (tmp_path / "copy").rename(tmp_path / "s.extending")
    late.write_bytes((media / "b.mkv").read_bytes())
    extract(rows, tmp_path / "s", config(encoders=("raw",)), RunOptions(mode="retry-failed"))
    extract(rows, tmp_path / "s", both, RunOptions(mode="extend"))
    store = Store.open(tmp_path / "s")
    assert status(store, "late") == {"video": ("OK", ""), "text": ("OK", "")}


def test_extend_wants_the_same_manifest_and_files(media, tmp_path):
    copy = tmp_path / "c.mkv"
    copy.write_bytes((media / "a.mkv").read_bytes())
    rows = [row(media, "a.mkv"), ManifestRow(id="c", video=copy, group="c")]
    with pytest.raises(BadInput, match="extract it first"):
        extract(rows, tmp_path / "s", config(), RunOptions(mode="extend"))
    extract(rows, tmp_path / "s", config(encoders=("raw", "waveform")))
    more = config(encoders=("logmel",))
    with pytest.raises(BadInput, match="is not in the manifest"):
        extract(rows[:1], tmp_path / "s", more, RunOptions(mode="extend"))
    with pytest.raises(BadInput, match="c: has other texts in the store than in the manifest"):
        extract([rows[0], replace(rows[1], texts=("new",))], tmp_path / "s", more, RunOptions(mode="extend"))
    copy.write_bytes((media / "b.mkv").read_bytes())
    with pytest.raises(BadInput, match="c: its file has changed"):
        extract(rows, tmp_path / "s", more, RunOptions(mode="extend"))
    copy.write_bytes(b"gone bad")
    with pytest.raises(BadInput, match="c: its audio was ok and is failed now"):
        extract(rows, tmp_path / "s", more, RunOptions(mode="extend"))
    assert set(Store.open(tmp_path / "s").features) == {"video/frames", "audio/waveform"}
