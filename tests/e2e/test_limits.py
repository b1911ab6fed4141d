"""Limits of requests per time and at once, over sockets. Each test has a route and so buckets of its own."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.harness import HOST, Response, Site, ask, merge, post, receive, request, site
from tests.e2e.process import eventually, run
from tests.e2e.stream import End, Stream
from tests.e2e.upstream import Call, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRESH: Final = "Cache-Control: max-age=600"
TRUSTED: Final = "127.0.0.2"
SECRET: Final = "k3y-of-somebody"
KEY: Final = f"X-Api-Key: {SECRET}"


def limited(name: str, **limits: Any) -> dict[str, Any]:  # noqa: ANN401 - YAML
    return {"name": name, "match": {"path": f"/{name}/*"}, "upstream": "origin", **limits}


# Rates at which nothing comes while a test runs, but where it is about that.
CONFIG: Final = {
    "trusted_proxies": [TRUSTED],
    "routes": [
        limited("few", rate_limit={"rate": "2/h"}),
        limited("told", rate_limit=[{"rate": "1/h", "burst": 2}, {"rate": "10/d", "name": "a day"}]),
        limited("forged", rate_limit={"rate": "1/h"}),
        limited("believed", rate_limit={"rate": "1/h"}),
        limited("soon", rate_limit={"rate": "2/s", "burst": 1}),
        limited("paid", rate_limit={"rate": "1/h", "burst": 100, "cost": {"hit": 2, "miss": 10}}),
        limited("posted", rate_limit={"rate": "1/h"}),
        limited("keyed", rate_limit={"rate": "1/h", "by": "header:X-Api-Key"}),
        limited("counted", rate_limit={"rate": "2/h"}),
        limited("room", max_concurrent={"requests": 1, "queue": 1, "wait": "20s"}),
    ],
}


class Turnstile:
    """Requests that wait at the upstream, each until it is let go."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    async def __call__(self, call: Call) -> None:
        await call.body()
        self.came.append(call.path)
        await self._gates.setdefault(call.path, asyncio.Event()).wait()
        call.answer(call.path, "Cache-Control: no-store")

    def let(self, path: str) -> None:
        self._gates.setdefault(path, asyncio.Event()).set()


async def connect(here: Site, address: str) -> Stream:
    """A connection from another address of this machine."""
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(Stream, "127.0.0.1", here.port, local_addr=(address, 0))
    return stream


async def get(here: Site, path: str, *headers: str, address: str = "127.0.0.1") -> Response:
    stream = await connect(here, address)
    try:
        return await ask(stream, request(path, *headers))
    finally:
        stream.close()


async def admin(here: Site, path: str, body: object = None) -> str:
    stream = await Stream.open(here.admin)
    try:
        raw = request(path, host="localhost")
        if body is not None:
            sent = json.dumps(body).encode()
            fields = ("Content-Type: application/json", f"Content-Length: {len(sent)}")
            raw = request(path, *fields, method="POST", host="localhost") + sent
        response = await ask(stream, raw)
        assert response.status == 200, response
        return response.text
    finally:
        stream.close()


async def stats(here: Site) -> Any:  # noqa: ANN401 - JSON
    return json.loads(await admin(here, "/stats"))


async def waiting(here: Site, count: int) -> None:
    """Until so many of our requests wait for a place on the route `room`."""

    async def so_many() -> bool:
        said = await admin(here, "/explain", {"url": f"http://{HOST}/room/x", "client": "127.0.0.1"})
        (limits,) = [step for step in json.loads(said)["steps"] if step["step"] == "limits"]
        return bool(limits["gate"]["waiting"] == count)

    await eventually(so_many, f"{count} wait")


def problem(response: Response) -> str:
    assert response.head["content-type"] == "application/problem+json"
    said = json.loads(response.body)
    assert said["status"] == response.status
    return str(said["type"]).removeprefix("urn:readthrough:error:")


def left(response: Response) -> int:
    """Tokens that are left, as it says."""
    return int(response.head["ratelimit"].split(";r=")[1].split(";")[0])


