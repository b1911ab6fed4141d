"""Many requests for one thing at one moment."""

import asyncio
from itertools import count

import pytest

from tests.e2e.harness import Site, receive, request
from tests.e2e.process import Late, eventually, in_time
from tests.e2e.upstream import Call, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = {"upstreams": {"origin": {"max_connections": 2048, "timeout": "30s"}}}
CROWD = 1000
BODY = bytes(range(256)) * 16
_numbers = count(1)


async def _control(here: Site, path: str, *fields: str) -> float:
    """Seconds that such a crowd takes where the upstream takes none."""
    here.upstream.on(path, replies(BODY, *fields))
    await here.get(path)
    responses, started = await here.at_once([request(path)] * CROWD)
    return max(r.at for r in responses) - started


async def test_a_thousand_requests_for_a_cold_key_are_one_upstream_request(here: Site) -> None:
    gate = asyncio.Event()

    async def slow(call: Call) -> None:
        await gate.wait()
        call.answer(BODY, "Cache-Control: max-age=60")

    here.upstream.on("/cold", slow)
    crowd = asyncio.create_task(here.at_once([request("/cold")] * CROWD))
    await _arrival(here, "/cold", CROWD)
    gate.set()
    responses, _ = await crowd
    assert here.upstream.count("/cold") == 1
    assert {r.body for r in responses} == {BODY}
    assert sum("collapsed" in r.cache for r in responses) == CROWD - 1


@pytest.mark.clock(only=Late)
async def test_a_thousand_requests_for_a_cold_key_are_answered_when_the_first_is(here: Site) -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(1)
        call.answer(BODY, "Cache-Control: max-age=60")

    path = f"/together/{next(_numbers)}"
    here.upstream.on(path, slow)
    control = await _control(here, "/warm", "Cache-Control: max-age=60")
    responses, started = await here.at_once([request(path)] * CROWD)
    assert {r.body for r in responses} == {BODY}
    in_time(max(r.at for r in responses) - started, 1.5 + 2 * control)


@pytest.mark.clock(only=Late)
async def test_a_thousand_requests_for_an_uncacheable_key_wait_for_one_round_at_most(here: Site) -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(1)
        call.answer(call.head["x-who"], "Cache-Control: no-store")

    path = f"/own/{next(_numbers)}"
    here.upstream.on(path, slow)
    control = await _control(here, "/each", "Cache-Control: no-store")
    responses, started = await here.at_once([request(path, f"X-Who: {i}") for i in range(CROWD)])

    assert [r.text for r in responses] == [str(i) for i in range(CROWD)]
    assert here.upstream.count(path) == CROWD
    in_time(max(r.at for r in responses) - started, 2.5 + 2 * control)


async def test_a_key_known_to_be_unshareable_makes_nobody_wait(here: Site) -> None:
    here.upstream.on("/known", replies("x", "Cache-Control: private"))
    await here.get("/known")
    gate, inside = asyncio.Event(), asyncio.Event()

    async def together(call: Call) -> None:
        if here.upstream.count("/known") == 21:
            inside.set()
        await gate.wait()
        call.answer("x", "Cache-Control: private")

    here.upstream.on("/known", together)
    crowd = asyncio.create_task(here.at_once([request("/known")] * 20))
    await eventually(inside.is_set, "all are there")
    gate.set()
    await crowd


async def test_a_thousand_requests_in_four_languages_are_at_most_five_upstream_requests(here: Site) -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(0.5)
        call.answer(call.head["accept-language"], "Cache-Control: max-age=60", "Vary: Accept-Language")

    languages = ["en", "de", "fr", "it"]
    here.upstream.on("/vary", slow)
    responses, _ = await here.at_once([request("/vary", f"Accept-Language: {languages[i % 4]}") for i in range(CROWD)])

    assert [r.text for r in responses] == [languages[i % 4] for i in range(CROWD)]
    assert here.upstream.count("/vary") <= 5


