"""The dashboard when the instance goes, and when there are several of them, in a real browser."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.browser.kit import GONE, LATE, Watched, ask_all, opened
from tests.e2e.harness import Site, site
from tests.e2e.process import eventually
from tests.e2e.upstream import replies
from tests.fleet.harness import fleet
from tests.redis_servers import Server, single

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRESH = "Cache-Control: max-age=600"


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with single() as server:
        yield server


async def test_contact_is_lost_and_found(browser: Browser, here: Site) -> None:
    here.upstream.on("/x", replies("x", FRESH))
    await ask_all(here, ["/x"] * 5)
    async with opened(browser, here, GONE) as page:
        await page.shown()
        assert await page.text("#rate-note") == "5 since the start"
        await expect(page.page.locator("#ready")).to_be_visible()
        await here.proxy.stop()
        await page.look_again()
        lost = page.page.locator("#lost")
        await expect(lost).to_have_text(
            re.compile(
                r"No contact with the admin endpoint: it cannot be reached\. The numbers are \d+\u202fs old\."
                r" Trying again every 2 seconds\."
            )
        )
        assert await page.text("#news") == "Contact is lost."
        assert await page.text("#contact") == "No contact"
        await expect(page.page.locator("#ready")).to_be_hidden()
        assert await page.text("#rate-note") == "5 since the start", "the last numbers stay"
        await expect(lost).to_contain_text(re.compile(r"are ([2-9]|\d\d+)\u202fs old"))
        await here.proxy.spawn("serve", "-c", str(here.proxy.file))
        await expect(lost).to_be_hidden()
        assert await page.text("#news") == "Contact is back."
        await expect(page.page.locator("#ready")).to_be_visible()
        await expect(page.page.locator("#rate-note")).to_have_text("0 since the start")
        await expect(page.page.locator("#contact")).to_have_text("Live")


async def test_an_instance_that_hangs_is_not_waited_for(browser: Browser, here: Site) -> None:
    async with opened(browser, here, GONE) as page:
        await page.shown()
        here.proxy.signal(signal.SIGSTOP)
        try:
            await page.look_again()
            await page.page.clock.install()
            await page.look_again()
            await page.page.clock.run_for(5_100)
            await expect(page.page.locator("#lost")).to_contain_text("it does not answer in time")
        finally:
            here.proxy.signal(signal.SIGCONT)
        await page.page.clock.run_for(2_100)
        await expect(page.page.locator("#contact")).to_have_text("Live")


async def purge(page: Watched) -> None:
    """Press the button, again where it is refused: Redis may be late."""
    said = page.page.locator("#purge-problem, #purge-outcome").filter(has_text=re.compile("."))
    for _ in range(5):
        await page.page.click("#purge-button")
        await expect(said).to_have_count(1)
        if await page.text("#purge-outcome"):
            return


async def test_a_purge_that_not_all_have_applied_says_who(browser: Browser, redis: Server, tmp_path: Path) -> None:
    async with (
        # However slowly the page is looked at, who does not answer is waited for.
        fleet(tmp_path, redis.url, {"redis": {"prefix": "page", "max_blind": "5m"}}, size=2) as both,
        opened(browser, both[0], LATE) as page,
    ):
        await page.shown()
        await expect(page.page.locator("#instances tr")).to_have_count(2)
        await expect(page.page.locator("#instances tr", has_text="in step")).to_have_count(2)
        assert len(re.findall("here", await page.text("#instances"))) == 1
        both[1].proxy.signal(signal.SIGSTOP)
        try:
            await page.page.select_option("#purge-wait", "0s")
            await page.page.fill("#purge-values", "/x")
            await purge(page)
            outcome = page.page.locator("#purge-outcome")
            await expect(outcome).to_contain_text("1 of 2 instances have not applied it yet")
            rows = await page.text("#purge-rows")
            assert sorted(re.findall("applied|not yet", rows)) == ["applied", "not yet"], rows
            await page.look_again()
            await expect(page.page.locator("#instances")).to_contain_text(re.compile("[1-9] records? behind"))
        finally:
            both[1].proxy.signal(signal.SIGCONT)
        await expect(outcome).to_contain_text("Applied by all 2 instances, the slowest after")
        assert len(re.findall("applied", await page.text("#purge-rows"))) == 2


async def test_with_several_workers_it_speaks_for_all(browser: Browser, redis: Server, tmp_path: Path) -> None:
    over = {"workers": 2, "redis": {"url": redis.url, "prefix": "workers"}, "access_log": "off"}
    async with site(tmp_path, over) as here, opened(browser, here, LATE) as page:
        here.upstream.on("/y", replies("y", FRESH))
        await page.shown()
        await ask_all(here, ["/y"] * 40)
        await page.look_again()
        await expect(page.page.locator("#rate-note")).to_have_text("40 since the start")
        await expect(page.page.locator("#instances tr")).to_have_count(2)
        await page.page.fill("#purge-values", "/y")
        await purge(page)
        await expect(page.page.locator("#purge-outcome")).to_contain_text("Applied by all 2 instances")

        async def missed() -> bool:
            return not (await here.get("/y")).hit

        await eventually(missed, "it is gone")
