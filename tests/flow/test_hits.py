"""The short way of a hit: what it answers is what the long way would, and where it does not lead it is not taken."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.edges.memory import Memory
from proxy.flow import exchange
from proxy.flow.breaker import Breaker
from proxy.flow.invalidation import Kind
from proxy.flow.site import Asked, Lane, Site, Upstream, read
from proxy.rules.admit import INLINE
from proxy.rules.lookup import Serve, on_request
from proxy.rules.message import Entry, Fields, Reason, Request
from proxy.rules.policy import Policy
from proxy.rules.report import Account
from proxy.rules.respond import age_line, from_entry
from proxy.rules.routes import Match, Route
from proxy.rules.wire import field_lines
from tests.flow.kit import ETAG, FRESH, PLAIN, STALEABLE, FakeClient, FakeOrigin, World, request
from tests.rules.build import NOW as AT
from tests.rules.build import admitted, policies, requests

STAMP: Final = "Last-Modified: Tue, 14 Nov 2023 12:00:00 GMT"
LATER: Final = "Tue, 14 Nov 2023 13:00:00 GMT"
LARGE: Final = bytes(range(256)) * (2 * INLINE // 256) + b"and a bit"


UPSTREAM: Final = Upstream(
    "up", "up.internal", preserve_host=False, timeout=30.0, origin=FakeOrigin(), breaker=Breaker(5, 5.0)
)


class Watched(Memory):
    """A store that notes which way is taken to it."""

    finds = 0

    def find(self, key: str, request: Request, now: float) -> Entry | None:
        self.finds += 1
        return super().find(key, request, now)


class Unhurried(Memory):
    """A store that knows no short way."""

    def fresh(self, key: str, fields: Fields, now: float) -> Entry | None:  # noqa: ARG002 - as its base
        return None


async def filled(
    w: World, *fields: str, body: bytes, status: int, asking: Sequence[str] = (), after: float = 10.7
) -> None:
    """Store what the upstream answers, and let some time pass."""
    client = w.ask(*asking)
    await w.idle()
    w.last.reply(*fields, body=body, status=status)
    await w.idle()
    assert client.done
    assert w.memory.count == 1
    w.clock.at += after


async def asked(w: World, *fields: str, method: str = "GET") -> FakeClient:
    client = w.ask(*fields, method=method)
    await w.idle()
    assert client.done, "it waits for the upstream"
    return client


RESPONSES: Final = {
    "plain": ((FRESH,), b"hello, world", 200),
    "with validators": ((FRESH, ETAG, STAMP, "Content-Type: a"), b"hello, world", 200),
    "with a weak tag": ((FRESH, 'ETag: W/"1"'), b"hello, world", 200),
    "with signs of percent": ((FRESH, ETAG, "X: 100%d%", "Cache-Status: a%s"), b"100 %d", 200),
    "empty": ((FRESH, ETAG), b"", 200),
    "not found": ((FRESH, ETAG), b"not here", 404),
    "moved": ((FRESH, ETAG, "Location: /b"), b"", 301),
    "no content": ((FRESH, ETAG), b"", 204),
    "varying": ((FRESH, ETAG, "Vary: Accept-Language"), b"hello, world", 200),
    "from another cache": ((FRESH, ETAG, "Age: 20", "Cache-Status: far", "X: 1", "cache-status: near"), b"hello", 200),
    "tagged": ((FRESH, ETAG, "Surrogate-Key: a b"), b"hello, world", 200),
    "large": ((FRESH, ETAG, STAMP), LARGE, 200),
}
REQUESTS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "GET": ((), "GET"),
    "HEAD": ((), "HEAD"),
    "a tag that matches": (('If-None-Match: "1"',), "GET"),
    "a tag that matches, HEAD": (('If-None-Match: "1"',), "HEAD"),
    "a tag among several": (('If-None-Match: "0", W/"1"',), "GET"),
    "a tag that does not": (('If-None-Match: "2"',), "GET"),
    "any tag": (("If-None-Match: *",), "GET"),
    "a date": ((f"If-Modified-Since: {LATER}",), "GET"),
    "a tag and a date": (('If-None-Match: "2"', f"If-Modified-Since: {LATER}"), "GET"),
    "a range": (("Range: bytes=1-3",), "GET"),
    "a range, HEAD": (("Range: bytes=1-3",), "HEAD"),
    "a large range": (("Range: bytes=1-",), "GET"),
    "a range behind the end": (("Range: bytes=9999999-",), "GET"),
    "a range of the same": (("Range: bytes=0-1", 'If-Range: "1"'), "GET"),
    "a range of another": (("Range: bytes=0-1", 'If-Range: "2"'), "GET"),
    "a tag and a range": (('If-None-Match: "1"', "Range: bytes=0-1"), "GET"),
    "a cookie": (("Cookie: a=b",), "GET"),
    "authorization": (("Authorization: x",), "GET"),
    "an id of its own": (("X-Request-Id: mine",), "GET"),
}
MUCH_OF_A_LARGE_BODY: Final = frozenset(
    {"GET", "a tag that does not", "a tag and a date", "a large range", "a range of another"}
    | {"a cookie", "authorization", "an id of its own"}
)


@pytest.mark.parametrize("x_cache", [False, True], ids=["", "X-Cache"])
@pytest.mark.parametrize("response", RESPONSES)
async def test_the_short_way_gives_the_bytes_of_the_long_one(response: str, x_cache: bool) -> None:
    fields, body, status = RESPONSES[response]
    accepting = ("Accept-Language: en",)
    async with World(store=Watched, x_cache=x_cache) as short, World(store=Unhurried, x_cache=x_cache) as long:
        for w in (short, long):
            await filled(w, *fields, body=body, status=status, asking=accepting)
        for name, (asking, method) in REQUESTS.items():
            assert isinstance(short.memory, Watched)
            short.memory.finds = 0
            one, other = [await asked(w, *accepting, *asking, method=method) for w in (short, long)]
            assert one.raw == other.raw, name
            assert one.how.endswith(f"readthrough; hit; ttl={29 if 'Age: 20' in fields else 49}")
            left_over = response == "large" and name in MUCH_OF_A_LARGE_BODY
            assert (short.memory.finds == 0) is not left_over, f"{name} took the other way"
        for noted, known in zip(short.outcomes[1:], long.outcomes[1:], strict=True):
            assert known.request_id == known.request.fields.get("x-request-id", "")
            assert replace(noted, request=known.request) == known
            assert noted.request.fields == known.request.fields


async def test_where_nobody_notes_what_is_sent_the_same_is_sent() -> None:
    async with World(noted=False) as unnoted, World() as noted:
        for w in (unnoted, noted):
            await filled(w, FRESH, ETAG, body=b"hello, world", status=200)
        for asking, method in REQUESTS.values():
            one, other = [await asked(w, *asking, method=method) for w in (unnoted, noted)]
            assert one.raw == other.raw


class Taken(FakeClient):
    """A client that takes whatever is sent."""

    def put(self, head: bytes, tail: bytes) -> None:
        assert self.raw == b"", "answered twice"
        self.raw = head + tail


@settings(max_examples=300, deadline=None)
@given(admitted(), requests(), policies, st.booleans(), st.floats(0, 1), st.booleans())
def test_whatever_is_asked_for_the_short_way_answers_only_what_is_decided_and_as_it_is(
    pair: tuple[Entry, Policy], asked: Request, other: Policy, same: bool, part: float, x_cache: bool
) -> None:
    entry, policy = pair[0], replace(pair[1] if same else other, early_refresh=0.0)
    lane = Lane(Route("all", Match(), "up", policy, x_cache), UPSTREAM, entry.terms.policy)
    known = read(Site((lane.route,), {"all": lane}), asked)
    now = AT + part * max(0.0, entry.fresh_until - AT)
    if not known.plain or now >= entry.fresh_until:
        return  # Exchange does not even ask
    plan = on_request(asked, entry, policy, now, held=True, roll=1.0)
    client, w = Taken(), World(noted=False)
    w.clock.at = now
    w.exchange._fresh = lambda *_: entry  # noqa: SLF001 - what a store would find
    assert w.exchange.hit(known, client) is (plan == Serve(entry, Reason.HIT))
    if isinstance(plan, Serve):
        told = Account(Reason.HIT, ttl=plan.ttl(now)).headers(x_cache=x_cache)
        reply = from_entry(asked, entry, age_line(entry, now) + field_lines(told))
        assert client.raw == reply.head + reply.tail


async def test_time_passes_on_the_short_way() -> None:
    async with World() as w:
        await filled(w, FRESH, "Age: 7", body=b"x", status=200, after=0.0)
        told = []
        for seconds in (0.0, 0.999, 1.0, 51.9, 52.999):
            w.clock.at = 1000.0 + seconds
            client = await asked(w)
            told.append((client.fields["age"], client.how.rpartition("=")[2]))
        assert told == [("7", "53"), ("7", "52"), ("8", "52"), ("58", "1"), ("59", "0")]


@pytest.mark.parametrize(
    ("policy", "stored", "asking", "reason"),
    [
        pytest.param(PLAIN, (FRESH, "Vary: X"), ("X: 1",), Reason.VARIANT, id="another variant"),
        pytest.param(
            PLAIN, ("Cache-Control: max-age=60, no-cache", ETAG), (), Reason.MUST_VALIDATE, id="what must be validated"
        ),
        pytest.param(
            replace(PLAIN, default_ttl=60.0), (), ("Cookie: a=b",), Reason.CREDENTIALS, id="who asks, and nobody stated"
        ),
        pytest.param(PLAIN, (STAMP,), ("Cookie: a=b",), Reason.CREDENTIALS, id="who asks, of a guess"),
        pytest.param(PLAIN, (FRESH,), ("Cache-Control: no-cache",), Reason.REQUEST_NO_CACHE, id="who wants it new"),
        pytest.param(PLAIN, (FRESH,), ("Pragma: no-cache",), Reason.REQUEST_NO_CACHE, id="in the old way"),
        pytest.param(PLAIN, (FRESH,), ("Cache-Control: max-age=5",), Reason.REQUEST_MAX_AGE, id="who wants it newer"),
        pytest.param(PLAIN, (FRESH,), ('If-Match: "1"',), Reason.PRECONDITION, id="a precondition"),
    ],
)
async def test_what_the_short_way_may_not_answer_goes_upstream(
    policy: Policy, stored: tuple[str, ...], asking: tuple[str, ...], reason: Reason
) -> None:
    async with World(policy) as w:
        w.ask()
        await w.idle()
        w.last.reply(*stored, body=b"old")
        await w.idle()
        w.clock.at += 10.0
        client = w.ask(*asking)
        await w.idle()
        assert (client.done, len(w.calls)) == (False, 2)
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert client.got == b"new"
        assert w.accounts[-1].reason is reason


async def test_who_asks_gets_what_the_upstream_stated_and_what_the_operator_shares() -> None:
    for policy, fields in ((PLAIN, FRESH), (replace(PLAIN, default_ttl=60.0, share_credentials=True), "X: 1")):
        async with World(policy, store=Watched) as w:
            await filled(w, fields, body=b"old", status=200)
            assert isinstance(w.memory, Watched)
            w.memory.finds = 0
            assert (await asked(w, "Cookie: a=b")).got == b"old"
            assert w.memory.finds == 0


async def test_at_the_very_end_of_its_freshness_it_is_stale_on_either_way() -> None:
    async with World() as w:
        await filled(w, STALEABLE, body=b"old", status=200, after=60.0)
        client = w.ask()
        assert w.accounts[-1].reason is Reason.STALE_WHILE_REVALIDATE
        await w.idle()
        assert client.got == b"old"
        w.last.reply(STALEABLE, body=b"new")


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
async def test_the_first_request_behind_a_purge_is_not_answered_by_what_was_purged(soft: bool) -> None:
    async with World() as w:
        await filled(w, FRESH, ETAG, body=b"old", status=200)
        w.purge(soft=soft)
        client = w.ask()
        await w.idle()
        assert (client.done, len(w.calls)) == (False, 2)
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert client.got == b"new"


async def test_a_purge_of_something_else_does_not_close_the_short_way() -> None:
    async with World(store=Watched) as w:
        await filled(w, FRESH, body=b"old", status=200)
        w.purge(Kind.TAG, "of something else")
        assert isinstance(w.memory, Watched)
        w.memory.finds = 0
        for _ in range(3):
            assert (await asked(w)).got == b"old"
        assert w.memory.finds == 0


async def test_behind_a_change_of_policy_nothing_stored_before_it_is_a_hit() -> None:
    async with World() as w:
        await filled(w, FRESH, body=b"old", status=200)
        w.exchange.site = w.site(replace(PLAIN, early_refresh=0.5))
        client = w.ask()
        await w.idle()
        assert (client.done, len(w.calls)) == (False, 2)
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert client.got == b"new"


async def test_what_is_asked_for_the_short_way_is_kept_when_room_is_made() -> None:
    async with World(budget=20_000) as w:
        await w.store(FRESH, body=b"x" * 1000, target="/hot")
        for number in range(200):
            assert w.ask(target="/hot").done, f"evicted by number {number}"
            w.ask(target=f"/{number}")
            await w.idle()
            w.last.reply(FRESH, body=b"x" * 1000)
            await w.idle()
        assert w.memory.evictions > 150


def again(w: World, known: Asked) -> bytes:
    """What the very same head is answered, and that one which is read anew is answered alike."""
    one, other = FakeClient(), FakeClient()
    w.clients += [one, other]
    assert w.exchange.hit(known, one)
    assert w.exchange.hit(w.exchange.read(known.request), other)
    assert one.raw == other.raw
    return one.raw


@pytest.mark.parametrize("asking", [(), ('If-None-Match: "1"',), ("Range: bytes=1-3",)], ids=["200", "304", "206"])
async def test_what_is_said_again_is_said_for_its_own_moment(asking: tuple[str, ...]) -> None:
    async with World(noted=False) as w:
        await filled(w, FRESH, ETAG, body=b"hello, world", status=200, after=0.3)
        known, said = w.exchange.read(request(*asking)), set()
        for step in (0.0, 0.2, 0.49, 0.01, 0.001, 0.999, 1.0, 0.7, 30.3, 0.4):
            w.clock.at += step
            said.add(again(w, known))
        assert len(said) > 5, "time passes"


async def test_what_is_said_again_within_its_second_is_not_made_again() -> None:
    async with World(noted=False) as w:
        await filled(w, FRESH, body=b"x", status=200, after=0.3)
        known = w.exchange.read(request())
        for pending in (1, 2, 3):
            client = FakeClient()
            w.clients.append(client)
            assert w.exchange.hit(known, client)
            assert known.hits == pending


async def test_a_full_memory_is_not_emptied_by_what_it_holds_already() -> None:
    async with World(noted=False) as w:
        await filled(w, FRESH, body=b"x", status=200, after=0.3)
        held = [w.exchange.read(request()) for _ in range(exchange._MANY)]  # noqa: SLF001 - as many as it holds
        for known in held:
            assert w.exchange.hit(known, FakeClient())
        w.clock.at += 1.0
        assert w.exchange.hit(held[0], FakeClient())
        assert w.exchange._said.keys() == set(held)  # noqa: SLF001 - what it has let go of is seen from nowhere else


async def test_what_was_said_is_not_said_of_what_has_replaced_it() -> None:
    async with World(noted=False) as w:
        await filled(w, FRESH, body=b"old", status=200, after=0.3)
        known = w.exchange.read(request())
        assert again(w, known).endswith(b"old")
        w.purge()
        assert not w.exchange.hit(known, FakeClient())
        await filled(w, FRESH, body=b"new", status=200, after=0.0)
        assert again(w, known).endswith(b"new")
        w.purge(soft=True)
        assert not w.exchange.hit(known, FakeClient())


async def test_what_is_remembered_of_what_was_said_is_bounded_and_small() -> None:
    async with World(noted=False) as w:
        await filled(w, FRESH, body=b"x" * 4096, status=200, after=0.3)
        large = w.exchange.read(request())
        again(w, large)
        assert len(w.exchange._said) == 0  # noqa: SLF001 - what it keeps alive is seen from nowhere else
        w.purge()
        await filled(w, FRESH, body=b"x", status=200, after=0.3)
        for _ in range(exchange._MANY + 10):  # noqa: SLF001
            again(w, w.exchange.read(request()))
            w.clients.clear()
        assert len(w.exchange._said) <= exchange._MANY  # noqa: SLF001
