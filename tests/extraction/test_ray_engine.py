"""A local cluster of two nodes; one is killed half-way."""

import threading
import time

import numpy as np
import pytest
from media_samples import grey_frames, make_clip, tone

from harmonize_cli.config import load_config
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.encoders.base import FrameEncoder, SoundEncoder, TextEncoder
from harmonize_cli.errors import BadInput
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.extraction.pipeline import RunOptions, extract
from harmonize_cli.extraction.plan import plan_units
from harmonize_cli.extraction.ray_engine import DecodeActor, EncodeActor, RemoteFrames, RemoteSound, counts_of
from harmonize_cli.extraction.tasks import ShardTask
from harmonize_cli.extraction.unit import Job
from harmonize_cli.store.reader import Store


@pytest.fixture
def rows(tmp_path):
    found = []
    for i in range(16):
        path = make_clip(tmp_path / f"v{i}.mkv", grey_frames(30, 32, 32)[i:], tone(3.0, hz=200 + 20 * i))
        found.append(ManifestRow(id=f"v{i}", video=path, group=f"v{i}", texts=(f"number {i}",)))
    return found


def config(**flags):
    sets = ["raw.size=8", "waveform.sample_rate=8000", "shard_samples=1"]
    return load_config(ExtractConfig, None, sets, flags)


def test_without_ray_the_extra_is_named(rows, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"harmonize-cli\[ray\]"):
        extract(rows, tmp_path / "s", config(), RunOptions(engine="ray"))


def test_an_actor_writes_what_a_local_run_writes(rows, tmp_path):
    """The actors are plain classes; here they run in this process."""
    settings = config()
    extract(rows[:2], tmp_path / "calm", settings)
    words = tuple(Store.open(tmp_path / "calm").vocab)
    actor = DecodeActor(Job(settings, words, None), [], {})
    tasks = [ShardTask(u, tmp_path / "s" / f"part-{u.index:05d}.h5") for u in plan_units(rows[:2], 1)]
    counts = [actor.write(task) for task in tasks]
    assert [c.samples for c in counts] == [1, 1]
    assert counts_of(tasks[0]) == counts[0]
    assert Store.open(tmp_path / "s").content_hash == Store.open(tmp_path / "calm").content_hash


def test_a_stand_in_gives_what_the_encode_actor_gives():
    settings = config(encoders=("tokens",))
    actor = EncodeActor(Job(settings, None, None), ["raw", "logmel"])
    ((frames_in, *raw),) = actor.describe()["raw"]
    ((audio_in, *mel),) = actor.describe()["logmel"]
    assert (frames_in, audio_in) == (RemoteFrames, RemoteSound)
    frames = np.zeros((3, *raw[1].row_shape), np.uint8)
    stand_in = _direct(frames_in, actor, raw)
    assert isinstance(stand_in, FrameEncoder)
    assert not isinstance(stand_in, SoundEncoder | TextEncoder)
    assert np.array_equal(stand_in.encode_frames(frames), frames)
    rows = _direct(audio_in, actor, mel).encode_sound(np.zeros(48_000, np.float32))
    assert rows.shape[1:] == mel[0].row_shape


def _direct(kind, actor, described):
    """A stand-in that calls an actor of this process in the place of one behind a network."""
    found = kind([actor], *described)
    found.call = lambda method, values: actor.encode(found.spec.key, method, values)
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_a_node_is_killed_and_nothing_is_lost(rows, tmp_path):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    extract(rows, tmp_path / "calm", config())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    out = tmp_path / "s"
    killed = []

    def kill():
        until = time.monotonic() + 120
        while time.monotonic() < until and len(list(out.glob("part-*.h5"))) < 4:
            time.sleep(0.02)
        killed.append(len(list(out.glob("part-*.h5"))))
        cluster.remove_node(second, allow_graceful=False)

    try:
        ray.init(address=cluster.address, log_to_driver=False)
        thread = threading.Thread(target=kill)
        thread.start()
        report = extract(rows, out, config(), RunOptions(engine="ray"))
        thread.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert 4 <= killed[0] < 16
    assert report.counts.samples == 16
    assert Store.open(out).content_hash == Store.open(tmp_path / "calm").content_hash


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_big_models_live_in_encode_actors(rows, tmp_path):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    settings = config(encoders=("raw", "open_clip:RN50/random"))
    extract(rows[:2], tmp_path / "calm", settings)
    try:
        ray.init(num_cpus=2, log_to_driver=False)
        extract(rows[:2], tmp_path / "s", settings, RunOptions(engine="ray"))
    finally:
        ray.shutdown()
    one, two = Store.open(tmp_path / "calm"), Store.open(tmp_path / "s")
    assert one.features == two.features
    for sample in one.ids:
        a = one.read("video/open_clip", one.index(sample)).astype(np.float32)
        b = two.read("video/open_clip", two.index(sample)).astype(np.float32)
        assert np.allclose(a, b, atol=5e-3)