async def test_who_asks_too_much_is_told_so_and_when_to_come_again(here: Site) -> None:
    here.upstream.on("/few/a", replies("a", FRESH))
    assert [(await get(here, "/few/a")).hit for _ in range(2)] == [False, True]
    refused = await get(here, "/few/a")
    assert (refused.status, refused.head.start[2], problem(refused)) == (429, "Too Many Requests", "rate-limited")
    assert 1700 < int(refused.head["retry-after"]) <= 1800
    assert refused.head["ratelimit-policy"] == '"few";q=2;w=3600'
    name, r, t = refused.head["ratelimit"].split(";")
    assert (name, r) == ('"few"', "r=0")
    assert 3500 < int(t.removeprefix("t=")) <= 3600
    assert refused.cache == "readthrough; detail=rate-limited"
    assert here.upstream.count("/few/a") == 1


async def test_every_answer_says_what_is_left_of_each_limit(here: Site) -> None:
    here.upstream.on("/told/a", replies("a", FRESH))
    for path, tokens, status in (("/told/a", 1, 200), ("/told/a", 0, 200), ("/told/b", 0, 429)):
        said = await get(here, path)
        assert said.status == status
        assert said.head["ratelimit-policy"] == '"told";q=2;w=7200, "a day";q=10;w=86400'
        first, second = said.head["ratelimit"].split(", ")
        assert first.startswith(f'"told";r={tokens};t=')
        assert second.startswith(f'"a day";r={tokens + 8};t=')


async def test_what_a_client_says_of_its_address_changes_nothing(here: Site) -> None:
    here.upstream.on("/forged/a", replies("a", FRESH))
    assert (await get(here, "/forged/a")).status == 200
    for forged in (
        *("X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 127.0.0.9", "Forwarded: for=203.0.113.2"),
        *("X-Real-IP: 203.0.113.3", f"X-Forwarded-For: 203.0.113.1, {TRUSTED}"),
    ):
        assert (await get(here, "/forged/a", forged)).status == 429
    assert (await get(here, "/forged/a", address="127.0.0.3")).status == 200, "another address is another client"


async def test_what_a_trusted_proxy_says_of_its_client_counts(here: Site) -> None:
    here.upstream.on("/believed/a", replies("a", FRESH))
    chain = "X-Forwarded-For: 198.51.100.7, 203.0.113.1"
    for said, status in (
        ("X-Forwarded-For: 203.0.113.1", 200),
        ("X-Forwarded-For: 203.0.113.1", 429),
        (chain, 429),  # who stands left of it may have been made up
        (f"{chain}, {TRUSTED}", 429),
        ("Forwarded: for=203.0.113.1", 429),
        ("X-Forwarded-For: 203.0.113.2", 200),
        ('Forwarded: for="[2001:db8::1]:80"', 200),
        ("X-Forwarded-For: 2001:db8::2", 429),  # of the same network
    ):
        assert (await get(here, "/believed/a", said, address=TRUSTED)).status == status, said


async def test_waiting_as_told_is_enough_every_time(here: Site) -> None:
    here.upstream.on("/soon/a", replies("a", FRESH))
    assert (await get(here, "/soon/a")).status == 200
    await asyncio.sleep(1)
    stream = await here.connect()
    for _ in range(3):
        stream.write(request("/soon/a") * 2)  # at once: the second is too soon however busy the machine is
        passed, refused = [await receive(stream) for _ in range(2)]
        assert (passed.status, refused.status, refused.head["retry-after"]) == (200, 429, "1")
        await asyncio.sleep(int(refused.head["retry-after"]))
    stream.close()


async def test_every_kind_of_hit_pays(here: Site) -> None:
    here.upstream.on("/paid/a", replies("0123456789", FRESH, 'ETag: "1"'))
    stream = await here.connect()
    for raw, status, tokens in (
        (request("/paid/a"), 200, 90),
        (request("/paid/a"), 200, 88),
        (request("/paid/a", method="HEAD"), 200, 86),
        (request("/paid/a", 'If-None-Match: "1"'), 304, 84),
        (request("/paid/a", "Range: bytes=2-4"), 206, 82),
        (request("/paid/a", "Cache-Control: only-if-cached"), 200, 80),
        (request("/paid/none", "Cache-Control: only-if-cached"), 504, 78),
        (request("/paid/a", "Cache-Control: no-cache"), 200, 68),
        (request("/paid/a", 'If-None-Match: "1"'), 304, 66),  # with a head that is remembered
    ):
        response = await ask(stream, raw)
        assert (response.status, left(response)) == (status, tokens), raw
    stream.close()
    assert here.upstream.count("/paid/a") == 2


