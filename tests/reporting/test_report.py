"""The report: whole, self-contained, deaf to script in captions, and alive in a real browser."""

import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import harmonize_cli.reporting
from harmonize_cli.cli.main import app
from harmonize_cli.curriculum.hints import explain_worst, hints_of
from harmonize_cli.curriculum.scores import Scores, write_about, write_part
from harmonize_cli.errors import BadInput
from harmonize_cli.reporting.collect import comparable, read_runs
from harmonize_cli.reporting.page import write_page
from harmonize_cli.reporting.samples import describe, pick
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Sample, Status
from harmonize_cli.store.writer import ShardWriter

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FEATURES = [
    FeatureSpec("video/frames", "frames", "raw", "uint8", (8, 12, 3), rate=5.0, regular=True),
    FeatureSpec("audio/waveform", "waveform", "raw", "float16", (), rate=16000.0, regular=True),
    FeatureSpec("text/tokens", "tokens", "tokens", "int32", (4,), params={"vocab_size": 9, "pad_id": 0}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 30 samples with scores and a run with metrics and an evaluation."""
    out = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    with ShardWriter(out / "store.h5", FEATURES, vocab=[f"w{i}" for i in range(9)]) as shard:
        for i in range(30):
            silent = i == 5
            features = {
                "video/frames": rng.integers(0, 255, (4, 8, 12, 3)).astype(np.uint8),
                "audio/waveform": rng.normal(0, 0.1, 4000).astype(np.float16),
                "text/tokens": np.ones((1, 4), np.int32),
            }
            if silent:
                del features["audio/waveform"]
            text = EVIL if i == 3 else "same words" if i in (7, 8) else "the" if i == 9 else f"caption {i}"
            shard.add(
                Sample(
                    id=f"s{i:02d}",
                    texts=(text,),
                    source=f"videos/{EVIL if i == 4 else i}.mp4",
                    start=0.0,
                    end=0.4 if i == 6 else 3.0,
                    features=features,
                    times={"video/frames": 0.0, "audio/waveform": 0.0},
                    status={"audio": Status.SILENT} if silent else {},
                    facts={"drift": 0.5 if i == 10 else 0.0},
                )
            )
    loss = np.arange(30, dtype=np.float32)
    loss[11] = np.nan
    columns = {"loss_vt": loss, "cosine_backbone": np.linspace(1, -1, 30).astype(np.float32)}
    write_part(
        out / "scores" / "part-00000.npz", [f"s{i:02d}" for i in range(30)], np.arange(30), columns, "k"
    )
    about = {"loss_vt": {"noisy": "high", "about": ""}, "cosine_backbone": {"noisy": "low", "about": ""}}
    store = str(out / "store.h5")
    write_about(out / "scores", {"key": "k", "parts": ["part-00000.npz"], "store": store, "columns": about})
    run = out / "run"
    (run / "eval").mkdir(parents=True)
    (run / "config.yaml").write_text("harmonize: {mode: both}\n")
    lines = [
        {
            "step": step,
            "loss": 5 - step / 10,
            "conflict_share": 0.3,
            "norm_ratio": 1.0,
            "gated_share": 0.1,
            "clips_per_s": 100.0,
            **{f"cosine_q{q:02d}": q / 100 - 0.5 for q in (5, 25, 50, 75, 95)},
        }
        for step in range(10, 50, 10)
    ]
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 50, "lo'
    )
    result = {
        "task": "retrieval",
        "protocol": {"name": "vatt"},
        "split": "test",
        "coverage": {"expected": 30, "present": 30},
        "metrics": {"text-to-video/R@10": {"value": 0.5, "low": 0.4, "high": 0.6}},
        "chance": {"text-to-video/R@10": 0.1},
        "model_hash": "",
        "store_hash": "",
        "format": "harmonize-result/1",
    }
    (run / "eval" / "r.json").write_text(json.dumps(result))
    Image.new("RGB", (4, 4), "red").save(run / "eval" / "r.video.png")  # a confusion matrix, say
    return out


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.urls += [value for name, value in attrs if name in ("src", "href") and value]


def _page(folder: Path, *more: str) -> str:
    words = ["report", str(folder / "run"), "-o", str(folder / "r.html"), "--scores", str(folder / "scores")]
    done = CliRunner().invoke(app, [*words, "--indicator", "loss_vt", *more])
    assert done.exit_code == 0, done.output
    return (folder / "r.html").read_text()


def test_one_page_without_any_link_out(folder: Path, tmp_path: Path) -> None:
    page = _page(folder, "--figures", str(tmp_path / "figures"))
    links = _Links()
    links.feed(page)
    assert links.urls
    assert all(url.startswith("data:") for url in links.urls)
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "0.500 <small>[0.400, 0.600]</small>" in page
    assert 'alt="r.video" src="data:image/png;base64,' in page
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"loss.svg", "loss.png", "cosine.svg", "results.png", "speed.svg"} <= names


def test_strangers_words_stay_words(folder: Path) -> None:
    page = _page(folder)
    assert EVIL not in page
    links = _Links()
    links.feed(page)
    assert links.tags.count("script") == 3  # data, explorer, theme: none of a caption's
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    by_id = {sample["id"]: sample for sample in data["samples"]}
    assert by_id["s03"]["texts"] == [EVIL]  # whole, as data
    assert EVIL in by_id["s04"]["source"]
    script = page[page.rindex("const data") :]
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script


def test_samples_carry_what_the_explorer_shows(folder: Path) -> None:
    store = Store.open(folder / "store.h5")
    page = _page(folder)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    by_id = {sample["id"]: sample for sample in data["samples"]}
    assert by_id["s00"]["strip"].startswith("data:image/jpeg;base64,")
    assert by_id["s00"]["sound"].startswith("data:audio/wav;base64,")
    assert by_id["s05"]["sound"] is None
    assert by_id["s11"]["scores"]["loss_vt"] is None
    hints = {sample: found for sample in by_id if (found := by_id[sample]["hints"])}
    assert hints == {
        "s05": ["silent"],
        "s06": ["very short"],
        "s07": ["repeated caption"],
        "s08": ["repeated caption"],
        "s09": ["no content words"],
        "s10": ["audio and video differ in length"],
    }
    assert hints_of(store, 7, frozenset()) == []


def test_hints_of_the_worst_tenth_come_first(folder: Path) -> None:
    store = Store.open(folder / "store.h5")
    suspicion = np.zeros(30)
    suspicion[[7, 8, 6]] = 1
    first = explain_worst(store, np.arange(30), suspicion)[0]
    assert (first.hint, round(first.worst, 2), first.rest) == ("repeated caption", 0.67, 0.0)


def test_a_store_made_anew_since_the_scores_is_refused(folder: Path, tmp_path: Path) -> None:
    """Row 3 of it would be shown as sample 3 of the other."""
    shutil.copytree(folder / "scores", tmp_path / "scores")
    with ShardWriter(tmp_path / "store.h5", FEATURES[:1]) as shard:
        for i in (0, 2, 1):
            frames = np.zeros((1, 8, 12, 3), np.uint8)
            features, times = {"video/frames": frames}, {"video/frames": 0.0}
            shard.add(Sample(id=f"s{i:02d}", features=features, times=times))
    about = json.loads((tmp_path / "scores" / "scores.json").read_text())
    (tmp_path / "scores" / "scores.json").write_text(
        json.dumps({**about, "store": str(tmp_path / "store.h5")})
    )
    words = [
        "report",
        str(folder / "run"),
        "-o",
        str(tmp_path / "r.html"),
        "--scores",
        str(tmp_path / "scores"),
    ]
    refused = CliRunner().invoke(app, words)
    assert "row 1 is not 's01' any more, which was scored" in str(refused.exception)


def test_unknown_indicators_are_refused_with_the_nearest(folder: Path) -> None:
    words = ["report", str(folder / "run"), "-o", str(folder / "t.html"), "--scores", str(folder / "scores")]
    refused = CliRunner().invoke(app, [*words, "--indicator", "los_vt"])
    assert "did you mean 'loss_vt'" in str(refused.exception)
    done = CliRunner().invoke(app, words)  # similarity_vt is the default, but nobody asked for it by name
    assert done.exit_code == 0, done.output
    assert "of split all" in done.output


def test_the_store_is_found_from_another_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older scores keep the path as it was given, relative to wherever that was."""
    shutil.copytree(folder, tmp_path / "project")
    about_file = tmp_path / "project" / "scores" / "scores.json"
    about = json.loads(about_file.read_text())
    about_file.write_text(json.dumps({**about, "store": "store.h5"}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ["report", str(folder / "run"), "-o", "r.html", "--scores", "../project/scores"]
    done = CliRunner().invoke(app, [*words, "--indicator", "loss_vt"])
    assert done.exit_code == 0, done.output


def test_both_ends_are_picked() -> None:
    scores = Scores(np.array([f"s{i}" for i in range(100)]), np.arange(100),
                    {"x": np.arange(100, dtype=np.float32)}, {"x": "low"}, {})  # fmt: skip
    assert sorted(pick(scores, "x", 10)) == [0, 1, 2, 3, 4, 95, 96, 97, 98, 99]


def test_samples_without_a_score_leave_the_others_once() -> None:
    x = np.full(100, np.nan, np.float32)
    x[:7] = np.arange(7)
    scores = Scores(np.array([f"s{i}" for i in range(100)]), np.arange(100), {"x": x}, {"x": "high"}, {})
    assert sorted(pick(scores, "x", 10)) == list(range(7))


def _result(file: Path, value: float, **fields: object) -> None:
    """A retrieval result with one metric."""
    metric = {"value": value, "low": value, "high": value}
    plain = {
        "task": "retrieval",
        "protocol": {"name": "vatt"},
        "split": "test",
        "coverage": {"expected": 1, "present": 1},
        "metrics": {"text-to-video/R@10": metric},
        "chance": {},
        "model_hash": "",
        "store_hash": "",
        "format": "harmonize-result/1",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**plain, **fields}))


def _empty_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("harmonize: {mode: none}\n")
    (folder / "metrics.jsonl").touch()
    return folder


def test_runs_are_compared_on_one_question(tmp_path: Path) -> None:
    """Other splits, earlier checkpoints and fresh weights lie in the same folders."""
    runs = [_empty_run(tmp_path / name) for name in ("a", "b")]
    for k, run in enumerate(runs):
        _result(run / "eval" / "m-test.json", 0.5 + k / 10, model={"step": 9})
        _result(run / "eval" / "n-earlier.json", 0.2, model={"step": 4})
        fresh = {"step": 0, "harmonize": {"mode": "untrained"}}
        _result(run / "eval" / "z-fresh.json", 0.1, model=fresh)
    _result(runs[0] / "eval" / "z-train.json", 0.9, split="train", model={"step": 9})
    shown = [metrics["text-to-video/R@10"]["value"] for metrics in comparable(read_runs(runs))]
    assert shown == [0.5, 0.6]


def test_results_of_runs_with_one_name_go_to_the_weights_they_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [_empty_run(tmp_path / name / "run") for name in ("a", "b")]
    for run in runs:
        manifest = run / "checkpoints" / "step-00000001" / "manifest.json"
        manifest.parent.mkdir(parents=True)
        files = {"weights.safetensors": f"hash of {run.parent.name}"}
        about = {"format": 1, "step": 1, "config": {}, "inputs": {}}
        manifest.write_text(json.dumps({**about, "files": files}))
        name = run.parent.name
        _result(
            tmp_path / "results" / f"{name}.json", 0.5, model={"run": "run"}, model_hash=f"hash of {name}"
        )
    assert [list(run.results) for run in read_runs(runs, [tmp_path / "results"])] == [["a"], ["b"]]
    monkeypatch.chdir(runs[0])
    (alone,) = read_runs([Path()], [tmp_path / "results"])
    assert (alone.name, len(alone.results)) == ("run", 2)  # nobody else has its name


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run folder"):
        read_runs([tmp_path])


def _browser() -> str:
    found = next(
        (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
    )
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return found


def test_in_a_real_browser(folder: Path, tmp_path: Path) -> None:
    """5,000 samples: loads in under 3 s, sorts, searches, chooses by key, plays, exports."""
    browser = _browser()
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    store = Store.open(folder / "store.h5")
    ids = np.array([f"s{i % 30:02d}" for i in range(5000)])
    loss = np.linspace(0, 1, 5000).astype(np.float32)
    scores = Scores(ids, np.arange(5000) % 30, {"loss_vt": loss}, {"loss_vt": "high"}, {})
    samples = describe(store, scores, range(5000))
    for i, sample in enumerate(samples):
        sample["id"] = f"n{i:04d}"
    page_file = tmp_path / "big.html"
    write_page(page_file, read_runs([folder / "run"]), samples, scores)
    with sync_api.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(accept_downloads=True)
        began = time.perf_counter()
        page.goto(page_file.as_uri())
        page.wait_for_selector("#list li")
        assert time.perf_counter() - began < 3
        assert page.locator("#list li").first.get_attribute("data-id") == "n4999"
        page.select_option("#order", "good")
        assert page.locator("#list li").first.get_attribute("data-id") == "n0000"
        page.fill("#search", "onerror")
        assert "167 shown" in page.inner_text("#count")
        assert page.title() != "owned"
        page.fill("#search", "")
        page.fill("#low", "0.9")
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        page.keyboard.press("x")
        assert page.inner_text("#chosen") == "1"
        boxes = page.locator("#list input")
        boxes.nth(2).click()  # the keys still work, with the mouse's checkbox in focus
        assert page.inner_text("#chosen") == "2"
        page.keyboard.press("j")
        page.keyboard.press("x")
        assert boxes.nth(1).is_checked()
        assert page.inner_text("#chosen") == "3"
        boxes.nth(2).uncheck()
        boxes.nth(1).uncheck()
        assert page.inner_text("#chosen") == "1"
        page.evaluate("document.querySelector('#list audio').play()")
        with page.expect_download() as download:
            page.click("#export")
        assert re.fullmatch(r"n\d{4}\n", Path(download.value.path()).read_text())
        chromium.close()


def test_the_script_parses() -> None:
    """Where node is at hand: no syntax error can hide behind a missing browser."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    script = Path(harmonize_cli.reporting.__file__).parent / "templates" / "report.js"
    subprocess.run([node, "--check", str(script)], check=True)
