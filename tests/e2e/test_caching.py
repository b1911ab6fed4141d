"""What is stored, for whom, and what the answers say of it (RFC 9111, RFC 9211)."""

import asyncio
import re

import pytest

from tests.e2e.harness import Response, Site, post, request
from tests.e2e.upstream import Call, counts, head, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRESH = "Cache-Control: max-age=600"
STAMP = "Mon, 06 Jan 2025 10:00:00 GMT"
CONFIG = {
    "routes": [
        {
            "name": "ttl",
            "match": {"path": "/ttl/*"},
            "upstream": "origin",
            "x_cache": True,
            "cache": {"default_ttl": "60s", "jitter": "0%", "negative_ttl": {404: "30s"}},
        },
        {"name": "long", "match": {"path": "/long/*"}, "upstream": "origin", "cache": {"override_ttl": "1h"}},
        {
            "name": "open",
            "match": {"path": "/open/*"},
            "upstream": "origin",
            "cache": {"default_ttl": "60s", "credentials": "share", "set_cookie": "store"},
        },
        {
            "name": "deaf",
            "match": {"path": "/deaf/*"},
            "upstream": "origin",
            "cache": {"request_cache_control": "ignore"},
        },
        {
            "name": "keyed",
            "match": {"path": "/keyed/*"},
            "upstream": "origin",
            "cache": {"key": {"query": {"ignore": ["utm_*", "fbclid"]}, "headers": ["X-Tenant"]}},
        },
        {"name": "small", "match": {"path": "/small/*"}, "upstream": "origin", "cache": {"max_object_size": "1KiB"}},
        {"name": "off", "match": {"path": "/off/*"}, "upstream": "origin", "cache": "off"},
        {"name": "all", "match": {"path": "/*"}, "upstream": "origin"},
    ]
}


async def _twice(here: Site, path: str, *asked: str, answered: tuple[str, ...] = (FRESH,)) -> tuple[Response, Response]:
    """The same request twice of an upstream that counts."""
    here.upstream.on(path, counts(*answered))
    return await here.get(path, *asked), await here.get(path, *asked)


async def test_a_miss_says_what_it_was_and_a_hit_how_long_it_lasts(here: Site) -> None:
    miss, hit = await _twice(here, "/plain")
    assert miss.cache == "readthrough; fwd=uri-miss; fwd-status=200; stored"
    assert re.fullmatch(r"readthrough; hit; ttl=(600|59[5-9])", hit.cache)
    assert (miss.text, hit.text) == ("1", "1")
    assert "age" not in miss.head
    assert hit.age in range(6)
    assert "x-cache" not in hit.head


async def test_an_upstream_cache_is_named_before_us(here: Site) -> None:
    miss, hit = await _twice(here, "/cdn", answered=(FRESH, "Cache-Status: far; hit", "Age: 100"))
    assert re.fullmatch(r"far; hit, readthrough; fwd=uri-miss; .*", miss.head["cache-status"])
    assert re.fullmatch(r"far; hit, readthrough; hit; ttl=(500|49[5-9])", hit.head["cache-status"])
    assert hit.age in range(100, 106)


