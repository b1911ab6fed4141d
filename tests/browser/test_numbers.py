"""The dashboard's numbers, in a real browser: they move, they are readable, and they harm nobody."""

import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import Browser, Error, Route, expect

from tests.browser.kit import MISTAKEN, Watched, ask_all, opened
from tests.e2e.harness import HOST, Site, request
from tests.e2e.process import eventually
from tests.e2e.upstream import Call, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

NONE = "\u2013"
FRESH = "Cache-Control: max-age=600"
MARKUP = "<img src=x onerror=window.harmed=1><script>window.harmed=1</script>"
CONFIG = {
    "routes": [
        {
            "name": "keyed",
            "match": {"path": "/keyed/*"},
            "upstream": "origin",
            "cache": {"key": {"headers": ["X-Tenant"]}},
        },
        {
            "name": "limited",
            "match": {"path": "/limited/*"},
            "upstream": "origin",
            "rate_limit": {"rate": "1/m", "burst": 3, "by": "header:X-Client"},
        },
        {"name": "all", "match": {"path": "/*"}, "upstream": "origin"},
    ],
    "upstreams": {"dead": {"url": "http://127.0.0.1:9"}},
}


def busy(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """What /stats says of an instance with a lot behind it, in the words that are looked at."""
    counts = [0] * 16
    return {
        "version": "9.9.9",
        "ready": True,
        "requests": {"total": 12345678, "by_result": {"hit": 12345678}, "by_status": {}, "unreadable": {}},
        "hit_ratio": 0.99999,
        "sent_bytes": 3 << 40,
        "saved_upstream_seconds": 400000.0,
        "durations": {
            "bounds": [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            "cache": {"counts": [90, 5, 0, 4, *counts[5:], 1], "sum": 1.0},
        },
        "routes": {},
        "upstreams": {},
        "memory": {"entries": 5, "used_bytes": 1 << 20, "budget_bytes": 1 << 28, "evictions": 0},
        "log": {"position": 1},
        "redis": None,
        "connections": {"open": 1, "accepted": 1, "timed_out": 0},
        **more,
    }


async def test_a_fresh_instance_says_that_nothing_has_been_asked(page: Watched) -> None:
    await page.shown()
    assert "Nothing has been asked for yet." in await page.text("#fresh")
    assert await page.text("#ratio") == NONE
    assert await page.text("#rate") == "0/s"
    assert await page.text("#results-empty") == "No requests in the last minute."
    assert await page.text("#hot-empty") == "No key has been asked for yet."
    assert await page.text("#ready") == "Ready"
    await expect(page.page.locator("#contact")).to_have_text("Live")


async def test_the_numbers_move_under_load(page: Watched, here: Site) -> None:
    here.upstream.on("/load", replies("x" * 1000, FRESH))
    await page.shown()
    assert await page.value("#rate") == 0
    await here.get("/load")
    await ask_all(here, ["/load"] * 39)
    await expect(page.page.locator("#rate-note")).to_have_text(re.compile("^40 since the start"))
    assert await _positive(page, "#rate")
    assert await page.value("#ratio") == pytest.approx(39 / 40)
    assert await page.text("#ratio") == "97.5\u202f%"
    assert await page.page.is_hidden("#fresh")
    results = await page.text("#results")
    assert re.search(r"hit\s+fresh, from memory\s+97\.5\u202f%", results), results
    assert re.search(r"miss\s+fetched\s+2\.5\u202f%", results), results
    assert re.search(r"^origin\s+healthy\s.*none\s+≤", await page.text("#upstreams"), re.DOTALL | re.MULTILINE)
    assert re.search(r"^all\s+[\d.]+/s\s+97\.5\u202f%", await page.text("#routes"), re.MULTILINE)
    # These are asked for beside the numbers, and may have been told before.
    await expect(page.page.locator("#hot")).to_contain_text(f"http://{HOST}/load")
    await expect(page.page.locator("#instances")).to_contain_text("in step")
    await eventually(lambda: _drawn(page), "lines are drawn")


async def _positive(page: Watched, selector: str) -> bool:
    return (await page.value(selector) or 0) > 0


async def _drawn(page: Watched) -> bool:
    return bool(await page.run("document.querySelector('#rate-spark .line').getAttribute('d')?.includes('L')"))


async def test_an_upstream_that_fails_is_seen_to(page: Watched, here: Site) -> None:
    async def cut(call: Call) -> None:
        call.stream.reset()

    here.upstream.on("/cut", cut)
    await page.shown()
    assert (await here.get("/cut")).status == 502
    await expect(page.page.locator("#upstreams tr").first).to_contain_text("failing")
    row = await page.text("#upstreams tr:has-text('origin')")
    assert re.search(r"\d cut|\d reset|\d [a-z-]+", row), row
    assert "none" not in row


async def test_an_upstream_that_answers_nothing_but_5xx_is_not_healthy_however_well_it_is_bridged(
    browser: Browser, here: Site
) -> None:
    async with opened(browser, here) as page:
        states = {
            "mostly": {"2xx": 2, "3xx": 0, "4xx": 0, "5xx": 3},
            "hardly": {"2xx": 3, "3xx": 0, "4xx": 0, "5xx": 2},
            "never": {"2xx": 1, "3xx": 0, "4xx": 9, "5xx": 0},
        }

        times = 100

        async def stats(route: Route) -> None:
            rest = {"retries": 0, "errors": {}, "connections": 1, "breaker": "closed", "breaker_opened": 0}
            told = {
                name: {
                    **rest,
                    "requests": 9 * times,
                    "responses": {status: times * number for status, number in answers.items()},
                }
                for name, answers in states.items()
            }
            await answering(json.dumps(busy(upstreams=told)))(route)

        await page.page.route("**/stats", stats)
        await page.page.reload()
        await page.page.wait_for_selector("main", state="visible")
        times = 101
        await page.look_again()
        await expect(page.page.locator("#upstreams-when")).to_have_text("last minute")
        rows = (await page.text("#upstreams")).replace("\u202f", " ")
        assert re.search(r"^mostly\s+failing\s+[\d.]+/s\s+3 5xx\s", rows, re.MULTILINE), rows
        assert re.search(r"^hardly\s+healthy\s+[\d.]+/s\s+2 5xx\s", rows, re.MULTILINE), rows
        assert re.search(r"^never\s+healthy\s+[\d.]+/s\s+none\s", rows, re.MULTILINE), rows


async def test_whom_a_limit_refuses_is_seen(page: Watched, here: Site) -> None:
    here.upstream.on("/limited/x", replies("x", FRESH))
    await page.shown()
    statuses = [(await here.get("/limited/x", f"X-Client: {MARKUP}")).status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    await page.look_again()
    await expect(page.page.locator("#limited tr")).to_have_count(1)
    assert re.search(r"^limited\s+[\d.]+/s\s+[\d.]+/s\s+1$", (await page.text("#limits")).strip())
    assert await page.run("document.querySelectorAll('#limited img').length") == 0


async def test_what_clients_and_upstreams_say_is_only_text(page: Watched, here: Site) -> None:
    page.forgiven = (MISTAKEN,)
    here.upstream.on("/keyed/*", replies("x", FRESH, f"Surrogate-Key: {MARKUP}", "Vary: User-Agent"))
    path = "/keyed/<img/src=x/onerror=window.harmed=1>?q='\"&<svg/onload=window.harmed=1>"
    for _ in range(20):
        await here.send(request(path, f"X-Tenant: {MARKUP}", f"User-Agent: {MARKUP}"))
    await expect(page.page.locator("#hot code").filter(has_text="window.harmed").first).to_be_visible()
    assert MARKUP in await page.text("#hot"), "the header value is part of the key"
    await page.page.fill("#explain-url", f"http://{HOST}{path}")
    await page.page.fill("#explain-headers", MARKUP)
    await page.page.click("#explain-button")
    await expect(page.page.locator("#explain-problem")).to_contain_text(f"which this is not: {MARKUP}")
    await page.page.fill("#explain-headers", f"X-Tenant: {MARKUP}\nUser-Agent: {MARKUP}")
    await page.page.click("#explain-button")
    await expect(page.page.locator("#explain-steps")).to_contain_text(f"user-agent: {MARKUP}")
    for kind, value in (("tags", MARKUP), ("urls", path), ("hosts", MARKUP)):
        await page.page.check(f"input[value={kind}]")
        await page.page.fill("#purge-values", value)
        await page.page.click("#purge-button")
        await expect(
            page.page.locator("#purge-problem, #purge-outcome").filter(has_text=re.compile("."))
        ).to_have_count(1)
    assert await page.run("window.harmed") is None
    assert await page.run("document.querySelectorAll('main img, main script, main [onerror]').length") == 0


def answering(body: str) -> Callable[[Route], Awaitable[None]]:
    """Answers in place of the endpoint."""

    async def answer(route: Route) -> None:
        await route.fulfill(status=200, body=body, content_type="application/json")

    return answer


async def test_an_endpoint_that_talks_nonsense_is_told_of_and_not_believed(page: Watched) -> None:
    await page.shown()
    for said in ('{"detail":"<img src=x onerror=alert(1)>"}', "[]", "null", "<img src=x>", '{"requests":{}}'):
        await page.page.route("**/stats", answering(said))
        await page.look_again()
        await expect(page.page.locator("#lost")).to_contain_text("No contact with the admin endpoint: ")
        assert await page.run("document.querySelectorAll('#lost img').length") == 0
        await page.page.unroute_all(behavior="wait")
        await page.look_again()
        await expect(page.page.locator("#lost")).to_be_hidden()


async def test_the_policy_is_in_force_and_what_breaks_it_fails_a_test(page: Watched) -> None:
    await page.shown()
    for script in (
        "() => { document.body.innerHTML = '<i>harm</i>'; }",
        "() => { document.body.append(Object.assign(document.createElement('script'), {text: 'window.harmed = 1'})); }",
        "() => document.body.setAttribute('onclick', 'window.harmed = 1')",
        "() => import('data:text/javascript,window.harmed=1')",
        "() => fetch('http://localhost:9/')",
    ):
        with pytest.raises(Error, match="TypeError"):
            await page.run(script)
    await page.run("document.body.click()")
    assert await page.run("window.harmed") is None
    broken = " ".join(page.complaints)
    for rule in ("TrustedHTML", "TrustedScript", "script-src", "connect-src"):
        assert rule in broken
    page.complaints.clear()


async def test_numbers_are_written_as_people_read_them(page: Watched) -> None:
    told = await page.run(
        """async () => {
            const n = await import("./assets/numbers.js");
            const all = (write, values) => values.map((value) => write(value));
            return {
                count: all(n.count, [0, 7, 1234, 99999, 123456, 1234567, 2.5e9]),
                rate: all(n.rate, [0, 0.01, 0.25, 12.4, 1234.5, 250000]),
                bytes: all(n.bytes, [0, 1023, 1024, 1536, 10 << 20, 3 * 2 ** 40]),
                percent: all(n.percent, [0, 0.5, 0.9999, 1]),
                duration: all(n.duration, [0, 0.0004, 0.0125, 0.5, 1, 59.94, 61, 3600, 93784, 400000]),
                milliseconds: all(n.milliseconds, [0, 0.25, 12, 1500]),
                percentile: [[], [0, 0, 0], [90, 9, 1], [0, 0, 1]]
                    .map((counts) => n.percentile([0.0005, 2.5], counts, 0.95)),
                ratio: [{}, {refused: 3, gone: 1}, {hit: 2, stale: 1, miss: 1, refused: 5}].map(n.hitRatio),
            };
        }"""
    )
    thin = "\u202f"
    assert {name: [str(one).replace(thin, "_") for one in values] for name, values in told.items()} == {
        "count": ["0", "7", "1_234", "99_999", "123_k", "1.23_M", "2.50_G"],
        "rate": ["0/s", "<_0.1/s", "0.3/s", "12/s", "1_235/s", "250_k/s"],
        "bytes": ["0_B", "1_023_B", "1.00_KiB", "1.50_KiB", "10.0_MiB", "3.00_TiB"],
        "percent": ["0.0_%", "50.0_%", "99.9_%", "100.0_%"],
        "duration": [
            "0_s",
            "0.40_ms",
            "12.5_ms",
            "500_ms",
            "1.0_s",
            "59.9_s",
            "1_min 1_s",
            "1_h",
            "1_d 2_h",
            "4_d 15_h",
        ],
        "milliseconds": ["<_0.01_ms", "0.25_ms", "12_ms", "1.5_s"],
        "percentile": [NONE, NONE, "≤_2.5_s", ">_2.5_s"],
        "ratio": ["None", "None", "0.75"],
    }


async def test_an_instance_that_was_started_again_begins_anew(browser: Browser, here: Site) -> None:
    many = {"total": 12345678, "by_result": {"hit": 12345670, "miss": 8}, "by_status": {}, "unreadable": {}}
    async with opened(browser, here) as page:
        await page.page.route("**/stats", answering(json.dumps(busy(requests=many))))
        await page.page.reload()
        await page.shown()
        assert await page.text("#ratio-note") == "99.9\u202f% since the start"
        assert await page.text("#saved") == "4\u202fd 15\u202fh"
        assert (await page.text("#rate-note")).startswith("12.3\u202fM since")
        fewer = {"total": 8, "by_result": {"miss": 8}, "by_status": {}, "unreadable": {}}
        await page.page.route("**/stats", answering(json.dumps(busy(requests=fewer, hit_ratio=0.0))))
        await page.look_again()
        await expect(page.page.locator("#rate-note")).to_have_text("8 since the start")
        assert (await page.value("#rate") or 0) == 0, "less than before is not less than nothing"
        assert await page.text("#ratio") == "0.0\u202f%"


async def test_nobody_asks_while_nobody_looks(browser: Browser, here: Site) -> None:
    look = (
        "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    async with opened(browser, here) as page:
        await page.shown()
        await page.run(look % "true")
        await page.page.clock.install()
        asked = len(page.asked)
        await page.page.clock.run_for(60_000)
        assert page.asked[asked:] == []
        await page.run(look % "false")
        await eventually(lambda: "/stats" in page.asked[asked:], "it asks at once")
        await expect(page.page.locator("#contact")).to_have_text("Live")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_can_be_read(browser: Browser, here: Site, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, for whatever is shown."""
    async with opened(browser, here, scheme=scheme) as page:
        await page.shown()
        await page.page.fill("#explain-url", f"http://{HOST}/load")
        await page.page.click("#explain-button")
        await page.page.fill("#purge-values", "/nothing")
        await page.page.click("#purge-button")
        await expect(page.page.locator("#purge-outcome")).to_contain_text("Applied")
        await expect(page.page.locator("#explain-verdict")).to_contain_text("cache")
        faint = await page.run(CONTRAST)
        assert faint["looked"] > 60
        assert faint["faint"] == []


CONTRAST = """() => {
    const parse = (color) => color.match(/[\\d.]+/g).map(Number);
    const bright = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            if (color[3] === undefined || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const faint = [];
    let looked = 0;
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
        looked += 1;
        const colors = [parse(getComputedStyle(element).color), behind(element)];
        const [one, other] = colors.map(bright).sort((a, b) => b - a);
        const ratio = (one + 0.05) / (other + 0.05);
        if (ratio < 4.5) faint.push(`${walker.currentNode.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
    return { looked, faint };
}"""


@pytest.mark.parametrize("width", [320, 390, 768])
async def test_nothing_sticks_out_of_a_small_screen(browser: Browser, here: Site, width: int) -> None:
    here.upstream.on("/long/*", replies("x", FRESH))
    await ask_all(here, [f"/long/{'a' * 300}"] * 3)
    async with opened(browser, here, width=width) as page:
        await page.shown()
        await page.page.fill("#explain-url", f"http://{HOST}/long/{'a' * 300}")
        await page.page.click("#explain-button")
        await expect(page.page.locator("#explain-steps h3").first).to_be_visible()
        out = await page.run(
            """[...document.querySelectorAll("body *")].filter((one) => one.checkVisibility()
                && !one.closest(".unseen, thead, svg") && one.getBoundingClientRect().right > innerWidth + 0.5)
                .map((one) => one.outerHTML.slice(0, 80))"""
        )
        assert out == []
        assert await page.run("document.documentElement.scrollWidth") == width


async def test_the_numbers_are_asked_for_every_two_seconds(page: Watched) -> None:
    await page.page.clock.install()
    await page.page.reload()  # so that none of its timers is a real one
    await page.shown()
    await page.page.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))
    await page.look_again()
    await page.answered()
    before = page.asked.count("/stats")
    for _ in range(24):
        await page.page.clock.run_for(500)
        await page.answered()
    assert page.asked.count("/stats") - before in (5, 6, 7)
