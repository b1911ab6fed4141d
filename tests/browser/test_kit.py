"""What these tests themselves need."""

import shutil
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.browser import kit


def test_without_a_browser_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    playwright = cast("Any", SimpleNamespace(chromium=SimpleNamespace(executable_path="nowhere/chrome")))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(AssertionError, match="install `chromium`"):
        kit.installed(playwright)
    monkeypatch.setattr(shutil, "which", lambda name: __file__ if name == "google-chrome" else None)
    assert kit.installed(playwright) == __file__
