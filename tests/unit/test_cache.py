"""The cache folder, also of a user of whom nothing is known."""

import platformdirs

from model.cache import cache_folder
from tests.conftest import ROOT


def test_it_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert cache_folder().name == "scones-unlimited"
    assert cache_folder().is_absolute()


def test_a_user_without_a_home_has_it_in_the_checkout(monkeypatch):
    def unknown(_name: str) -> None:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_cache_path", unknown)

    assert cache_folder() == ROOT / ".local" / "cache"
