"""The dashboard's purge box and explain box, in a real browser."""

import re

import pytest
from playwright.async_api import expect

from tests.browser.kit import MISTAKEN, Watched, ask_all
from tests.e2e.harness import HOST, Site
from tests.e2e.upstream import replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRESH = "Cache-Control: max-age=600"
CONFIG = {
    "routes": [
        {
            "name": "limited",
            "match": {"path": "/limited/*"},
            "upstream": "origin",
            "rate_limit": {"rate": "1/m", "burst": 3},
        },
        {"name": "all", "match": {"path": "/*"}, "upstream": "origin"},
    ]
}


async def purge(page: Watched, kind: str, value: str) -> None:
    await page.page.check(f"input[value={kind}]")
    await page.page.fill("#purge-values", value)
    await page.page.click("#purge-button")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("urls", f"http://{HOST}/gone/urls"),
        ("urls", "/gone/urls"),
        ("prefixes", "/gone"),
        ("tags", "thing"),
        ("hosts", HOST),
    ],
)
async def test_what_is_purged_by_the_page_goes(page: Watched, here: Site, kind: str, value: str) -> None:
    path = f"/gone/{kind}"
    here.upstream.on(path, replies("x", FRESH, "Surrogate-Key: thing"))
    here.upstream.on("/kept", replies("kept", FRESH))
    await ask_all(here, [path, "/kept" if kind != "hosts" else path])
    assert (await here.get(path)).hit
    before = here.upstream.count(path)
    await page.shown()
    await purge(page, kind, value)
    outcome = page.page.locator("#purge-outcome")
    await expect(outcome).to_contain_text(
        re.compile(r"^Applied by the only instance, after (<\u202f)?[\d.]+\u202fms\. Id \w+\.")
    )
    row = await page.text("#purge-rows")
    assert re.search(r"^[0-9a-f]{12}\s+applied\s+(<\u202f)?[\d.]+\u202fms$", row.strip()), row
    assert not (await here.get(path)).hit
    assert here.upstream.count(path) == before + 1
    if kind != "hosts":
        assert (await here.get("/kept")).hit


async def test_a_soft_purge_makes_stale(page: Watched, here: Site) -> None:
    here.upstream.on("/soft", replies("x", FRESH, 'ETag: "1"'))
    await here.get("/soft")
    await page.shown()
    await page.page.check("#purge-soft")
    await purge(page, "urls", "/soft")
    await expect(page.page.locator("#purge-outcome")).to_contain_text("Applied")
    assert "fwd=stale" in (await here.get("/soft")).cache
    assert here.upstream.seen("/soft")[-1].head.get("if-none-match") == '"1"'


async def test_everything_goes_only_when_it_is_said_twice(page: Watched, here: Site) -> None:
    here.upstream.on("/all", replies("x", FRESH))
    await here.get("/all")
    await page.shown()
    await page.page.check("input[value=all]")
    await expect(page.page.locator("#purge-values")).to_be_hidden()
    await page.page.click("#purge-button")
    await expect(page.page.locator("#purge-button")).to_have_text("Yes, purge everything")
    assert (await here.get("/all")).hit
    await page.page.check("input[value=tags]")
    await expect(page.page.locator("#purge-button")).to_have_text("Purge")
    await page.page.check("input[value=all]")
    await page.page.click("#purge-button")
    assert (await here.get("/all")).hit, "whoever thought of something else must say it twice again"
    await page.page.click("#purge-button")
    await expect(page.page.locator("#purge-outcome")).to_contain_text("Applied")
    assert not (await here.get("/all")).hit


async def test_mistakes_are_told_and_nothing_is_done(page: Watched) -> None:
    page.forgiven = (MISTAKEN,)
    await page.shown()
    await purge(page, "urls", " \n ")
    await expect(page.page.locator("#purge-problem")).to_have_text("There is nothing to purge yet: write one a line.")
    assert not [path for path in page.asked if path.startswith("/invalidate")]
    await purge(page, "prefixes", "no-slash")
    await expect(page.page.locator("#purge-problem")).to_contain_text("Nothing was invalidated: the body has mistakes.")
    assert "prefixes[0]" in await page.text("#purge-problem")
    assert await page.text("#purge-outcome") == ""
    for fields, words in (("no colon", "written as Name: value"), ("", "no http or https URL")):
        await page.page.fill("#explain-headers", fields)
        await page.page.fill("#explain-url", "not a url")
        await page.page.click("#explain-button")
        await expect(page.page.locator("#explain-problem")).to_contain_text(words)


