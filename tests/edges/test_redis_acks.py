"""Who has applied what: what one instance says and hears of it, and what comes of that in a fleet on a real Redis."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from redis import ResponseError

from proxy.edges import redis_acks
from proxy.edges.redis_acks import Acknowledgements
from proxy.edges.redis_link import Link, Unreachable
from proxy.edges.redis_records import Layout
from proxy.edges.redis_script import Script, Word
from proxy.flow.background import Background
from proxy.flow.follower import Batch, Follower
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.sharing import LogUnreachable, Places, Progress
from tests.e2e.process import eventually
from tests.edges.redis_log_kit import tag
from tests.edges.redis_log_members import Member, fleet, member
from tests.redis_servers import Relay, Server, single

LONG = 20.0  # seconds that no test waits for


class Scripted(Link):
    """Keeps what it is asked to run; tests answer."""

    def __init__(self) -> None:
        super().__init__("redis://nobody", now=time.monotonic, spawn=Background().spawn)
        self.asked: list[tuple[Sequence[str], Sequence[Word]]] = []
        self.replies: list[asyncio.Future[Any]] = []

    def run(
        self,
        script: Script,  # noqa: ARG002 - keys and arguments tell which
        keys: Sequence[str],
        args: Sequence[Word],
        *,
        urgent: bool = False,
    ) -> asyncio.Future[Any]:
        assert urgent, "not behind the store's values"
        self.asked.append((keys, args))
        self.replies.append(asyncio.get_running_loop().create_future())
        return self.replies[-1]

    async def answer(self, applied: Sequence[bytes], pending: Sequence[bytes]) -> None:
        """The next look at a batch finds this."""
        await eventually(lambda: bool(self.replies), "it is asked")
        self.replies.pop(0).set_result([applied, pending])


class One:
    """The acknowledgements of one instance that nobody is connected with."""

    def __init__(self) -> None:
        self.link, self.layout = Scripted(), Layout("p", "me")
        self.at = Follower(InvalidationLog(shared=True), 30.0)
        self.acks = Acknowledgements(self.link, self.layout, self.at, time.monotonic)

    def waits(self, batch: str, within: float = LONG) -> asyncio.Task[Progress | None]:
        return asyncio.ensure_future(self.acks.progress(batch, within))

    def owes(self, *batches: Batch) -> tuple[Sequence[str], Sequence[Word]]:
        """What it says where it owes these."""
        return self.layout.ack(self.at, batches)


@pytest.fixture
async def one() -> One:
    return One()


@pytest.fixture
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each batch, and no second one before the test is over."""
    monkeypatch.setattr(redis_acks, "ASK_AGAIN", (LONG, LONG))


def batch(name: str, sender: str = "you") -> Batch:
    return Batch("e", 0, "-", 1, 1, name, sender, 0.0, [tag("x")])


async def test_what_is_applied_in_one_tick_is_acknowledged_together_and_once(one: One) -> None:
    first, second, third = batch("b1"), batch("b2"), batch("b3")
    one.acks.owe([first])
    one.acks.owe([second])
    assert one.link.asked == [], "more may come"
    one.at.number = 7
    await asyncio.sleep(0)
    assert one.link.asked == [one.owes(first, second)], "with the place where the last of them has led"
    one.acks.owe([third])
    await asyncio.sleep(0)
    assert one.link.asked[1:] == [one.owes(third)]


async def test_what_nobody_waits_for_is_not_acknowledged(one: One) -> None:
    one.acks.owe([batch("b1", sender="")])
    await asyncio.sleep(0)
    assert one.link.asked == []
    asked = batch("b3")
    one.acks.owe([batch("b2", sender=""), asked])
    await asyncio.sleep(0)
    assert one.link.asked == [one.owes(asked)]


async def test_an_instance_can_say_where_it_stands_though_it_owes_nothing(one: One) -> None:
    one.acks.send_soon()
    one.acks.send_soon()
    await asyncio.sleep(0)
    assert one.link.asked == [one.owes()]


async def test_of_very_many_batches_the_last_are_acknowledged(one: One) -> None:
    many = [batch(f"b{number}") for number in range(redis_acks.AT_ONCE + 1)]
    one.acks.owe(many)
    await asyncio.sleep(0)
    one.acks.send_soon()
    await asyncio.sleep(0)
    assert one.link.asked == [one.owes(*many[1:]), one.owes()], "the first is forgotten"


