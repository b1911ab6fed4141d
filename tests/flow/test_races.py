"""A purge that arrives while a fetch is in the air wins, whichever await it falls into."""

from collections.abc import AsyncIterator
from dataclasses import replace
from enum import Enum
from typing import Final

import pytest

from proxy.flow.invalidation import Kind
from proxy.rules.routes import Match
from tests.flow.kit import ETAG, HOST, PLAIN, STALEABLE, FakeClient, World

TARGET: Final = "/a/b"
POLICY: Final = replace(PLAIN, tags=("product:{id}",))
ANSWER: Final = (STALEABLE, ETAG, "Surrogate-Key: red blue")

MATCHING: Final = {
    "url": (Kind.URL, f"http://{HOST}{TARGET}"),
    "target": (Kind.TARGET, TARGET),
    "prefix": (Kind.PREFIX, "/a"),
    "prefix with origin": (Kind.PREFIX, f"http://{HOST}/a"),
    "prefix that is all of it": (Kind.PREFIX, TARGET),
    "host": (Kind.HOST, HOST),
    "tag of the route": (Kind.TAG, "product:b"),
    "tag of the response": (Kind.TAG, "blue"),
    "all": (Kind.ALL, ""),
}
MISSING: Final = (
    (Kind.URL, f"https://{HOST}{TARGET}"),
    (Kind.URL, f"http://{HOST}{TARGET}?"),
    (Kind.TARGET, "/a"),
    (Kind.PREFIX, "/a/bb"),
    (Kind.PREFIX, "/b"),
    (Kind.PREFIX, f"http://www.{HOST}/a"),
    (Kind.HOST, f"www.{HOST}"),
    (Kind.TAG, "product:a"),
    (Kind.TAG, "green"),
)


class Way(Enum):
    """How a fetch comes about, and how it ends."""

    MISS = "miss"
    REVALIDATION_304 = "revalidation, 304"
    REVALIDATION_200 = "revalidation, 200"
    REVALIDATION_503 = "revalidation, 503"
    REFRESH_304 = "background refresh, 304"
    REFRESH_200 = "background refresh, 200"


_BEFORE_HEAD = ("on its way", "connecting", "connected", "head coming")
_IN_BODY = ("head here", "chunk coming", "chunk here", "end coming")
_FETCH = {way: _BEFORE_HEAD if way.value.endswith(("304", "503")) else (*_BEFORE_HEAD, *_IN_BODY) for way in Way}
POINTS: Final = [
    pytest.param(way, at, id=f"{way.value}, {at}")
    for way in Way
    for at in (("not begun", *_FETCH[way]) if "refresh" in way.value else _FETCH[way])
]


async def _prepare(w: World, way: Way) -> None:
    if way is not Way.MISS:
        await w.store(*ANSWER, target=TARGET)
        w.clock.at += 121 if "revalidation" in way.value else 61
    if way is Way.REVALIDATION_503:
        w.clock.at -= 60  # still good for bridging an error: only a request that insists goes upstream


async def _fetching(w: World, way: Way) -> AsyncIterator[str]:
    """One fetch from gate to gate: gives the name of each await it stands at."""
    insists = ("Cache-Control: no-cache",) if way is Way.REVALIDATION_503 else ()
    before = len(w.calls)
    w.ask(*insists, target=TARGET)
    if "refresh" in way.value:
        yield "not begun"  # the flight is open, its task has not run
    await w.idle()
    up = w.calls[before]
    yield "on its way"
    up.connect()
    yield "connecting"
    await w.idle()
    yield "connected"
    if way.value.endswith(("304", "503")):
        up.reply(*ANSWER, status=int(way.value[-3:]))
        yield "head coming"
        await w.idle()
        return
    up.answer(*ANSWER)
    yield "head coming"
    await w.idle()
    yield "head here"
    up.send(b"over")
    yield "chunk coming"
    await w.idle()
    yield "chunk here"
    up.end(b"taken")
    yield "end coming"
    await w.idle()


