"""An extraction that finds something there: resume, retry, extend, overwrite, and jobs side by side."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from small_clips import config, row, status

from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.errors import BadInput
from harmonize_cli.extraction.output import Output
from harmonize_cli.extraction.pipeline import RunOptions, extract
from harmonize_cli.extraction.plan import plan_units
from harmonize_cli.extraction.ray_engine import DecodeActor
from harmonize_cli.extraction.tasks import ShardTask
from harmonize_cli.extraction.unit import Job
from harmonize_cli.store.reader import Store


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
    with pytest.raises(BadInput, match="audio/waveform is in the store only"):
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
    DecodeActor(Job(settings, words, None), [], []).write(ShardTask(units[2], out / "part-00002.h5"))
    extract(rows[:4], out, settings, RunOptions(workers=2))
    last = extract(rows, out, settings)
    assert (last.skipped, last.counts.samples) == (5, 1)
    assert Store.open(out).content_hash == Store.open(tmp_path / "one").content_hash


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
