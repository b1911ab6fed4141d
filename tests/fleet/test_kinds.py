"""Every kind of invalidation, soft and hard, on one instance and on three: what must go goes, what must stay stays."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.e2e.harness import Response, ask, request
from tests.e2e.process import Late, eventually, in_time, timed
from tests.e2e.stream import Stream
from tests.e2e.upstream import Call, Upstream
from tests.fleet.harness import Fleet, Instance, fleet
from tests.redis_servers import single

pytestmark = pytest.mark.asyncio(loop_scope="module")

A: Final = "a.example.test"
B: Final = "b.example.test"
PORT: Final = f"{A}:8443"
CONFIG: Final[Mapping[str, Any]] = {
    "access_log": "off",
    "trusted_proxies": ["127.0.0.0/8"],  # who says in X-Forwarded-Proto by which scheme its client came
    "purge_method": {"allow": ["127.0.0.0/8"]},
    "upstreams": {"origin": {"preserve_host": True}},
    "routes": [
        {"name": "item", "match": {"path": "/k/item/{id}"}, "upstream": "origin", "cache": {"tags": ["item:{id}"]}},
        {
            "name": "rest",
            "match": {"path": "/*"},
            "upstream": "origin",
            "cache": {"key": {"query": {"ignore": ["utm_*"]}}},
        },
    ],
}
HEARD: Final = 2.0  # seconds within which everybody has
SETTLED: Final = 0.2  # seconds; through the shared store ages of less than a tenth of a second cannot be told apart


@dataclass(frozen=True)
class Thing:
    """Something that can be asked for: by whom, and `fields` that the upstream's answer has."""

    target: str
    fields: tuple[str, ...] = ()
    host: str = A
    scheme: str = "http"
    asked: tuple[str, ...] = ()

    def request(self, method: str = "GET", *more: str) -> bytes:
        return request(
            self.target, f"X-Forwarded-Proto: {self.scheme}", *self.asked, *more, method=method, host=self.host
        )


VARY: Final = ("Vary: Accept-Language",)
THINGS: Final[Mapping[str, Thing]] = {
    "plain": Thing("/k/town"),
    "query": Thing("/k/town?q=1"),
    "slash": Thing("/k/town/"),
    "below": Thing("/k/town/b"),
    "deep": Thing("/k/town/b/c?q=1"),
    "beside": Thing("/k/townhall"),
    "host": Thing("/k/town", host=B),
    "https": Thing("/k/town", scheme="https"),
    "port": Thing("/k/town", host=PORT),
    "en": Thing("/k/vary", VARY, asked=("Accept-Language: en",)),
    "de": Thing("/k/vary", VARY, asked=("Accept-Language: de",)),
    "none": Thing("/k/vary", VARY),
    "keys": Thing("/k/keys", ("Surrogate-Key: red blue",)),
    "tags": Thing("/k/tags", ("Cache-Tag: red, light green", "Cache-Tag: Red")),
    "group": Thing("/k/group", ('Cache-Groups: "red";a="blue", "x"',)),
    "far": Thing("/k/group", ('Cache-Groups: "red"',), host=B),
    "item": Thing("/k/item/7", ("Surrogate-Key: blue",)),
}
ON_A: Final = frozenset(THINGS) - {"host", "far", "port"}
IN_TOWN: Final = frozenset({"plain", "query", "slash", "below", "deep"})
VARIANTS: Final = frozenset({"en", "de", "none"})


@dataclass(frozen=True)
class Case:
    """`asks`: the body of an invalidation, or the things of which each is purged by its URL."""

    name: str
    asks: Mapping[str, Any] | Sequence[Thing]
    goes: frozenset[str]


def post(name: str, *goes: str, **asks: Any) -> Case:  # noqa: ANN401 - JSON
    return Case(name, asks, frozenset(goes))


def purge(name: str, thing: Thing, *goes: str) -> Case:
    return Case(f"PURGE of {name}", (thing,), frozenset(goes))