@pytest.mark.parametrize("kind", ["sized", "chunked"])
async def test_a_post_is_refused_before_its_body_has_come_and_nothing_is_left_of_it(here: Site, kind: str) -> None:
    here.upstream.on("/posted/a", replies("a", FRESH))
    await get(here, "/posted/a")
    begun = {
        "sized": request("/posted/x", "Content-Length: 100000", method="POST") + b"x" * 10,
        "chunked": request("/posted/x", "Transfer-Encoding: chunked", method="POST") + b"a\r\n0123456789\r\n",
    }
    stream = await here.connect()
    response = await ask(stream, begun[kind])
    assert (response.status, problem(response)) == (429, "rate-limited")
    stream.write(b"x" * 99_990 if kind == "sized" else b"0\r\n\r\n")
    stream.write(request("/posted/a", method="HEAD"))
    if response.head.get("connection") == "close":
        assert await stream.rest() in ((b"", End.FIN), (b"", End.RST))
    else:
        assert (await receive(stream, "HEAD")).status == 429
    stream.close()
    assert here.upstream.count("/posted/x") == 0


async def test_a_refused_post_with_its_body_leaves_the_connection_to_the_next_request(here: Site) -> None:
    await get(here, "/posted/a")
    stream = await here.connect()
    stream.write(post("/posted/x", b"GET /posted/smuggled HTTP/1.1\r\n\r\n") + request("/posted/a", method="HEAD"))
    assert (await receive(stream)).status == 429
    assert (await receive(stream, "HEAD")).status == 429
    stream.close()


async def test_each_value_of_a_header_counts_alone_and_appears_nowhere(here: Site) -> None:
    here.upstream.on("/keyed/a", replies("a", FRESH))
    answers = [await get(here, "/keyed/a", *key) for key in ((KEY,), (KEY,), ("X-Api-Key: other",), (), ())]
    assert [answer.status for answer in answers] == [200, 429, 200, 200, 429]
    headers = {"X-Api-Key": SECRET}
    described = {"url": f"http://{HOST}/keyed/a", "headers": headers, "client": "127.0.0.1"}
    explained = await admin(here, "/explain", described)
    (limits,) = [step for step in json.loads(explained)["steps"] if step["step"] == "limits"]
    assert (limits["buckets"][0]["by"], limits["buckets"][0]["passes"]) == ("header:x-api-key", False)
    told = [await admin(here, path) for path in ("/stats", "/metrics", "/hot", "/config")]
    clients = [said["client"] for said in json.loads(told[0])["limits"]["refused"] if said["route"] == "keyed"]
    assert set(clients) == {"127.0.0.1", limits["buckets"][0]["client"]}
    await eventually(lambda: sum(line.get("target") == "/keyed/a" for line in here.proxy.log()) == 5, "it is logged")
    written = here.proxy.stdout + here.proxy.stderr
    assert SECRET not in "".join([*told, explained, written, *[f"{said.head}{said.text}" for said in answers]])


async def test_it_is_counted_by_route_and_told_who_was_refused_most(here: Site) -> None:
    here.upstream.on("/counted/a", replies("a", FRESH))
    for _ in range(5):
        await get(here, "/counted/a")
    for _ in range(3):
        await get(here, "/counted/a", address="127.0.0.3")
    limits = (await stats(here))["limits"]
    decisions = {word: limits["routes"]["counted"][word] for word in ("allowed", "refused", "stale", "buckets")}
    assert decisions == {"allowed": 4, "refused": 4, "stale": 0, "buckets": {"counted": 2}}
    clients = [(said["client"], said["limit"]) for said in limits["refused"] if said["route"] == "counted"]
    assert clients == [("127.0.0.1", "counted"), ("127.0.0.3", "counted")]
    metrics = await admin(here, "/metrics")
    for line in (
        'limiter_decisions_total{route="counted",decision="allowed"} 4',
        'limiter_decisions_total{route="counted",decision="refused"} 4',
        'limiter_buckets{route="counted",limit="counted"} 2',
    ):
        assert f"readthrough_{line}\n" in metrics
    assert "127.0.0.3" not in metrics


async def test_the_commands_tell_of_it(here: Site) -> None:
    at = ("--admin", f"http://127.0.0.1:{here.admin}")
    code, page = await run("explain", f"http://{HOST}/room/a", "--client", "192.0.2.77", *at)
    assert code == 0
    assert "  at once  0 of 1 under way, 0 of 1 waiting\n           of 192.0.2.77, by ip\n" in page
    code, said = await run("explain", f"http://{HOST}/room/a", "--client", "nobody", *at)
    assert (code, "client: is not an IP address; write" in said) == (2, True)
    code, table = await run("stats", *at)
    assert code == 0
    assert "limits       few: allowed " in table