async def test_a_request_is_explained(page: Watched, here: Site) -> None:
    here.upstream.on("/why", replies("x", FRESH, "Vary: Accept-Language"))
    await here.get("/why", "Accept-Language: en")
    await page.shown()
    await page.page.fill("#explain-url", f"http://{HOST}/why")
    await page.page.fill("#explain-headers", "Accept-Language: en\nCache-Control: max-age=100")
    await page.page.click("#explain-button")
    await expect(page.page.locator("#explain-verdict")).to_contain_text("Served from the cache")
    steps = await page.text("#explain-steps")
    assert re.search(r"Cache-Status\s+readthrough; hit; ttl=\d+", steps), steps
    assert re.search(r"all\s+taken: any host, /\*, any method", steps), steps
    assert re.search(r"accept-language: en, like the request's", steps), steps
    assert re.search(r"lifetime - age\s+600 s", steps), steps
    titles = await page.page.locator("#explain-steps h3").all_inner_texts()
    assert titles[:3] == [f"GET http://{HOST}/why", "Routes", "Key"]
    await page.page.fill("#explain-headers", "Accept-Language: de")
    await page.page.fill("#explain-method", "HEAD")
    await page.page.click("#explain-button")
    await expect(page.page.locator("#explain-verdict")).to_contain_text("Fetched from the upstream")
    await page.page.fill("#explain-url", f"http://{HOST}/a/../b")
    await page.page.click("#explain-button")
    await expect(page.page.locator("#explain-verdict")).to_contain_text("Refused")
    assert here.upstream.count("/why") == 1, "nothing is fetched to explain"


async def test_it_is_explained_for_a_client(page: Watched, here: Site) -> None:
    page.forgiven = (MISTAKEN,)
    here.upstream.on("/limited/x", replies("x", FRESH))
    await page.shown()
    await page.page.fill("#explain-url", f"http://{HOST}/limited/x")
    await page.page.fill("#explain-client", "nobody")
    await page.page.click("#explain-button")
    await expect(page.page.locator("#explain-problem")).to_contain_text("client is not an IP address")
    await page.page.fill("#explain-client", " 192.0.2.7 ")
    await page.page.click("#explain-button")
    await expect(page.page.locator("#explain-steps")).to_contain_text("192.0.2.7")
    assert await page.text("#explain-problem") == ""
    await page.page.fill("#explain-client", "")
    await page.page.click("#explain-button")
    await expect(page.page.locator("#explain-steps h3").first).to_be_visible()
    assert "192.0.2.7" not in await page.text("#explain-steps")


async def test_a_hot_key_is_explained_and_offered_for_a_purge(page: Watched, here: Site) -> None:
    here.upstream.on("/hot", replies("x", FRESH))
    await ask_all(here, ["/hot"] * 60)
    await page.shown()
    row = page.page.locator("#hot li").filter(has_text=f"http://{HOST}/hot")
    await row.get_by_role("button", name=f"Explain http://{HOST}/hot").click()
    await expect(page.page.locator("#explain-verdict")).to_contain_text("Served from the cache")
    await row.get_by_role("button", name=f"Purge http://{HOST}/hot").click()
    await expect(page.page.locator("#purge-button")).to_be_focused()
    assert await page.page.input_value("#purge-values") == f"http://{HOST}/hot"
    assert (await here.get("/hot")).hit, "it is only offered"
    await page.page.keyboard.press("Enter")
    await expect(page.page.locator("#purge-outcome")).to_contain_text("Applied")
    assert not (await here.get("/hot")).hit


async def test_the_keyboard_is_enough(page: Watched, here: Site) -> None:
    """From the address bar to a purged URL, and what has the focus shows it at every step."""
    here.upstream.on("/keys", replies("x", FRESH))
    await here.get("/keys")
    await page.shown()
    press = page.page.keyboard.press
    await press("Tab")
    await expect(page.page.locator(".skip")).to_be_focused()
    assert (await page.page.locator(".skip").bounding_box() or {"y": -1})["y"] >= 0, "the skip link is seen"
    await press("Enter")
    await expect(page.page.locator("#main")).to_be_focused()
    for _ in range(60):
        await press("Tab")
        at = await page.run(
            """(() => {
                const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
                return {
                    kind: one.value, seen: box.bottom > 0 && box.top < innerHeight,
                    ring: style.outlineStyle !== "none" && style.outlineWidth !== "0px",
                };
            })()"""
        )
        assert at["ring"], at
        assert at["seen"], at
        if at["kind"] == "urls":
            break
    else:
        pytest.fail("the purge box was not reached")
    await press("ArrowRight")
    assert await page.page.is_checked("input[value=prefixes]")
    await press("ArrowLeft")
    await press("Tab")
    await expect(page.page.locator("#purge-values")).to_be_focused()
    await page.page.keyboard.type("/keys")
    for target in ("#purge-soft", "#purge-wait", "#purge-button"):
        await press("Tab")
        await expect(page.page.locator(target)).to_be_focused()
    await press("Enter")
    await expect(page.page.locator("#purge-outcome")).to_contain_text("Applied")
    await expect(page.page.locator("#purge-button")).to_be_focused()
    assert not (await here.get("/keys")).hit


async def test_whoever_does_not_see_it_is_told(page: Watched) -> None:
    """Everything that can be operated has a name, and what happens is announced."""
    await page.shown()
    controls = page.page.locator("main :is(input, select, textarea, button, a)")
    for control in await controls.all():
        name = await control.evaluate(
            "(one) => one.ariaLabel ?? (one.labels?.length ? one.labels[0].innerText : one.innerText)"
        )
        assert name.strip(), await control.evaluate("(one) => one.outerHTML")
    assert await page.page.locator("[role=status]").count() == 3
    assert await page.page.locator("[role=alert]").count() == 3
    for table in await page.page.locator("table").all():
        assert await table.locator("caption").inner_text()
    assert await page.page.locator("h1").count() == 1
