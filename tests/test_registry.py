"""Registries: names once, entries of installed packages, and what is said of unknown ones."""

from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from harmonize_cli import registry
from harmonize_cli.errors import BadInput
from harmonize_cli.registry import Registry


def _points(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "harmonize.things" else ())


def test_a_name_is_registered_once() -> None:
    things: Registry[object] = Registry("thing")
    things.register("a")(object())
    with pytest.raises(ValueError, match="'a' is registered twice"):
        things.register("a")(object())
    with pytest.raises(ValueError, match="without a colon"):
        things.register("a:b")


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    things: Registry[int] = Registry("thing")
    things.add("apple", 1)
    things.add("pear", 2)
    with pytest.raises(
        BadInput, match=r"thing 'aple': unknown \(did you mean 'apple'\?\); known: apple, pear"
    ):
        things.find("aple")
    assert things.split("pear:3") == (2, "3")


def test_installed_packages_add_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    things: Registry[object] = Registry("thing", group="harmonize.things")
    _points(monkeypatch, EntryPoint("ordered", "collections:OrderedDict", "harmonize.things"))
    assert list(things) == ["ordered"]


def test_a_broken_package_is_reported_and_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    things: Registry[object] = Registry("thing", group="harmonize.things")
    things.add("ours", SimpleNamespace())
    _points(monkeypatch, EntryPoint("theirs", "no_such_module:x", "harmonize.things"))
    with pytest.warns(RuntimeWarning, match="thing 'theirs' of .* is skipped"):
        assert list(things) == ["ours"]
    assert "no_such_module" in things.broken["theirs"]
    with pytest.raises(BadInput, match="broken"):
        things.find("theirs")


def test_a_package_of_modules_is_read_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kinds_of_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from harmonize_cli.registry import Registry\nTHINGS = Registry('thing', package=__name__)\n"
    )
    (package / "one.py").write_text("from kinds_of_test import THINGS\nTHINGS.add('one', 1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import kinds_of_test  # type: ignore[import-not-found]

    assert dict(kinds_of_test.THINGS) == {"one": 1}