@pytest.mark.usefixtures("one_look")
@pytest.mark.parametrize("name", [b"b", b"\xff"])
async def test_whoever_waits_for_a_batch_hears_that_the_last_has_applied_it(one: One, name: bytes) -> None:
    waiting = [one.waits("x"), one.waits("x")]
    for _ in waiting:
        await one.link.answer([b"a", b"1.5"], [name, b"c"])
    assert one.acks.hear(b"ack x c 2.5")
    for _ in range(5):  # ticks
        await asyncio.sleep(0)
    assert not any(each.done() for each in waiting), "it is not the last"
    assert one.acks.hear(b"ack x " + name + b" 3.5")
    everybody = Progress({"a": 1.5, name.decode(errors="replace"): 3.5, "c": 2.5}, ())
    assert await asyncio.gather(*waiting) == [everybody, everybody]
    assert len(one.link.asked) == 2, "one look each"


@pytest.mark.usefixtures("one_look")
async def test_who_acknowledges_another_batch_is_still_waited_for(one: One) -> None:
    waiting, other = one.waits("x", 0.1), one.waits("y")
    await one.link.answer([], [b"b"])
    await one.link.answer([], [b"b"])
    assert one.acks.hear(b"ack y b 1.5")
    assert await other == Progress({"b": 1.5}, ())
    assert await waiting == Progress({}, ("b",))


@pytest.mark.usefixtures("one_look")
async def test_a_timer_that_comes_early_leads_to_no_other_look() -> None:
    one = One()
    one.acks = Acknowledgements(one.link, one.layout, one.at, lambda: 0.0)
    waiting = one.waits("x", 0.01)
    await one.link.answer([], [b"b"])
    assert await asyncio.wait_for(waiting, LONG) == Progress({}, ("b",))
    assert len(one.link.asked) == 1


@pytest.mark.usefixtures("one_look")
async def test_what_is_heard_during_a_look_counts(one: One) -> None:
    waiting = one.waits("x")
    await eventually(lambda: bool(one.link.asked), "it looks")
    assert one.acks.hear(b"ack x b 1.5")
    await one.link.answer([], [b"b"])
    assert await waiting == Progress({"b": 1.5}, ())


async def test_when_the_time_is_over_who_is_missing_is_named(one: One) -> None:
    waiting = one.waits("x", 0.0)
    await eventually(lambda: bool(one.link.asked), "it looks")
    assert one.acks.hear(b"ack x c 2.5")
    await one.link.answer([b"a", b"1.5"], [b"d", b"c", b"b"])
    assert await waiting == Progress({"a": 1.5, "c": 2.5}, ("b", "d"))


async def test_what_is_acknowledged_to_others_is_looked_for(one: One) -> None:
    waiting = one.waits("x")
    await one.link.answer([], [b"b"])
    await one.link.answer([b"b", b"1.5"], [])
    assert await waiting == Progress({"b": 1.5}, ())
    assert one.link.asked == [(one.layout.progress("x"), [])] * 2


async def test_who_does_not_answer_is_looked_for_less_and_less_often(one: One) -> None:
    waiting = one.waits("x", 0.6)
    while not waiting.done():
        if one.link.replies:
            await one.link.answer([], [b"b"])
        await asyncio.sleep(0.001)
    assert await waiting == Progress({}, ("b",))
    assert 1 < len(one.link.asked) < 20, "after 5, 10, 20, 40, 80, 160 and 250 ms, and at the end"


@pytest.mark.usefixtures("one_look")
async def test_of_those_who_wait_no_more_nothing_is_kept(one: One) -> None:
    leaving, staying = one.waits("x"), one.waits("x")
    await one.link.answer([], [b"b"])
    await one.link.answer([], [b"b"])
    leaving.cancel()
    await asyncio.wait([leaving])
    assert one.acks.hear(b"ack x b 1.5")
    assert await staying == Progress({"b": 1.5}, ())
    assert one.acks._watches == {}  # noqa: SLF001 - it would grow with every purge


@pytest.mark.parametrize("error", [Unreachable("away"), ResponseError("OOM away")])
async def test_without_the_log_nobody_knows_how_far_anybody_is(one: One, error: Exception) -> None:
    for asking in (one.acks.progress("x", LONG), one.acks.places()):
        told = asyncio.ensure_future(asking)
        await eventually(lambda: bool(one.link.replies), "it is asked")
        one.link.replies.pop().set_exception(error)
        with pytest.raises(LogUnreachable, match="away"):
            await told
    assert one.acks._watches == {}  # noqa: SLF001 - it would grow with every purge


