"""A name gives its decoder, "auto" only one that works."""

import sys

import pytest

from harmonize_cli.errors import BadInput
from harmonize_cli.media import decoders, torchcodec_decoder
from harmonize_cli.media.decoders import DecoderEntry, decoder_for
from harmonize_cli.media.ffmpeg_decoder import FFmpegDecoder
from harmonize_cli.media.pyav_decoder import PyAVDecoder
from harmonize_cli.media.requests import SoundRequest
from harmonize_cli.media.trial import gives_the_same, trial_clip, trial_clips


@pytest.fixture(autouse=True)
def _fresh():
    decoders.fastest.cache_clear()
    torchcodec_decoder.video_decoder.cache_clear()
    torchcodec_decoder.device.cache_clear()
    yield
    decoders.fastest.cache_clear()
    torchcodec_decoder.video_decoder.cache_clear()
    torchcodec_decoder.device.cache_clear()


def test_names():
    assert decoder_for("ffmpeg") is FFmpegDecoder
    pytest.importorskip("av")
    assert decoder_for("pyav") is PyAVDecoder
    if torchcodec_decoder.device() == "cpu":
        assert decoder_for("auto") is PyAVDecoder


@pytest.mark.parametrize(("module", "name"), [("av", "pyav"), ("torchcodec", "torchcodec")])
def test_without_the_package(monkeypatch, module, name):
    for loaded in [m for m in sys.modules if m.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadInput, match=rf"harmonize-cli\[{name}\]"):
        decoder_for(name)
    assert decoder_for("auto") is not PyAVDecoder or name != "pyav"


def test_without_the_libraries(monkeypatch, tmp_path):
    """What torchcodec says on import where there is no FFmpeg to link with."""
    package = tmp_path / "torchcodec"
    (package / "decoders").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "decoders" / "__init__.py").write_text(
        "raise RuntimeError('Could not load libtorchcodec. Likely causes: ...\\nmore')"
    )
    for loaded in [m for m in sys.modules if m.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match=r"extra torchcodec.*shared libraries.*Could not load libtorchcodec"):
        decoder_for("torchcodec")
    assert decoder_for("auto") in (PyAVDecoder, FFmpegDecoder)
    for loaded in [m for m in sys.modules if m.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, loaded)


def test_auto_leaves_out_what_gives_other_frames(monkeypatch):
    """A decoder that loads but paints everything black is not chosen, nor one that fails."""
    pytest.importorskip("av")

    class Black(FFmpegDecoder):
        def chunks(self):
            for chunk in super().chunks():
                yield type(chunk)(chunk.request, chunk.times, chunk.rows * 0)

    class Broken(FFmpegDecoder):
        def chunks(self):
            raise RuntimeError("driver too old")

    class Deaf(FFmpegDecoder):
        def chunks(self):
            for chunk in super().chunks():
                sound = isinstance(self._requests[chunk.request], SoundRequest)
                yield type(chunk)(chunk.request, chunk.times, chunk.rows * (not sound))

    class EightBits(FFmpegDecoder):
        def chunks(self):
            for chunk in super().chunks():
                yield type(chunk)(chunk.request, chunk.times, chunk.rows * (self._path.name != "deep.mkv"))

    with trial_clip() as path:
        assert gives_the_same(FFmpegDecoder, path)
        assert gives_the_same(PyAVDecoder, path)
        assert not gives_the_same(Black, path)
    with trial_clips() as paths:
        for decoder in (FFmpegDecoder, PyAVDecoder):
            assert [gives_the_same(decoder, path) for path in paths] == [True] * len(paths)
        assert [gives_the_same(EightBits, path) for path in paths].count(False) == 1
    for bad in (Black, Broken, Deaf, EightBits):
        decoders.fastest.cache_clear()
        entry = DecoderEntry(load=lambda bad=bad: bad, speed=lambda: 9, about="a bad one")
        monkeypatch.setitem(decoders.DECODERS._entries, "bad", entry)
        assert decoder_for("auto") is PyAVDecoder