@pytest.mark.parametrize(
    ("name", "asked", "answered"),
    [
        ("no-store", (), ("Cache-Control: no-store",)),
        ("private", (), ("Cache-Control: private, max-age=60",)),
        ("set-cookie", (), (FRESH, "Set-Cookie: a=b")),
        ("vary-star", (), (FRESH, "Vary: *")),
        ("vary-peer", (), (FRESH, "Vary: X-Forwarded-For")),
        ("vary-id", (), (FRESH, "Vary: Accept, X-Request-Id")),
        ("unread-private", (), ("Cache-Control: private; max-age=600", "Last-Modified: " + STAMP)),
        ("unread-vary", (), (FRESH, "Vary: Accept-Encoding Accept-Language")),
        ("no-freshness", (), ()),
        ("authorization", ("Authorization: Basic YTpi",), (FRESH,)),
        ("hidden-no-store", (), ("Cache-Control: no-store", "Connection: cache-control")),
        ("targeted-no-store", (), (FRESH, "CDN-Cache-Control: no-store")),
        ("request-no-store", ("Cache-Control: no-store",), (FRESH,)),
        ("ttl/cookie", ("Cookie: a=b",), ()),
        ("ttl/credentials", ("Authorization: Basic YTpi",), ()),
        ("ttl/no-store", (), ("Cache-Control: no-store",)),
        ("long/no-store", (), ("Cache-Control: no-store",)),
        ("long/private", (), ("Cache-Control: private",)),
        ("off/route", (), (FRESH,)),
    ],
)
async def test_is_not_stored(here: Site, name: str, asked: tuple[str, ...], answered: tuple[str, ...]) -> None:
    first, second = await _twice(here, f"/{name}", *asked, answered=answered)
    assert (first.text, second.text) == ("1", "2")
    assert not first.stored
    assert not second.hit


@pytest.mark.parametrize(
    ("name", "asked", "answered"),
    [
        ("public-authorization", ("Authorization: Basic YTpi",), ("Cache-Control: public, max-age=60",)),
        ("s-maxage-authorization", ("Authorization: Basic YTpi",), ("Cache-Control: s-maxage=60",)),
        ("cookie", ("Cookie: a=b",), (FRESH,)),
        ("expires", (), ("Expires: Fri, 01 Jan 2100 00:00:00 GMT",)),
        ("targeted", (), ("Cache-Control: no-store", "CDN-Cache-Control: max-age=60")),
        ("ttl/plain", (), ()),
        ("long/plain", (), ("Cache-Control: max-age=0",)),
        ("open/cookie", ("Cookie: a=b",), ("Set-Cookie: a=b",)),
        ("open/credentials", ("Authorization: Basic YTpi",), ()),
        ("deaf/no-cache", ("Cache-Control: no-cache", "Pragma: no-cache"), (FRESH,)),
    ],
)
async def test_is_stored(here: Site, name: str, asked: tuple[str, ...], answered: tuple[str, ...]) -> None:
    first, second = await _twice(here, f"/{name}", *asked, answered=answered)
    assert (first.text, second.text) == ("1", "1")
    assert first.stored
    assert second.hit


async def test_the_operators_lifetimes_count(here: Site) -> None:
    _, hit = await _twice(here, "/ttl/time", answered=())
    assert re.fullmatch(r"readthrough; hit; ttl=(60|5[5-9])", hit.cache)
    here.upstream.on("/ttl/gone", replies("gone", status="404 Not Found"))
    responses = [await here.get("/ttl/gone") for _ in range(2)]
    assert [r.status for r in responses] == [404, 404]
    assert re.fullmatch(r"readthrough; hit; ttl=(30|2[5-9])", responses[1].cache)
    assert [r.head["x-cache"] for r in responses] == ["MISS", "HIT"]


async def test_the_key_is_what_the_route_says(here: Site) -> None:
    here.upstream.on("/keyed/a", counts(FRESH))
    assert (await here.get("/keyed/a?x=1&utm_source=m&fbclid=9")).text == "1"
    assert (await here.get("/keyed/a?utm_medium=n&x=1")).text == "1"
    assert (await here.get("/keyed/a?x=2")).text == "2"
    assert (await here.get("/keyed/a?x=1", "X-Tenant: t")).text == "3"
    assert (await here.get("/keyed/a?x=1", "X-Tenant: t")).hit
    assert "utm_source=m" in here.upstream.calls[-3].target


