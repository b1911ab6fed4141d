"""The shared log with everything it runs on: real connections to a real Redis, and what goes wrong with them."""

import asyncio
import time
from collections.abc import Awaitable
from functools import partial

import pytest

from proxy.edges import redis_log
from proxy.edges.redis_link import Link
from proxy.flow.invalidation import InvalidationLog, Kind, Target
from proxy.flow.sharing import LogUnreachable
from tests.e2e.process import Late, eventually, in_time, timed
from tests.edges.redis_log_kit import tag
from tests.edges.redis_log_members import BLIND, Member, fleet, member
from tests.redis_servers import HOST, Relay, Server, single

SLACK = 0.1  # seconds that two busy cores may be late


async def took(work: Awaitable[object]) -> float:
    return (await timed(work))[1]


async def refused(one: Member, name: str) -> LogUnreachable:
    with pytest.raises(LogUnreachable) as refusal:
        await one.told.invalidate([tag(name)], "me", soft=False)
    return refusal.value


def trusts_beyond(log: InvalidationLog, moment: float) -> bool:
    return log.trusted_until > moment


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "target", [(Kind.URL, "http://h/x"), (Kind.PREFIX, "/x"), (Kind.TAG, "x"), (Kind.HOST, "h"), (Kind.ALL, "")]
)
async def test_a_purge_is_applied_by_everybody_and_acknowledged(server: Server, prefix: str, target: Target) -> None:
    async with fleet(server.url, prefix, "a", "b", "c") as members:
        held = [one.entry("x") for one in members]
        assert all(one.serves(subject) for one, subject in zip(members, held, strict=True))
        batch = await members[0].told.invalidate([target], "me", soft=False)
        assert not members[0].serves(held[0]), "at the sender at once"
        progress = await members[0].told.progress(batch, 5.0)
        assert progress is not None
        assert (set(progress.applied), progress.pending) == ({"a", "b", "c"}, ())
        assert not any(one.serves(subject) for one, subject in zip(members, held, strict=True))
        assert all(0 <= milliseconds < 5000 for milliseconds in progress.applied.values())
        assert await members[1].told.progress(batch, 5.0) == progress, "anybody can be asked"


