"""The dashboard's shell: what is served, to whom, and what it may do. What it does is tested in tests/browser."""

import re
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Final

import pytest

from proxy.admin.access import OPEN, Access
from proxy.admin.dashboard import PATHS, POLICY
from proxy.admin.stats import hit_ratio
from proxy.flow.explanation import Act
from proxy.flow.tally import Result, Source
from tests.admin.kit import JSON, TOKEN, Admin, admin

ROOT: Final = Path(__file__).resolve().parents[2]
PLACE: Final = ROOT / "proxy" / "admin" / "assets"
SCRIPTS: Final = {path.name: path.read_text("utf-8") for path in PLACE.glob("*.js")}


def locked(here: Admin) -> None:
    here.access = Access("127.0.0.1", TOKEN)


class Tags(HTMLParser):
    """Every element of the page with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.feed((PLACE / "dashboard.html").read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, {name: value or "" for name, value in attrs}))

    def every(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.seen if name in attributes]


@pytest.mark.parametrize("change", [lambda _: None, locked], ids=["open", "locked"])
async def test_the_page_and_its_assets_need_no_token(change: Callable[[Admin], None]) -> None:
    kinds = {"/": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    async with admin(change=change) as here:
        for path in PATHS:
            status, body, fields = await here.ask(path)
            name = path.removeprefix("/assets/") if path != "/" else "dashboard.html"
            assert (status, body) == (200, (PLACE / name).read_bytes())
            assert fields["Content-Type"].partition(";")[0] == kinds[path.rpartition(".")[2]]
            assert fields["Content-Security-Policy"] == POLICY
            assert (fields["Cache-Control"], fields["X-Content-Type-Options"]) == ("no-store", "nosniff")
            assert (fields["Referrer-Policy"], fields["X-Frame-Options"]) == ("no-referrer", "DENY")
            assert fields["Cross-Origin-Opener-Policy"] == fields["Cross-Origin-Resource-Policy"] == "same-origin"
            assert (await here.ask(path, "HEAD"))[0] == 200


async def test_nothing_else_is_open() -> None:
    assert PATHS | {"/healthz", "/readyz"} == OPEN
    async with admin(change=locked) as here:
        for path in (
            "/assets",
            "/assets/",
            "/assets/x.js",
            "/assets/../config",
            "/index.html",
            "/assets/dashboard.html",
        ):
            assert (await here.ask(path))[0] == 401, path
    async with admin() as here:
        assert (await here.ask("/assets/x.js"))[0] == 404
        for path in ("/", "/assets/dashboard.js"):
            assert (await here.ask(path, "POST", JSON))[0] == 405


async def test_a_name_that_is_not_its_own_does_not_get_the_shell_either() -> None:
    async with admin() as here:
        for path in PATHS:
            status, said, fields = await here.ask(path, headers={"Host": "evil.example"})
            assert (status, said["type"]) == (421, "urn:readthrough:error:unknown-host")
            assert "Content-Security-Policy" not in fields


def test_every_file_is_served_and_is_part_of_the_package() -> None:
    there = {path.name for path in PLACE.iterdir()}
    assert {path.rpartition("/")[2] or "dashboard.html" for path in PATHS} == there
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["proxy"]
    assert any(pattern.startswith("admin/assets/") for pattern in packed)
    assert (files("proxy.admin") / "assets" / "dashboard.html").is_file()


def test_the_policy_allows_this_listener_and_nothing_else() -> None:
    rules = {rule.partition(" ")[0]: rule.partition(" ")[2] for rule in POLICY.split("; ")}
    for kind in ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert rules.pop(kind) == "'none'"
    assert rules.pop("require-trusted-types-for") == "'script'"
    assert rules == dict.fromkeys(("script-src", "style-src", "img-src", "connect-src"), "'self'")


def test_the_page_has_nothing_inline_and_takes_nothing_from_elsewhere() -> None:
    page = Tags()
    for tag, attributes in page.seen:
        assert tag not in ("style", "iframe", "object", "embed", "base"), tag
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "script" or attributes["src"]
    for link in page.every("href") + page.every("src"):
        assert link.startswith("#") or f"/{link}" in PATHS, link
    for name, script in SCRIPTS.items():
        for imported in re.findall(r'from "\./([^"]+)"', script):
            assert f"/assets/{imported}" in PATHS, name
        addresses = re.findall(r"\w+://[^\s\"'`]*", script)
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, name  # a name, not an address
    assert "url(" not in (PLACE / "dashboard.css").read_text("utf-8")
    assert "@import" not in (PLACE / "dashboard.css").read_text("utf-8")


def test_no_text_is_read_as_markup_and_nothing_is_kept() -> None:
    unsafe = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|setHTML|srcdoc|\beval\b|new Function|"
        r"localStorage|sessionStorage|indexedDB|document\.cookie|\bcaches\b|pushState|replaceState|postMessage"
    )
    for name, script in SCRIPTS.items():
        assert not unsafe.search(script), name


def test_the_scripts_find_what_they_look_for() -> None:
    ids = Tags().every("id")
    assert len(ids) == len(set(ids))
    for name, script in SCRIPTS.items():
        for wanted in re.findall(r'byId\("([^"]+)"\)', script):
            assert wanted in ids, f"{name}: {wanted}"
    for pointing in ("for", "aria-labelledby", "aria-describedby", "list"):
        for wanted in Tags().every(pointing):
            assert wanted in ids, wanted


def test_it_has_a_word_and_a_colour_for_whatever_there_is() -> None:
    style = (PLACE / "dashboard.css").read_text("utf-8")
    for result in Result:
        assert re.search(rf'^  {result.value}: "', SCRIPTS["screen.js"], re.MULTILINE), result
        assert f".r-{result.value} {{ fill: var(--{result.value})" in style, result
        assert style.count(f"  --{result.value}: #") == 2, "in the light and in the dark"
    for source in Source:
        assert re.search(rf'[{{ ]{source.value}: "', SCRIPTS["screen.js"]), source
    for act in Act:
        assert re.search(rf'^  {act.value}: \["', SCRIPTS["explain.js"], re.MULTILINE), act


def test_it_takes_the_same_requests_into_account_as_everybody_else() -> None:
    def names(of: str) -> set[str]:
        found = re.search(rf"^const {of} = \[(.*)\];$", SCRIPTS["numbers.js"], re.MULTILINE)
        assert found is not None
        return set(re.findall(r'"([a-z]+)"', found[1]))

    for result in Result:
        ratio = hit_ratio({result.value: 1})
        assert (ratio is None) == (result.value in names("NOT_ASKED")), result
        assert (ratio == 1.0) == (result.value in names("FROM_CACHE")), result