@pytest.mark.parametrize(
    ("message", "is_one"),
    [
        (b"ack x b 1.5", True),
        (b"ack x b soon", True),
        (b"ack \xff \xff 1.5", True),
        (b"ack x b", False),
        (b"ack x b 1.5 more", False),
        (b"filled x b 1.5", False),
        (b"", False),
    ],
)
@pytest.mark.usefixtures("one_look")
async def test_an_acknowledgement_is_told_from_other_words(one: One, message: bytes, is_one: bool) -> None:
    waiting = one.waits("x", 0.0)
    await eventually(lambda: bool(one.link.asked), "it looks")
    assert one.acks.hear(message) is is_one
    await one.link.answer([], [b"b"])
    assert await waiting == (Progress({"b": 1.5}, ()) if message == b"ack x b 1.5" else Progress({}, ("b",)))


@pytest.mark.usefixtures("patient")
async def test_nobody_has_heard_of_a_batch_that_is_none(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a") as [a]:
        assert await a.told.progress("none", 1.0) is None


@pytest.mark.usefixtures("patient")
async def test_a_purge_that_another_one_sent_can_be_waited_for(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a") as [a], Relay(server) as relay, member(relay.url, prefix, "b") as b:
        relay.black_hole()
        batch = await a.told.invalidate([tag("x")], "me", soft=False)
        pending = await a.told.progress(batch, 0.05)
        assert pending is not None
        assert pending.pending == ("b",)
        waiting = asyncio.ensure_future(a.told.progress(batch, 10.0))
        await relay.restore()
        done = await waiting
        assert done is not None
        assert done.pending == ()
        await b.caught_up()


@pytest.mark.usefixtures("patient")
async def test_nobody_acknowledges_what_was_announced(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a", "b", "c") as members:
        said = server.calls("publish")
        await members[0].told.announce([tag("x")])
        await eventually(lambda: all(one.told.state().number == 1 for one in members), "it is applied")
        batch = await members[0].told.invalidate([tag("y")], "me", soft=False)
        progress = await members[0].told.progress(batch, 5.0)
        assert progress is not None
        assert (len(progress.applied), progress.pending) == (3, ()), "who has applied this has applied the other"
        assert server.ask("KEYS", f"{{{prefix}}}:ack:*") == [f"{{{prefix}}}:ack:{batch}".encode()]
        assert server.calls("publish") - said == 1 + 1 + 3


async def test_acknowledgements_that_make_no_sense_are_not_heard(server: Server, prefix: str) -> None:
    async with member(server.url, prefix, "a") as a:
        channel = f"{prefix}:to:a"
        for word in (b"ack b a soon", b"ack \xff \xff 1.0", b"\xff"):
            await asyncio.to_thread(server.ask, "PUBLISH", channel, word)
        await eventually(lambda: a.words == [b"\xff"], "the last")
        await a.caught_up()


@pytest.mark.usefixtures("patient")
async def test_how_far_everybody_has_come_can_be_asked_of_anybody(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a") as [a], Relay(server) as relay, member(relay.url, prefix, "b") as b:
        await a.told.invalidate([tag("x")], "me", soft=False)
        await eventually(lambda: b.told.state().number == 1, "b has applied it")
        await settled(a, Places(1, {"a": 1, "b": 1}))
        assert await b.told.places() == Places(1, {"a": 1, "b": 1})
        relay.black_hole()
        await a.told.invalidate([tag("y"), tag("z")], "me", soft=False)
        await settled(a, Places(3, {"a": 3, "b": 1}))
        server.ask("DEL", f"{{{prefix}}}:log", f"{{{prefix}}}:meta")  # who was known is so still, and knows nothing new
        await eventually(lambda: a.told.state().restarts > 0, "there is another log")
        await settled(a, Places(0, {"a": 0, "b": None}))
        await relay.restore()
        await settled(a, Places(0, {"a": 0, "b": 0}))
        assert (a.told.instance, b.told.instance) == ("a", "b")


async def settled(one: Member, places: Places) -> None:
    async def reached() -> bool:
        return await one.told.places() == places

    await eventually(reached, f"{places}")


@pytest.mark.usefixtures("patient")
async def test_how_far_anybody_has_come_is_not_known_without_redis(prefix: str) -> None:
    with single() as server:
        async with fleet(server.url, prefix, "a") as [a]:
            server.kill()
            with pytest.raises(LogUnreachable):
                await a.told.places()


@pytest.mark.usefixtures("patient")
async def test_what_others_have_put_into_redis_is_nobodys_place(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a") as [a]:
        await settled(a, Places(0, {"a": 0}))
        for _ in range(10):  # the heartbeat sweeps
            server.ask("HSET", f"{{{prefix}}}:instances", "odd", "words", "late", "- 5 1")
            assert await a.told.places() == Places(0, {"a": 0})
        for key in ("meta", "instances"):
            server.ask("SET", f"{{{prefix}}}:{key}", "a text")
        assert (await a.told.places()).last == 0