async def test_what_an_upstream_may_read_as_keyed_is_keyed(here: Site) -> None:
    here.upstream.on("/keyed/cgi", counts(FRESH))
    assert (await here.get("/keyed/cgi?id=1&utm_x=1;id=9", "X-Tenant: t", "X_Tenant: u")).text == "1"
    assert (await here.get("/keyed/cgi?id=1&utm_x=1;id=9", "X-Tenant: t")).text == "2"
    assert (await here.get("/keyed/cgi?id=1", "X-Tenant: t")).text == "3"
    here.upstream.on("/cgi", counts(FRESH, "Vary: X-Tenant"))
    assert (await here.get("/cgi", "X-Tenant: t", "X_Tenant: u")).text == "1"
    assert (await here.get("/cgi", "X-Tenant: t")).text == "2"
    assert (await here.get("/cgi", "X-Tenant: t")).hit


async def test_a_large_object_is_not_stored_where_the_route_is_for_small_ones(here: Site) -> None:
    here.upstream.on("/small/large", replies(b"x" * 5000, FRESH))
    for _ in range(2):
        response = await here.get("/small/large")
        assert response.body == b"x" * 5000
        assert not response.hit
    assert (await _twice(here, "/small/small"))[1].hit


async def test_hosts_share_nothing(here: Site) -> None:
    here.upstream.on("/host", counts(FRESH))
    assert (await here.get("/host", host="a.test")).text == "1"
    assert (await here.get("/host", host="b.test")).text == "2"
    assert (await here.get("/host", host="A.test:80")).text == "1"


async def test_every_variant_has_its_own_entry(here: Site) -> None:
    here.upstream.on("/vary", counts(FRESH, "Vary: Accept-Language"))
    assert (await here.get("/vary", "Accept-Language: de")).text == "1"
    second = await here.get("/vary", "Accept-Language: en")
    assert (second.text, second.cache) == ("2", "readthrough; fwd=vary-miss; fwd-status=200; stored")
    assert (await here.get("/vary", "Accept-Language: de")).text == "1"
    assert (await here.get("/vary", "Accept-Language: en")).text == "2"
    assert (await here.get("/vary")).text == "3"


async def test_an_origin_that_is_only_like_another_has_its_own_entry(here: Site) -> None:
    here.upstream.on("/cors", counts(FRESH, "Vary: Origin"))
    assert (await here.get("/cors", "Origin: https://a.test,")).text == "1"
    assert (await here.get("/cors", "Origin: https://a.test")).text == "2"


async def test_what_upstreams_have_from_us_is_no_variant_of_the_clients(here: Site) -> None:
    here.upstream.on("/vary-host", counts(FRESH, "Vary: Host, X-Forwarded-Host, X-Forwarded-Proto"))
    assert (await here.get("/vary-host")).text == "1"
    assert (await here.get("/vary-host", "X-Forwarded-Host: b.test", "X-Forwarded-Proto: https")).text == "1"
    assert (await here.get("/vary-host", host="b.test")).text == "2"


async def test_gzip_and_plain_are_not_mixed(here: Site) -> None:
    async def handler(call: Call) -> None:
        packed = "gzip" in (call.head.get("accept-encoding") or "")
        call.answer(
            b"\x1f\x8bpacked" if packed else b"plain",
            FRESH,
            "Vary: Accept-Encoding",
            *(["Content-Encoding: gzip"] if packed else []),
        )

    here.upstream.on("/gzip", handler)
    for _ in range(2):
        packed = await here.get("/gzip", "Accept-Encoding: gzip")
        assert (packed.body, packed.head["content-encoding"]) == (b"\x1f\x8bpacked", "gzip")
        plain = await here.get("/gzip")
        assert (plain.body, plain.head.get("content-encoding")) == (b"plain", None)


async def test_head_is_answered_from_a_stored_get(here: Site) -> None:
    here.upstream.on("/head", replies("twelve bytes", FRESH, "X-A: 1"))
    await here.get("/head")
    response = await here.get("/head", method="HEAD")
    assert response.hit
    assert (response.head["content-length"], response.head["x-a"], response.body) == ("12", "1", b"")
    assert here.upstream.count("/head") == 1