async def _finish(w: World) -> None:
    """Whoever still waits gets the new answer."""
    for _ in range(3):
        await w.idle()
        for up in w.calls:
            if up.waited_for:
                up.reply(*ANSWER, body=b"new")
    await w.idle()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("record", MATCHING.values(), ids=MATCHING.keys())
@pytest.mark.parametrize(("way", "at"), POINTS)
async def test_the_overtaken_answer_is_not_stored_and_nobody_who_asked_after_the_record_gets_it(
    way: Way, at: str, record: tuple[Kind, str], soft: bool
) -> None:
    async with World(POLICY, match=Match(path="/a/{id}")) as w:
        await _prepare(w, way)
        after: FakeClient | None = None
        async for point in _fetching(w, way):
            if point == at:
                w.purge(*record, soft=soft)
                after = w.ask(target=TARGET)
        assert after is not None, "the point was never reached"
        stored = w.stored(target=TARGET)
        if soft and stored is not None:
            assert stored.body == b"old"
            assert stored.entry.fresh_until <= w.clock.at, "not what the overtaken fetch brought"
        else:
            assert stored is None
        await _finish(w)
        bridged = soft and way in (Way.REFRESH_304, Way.REFRESH_200, Way.REVALIDATION_503)
        assert after.got in ((b"new", b"old") if bridged else (b"new",))
        stored = w.stored(target=TARGET)
        assert stored is not None
        assert stored.body == b"new" or soft


@pytest.mark.parametrize(("way", "at"), POINTS)
async def test_records_of_something_else_are_nothing_to_it(way: Way, at: str) -> None:
    async with World(POLICY, match=Match(path="/a/{id}")) as w:
        await _prepare(w, way)
        before = len(w.calls)
        body = b"old" if way.value.endswith(("304", "503")) else b"overtaken"
        after: FakeClient | None = None
        async for point in _fetching(w, way):
            if point == at:
                for soft in (False, True):
                    w.log.append(MISSING, w.clock.at, soft=soft)
                after = w.ask(target=TARGET)
        assert after is not None, "the point was never reached"
        await w.idle()
        assert len(w.calls) == before + 1, "who asks meanwhile joins, or is answered from the store"
        assert after.got == (b"old" if "refresh" in way.value else body)
        stored = w.stored(target=TARGET)
        assert stored is not None
        assert stored.body == body
        assert stored.entry.fresh_until > w.clock.at or way is Way.REVALIDATION_503


async def test_who_asks_after_the_record_does_not_wait_for_what_cannot_be_its_answer() -> None:
    async with World() as w:
        await w.store(*ANSWER)
        w.clock.at += 121
        w.ask()
        await w.idle()
        w.purge(*MATCHING["tag of the response"])
        after = w.ask()
        await w.idle()
        assert len(w.calls) == 3
        assert "if-none-match" not in w.last.sent
        w.last.reply(*ANSWER, body=b"new")
        await w.idle()
        assert after.got == b"new"
        w.calls[1].reply(*ANSWER, status=304)
        await w.idle()
        stored = w.stored()
        assert stored is not None
        assert stored.body == b"new", "the older fetch does not overwrite the newer"


async def test_a_tag_that_only_the_304_brings_counts_as_well() -> None:
    async with World() as w:
        await w.store(STALEABLE, ETAG)
        w.clock.at += 121
        w.ask()
        await w.idle()
        w.purge(Kind.TAG, "late")
        after = w.ask()
        await w.idle()
        w.calls[1].reply(STALEABLE, "Surrogate-Key: late", status=304)
        await _finish(w)
        assert after.got == b"new"