async def test_an_upstream_error_reaches_all_that_wait_once_and_is_not_kept(here: Site) -> None:
    gate = asyncio.Event()

    async def failing(call: Call) -> None:
        await gate.wait()
        call.answer("sorry", status="503 Service Unavailable")

    here.upstream.on("/failing", failing)
    crowd = asyncio.create_task(here.at_once([request("/failing")] * 50))
    await _arrival(here, "/failing", 50)
    gate.set()
    responses, _ = await crowd
    assert {r.status for r in responses} == {503}

    here.upstream.on("/failing", replies("fine", "Cache-Control: max-age=60"))
    assert (await here.get("/failing")).text == "fine"


async def test_private_answers_are_not_shared_among_those_who_waited_together(here: Site) -> None:
    gate = asyncio.Event()

    async def private(call: Call) -> None:
        await gate.wait()
        me = call.head["x-who"]
        call.answer(me, f"Set-Cookie: session={me}", "Cache-Control: private, max-age=60")

    here.upstream.on("/private", private)
    crowd = asyncio.create_task(here.at_once([request("/private", f"X-Who: {i}") for i in range(30)]))
    await _arrival(here, "/private", 30)
    gate.set()
    responses, _ = await crowd

    assert [r.text for r in responses] == [str(i) for i in range(30)]
    assert [r.head["set-cookie"] for r in responses] == [f"session={i}" for i in range(30)]


async def test_two_hosts_never_wait_for_one_another(here: Site) -> None:
    gate, both = asyncio.Event(), asyncio.Event()

    async def handler(call: Call) -> None:
        if here.upstream.count("/hosts") == 2:
            both.set()
        await gate.wait()
        call.answer(call.head["x-forwarded-host"], "Cache-Control: max-age=60")

    here.upstream.on("/hosts", handler)
    hosts = ["one.test", "two.test"]
    crowd = asyncio.create_task(here.at_once([request("/hosts", host=h) for h in hosts]))
    await eventually(both.is_set, "both are there")
    gate.set()
    responses, _ = await crowd
    assert [r.text for r in responses] == hosts
    assert [(await here.get("/hosts", host=h)).text for h in hosts] == hosts
    assert here.upstream.count("/hosts") == 2


async def test_who_leaves_does_not_take_the_fetch_down(here: Site) -> None:
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def handler(call: Call) -> None:
        arrived.set()
        await gate.wait()
        call.answer("kept", "Cache-Control: max-age=60")

    here.upstream.on("/left", handler)
    leader = await here.connect()
    leader.write(request("/left"))
    await eventually(arrived.is_set, "it is asked for")
    follower = asyncio.create_task(here.get("/left"))
    await _arrival(here, "/left", 1)
    leader.reset()
    gate.set()
    assert (await follower).text == "kept"
    assert here.upstream.count("/left") == 1


async def _arrival(here: Site, path: str, waiting: int) -> None:
    """Until the upstream has a request for the path and the proxy has read those that wait with it.

    A request that is answered on a connection opened after theirs was read after them: the kernel
    reports readiness in the order in which it came.
    """
    await eventually(lambda: here.upstream.count(path) > 0, "it is asked for")
    for _ in range(1 + waiting // 25):
        await here.get("/not-there")


async def test_who_asks_in_the_moment_of_the_answer_does_not_ask_the_upstream_again(here: Site) -> None:
    """Between finding nothing stored and joining the fetch, the fetch may be over and its answer stored."""
    first, *others = await here.crowd(6)
    for number in range(300):
        path = f"/moment/{number}"

        async def handler(call: Call, path: str = path) -> None:
            call.answer(path, "Cache-Control: max-age=60")
            for other in others if here.upstream.count(path) == 1 else ():
                other.write(request(path))

        here.upstream.on(path, handler)
        first.write(request(path))
        assert {(await receive(stream)).text for stream in (first, *others)} == {path}
    for stream in (first, *others):
        stream.close()
    asked = [here.upstream.count(f"/moment/{number}") for number in range(300)]
    assert asked == [1] * 300
