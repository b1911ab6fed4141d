"""The dashboard of a listener with a token, in a real browser."""

import json

import pytest
from playwright.async_api import Browser, expect

from tests.browser.kit import DENIED, Watched, opened
from tests.e2e.harness import HOST, Site
from tests.e2e.upstream import replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "correct-horse-battery-staple"
CONFIG = {"admin": {"token": TOKEN}}

# Everything a page could keep something in, and everything it says of itself.
KEPT = """async () => JSON.stringify({
    local: {...localStorage}, session: {...sessionStorage}, cookie: document.cookie, at: location.href,
    state: history.state, name: window.name, databases: await indexedDB.databases(),
    caches: await caches.keys(), html: document.documentElement.outerHTML,
    values: [...document.querySelectorAll("input, textarea")].map((one) => one.value),
})"""


HELD = "import('./assets/api.js').then((api) => api.hasToken())"


async def give(page: Watched, token: str) -> None:
    await expect(page.page.locator("#token")).to_be_focused()
    await page.page.keyboard.type(token)
    await page.page.keyboard.press("Enter")


async def test_the_token_is_asked_for_and_kept_in_memory_only(browser: Browser, here: Site) -> None:
    here.upstream.on("/secret", replies("x", "Cache-Control: max-age=600"))
    await here.get("/secret")
    async with opened(browser, here, DENIED) as page:
        await expect(page.page.locator("#gate")).to_be_visible()
        await expect(page.page.locator("main")).to_be_hidden()
        assert await page.text("#contact") == "Locked"
        assert HOST not in await page.page.content(), "the shell holds no data"
        asked = len(page.asked)
        await give(page, "wrong")
        await expect(page.page.locator("#gate-problem")).to_have_text("That is not the token, or not any more.")
        assert len(page.asked) > asked
        await give(page, "not\u00e4token")
        await expect(page.page.locator("#gate-problem")).to_contain_text("No token looks like that")
        await give(page, TOKEN)
        await page.shown()
        await expect(page.page.locator("#gate")).to_be_hidden()
        await expect(page.page.locator("#main")).to_be_focused()
        assert f"http://{HOST}/secret" in await page.text("#hot")
        assert await page.run(HELD) is True
        assert TOKEN not in await page.run(KEPT)
        assert TOKEN not in json.dumps(page.asked)
        assert json.loads(await page.run(KEPT)) | {"html": "", "values": ""} == {
            "local": {},
            "session": {},
            "cookie": "",
            "at": f"{page.origin}/",
            "state": None,
            "name": "",
            "databases": [],
            "caches": [],
            "html": "",
            "values": "",
        }


@pytest.mark.parametrize("how", ["reload", "lock"])
async def test_it_is_forgotten_with_the_page(browser: Browser, here: Site, how: str) -> None:
    async with opened(browser, here, DENIED) as page:
        await give(page, TOKEN)
        await page.shown()
        if how == "reload":
            await page.page.reload()
        else:
            await page.page.click("#lock")
        await expect(page.page.locator("#gate")).to_be_visible()
        await expect(page.page.locator("main")).to_be_hidden()


async def test_one_that_is_not_right_any_more_locks_the_page(browser: Browser, here: Site) -> None:
    async with opened(browser, here, DENIED) as page:
        await give(page, TOKEN)
        await page.shown()
        await page.page.route("**/invalidate*", lambda route: route.fulfill(status=401, body="{}"))
        await page.page.fill("#purge-values", "/x")
        await page.page.click("#purge-button")
        await expect(page.page.locator("#gate-problem")).to_have_text("That is not the token, or not any more.")
        await expect(page.page.locator("main")).to_be_hidden()
        assert await page.run(HELD) is False
        asked = len(page.asked)
        await page.look_again()
        assert page.asked[asked:] == [], "it does not ask on without a token"