CASES: Final = (
    post("a URL", "plain", urls=[f"http://{A}/k/town"]),
    post("a URL in another spelling", "plain", urls=[f"HTTP://{A.upper()}:80/k/t%6Fwn"]),
    post("a URL of https", "https", urls=[f"https://{A}/k/town"]),
    post("a URL with a port", "port", urls=[f"http://{PORT}/k/town"]),
    post("a path is a URL on every scheme and host", "plain", "host", "https", "port", urls=["/k/town"]),
    post("a URL with its query", "query", urls=[f"http://{A}/k/town?q=1"]),
    post("a path with its query", "query", urls=["/k/town?q=1"]),
    post("a URL with a parameter that does not count", "query", urls=[f"http://{A}/k/town?q=1&utm_x=2"]),
    post("a path with one", "plain", "host", "https", "port", urls=["/k/town?utm_x=2"]),
    post("a URL with another query", urls=[f"http://{A}/k/town?q=2", "/k/town?q"]),
    post("a URL ending with a slash", "slash", urls=[f"http://{A}/k/town/"]),
    post("a URL with variants", *VARIANTS, urls=[f"http://{A}/k/vary"]),
    post("a prefix", *IN_TOWN, prefixes=[f"http://{A}/k/town"]),
    post("a prefix ending with a slash", *IN_TOWN, prefixes=[f"http://{A}/k/town/"]),
    post("a prefix on every scheme and host", *IN_TOWN, "host", "https", "port", prefixes=["/k/town"]),
    post("a prefix of https", "https", prefixes=[f"https://{A}/k"]),
    post("a prefix that is a whole path", "below", "deep", prefixes=["/k/town/b"]),
    post("a prefix that ends within a segment", prefixes=["/k/to", f"http://{A}/k/town/b/c/d", "/town"]),
    post("a prefix of everything on a host", "host", "far", prefixes=[f"http://{B}/"]),
    post("a prefix with variants", *VARIANTS, prefixes=["/k/vary"]),
    post("a tag", "keys", "tags", tags=["red"]),
    post("a tag with a space", "tags", tags=["light green"]),
    post("a tag of a route", "item", tags=["item:7"]),
    post("a tag of another capture", tags=["item:8", "item:", "light", "x"]),
    post("a group, which is its origin's", "group", tags=[f"http://{A} red"]),
    post("a host", *ON_A, hosts=[A]),
    post("a host with a port", "port", hosts=[PORT]),
    post("another host", "host", "far", hosts=[B.upper()]),
    post("all", *THINGS, all=True),
    post(
        "several of a kind, and of all kinds, in one call",
        *("plain", "below", "deep", "keys", "item", "host", "far", "https"),
        urls=[f"http://{A}/k/town", f"https://{A}/k/town", "/k/no"],
        prefixes=["/k/town/b", "/no"],
        tags=["blue", "no"],
        hosts=[B, "no.example"],
        all=False,
    ),
    purge("a URL means both schemes", Thing("/k/town"), "plain", "https"),
    purge("a URL by its clients' scheme", Thing("/k/town", scheme="https"), "plain", "https"),
    purge("a URL with a port", Thing("/k/town", host=PORT), "port"),
    purge("a URL with its query", Thing("/k/town?utm_x=1&q=1"), "query"),
    purge("a URL with variants", Thing("/k/vary", asked=("Accept-Language: en",)), *VARIANTS),
    purge("a URL in another spelling", Thing("/k/t%6fwn/"), "slash"),
    purge("something that is not there", Thing("/k/no")),
)


class Town:
    """Instances in front of the upstream that has the things, each in its newest version."""

    def __init__(self, upstream: Upstream, instances: Sequence[Instance]) -> None:
        self.upstream, self.instances = upstream, instances
        self.version = 0
        self.asked: list[tuple[str, str | None]] = []  # which thing, and by which validator
        self._streams: dict[Instance, Stream] = {}
        self._turn = count()
        upstream.on("/k/*", self._answer)

    async def _answer(self, call: Call) -> None:
        await call.body()
        if call.method == "POST":
            call.answer("", 'Cache-Group-Invalidation: "red"')
            return
        name = next(name for name, thing in THINGS.items() if self._is(call, thing))
        etag = f'"{self.version}"'
        self.asked.append((name, call.head.get("if-none-match")))
        window = "stale-while-revalidate=600" if call.head.get("x-window") else "stale-while-revalidate=0"
        fields = (f"Cache-Control: max-age=600, {window}", f"ETag: {etag}", *THINGS[name].fields)
        call.answer(f"{name} {self.version}", *fields)

    @staticmethod
    def _is(call: Call, thing: Thing) -> bool:
        by = (call.target, call.head["host"], call.head["x-forwarded-proto"], call.head.get("accept-language"))
        return by == (thing.target, thing.host, thing.scheme, (thing.asked[0][17:] if thing.asked else None))

    @property
    def next(self) -> Instance:
        """Each in its turn."""
        return self.instances[next(self._turn) % len(self.instances)]

    async def ask(self, one: Instance, raw: bytes) -> Response:
        stream = self._streams.get(one)
        if stream is None or stream.end is not None:
            stream = self._streams[one] = await Stream.open(one.port)
        return await ask(stream, raw)

    async def fill(self, *more: str) -> None:
        """Everything, in a version of its own, is in the memory of every instance."""
        self.version += 1
        assert (await self.next.invalidate(all=True)).status == 200
        for name, thing in THINGS.items():
            for one in self.instances:
                response = await self.ask(one, thing.request("GET", *more))
                assert response.text == f"{name} {self.version}", response
                response = await self.ask(one, thing.request("GET", *more))
                assert response.hit, response
        self.asked.clear()

    async def drop(self, case: Case, *, soft: bool) -> None:
        """The invalidation, acknowledged by everybody."""
        one = self.next
        if isinstance(case.asks, Mapping):
            response = await one.invalidate(**case.asks, soft=soft)
            assert response.status == 200, response
            return
        for thing in case.asks:
            response = await self.ask(one, thing.request("PURGE", *(("Soft-Purge: 1",) if soft else ())))
            assert response.status == 200, response

    async def left(self) -> frozenset[str]:
        """The things of which nobody has noticed that there is a newer version. All are asked for everywhere."""
        left: set[str] = set()
        for name, thing in THINGS.items():
            seen = set()
            for one in self.instances:
                response = await self.ask(one, thing.request())
                old = response.text == f"{name} {self.version - 1}"
                assert old or response.text == f"{name} {self.version}", response
                assert response.hit or not old, response
                seen.add(old)
            assert len(seen) == 1, f"{name} is not the same everywhere"
            left |= {name} if seen == {True} else set()
        return frozenset(left)

    async def end(self) -> None:
        for stream in self._streams.values():
            stream.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[1, 3], ids=["one", "three"])
