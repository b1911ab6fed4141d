"""What instances give each other, and what they never do."""

import asyncio
import random
from itertools import count
from pathlib import Path

import pytest

from tests.e2e.harness import Response, receive, request
from tests.e2e.process import Late, eventually, in_time
from tests.e2e.upstream import Call, replies
from tests.fleet.harness import LEASE, Fleet, Versions, fleet, fresh, tell
from tests.redis_servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = {"upstreams": {"origin": {"max_connections": 1024, "timeout": "10s"}}}
CROWD = 600
_numbers = count(1)
LARGE = random.Random(1).randbytes(5 << 20)  # nothing makes it smaller


async def test_what_one_has_fetched_the_others_have(here: Fleet) -> None:
    here.upstream.on("/a", fresh("a", "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT", 'ETag: "one"', "X-Odd: caf\xe9"))
    first = await here[0].get("/a")
    assert first.stored
    for one in here.instances[1:]:
        other = await one.get("/a")
        assert other.hit
        assert other.text == "a"
        kept = [field for field in first.head.headers if field[0] not in ("Cache-Status", "Age")]
        assert [field for field in other.head.headers if field[0] not in ("Cache-Status", "Age")] == kept
    assert here.upstream.count("/a") == 1


async def test_age_goes_on_from_one_to_the_other(here: Fleet) -> None:
    here.upstream.on("/aged", fresh("x", "Age: 100"))
    loop = asyncio.get_running_loop()
    asked = loop.time()
    assert (await here[0].get("/aged")).status == 200
    await asyncio.sleep(1.2)
    assert 101 <= (await here[1].get("/aged")).age <= 101 + int(loop.time() - asked)


async def test_four_languages_over_three_instances_are_at_most_five_upstream_requests(here: Fleet) -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(0.5)
        call.answer(call.head["accept-language"], "Cache-Control: max-age=60", "Vary: Accept-Language")

    # Of any three that follow each other, one goes to each instance; so does each language.
    languages = ["en", "de", "fr", "it"]
    here.upstream.on("/vary", slow)
    responses, _ = await here.at_once([request("/vary", f"Accept-Language: {languages[i % 4]}") for i in range(CROWD)])
    assert [r.text for r in responses] == [languages[i % 4] for i in range(CROWD)]
    assert here.upstream.count("/vary") <= 5


async def test_a_large_body_goes_to_everybody_whole(here: Fleet) -> None:
    here.upstream.on("/large", fresh(LARGE))
    responses, _ = await here.at_once([request("/large")] * 9)
    assert all(r.body == LARGE for r in responses)
    assert here.upstream.count("/large") <= 3  # it is too large to be shared, so each has its own
    responses, _ = await here.at_once([request("/large")] * 9)
    assert all(r.body == LARGE and r.hit for r in responses)
    assert here.upstream.count("/large") <= 3


async def test_a_body_that_fits_is_shared_whole(here: Fleet) -> None:
    body = LARGE[: 900 << 10]
    here.upstream.on("/fits", fresh(body))
    responses, _ = await here.at_once([request("/fits")] * 9)
    assert all(r.body == body for r in responses)
    assert here.upstream.count("/fits") == 1


async def test_a_head_a_range_and_a_condition_are_answered_from_what_another_fetched(here: Fleet) -> None:
    here.upstream.on("/parts", fresh("0123456789", 'ETag: "parts"'))
    await here[0].get("/parts")
    part = await here[2].get("/parts", "Range: bytes=2-4")
    unchanged = await here[1].get("/parts", 'If-None-Match: "parts"')
    head = await here[1].get("/parts", method="HEAD")  # on its own it would be passed on: it brings nothing to share
    assert (head.status, head.head["content-length"], head.body) == (200, "10", b"")
    assert (part.status, part.text) == (206, "234")
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert here.upstream.count("/parts") == 1


async def test_a_range_and_a_condition_that_come_first_still_are_one_fetch_of_the_whole(here: Fleet) -> None:
    gate = asyncio.Event()

    async def handler(call: Call) -> None:
        await gate.wait()
        call.answer("0123456789", "Cache-Control: max-age=60", 'ETag: "first"')

    here.upstream.on("/first", handler)
    asked = [request("/first", "Range: bytes=2-4"), request("/first", 'If-None-Match: "first"'), request("/first")]
    crowd = asyncio.create_task(here.at_once(asked))
    await eventually(lambda: here.upstream.count("/first") > 0, "it is asked for")
    await _read(here)
    gate.set()
    (part, unchanged, whole), _ = await crowd
    assert (part.status, part.text) == (206, "234")
    assert unchanged.status == 304
    assert whole.text == "0123456789"
    assert here.upstream.count("/first") == 1
    assert not any("range" in call.head or "if-none-match" in call.head for call in here.upstream.seen("/first"))