async def test_head_on_a_miss_is_a_head_upstream(here: Site) -> None:
    here.upstream.on("/head-only", replies("twelve bytes", FRESH))
    response = await here.get("/head-only", method="HEAD")
    assert (response.status, response.head["content-length"]) == (200, "12")
    assert here.upstream.seen("/head-only")[0].method == "HEAD"
    assert (await here.get("/head-only")).text == "twelve bytes"


RANGES = [
    ("bytes=0-3", (), 206, b"0123", "bytes 0-3/10"),
    ("bytes=4-", (), 206, b"456789", "bytes 4-9/10"),
    ("bytes=-2", (), 206, b"89", "bytes 8-9/10"),
    ("bytes=8-100", (), 206, b"89", "bytes 8-9/10"),
    ("bytes=10-", (), 416, None, "bytes */10"),
    ("bytes=5-2", (), 200, b"0123456789", None),
    ("lines=1-2", (), 200, b"0123456789", None),
    ("bytes=0-3", ('If-Range: "e"',), 206, b"0123", "bytes 0-3/10"),
    ("bytes=0-3", ('If-Range: "other"',), 200, b"0123456789", None),
    ("bytes=0-3", ('If-Range: W/"e"',), 200, b"0123456789", None),
    ("bytes=0-3", (f"If-Range: {STAMP}",), 206, b"0123", "bytes 0-3/10"),
    ("bytes=0-3", ("If-Range: Tue, 07 Jan 2025 10:00:00 GMT",), 200, b"0123456789", None),
]


@pytest.mark.parametrize(("asked", "more", "status", "body", "span"), RANGES)
async def test_ranges_come_from_the_stored_whole(
    here: Site, asked: str, more: tuple[str, ...], status: int, body: bytes | None, span: str | None
) -> None:
    here.upstream.on("/range", replies(b"0123456789", FRESH, 'ETag: "e"', f"Last-Modified: {STAMP}"))
    await here.get("/range")
    before = here.upstream.count("/range")
    response = await here.get("/range", f"Range: {asked}", *more)
    assert response.status == status
    assert response.head.get("content-range") == span
    assert body is None or response.body == body
    assert response.hit
    assert here.upstream.count("/range") == before


CONDITIONS = [
    ('If-None-Match: "e"', 304),
    ('If-None-Match: W/"e"', 304),
    ('If-None-Match: "x", "e"', 304),
    ("If-None-Match: *", 304),
    ('If-None-Match: "x"', 200),
    (f"If-Modified-Since: {STAMP}", 304),
    ("If-Modified-Since: Sun, 05 Jan 2025 10:00:00 GMT", 200),
    ("If-Modified-Since: yesterday", 200),
]


@pytest.mark.parametrize("primed", [True, False], ids=["hit", "miss"])
@pytest.mark.parametrize(("condition", "status"), CONDITIONS)
async def test_conditions_are_answered_here(here: Site, condition: str, status: int, primed: bool) -> None:
    path = f"/condition/{CONDITIONS.index((condition, status))}/{primed}"
    here.upstream.on(path, replies("body", FRESH, 'ETag: "e"', f"Last-Modified: {STAMP}"))
    if primed:
        await here.get(path)
    response = await here.get(path, condition)
    assert (response.status, response.text) == (status, "" if status == 304 else "body")
    assert response.head["etag"] == '"e"'
    assert here.upstream.count(path) == 1
    call = here.upstream.seen(path)[0]
    assert "if-none-match" not in call.head
    assert "if-modified-since" not in call.head
    assert (await here.get(path)).text == "body"