async def test_an_overtaken_flight_that_ends_leaves_the_place_to_the_one_that_took_it() -> None:
    async with World() as w:
        w.ask()
        await w.idle()
        w.purge()
        w.ask()
        await w.idle()
        w.calls[0].reply(STALEABLE)
        await w.idle()
        third = w.ask()
        await w.idle()
        assert len(w.calls) == 2
        w.calls[1].reply(STALEABLE, body=b"new")
        await w.idle()
        assert third.got == b"new"


# -- a purge between the plan and the fetch: the fetch is new, but what it would validate is gone


@pytest.mark.parametrize("record", MATCHING.values(), ids=MATCHING.keys())
@pytest.mark.parametrize("begun", [False, True], ids=["planned", "task begun"])
async def test_what_was_purged_before_the_fetch_began_is_no_source_of_validators(
    record: tuple[Kind, str], begun: bool
) -> None:
    async with World(POLICY, match=Match(path="/a/{id}")) as w:
        await _prepare(w, Way.REVALIDATION_304)
        client, work = w.plan(target=TARGET)
        if begun:
            w.run(client, work)
        w.purge(*record)
        if not begun:
            w.run(client, work)
        await w.idle()
        conditional = "if-none-match" in w.last.sent
        w.last.reply(*ANSWER, status=304) if conditional else w.last.reply(*ANSWER, body=b"new")
        await w.idle()
        stored = w.stored(target=TARGET)
        assert stored is None or stored.body == b"new"
        assert not conditional


@pytest.mark.parametrize("record", MATCHING.values(), ids=MATCHING.keys())
async def test_who_followed_an_overtaken_validation_does_not_validate_what_was_purged(
    record: tuple[Kind, str],
) -> None:
    async with World(POLICY, match=Match(path="/a/{id}")) as w:
        await _prepare(w, Way.REVALIDATION_304)
        w.ask(target=TARGET)
        follower = w.ask(target=TARGET)
        await w.idle()
        w.purge(*record)
        w.last.reply(*ANSWER, status=304)
        await w.idle()
        conditional = [up for up in w.calls[2:] if "if-none-match" in up.sent]
        for up in conditional:
            up.reply(*ANSWER, status=304)
        await _finish(w)
        stored = w.stored(target=TARGET)
        assert stored is None or stored.body == b"new"
        assert conditional == []
        assert follower.over


@pytest.mark.parametrize("ends", ["no answer", "an error"])
@pytest.mark.parametrize("record", MATCHING.values(), ids=MATCHING.keys())
async def test_what_was_purged_meanwhile_bridges_no_failure(record: tuple[Kind, str], ends: str) -> None:
    async with World(POLICY, match=Match(path="/a/{id}")) as w:
        await _prepare(w, Way.REVALIDATION_503)
        clients = [w.ask("Cache-Control: no-cache", target=TARGET) for _ in range(2)]
        await w.idle()
        w.purge(*record)
        clients.append(w.ask(target=TARGET))
        await w.idle()
        for _ in range(3):
            for up in w.calls:
                if up.waited_for:
                    up.fail() if ends == "no answer" else up.reply(status=503)
            await w.idle()
        assert all(client.over and client.status is not None and client.status >= 500 for client in clients)


async def test_what_the_log_no_longer_knows_of_bridges_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.flow.invalidation.MAX_MARKS", 2)
    async with World() as w:
        await w.store(STALEABLE)
        w.clock.at += 61
        client = w.ask("Cache-Control: no-cache")
        await w.idle()
        w.purge()
        for number in range(3):
            w.purge(value=f"http://{HOST}/{number}")
        w.last.fail()
        await w.idle()
        assert client.status == 502


async def test_a_soft_purge_while_it_is_validated_leaves_the_stale_answer_for_bridging() -> None:
    async with World() as w:
        await w.store(STALEABLE, ETAG)
        w.clock.at += 61
        w.ask()
        await w.idle()
        w.purge(soft=True)
        w.last.reply(STALEABLE, status=304)
        await w.idle()
        stored = w.stored()
        assert stored is not None
        assert stored.entry.fresh_until <= w.clock.at < stored.entry.error_until