async def town(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    directory = tmp_path_factory.mktemp("town")
    async with AsyncExitStack() as stack:
        if request.param == 1:  # and no Redis
            upstream = await Upstream.start()
            stack.push_async_callback(upstream.kill)
            instance = Instance(upstream, directory, {})
            await instance.start(CONFIG)
            stack.push_async_callback(instance.stop)
            made = Town(upstream, [instance])
        else:
            server = stack.enter_context(single())
            here: Fleet = await stack.enter_async_context(fleet(directory, server.url, CONFIG, size=request.param))
            made = Town(here.upstream, here.instances)
        stack.push_async_callback(made.end)
        yield made
        assert not made.upstream.broken, made.upstream.broken


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
async def test_what_must_go_goes_and_what_must_stay_stays(town: Town, case: Case, soft: bool) -> None:
    await town.fill()
    if soft and len(town.instances) > 1:
        await asyncio.sleep(SETTLED)
    town.version += 1
    await town.drop(case, soft=soft)
    assert await town.left() == THINGS.keys() - case.goes
    # Once for all instances: softly by validating what is there, else as if there had never been anything.
    validator = f'"{town.version - 1}"' if soft else None
    assert sorted(town.asked) == sorted((name, validator) for name in case.goes)


@pytest.mark.parametrize("how", ["POST", "PURGE"])
async def test_what_has_gone_softly_is_served_by_its_window_while_it_is_renewed(town: Town, how: str) -> None:
    await town.fill("X-Window: 600")
    if len(town.instances) > 1:
        await asyncio.sleep(SETTLED)
    town.version += 1
    plain = THINGS["plain"]
    asks: Mapping[str, Any] = {"urls": [f"http://{A}/k/town"]}
    await town.drop(Case("", asks if how == "POST" else (plain,), frozenset()), soft=True)
    old, new = f"plain {town.version - 1}", f"plain {town.version}"
    for one in town.instances:
        response = await town.ask(one, plain.request())
        assert response.text in ({old} if one is town.instances[0] else {old, new}), response
        assert response.cache.startswith("readthrough; hit; ttl=-") or response.text == new, response

    async def renewed() -> bool:
        return {(await town.ask(one, plain.request())).text for one in town.instances} == {new}

    await eventually(renewed, "the new version is everywhere")
    assert town.asked == [("plain", f'"{town.version - 1}"')]


async def test_what_has_gone_hard_is_not_served_by_its_window(town: Town) -> None:
    await town.fill("X-Window: 600")
    town.version += 1
    await town.drop(Case("", {"tags": ["blue"]}, frozenset()), soft=False)
    assert await town.left() == THINGS.keys() - {"keys", "item"}
    assert sorted(town.asked) == [("item", None), ("keys", None)]


@pytest.mark.clock(only=Late)
async def test_a_group_goes_everywhere_with_the_answer_to_an_unsafe_request(town: Town) -> None:
    """RFC 9875 section 3, and section 2.1: on its origin alone."""
    await town.fill()
    town.version += 1
    one = town.next
    group = THINGS["group"]
    response = await town.ask(one, Thing("/k/form").request("POST", "Content-Length: 0"))
    assert (response.status, response.head["cache-group-invalidation"]) == (200, '"red"')
    assert (await town.ask(one, group.request())).text == f"group {town.version}", "it is settled before the answer"

    async def gone() -> bool:
        texts = {(await town.ask(each, group.request())).text for each in town.instances}
        return texts == {f"group {town.version}"}

    _, took = await timed(eventually(gone, "everybody has heard of it"))
    assert await town.left() == THINGS.keys() - {"group"}
    in_time(took, HEARD)


async def test_a_group_in_the_answer_to_a_safe_request_changes_nothing(town: Town) -> None:
    await town.fill()
    group = THINGS["group"]

    async def names_it(call: Call) -> None:
        call.answer("", 'Cache-Group-Invalidation: "red"', "Cache-Control: max-age=600")

    town.upstream.on("/safe", names_it)
    for method in ("GET", "OPTIONS"):
        assert (await town.ask(town.next, request("/safe", method=method, host=A))).status == 200
    assert all([(await town.ask(one, group.request())).hit for one in town.instances])