async def _read(here: Fleet, waiting: int = 1) -> None:
    """Until all have read what came before this."""
    for one in here.instances:
        for _ in range(1 + waiting // 25):
            assert (await one.get("/not-there")).status == 404


@pytest.mark.clock(only=Late)
async def test_who_waits_for_something_uncacheable_is_released_at_once_and_not_one_by_one(here: Fleet) -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(0.5)
        call.answer(call.head["x-who"], "Cache-Control: no-store")

    here.upstream.on("/control", replies("x", "Cache-Control: no-store"))
    await here.in_turn("/control")
    _, started = await here.at_once([request("/control")] * CROWD)
    responses, started = await here.at_once([request("/control")] * CROWD)
    overhead = max(r.at for r in responses) - started

    path = f"/own/{next(_numbers)}"
    here.upstream.on(path, slow)
    responses, started = await here.at_once([request(path, f"X-Who: {i}") for i in range(CROWD)])
    took = max(r.at for r in responses) - started
    tell(f"{CROWD} for something uncacheable that takes 0.5 s: {took:.2f} s (control {overhead:.2f} s)")
    assert [r.text for r in responses] == [str(i) for i in range(CROWD)]
    assert here.upstream.count(path) == CROWD
    in_time(took, 2 * 0.5 + 2 * overhead + 0.5)  # one round for who leads, and one for all others


async def test_what_is_known_to_be_unshareable_makes_nobody_wait_anywhere(here: Fleet) -> None:
    here.upstream.on("/known", replies("x", "Cache-Control: private"))
    await here[0].get("/known")
    gate, inside = asyncio.Event(), asyncio.Event()

    async def together(call: Call) -> None:
        if here.upstream.count("/known") == 31:
            inside.set()
        await gate.wait()
        call.answer("x", "Cache-Control: private")

    here.upstream.on("/known", together)
    crowd = asyncio.create_task(here.at_once([request("/known")] * 30))
    await eventually(inside.is_set, "all are there")
    gate.set()
    await crowd


async def test_an_upstream_error_reaches_all_that_wait_anywhere_once_and_is_not_kept(here: Fleet) -> None:
    gate = asyncio.Event()

    async def failing(call: Call) -> None:
        await gate.wait()
        call.answer("sorry", status="503 Service Unavailable")

    here.upstream.on("/failing", failing)
    streams = [stream for one in here.instances for stream in await one.crowd(50)]
    for stream in streams:
        stream.write(request("/failing"))
    await eventually(lambda: here.upstream.count("/failing") > 0, "it is asked for")
    await _read(here, 50)
    asked = here.upstream.count("/failing")
    gate.set()
    responses = await asyncio.gather(*(receive(stream) for stream in streams))
    assert asked == 1
    assert {r.status for r in responses} == {503}
    assert here.upstream.count("/failing") == 1
    for stream in streams:
        stream.close()

    here.upstream.on("/failing", fresh("fine"))
    assert {r.text for r in await here.in_turn("/failing")} == {"fine"}
    assert here.upstream.count("/failing") == 2


@pytest.mark.clock(only=Late)
async def test_an_upstream_that_hangs_up_is_an_error_for_all_that_wait_anywhere(here: Fleet) -> None:
    gate = asyncio.Event()

    async def hangs_up(call: Call) -> None:
        await gate.wait()
        call.stream.reset()

    path = f"/gone/{next(_numbers)}"
    here.upstream.on(path, hangs_up)
    crowd = asyncio.create_task(here.at_once([request(path)] * 30))
    await eventually(lambda: here.upstream.count(path) > 0, "it is asked for")
    await _read(here, 10)
    gate.set()
    responses, started = await crowd
    assert {r.status for r in responses} == {502}
    assert here.upstream.count(path) <= 2  # one may have been repeated on a new connection
    in_time(max(r.at for r in responses) - started, LEASE)


async def test_private_answers_never_reach_another_instance(here: Fleet) -> None:
    gate = asyncio.Event()

    async def private(call: Call) -> None:
        await gate.wait()
        me = call.head["x-who"]
        call.answer(me, f"Set-Cookie: session={me}", f"Cache-Control: {kind}, max-age=60")

    for kind in ("private", "public"):  # a cookie alone is enough
        gate.clear()
        path = f"/{kind}"
        here.upstream.on(path, private)
        crowd = asyncio.create_task(here.at_once([request(path, f"X-Who: {i}") for i in range(30)]))
        await eventually(lambda path=path: here.upstream.count(path) > 0, "it is asked for")  # type: ignore[misc]
        await _read(here, 10)
        gate.set()
        responses, _ = await crowd
        assert [r.text for r in responses] == [str(i) for i in range(30)]
        assert [r.head["set-cookie"] for r in responses] == [f"session={i}" for i in range(30)]
        assert not any(r.hit for r in responses)


async def test_who_says_who_they_are_gets_nobody_elses_answer(here: Fleet) -> None:
    """RFC 9111 section 3.5: what answers a request with Authorization is not for others, unless it says so."""

    async def mine(call: Call) -> None:
        call.answer(call.head.get("authorization") or "nobody", "Cache-Control: max-age=60")

    here.upstream.on("/mine", mine)
    for who in ("one", "two"):
        assert {r.text for r in await here.in_turn("/mine", f"Authorization: {who}")} == {who}
    here.upstream.on("/ours", fresh("ours", "Cache-Control: public"))
    await here[0].get("/ours", "Authorization: one")
    assert (await here[1].get("/ours", "Authorization: two")).text == "ours"
    assert here.upstream.count("/ours") == 1


async def test_two_hosts_are_two_things_everywhere(here: Fleet) -> None:
    async def handler(call: Call) -> None:
        call.answer(call.head["x-forwarded-host"], "Cache-Control: max-age=60")

    here.upstream.on("/hosts", handler)
    for host in ("one.test", "two.test"):
        for one in here.instances:
            assert (await one.get("/hosts", host=host)).text == host
    assert here.upstream.count("/hosts") == 2


async def test_what_is_renewed_by_one_is_fresh_for_all(here: Fleet) -> None:
    async def handler(call: Call) -> None:
        fields = ("Cache-Control: max-age=1", 'ETag: "same"')
        if call.head.get("if-none-match") == '"same"':
            call.answer("", *fields[1:], "Cache-Control: max-age=600", status="304 Not Modified")
        else:
            call.answer("body", *fields)

    loop = asyncio.get_running_loop()
    while True:  # until all have it before it is stale
        path, began = f"/renewed/{next(_numbers)}", loop.time()
        here.upstream.on(path, handler)
        assert {r.text for r in await here.in_turn(path)} == {"body"}
        if loop.time() - began < 0.9:
            break
    await asyncio.sleep(1.3)
    assert {r.text for r in await here.in_turn(path)} == {"body"}
    assert all(r.hit for r in await here.in_turn(path))
    assert here.upstream.count(path) == 2


async def test_two_policies_never_share(tmp_path: Path, server: Server) -> None:
    ttl = ["60s", "60s", "61s"]

    def over(number: int) -> dict[str, object]:
        return {"defaults": {"cache": {"default_ttl": ttl[number]}}}

    async with fleet(tmp_path, server.url, over, join=False) as here:
        await eventually(lambda: _finds(here), "the first two share")
        gate = asyncio.Event()

        async def handler(call: Call) -> None:
            await gate.wait()
            call.answer(f"{here.upstream.count('/policy')}")

        here.upstream.on("/policy", handler)
        crowd = asyncio.create_task(here.everywhere("/policy"))
        await eventually(lambda: here.upstream.count("/policy") == 2, "the third does not wait for the others")
        gate.set()
        responses: list[Response] = await crowd
        assert here.upstream.count("/policy") == 2
        assert all(r.status == 200 for r in responses)


async def _finds(here: Fleet) -> bool:
    path = f"/probe/{len(here.upstream.calls)}"
    here.upstream.on(path, fresh("x"))
    await here[0].get(path)
    await here[1].get(path)
    return here.upstream.count(path) == 1


async def test_a_purge_reaches_those_of_another_policy(tmp_path: Path, server: Server) -> None:
    def over(number: int) -> dict[str, object]:
        return {"defaults": {"cache": {"default_ttl": f"{60 + number}s"}}}

    async with fleet(tmp_path, server.url, over, join=False) as here:
        versions = Versions(here.upstream)
        versions.add("/a")
        await eventually(lambda: _purges(here, versions), "a purge reaches all")
        assert here.upstream.count("/a") >= 6


async def _purges(here: Fleet, versions: Versions) -> bool:
    await here.in_turn("/a")
    versions.change("/a")
    if (await here[0].invalidate("2s", urls=["/a"])).status != 200:
        return False
    return {r.text for r in await here.in_turn("/a")} == {str(versions.now("/a"))}