@pytest.mark.usefixtures("patient")
async def test_a_batch_of_nothing_is_none(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a") as [a]:
        with pytest.raises(ValueError, match="nothing"):
            await a.told.invalidate([], "me", soft=False)


@pytest.mark.usefixtures("patient")
async def test_many_that_write_at_once_end_at_the_same_place(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a", "b", "c") as members:
        held = members[0].entry("x7")
        batches = await asyncio.gather(
            *[one.told.invalidate([tag(f"x{n}")], "me", soft=False) for n in range(20) for one in members]
        )
        assert not members[0].serves(held)
        for batch in batches:
            progress = await members[0].told.progress(batch, 5.0)
            assert progress is not None
            assert progress.pending == ()
        assert {one.told.state().number for one in members} == {60}


@pytest.mark.usefixtures("patient")
async def test_what_was_announced_is_told_and_applied_by_the_others(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a", "b") as [a, b]:
        held = b.entry("x")
        await a.told.announce([tag("x")])
        await eventually(lambda: not b.serves(held), "it is applied")
        assert a.told.state().number == 1
        await a.told.announce([])
        assert a.told.state().number == 1


@pytest.mark.clock(only=Late)
async def test_without_redis_an_announcement_waits_and_is_sent_in_order_later(prefix: str) -> None:
    with single() as server:
        async with (
            member(server.url, prefix, "b", deadline=0.5) as b,
            Relay(server) as relay,
            member(relay.url, prefix, "a", deadline=0.1) as a,
        ):
            held = [b.entry(name) for name in ("x", "y")]
            await relay.cut()
            seconds = [await took(a.told.announce([tag(name)])) for name in ("x", "y")]
            assert a.told.state().outbox == 2
            await relay.restore()
            await eventually(lambda: a.told.state().outbox == 0, "it was sent")
            await eventually(lambda: not any(b.serves(subject) for subject in held), "and applied")
            sent = server.ask("XRANGE", f"{{{prefix}}}:log", "-", "+")
            text = b"".join([b"".join(fields) for _, fields in sent])
            assert text.index(b'"x"') < text.index(b'"y"')
    in_time(max(seconds), 0.1 + SLACK)


@pytest.mark.clock(only=Late)
async def test_an_announcement_into_a_black_hole_returns_in_time(server: Server, prefix: str) -> None:
    async with Relay(server) as relay, member(relay.url, prefix, "a", deadline=0.1) as a:
        relay.black_hole()
        seconds = await took(a.told.announce([tag("x")]))
        assert a.told.state().outbox == 1
        await relay.restore()
        await eventually(lambda: a.told.state().outbox == 0, "it was sent")
    in_time(seconds, 0.1 + SLACK)


@pytest.mark.clock(only=Late)
@pytest.mark.parametrize("fault", ["cut", "black hole"])
async def test_a_purge_without_redis_is_refused_in_time_and_nothing_is_applied(
    server: Server, prefix: str, fault: str
) -> None:
    """It was not even sent: nothing can come of it."""
    async with Relay(server) as relay, member(relay.url, prefix, "a", deadline=0.1) as a:
        held = a.entry("x")
        if fault == "cut":
            await relay.cut()
        else:
            relay.black_hole()
        error, seconds = await timed(refused(a, "x"))
        assert not error.sent
        with pytest.raises(LogUnreachable):
            await a.told.progress("any", 1.0)
        assert a.log.judge(held, held.seq) is held
    in_time(seconds, 0.1 + SLACK)


async def test_a_purge_that_redis_got_and_did_not_answer_may_come_about(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_log, "DEADLINE", 1.0)
    with single() as server:
        async with member(server.url, prefix, "a", deadline=0.5) as a:
            await a.told.invalidate([tag("w")], "me", soft=False)  # which leaves a connection behind
            held = a.entry("x")
            server.suspend()
            with pytest.raises(LogUnreachable) as refusal:
                await a.told.invalidate([tag("x")], "me", soft=False)
            assert refusal.value.sent
            server.resume()
            await eventually(lambda: not a.serves(held), "it has come about")
            await eventually(lambda: a.told.state().number == 2, "and was read")


@pytest.mark.usefixtures("patient")
async def test_a_purge_that_redis_refuses_to_write_is_not_said_to_be_written(prefix: str) -> None:
    with single({"min-replicas-to-write": "1"}) as server:
        async with member(server.url, prefix, "a", deadline=0.5) as a:
            with pytest.raises(LogUnreachable, match="NOREPLICAS") as refusal:
                await a.told.invalidate([tag("x")], "me", soft=False)
            assert not refusal.value.sent


async def test_starting_without_redis_works_and_goes_on_when_it_is_there(server: Server, prefix: str) -> None:
    async with Relay(server) as relay:
        await relay.cut()
        async with member(relay.url, prefix, "a", deadline=0.1) as a:
            assert not a.serves(a.entry("x"))
            assert not a.told.state().reachable
            assert a.told.state().trouble
            assert 0 < a.told.state().blind_seconds < 60, "since it began"
            await relay.restore()
            await a.caught_up()
            assert a.told.state().reachable
            assert a.serves(a.entry("x"))


@pytest.mark.clock(only=Late)
async def test_who_was_cut_off_serves_nothing_of_what_was_purged_meanwhile(server: Server, prefix: str) -> None:
    async with (
        fleet(server.url, prefix, "a") as [a],
        Relay(server) as relay,
        member(relay.url, prefix, "b", deadline=0.1) as b,
    ):
        held = [b.entry(f"x{number}") for number in range(300)]
        await relay.cut()
        for number in range(300):
            await a.told.announce([tag(f"x{number}")])
        assert all(b.serves(subject) for subject in held), "it cannot know yet"
        await relay.restore()
        seconds = await took(eventually(lambda: b.told.state().number == 300, "caught up"))
        assert not any(b.serves(subject) for subject in held)
        assert b.told.state().gaps == 0
    in_time(seconds, 2.0)


async def test_redis_that_comes_back_empty_leaves_nothing_to_be_trusted(prefix: str) -> None:
    with single() as server:
        async with (
            member(server.url, prefix, "a", deadline=0.1) as a,
            member(server.url, prefix, "b", deadline=0.1) as b,
        ):
            held, before = b.entry("x"), b.told.state().epoch
            await asyncio.to_thread(server.restart, keep=False)
            await eventually(lambda: b.told.state().epoch not in ("", before), "another log")
            await eventually(lambda: a.told.state().epoch == b.told.state().epoch, "the same for all")
            assert not b.serves(held)
            await eventually(lambda: b.serves(b.entry("x")), "what is fetched under it is trusted")


@pytest.mark.usefixtures("patient")
async def test_flushing_data_and_scripts_is_survived(prefix: str) -> None:
    with single() as server:
        async with fleet(server.url, prefix, "a", "b") as [a, b]:
            held = b.entry("x")
            await asyncio.to_thread(server.ask, "SCRIPT", "FLUSH")
            await a.told.announce([tag("y")])
            await asyncio.to_thread(server.ask, "FLUSHALL")
            batch = await a.told.invalidate([tag("x")], "me", soft=False)
            progress = await a.told.progress(batch, 5.0)
            assert progress is not None
            assert progress.pending == ()
            assert not b.serves(held)


async def test_a_process_that_was_suspended_trusts_nothing_when_it_wakes(server: Server, prefix: str) -> None:
    async with member(server.url, prefix, "a") as a:
        held = a.entry("x")
        assert a.serves(held)
        a.clock.leapt = BLIND + 1
        assert not a.serves(held)
        await a.caught_up()
        assert a.serves(held), "nothing has been purged"


async def test_clocks_a_minute_off_agree_once_they_have_heard_of_redis(server: Server, prefix: str) -> None:
    async with (
        member(server.url, prefix, "a", skew=60.0) as a,
        member(server.url, prefix, "b", skew=-60.0) as b,
    ):
        assert abs(a.clock.wall() - b.clock.wall()) < 1.0
        assert abs(a.clock.wall() - time.time()) < 1.0


@pytest.mark.usefixtures("patient")
async def test_who_leaves_is_not_waited_for(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a") as [a]:
        async with fleet(server.url, prefix, "b"):
            pass
        batch = await a.told.invalidate([tag("x")], "me", soft=False)
        progress = await a.told.progress(batch, 5.0)
        assert progress is not None
        assert (set(progress.applied), progress.pending) == ({"a"}, ())


async def test_what_is_sent_to_one_instance_alone_and_is_no_acknowledgement_is_handed_on(
    server: Server, prefix: str
) -> None:
    async with member(server.url, prefix, "a") as a:
        await asyncio.to_thread(server.ask, "PUBLISH", f"{prefix}:to:a", "filled by somebody")
        await eventually(lambda: a.words == [b"filled by somebody"], "the word")


async def test_messages_that_make_no_sense_are_followed_by_a_question(server: Server, prefix: str) -> None:
    async with member(server.url, prefix, "a") as a:
        asked = server.calls("hset")
        await asyncio.to_thread(server.ask, "PUBLISH", f"{prefix}:records", "nonsense")
        await eventually(lambda: server.calls("hset") > asked, "a question")
        await a.caught_up()


@pytest.mark.usefixtures("patient")
async def test_records_written_are_told_to_who_waits_for_them_here(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a", "b") as [a, b]:
        before = b.calls
        await a.told.announce([tag("x"), tag("y")])
        await eventually(lambda: b.calls > before, "it is told")
        assert b.told.state().applied == 2


@pytest.mark.usefixtures("patient")
async def test_soft_and_hard_ones_are_all_told_before_anybody_goes_on(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a", "b") as [a, b]:
        before = b.calls
        await asyncio.gather(
            a.told.announce([tag("x")]), a.told.announce([tag("y")], soft=True), a.told.announce([tag("z")])
        )
        assert a.told.state().outbox == 0
        await eventually(lambda: b.calls > before + 1, "both batches are told")
        assert b.told.state().applied == 3


async def test_a_log_that_cannot_be_read_is_complained_about_and_followed_again(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with single() as server:
        server.ask("ACL", "SETUSER", "default", "-hset")
        async with member(server.url, prefix, "a", deadline=0.5) as a:
            assert a.told.state().trouble == "Redis says ERR"
            assert "the invalidation log cannot be read: ERR The user executing the script can't run" in caplog.text
            server.ask("ACL", "SETUSER", "default", "+hset")
            await a.caught_up()
            assert a.told.state().trouble == ""


@pytest.mark.clock(only=Late)
@pytest.mark.usefixtures("patient")
async def test_a_purge_is_acknowledged_once_a_replica_has_it(prefix: str) -> None:
    with single() as server, single() as replica:
        replica.ask("REPLICAOF", HOST, server.port)
        await eventually(lambda: "state=online" in server.info("replication").get("slave0", ""), "a replica")
        async with member(server.url, prefix, "a", deadline=0.5) as a:

            async def acknowledged() -> bool:
                try:
                    await a.told.invalidate([tag("x")], "me", soft=False)
                except LogUnreachable as late:  # a replica that gets no processor is none
                    if not late.sent:
                        raise
                    return False
                return True

            await eventually(acknowledged, "a replica confirms it in time")
            log = f"{{{prefix}}}:log"
            assert replica.ask("XLEN", log) == server.ask("XLEN", log) > 0
            assert a.told.state().replicas == 1
            replica.suspend()
            held = a.entry("y")
            error, seconds = await timed(refused(a, "y"))
            assert "replica" in str(error)
            assert error.sent
            assert not a.serves(held), "it is written, and the others apply it too"
            replica.resume()
    in_time(seconds, 0.1 + SLACK)


async def test_a_replica_that_nobody_knew_of_is_waited_for_too(prefix: str) -> None:
    with single() as server, single() as replica:
        async with member(server.url, prefix, "a", deadline=0.5) as a:
            replica.ask("REPLICAOF", HOST, server.port)
            await eventually(lambda: "state=online" in server.info("replication").get("slave0", ""), "a replica")
            replica.suspend()
            a.told._replicas = 0  # noqa: SLF001 - as before the heartbeat that has just told
            held = a.entry("x")
            with pytest.raises(LogUnreachable) as refusal:
                await a.told.invalidate([tag("x")], "me", soft=False)
            assert refusal.value.sent
            assert not a.serves(held)
            replica.resume()


async def test_what_is_announced_for_a_client_that_leaves_is_told_all_the_same(server: Server, prefix: str) -> None:
    async with Relay(server) as relay, member(relay.url, prefix, "a", deadline=5.0) as a:
        relay.black_hole()
        announcing = asyncio.ensure_future(a.told.announce([tag("x")]))
        await asyncio.sleep(0)
        announcing.cancel()
        await asyncio.wait([announcing])
        assert a.told.state().outbox == 1
        await relay.restore()
        await eventually(lambda: a.told.state().outbox == 0, "it was sent")


async def test_what_is_announced_between_two_appends_is_told_though_its_client_leaves(
    server: Server, prefix: str
) -> None:
    async with fleet(server.url, prefix, "a", "b") as [a, b]:
        held = b.entry("x")
        await a.told.announce([tag("w")])
        announcing = asyncio.ensure_future(a.told.announce([tag("x")]))
        await asyncio.sleep(0)
        announcing.cancel()
        await asyncio.wait([announcing])
        assert announcing.cancelled(), "it was still to be sent"
        await eventually(lambda: not b.serves(held), "it is told")


async def test_another_server_that_hangs_does_not_hold_up_the_log(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a Cluster: connecting to it takes a second, again and again."""
    tried, over = asyncio.Event(), asyncio.Event()

    async def hang(_: Link) -> None:
        tried.set()
        await over.wait()

    async with member(server.url, prefix, "a") as a:
        await a.caught_up()
        monkeypatch.setattr(Link, "_look", hang)
        monkeypatch.setattr(Link, "up", False)
        async with asyncio.timeout(10):
            await tried.wait()
        for _ in range(2):
            until = a.log.trusted_until
            await eventually(partial(trusts_beyond, a.log, until), "the log is read")
        over.set()


@pytest.mark.usefixtures("patient")
async def test_many_announcements_at_once_are_few_batches_and_say_nothing_twice(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a", "b") as [a, b]:
        held = [b.entry(f"x{number}") for number in range(200)]
        for _ in range(3):
            await asyncio.gather(*[a.told.announce([tag(f"x{number % 200}"), tag("y")]) for number in range(400)])
        assert a.told.state().outbox == 0, "each of them was waited for"
        await eventually(lambda: not any(b.serves(subject) for subject in held), "they are applied")
        assert a.told.state().number == 3 * 201
        assert server.ask("XLEN", f"{{{prefix}}}:log") == 3


@pytest.mark.usefixtures("patient")
async def test_in_a_flood_announcements_wait_for_one_another(server: Server, prefix: str) -> None:
    async with fleet(server.url, prefix, "a") as [a]:
        began = time.monotonic()

        async def client(name: int) -> None:
            for number in range(60):
                await a.told.announce([tag(f"{name} {number}")])

        await asyncio.gather(*[client(name) for name in range(5)])
        most = (redis_log.CREDIT + time.monotonic() - began) / redis_log.PACE + 1
        assert 60 <= server.ask("XLEN", f"{{{prefix}}}:log") <= most
        assert a.told.state().number == 300


async def test_what_waits_is_told_at_the_end_or_complained_about(
    server: Server, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Relay(server) as relay:
        async with member(relay.url, prefix, "a", deadline=0.1) as a:
            await relay.cut()
            await a.told.announce([tag("x")])
        assert "will not hear of 1 invalidations" in caplog.text
