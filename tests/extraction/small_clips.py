"""Settings and rows for the small clips of `media` (conftest)."""

from harmonize_cli.config import load_config
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.store.schema import Status


def config(*overrides, **flags):
    small = ["raw.size=8", "raw.rate=10", "waveform.sample_rate=16000", "logmel.sample_rate=16000"]
    return load_config(ExtractConfig, None, [*small, *overrides], flags)


def row(media, name, id="", start=0.0, end=None, **more):
    path = media / name if name else None
    more.setdefault("texts", ("one two",))
    return ManifestRow(id=id or name, video=path, start=start, end=end, group=name, **more)


def status(store, id):
    i = store.index(id)
    return {m: (Status(store.status(m)[i]).name, store.reason(m, i)) for m in store.modalities}
