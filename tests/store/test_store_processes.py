"""Many processes, forks, threads and read-only folders (pitfalls 1 and 2), and the documented layout."""

import multiprocessing as mp
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from store_builders import FEATURES, make_sample, write_shard

from harmonize_cli.store.reader import Store

DOCS = Path(__file__).parents[2] / "docs" / "store-format.md"


@pytest.fixture(params=[None, "lzf"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for k in range(3):
        made = [make_sample(f"{k}-{i}", 10 * k + i, rows=200) for i in range(4)]
        write_shard(tmp_path / "store" / f"part-{k:05d}.h5", made, compression=request.param)
    return tmp_path / "store"


def _sums(store: Store, order: list[int]) -> list[int]:
    return [int(store.read("video/frames", i).sum(dtype=np.int64)) for i in order]


def _open_files(folder: Path) -> int:
    links = (fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())
    return len({link for link in links if link.parent == folder})


def test_no_handle_is_open_before_the_first_read_or_after_pickling(folder: Path) -> None:
    store = Store.open(folder)
    store.close()
    assert _open_files(folder) == 0
    before = _sums(store, [0, 11])
    assert _open_files(folder) == 2
    other = pickle.loads(pickle.dumps(store))
    store.close()
    assert _open_files(folder) == 0
    assert len(pickle.dumps(store)) < 100_000
    assert _sums(other, [0, 11]) == before
    del other
    assert _open_files(folder) == 0


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_processes_read_the_same(folder: Path, method: str) -> None:
    store = Store.open(folder)
    expected = _sums(store, list(range(12)))  # handles are open now: a fork inherits them
    orders = [np.random.default_rng(seed).permutation(12).tolist() for seed in range(4)]
    with mp.get_context(method).Pool(2) as pool:
        results = pool.starmap(_sums, [(store, order) for order in orders])
    for order, sums in zip(orders, results, strict=True):
        assert sums == [expected[i] for i in order]
    assert _sums(store, list(range(12))) == expected


def test_forked_children_use_the_inherited_store(folder: Path) -> None:
    # no pickling here: the child works on the parent's own object, open handles and all
    store = Store.open(folder)
    expected = _sums(store, list(range(12)))
    pids = []
    for seed in range(6):
        pid = os.fork()
        if pid == 0:
            order = np.random.default_rng(seed).integers(0, 12, 50).tolist()
            os._exit(0 if _sums(store, order) == [expected[i] for i in order] else 1)
        pids.append(pid)
    assert _sums(store, list(range(12))) == expected, "while the children read"
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 6


def test_32_processes_read_at_once(folder: Path) -> None:
    # forked after the imports: 32 interpreters' starts would cost half a minute
    store = Store.open(folder)
    total = sum(_sums(store, list(range(12))))
    start_r, start_w = os.pipe()
    pids = []
    for _ in range(32):
        pid = os.fork()
        if pid == 0:
            os.close(start_w)
            mine = Store.open(folder)
            os.read(start_r, 1)  # returns when the parent closes its end: all start together
            os._exit(0 if sum(_sums(mine, list(range(12)))) == total else 1)
        pids.append(pid)
    os.close(start_r)
    os.close(start_w)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 32


def test_threads_share_a_store(folder: Path) -> None:
    store = Store.open(folder)
    expected = _sums(store, list(range(12)))
    with ThreadPoolExecutor(8) as pool:
        orders = [np.random.default_rng(seed).permutation(12).tolist() for seed in range(40)]
        for order, sums in zip(orders, pool.map(lambda o: _sums(store, o), orders), strict=True):
            assert sums == [expected[i] for i in order]


@pytest.fixture
def read_only(folder: Path) -> Iterator[Path]:
    """The store on a file system that not even root can write to, where this machine allows a mount."""
    target = folder.parent / "mounted"
    target.mkdir()
    mounted = False
    if shutil.which("mount") and os.geteuid() == 0:
        bind = subprocess.run(["mount", "--bind", folder, target], check=False, capture_output=True)
        if bind.returncode == 0:
            remount = ["mount", "-o", "remount,ro,bind", target]
            mounted = subprocess.run(remount, check=False, capture_output=True).returncode == 0
            if not mounted:
                subprocess.run(["umount", target], check=True)
    if not mounted:
        target.rmdir()
        shutil.copytree(folder, target)
        for path in (*target.iterdir(), target):
            path.chmod(0o555 if path.is_dir() else 0o444)
    yield target
    if mounted:
        subprocess.run(["umount", "-l", target], check=True)
    else:
        target.chmod(0o755)


def test_read_only_file_system(read_only: Path) -> None:
    store = Store.open(read_only)
    assert len(_sums(store, list(range(12)))) == 12
    assert store.sample(11).id == "2-3"
    store.close()


def test_a_lock_held_by_another_program_does_not_matter(folder: Path) -> None:
    # network file systems fail to lock; a program that locks must not keep readers out either
    import fcntl

    with (folder / "part-00000.h5").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert len(Store.open(folder)) == 12


def test_more_shards_than_file_descriptors(tmp_path: Path) -> None:
    for k in range(40):
        write_shard(tmp_path / f"part-{k:05d}.h5", [make_sample(str(k), k, rows=2)])
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))\n"
        "from harmonize_cli.store.reader import Store\n"
        "s = Store.open(sys.argv[1])\n"
        "print(sum(int(s.read('video/frames', i).sum()) for i in [*range(40), *range(40)]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == 2 * sum(_sums(Store.open(tmp_path), list(range(40))))


def test_the_documented_lines_of_plain_h5py_read_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "store" / "part-00000.h5", [make_sample("a", 1), make_sample("b", 2, rows=4)])
    monkeypatch.chdir(tmp_path)
    plain, ours = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in plain.splitlines() if line.strip()]) <= 10
    assert "harmonize_cli" not in plain
    exec(plain, {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith('a ["a dog barks","naïve"] (7, 4, 6, 3) [1.5 1.6')
    assert printed[1].startswith('b ["a dog barks","naïve"] (4, 4, 6, 3) [1.5 1.6')
    exec(ours, {})
    assert "a ('a dog barks', 'naïve') (7, 4, 6, 3) [1.5 1.6" in capsys.readouterr().out


def test_the_documentation_names_every_dataset_and_attribute(tmp_path: Path) -> None:
    from store_builders import FRAMES

    from harmonize_cli.store.schema import FeatureSpec

    jpeg = FeatureSpec("video/jpeg", "jpeg", "raw", "uint8", (16, 24, 3), rate=1.0)
    path = write_shard(tmp_path / "s.h5", [], [*FEATURES, jpeg], vocab=["x"])
    text = DOCS.read_text(encoding="utf-8")
    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        for part in {part for name in names for part in name.split("/")} - {"audio", "video", "text"}:
            assert part in text, part
        for name in file.attrs:
            assert f"attribute `{name}`" in text
    for field in FRAMES.to_json():
        assert f"`{field}`" in text