async def test_a_client_with_too_much_under_way_waits_or_is_refused(here: Site) -> None:
    turnstile = Turnstile()
    here.upstream.on("/room/*", turnstile)

    first = asyncio.create_task(get(here, "/room/1"))
    await eventually(lambda: turnstile.came == ["/room/1"], "the first is inside")
    second = asyncio.create_task(get(here, "/room/2"))
    await waiting(here, 1)
    refused = await get(here, "/room/3")
    assert (refused.status, problem(refused), refused.head["retry-after"]) == (503, "concurrency-limited", "20")
    other = asyncio.create_task(get(here, "/room/4", address="127.0.0.3"))
    await eventually(lambda: turnstile.came == ["/room/1", "/room/4"], "another client is let in")
    turnstile.let("/room/1")
    await eventually(lambda: turnstile.came == ["/room/1", "/room/4", "/room/2"], "the second goes in")
    turnstile.let("/room/2")
    turnstile.let("/room/4")
    assert [(await task).text for task in (first, second, other)] == ["/room/1", "/room/2", "/room/4"]
    assert (await stats(here))["limits"]["routes"]["room"]["too_many_at_once"] == 1


async def test_who_waits_for_a_place_and_leaves_is_not_waited_for(here: Site) -> None:
    turnstile = Turnstile()
    here.upstream.on("/room/*", turnstile)
    first = asyncio.create_task(get(here, "/room/5"))
    await eventually(lambda: turnstile.came == ["/room/5"], "the first is inside")
    stream = await here.connect()
    stream.write(request("/room/6"))
    await waiting(here, 1)
    stream.reset()
    await waiting(here, 0)
    for path in ("/room/5", "/room/7"):
        turnstile.let(path)
    assert (await first).text == "/room/5"
    assert (await get(here, "/room/7")).text == "/room/7"
    assert "/room/6" not in turnstile.came


async def test_an_upstream_has_no_more_under_way_than_it_may_and_the_queue_is_served_in_order(tmp_path: Path) -> None:
    def narrow(port: int) -> dict[str, Any]:
        up = {"url": f"http://127.0.0.1:{port}", "max_concurrent": {"requests": 1, "queue": 3, "wait": "20s"}}
        return {"upstreams": {"origin": up}}

    async with site(tmp_path, narrow) as here:
        turnstile = Turnstile()
        paths = [f"/rest/{number}" for number in range(4)]
        here.upstream.on("/rest/*", turnstile)
        tasks = []
        for number, path in enumerate(paths):
            tasks.append(asyncio.create_task(get(here, path)))

            async def known(number: int = number) -> bool:
                gate = (await stats(here))["upstreams"]["origin"]["gate"]
                return bool((gate["inside"], gate["waiting"]) == (1, number))

            await eventually(known, f"{path} is where it should be")
        refused = await get(here, "/rest/x")
        assert (refused.status, problem(refused), refused.head["retry-after"]) == (503, "upstream-busy", "20")
        for number, path in enumerate(paths):
            await eventually(lambda: turnstile.came == paths[: number + 1], "one after the other")  # noqa: B023 - awaited here
            turnstile.let(path)
            assert (await tasks[number]).text == path
        assert (await stats(here))["upstreams"]["origin"]["gate"] == {
            "limit": 1,
            "inside": 0,
            "waiting": 0,
            "refused": 1,
        }


async def test_a_reload_keeps_the_buckets_of_a_limit_that_is_the_same(tmp_path: Path) -> None:
    def routes(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - YAML
        one, other = {"rate": "1/h", "name": "one"}, {"rate": "1/h", "burst": 5, "name": "other", **more}
        return {"routes": [limited("kept", rate_limit=one), limited("changed", rate_limit=other)]}

    async with site(tmp_path, routes()) as here:
        here.upstream.on("/kept/a", replies("a", FRESH))
        here.upstream.on("/changed/a", replies("a", FRESH))
        for path in ("/kept/a", "/changed/a", "/changed/a"):
            assert (await get(here, path)).status == 200
        here.proxy.write(merge(here.config, routes(burst=6)))
        here.proxy.signal(signal.SIGHUP)
        await eventually(lambda: "configuration reloaded" in here.proxy.stderr, "it has reloaded")
        assert (await get(here, "/kept/a")).status == 429
        assert left(await get(here, "/changed/a")) == 5