@pytest.mark.parametrize(
    ("control", "text", "fwd"),
    [
        ("no-cache", "2", "request"),
        ("max-age=0", "2", "request"),
        ("min-fresh=3600", "2", "request"),
        ("max-age=600", "1", None),
        ("only-if-cached", "1", None),
    ],
)
async def test_what_the_client_asks_of_the_cache(here: Site, control: str, text: str, fwd: str | None) -> None:
    path = f"/asks-{control.partition('=')[0]}-{text}"
    here.upstream.on(path, counts(FRESH))
    await here.get(path)
    response = await here.get(path, f"Cache-Control: {control}")
    assert response.text == text
    assert response.cache.startswith(f"readthrough; fwd={fwd}" if fwd else "readthrough; hit")


async def test_only_if_cached_is_504_where_nothing_is(here: Site) -> None:
    response = await here.get("/nothing", "Cache-Control: only-if-cached")
    assert response.status == 504
    assert here.upstream.count("/nothing") == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "FROBNICATE"])
async def test_an_unsafe_method_that_succeeds_invalidates(here: Site, method: str) -> None:
    path = f"/unsafe-{method}"
    here.upstream.on(path, counts(FRESH))
    await here.get(path)
    response = await here.send(post(path, b"x", method=method))
    assert response.cache.startswith("readthrough; fwd=method")
    assert (await here.get(path)).text == "3"


async def test_an_unsafe_method_that_fails_does_not(here: Site) -> None:
    here.upstream.on("/refused", replies("kept", FRESH))
    await here.get("/refused")
    here.upstream.on("/refused", replies("no", status="403 Forbidden"))
    await here.send(post("/refused", b"x"))
    assert (await here.get("/refused")).text == "kept"


async def test_two_posts_are_two(here: Site) -> None:
    async def echo(call: Call) -> None:
        call.answer(await call.body(), FRESH)

    here.upstream.on("/echo", echo)
    assert [(await here.send(post("/echo", b))).body for b in (b"one", b"two")] == [b"one", b"two"]


async def test_bodies_without_a_length_are_stored_when_they_end_well(here: Site) -> None:
    async def chunked(call: Call) -> None:
        call.write(head(FRESH, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-T: 1\r\n\r\n")

    here.upstream.on("/chunked", chunked)
    assert (await here.get("/chunked")).text == "abcdefg"
    second = await here.get("/chunked")
    assert second.hit
    assert second.text == "abcdefg"


async def test_a_newer_fetch_is_not_replaced_by_an_older_one(here: Site) -> None:
    gate, asked = asyncio.Event(), asyncio.Event()

    async def old(call: Call) -> None:
        asked.set()
        await gate.wait()
        call.answer("old", FRESH)

    here.upstream.on("/race", old)
    stream = await here.connect()
    stream.write(request("/race"))
    await asked.wait()
    here.upstream.on("/race", replies("new", FRESH))
    await here.send(post("/race", b"change"))
    gate.set()
    await stream.head()
    stream.close()
    assert (await here.get("/race")).text == "new"


async def test_a_range_of_what_is_not_stored_is_cut_from_the_whole(here: Site) -> None:
    here.upstream.on("/cold-range", replies(b"0123456789", FRESH))
    response = await here.get("/cold-range", "Range: bytes=2-4")
    assert (response.status, response.body, response.head["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert "range" not in here.upstream.seen("/cold-range")[0].head
    assert (await here.get("/cold-range")).body == b"0123456789"
    assert here.upstream.count("/cold-range") == 1


async def test_a_part_is_never_stored_as_the_whole(here: Site) -> None:
    here.upstream.on("/part", replies(b"234", FRESH, "Content-Range: bytes 2-4/10", status="206 Partial Content"))
    assert (await here.get("/part")).body == b"234"
    here.upstream.on("/part", replies(b"0123456789", FRESH))
    assert (await here.get("/part")).body == b"0123456789"


async def test_purge_is_refused_where_nobody_allowed_it(here: Site) -> None:
    here.upstream.on("/purge", replies("kept", FRESH))
    await here.get("/purge")
    assert (await here.get("/purge", method="PURGE")).status in (403, 405)
    assert (await here.get("/purge")).hit
    assert here.upstream.count("/purge") == 1
