"""A real Chromium in front of the dashboard, and a page that forgives nothing."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser, BrowserContext, Error, Page, Playwright, Request, async_playwright, expect

from tests.e2e.harness import Site
from tests.e2e.process import eventually

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MISSING: Final = (
    "The dashboard is tested in a real browser, and there is none: install `chromium` (Debian:"
    " apt-get install chromium) or run `.venv/bin/playwright install --with-deps chromium`."
)
# What the browser itself says of such answers, and of a server that is gone, whatever the page does about it.
DENIED: Final = r"Failed to load resource: .*status of 401"
MISTAKEN: Final = r"Failed to load resource: .*status of 400"
GONE: Final = r"Failed to load resource: net::ERR_"
LATE: Final = r"Failed to load resource: .*status of 503"  # a Redis that gets no processor for 100 ms is out of reach

PATIENCE: Final = 90_000  # ms: the machine may be busy
expect.set_options(timeout=PATIENCE)


def installed(playwright: Playwright) -> str:
    """The browser to drive: one on PATH, else Playwright's own. Without any it is an error that says what to do."""
    found = next(filter(None, map(shutil.which, _NAMES)), None) or playwright.chromium.executable_path
    assert Path(found).exists(), _MISSING
    return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """One browser, without a screen."""
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        found = installed(playwright)
        browser = await playwright.chromium.launch(executable_path=found, args=arguments, timeout=PATIENCE)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Watched:
    """A page, and everything it did that it should not: errors of scripts, violations of the policy, what is asked of
    others. `forgiven` are patterns of what a test provokes.
    """

    page: Page
    origin: str
    forgiven: tuple[str, ...] = ()
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    open: int = 0  # requests that have no answer yet

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", lambda said: self._complain(said.text) if said.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self._complain(f"{error.name}: {error.message}"))
        self.page.on("dialog", lambda dialog: self._complain(f"a dialog: {dialog.message}"))
        self.page.on("request", self._note)
        for end in ("requestfinished", "requestfailed"):
            self.page.on(end, self._ended)

    def _note(self, request: Request) -> None:
        self.open += 1
        self.asked.append(request.url.removeprefix(self.origin))
        if not request.url.startswith(f"{self.origin}/"):
            self._complain(f"it asked for {request.url}")

    def _ended(self, _: Request) -> None:
        self.open -= 1

    def _complain(self, what: str) -> None:
        if not any(re.search(pattern, what) for pattern in self.forgiven):
            self.complaints.append(what)

    async def text(self, selector: str) -> str:
        return await self.page.inner_text(selector)

    async def value(self, selector: str) -> float | None:
        """The number behind a figure; None where there is none."""
        given = await self.page.get_attribute(selector, "value")
        return float(given) if given else None

    async def run(self, script: str) -> Any:  # noqa: ANN401 - JSON
        return await self.page.evaluate(script)

    async def answered(self) -> None:
        """Wait until everything that was asked has its answer."""
        await eventually(lambda: self.open == 0, "all is answered")
        await self.run("0")  # and it has been looked at

    async def look_again(self) -> None:
        """Have it ask for the numbers at once, as when somebody comes back to its tab."""
        await self.run("document.dispatchEvent(new Event('visibilitychange'))")

    async def shown(self) -> None:
        """Wait for numbers that say something of the time between two readings."""
        await self.page.wait_for_selector("main", state="visible")
        await self.look_again()
        await self.page.wait_for_selector("#rate[value]:not([value=''])")


@asynccontextmanager
async def opened(
    browser: Browser,
    site: Site,
    *forgiven: str,
    scheme: Any = "light",  # noqa: ANN401 - one of Playwright's words
    width: int = 1280,
    script: str = "",
) -> AsyncIterator[Watched]:
    """The dashboard in a window of its own. At the end it must have behaved."""
    context = await browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce"
    )
    try:
        if script:
            await context.add_init_script(script)
        watched = Watched(await context.new_page(), f"http://127.0.0.1:{site.admin}", forgiven)
        await watched.page.goto(f"{watched.origin}/")
        yield watched
        assert not watched.complaints, "\n".join(watched.complaints)
    finally:
        await _close(context)


async def _close(context: BrowserContext) -> None:
    try:
        await context.close()
    except Error:  # the browser has gone before
        return


async def ask_all(site: Site, paths: Iterable[str]) -> None:
    """One request for each, all at once."""
    await asyncio.gather(*(site.get(path) for path in paths))
