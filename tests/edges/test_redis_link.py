import asyncio
import gc
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from proxy.edges.redis_link import Link, Unreachable
from proxy.edges.redis_script import Call, Script
from proxy.edges.redis_wire import Address
from proxy.flow.background import Background
from tests.e2e.process import Late, eventually, free_port, in_time, timed
from tests.redis_servers import HOST, Relay, single

DEADLINE = 0.1
SLACK = 0.1  # seconds that two busy cores may be late, whatever a control says
GET = Script("return redis.call('GET', KEYS[1])")
ECHO = Script("return {KEYS[1], ARGV[1]}")


@asynccontextmanager
async def linked(url: str, *, deadline: float = 5.0, now: Callable[[], float] = time.monotonic) -> AsyncIterator[Link]:
    """A link that is up; at its end nothing of it is left. The deadline is short only where it is the point."""
    background = Background()
    link = Link(url, now=now, spawn=background.spawn, deadline=deadline)
    try:
        await eventually(link.probe, "up")
        yield link
    finally:
        await link.close()
        assert await background.drain(5) == 0, "it left tasks behind"


async def outcome(waiting: "asyncio.Future[Any]") -> tuple[Any, float]:
    """Reply or error, and how long it took."""
    began = time.monotonic()
    try:
        reply = await waiting
    except (Unreachable, redis.ResponseError) as error:
        reply = error
    return reply, time.monotonic() - began


async def oversleep(seconds: float) -> float:
    """The control: how late the loop is by itself."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    return time.monotonic() - began - seconds


async def _beyond(number: Callable[[], int], least: int) -> None:
    await eventually(lambda: number() >= least, f"at least {least}")


async def test_nothing_is_asked_before_the_first_probe(redis_url: str) -> None:
    link = Link(redis_url, now=time.monotonic, spawn=Background().spawn)
    assert not link.up
    with pytest.raises(Unreachable, match="not connected yet"):
        await link.command("k", "PING")
    with pytest.raises(Unreachable, match="not connected yet"):
        await link.alone("k", [Call(("PING",))], 1.0)
    await link.close()


async def test_a_link_is_not_up_while_only_some_servers_have_joined(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the keys are is known only behind that: what is asked before finds nobody."""
    seen: list[bool] = []
    joined = Link._join  # noqa: SLF001 - the moment in between is nobody else's to see

    async def join(link: Link, address: Address) -> None:
        await joined(link, address)
        seen.append(link.up)

    monkeypatch.setattr(Link, "_join", join)
    async with linked(redis_url) as link:
        assert link.up
    assert seen == [False]


async def test_commands_and_scripts_give_replies_as_redis_sends_them(redis_url: str) -> None:
    async with linked(redis_url) as link:
        assert await link.command("link:a", "SET", "link:a", b"\x00\xff\r\n", "PX", 60_000) == b"OK"
        assert await link.command("link:a", "GET", "link:a") == b"\x00\xff\r\n"
        assert await link.command("link:b", "GET", "link:b") is None
        assert await link.command("link:a", "STRLEN", "link:a") == 4
        assert await link.run(ECHO, ["link:a"], [b"\xfe"]) == [b"link:a", b"\xfe"]
        assert await link.run(ECHO, ["link:ü"], ["ü"]) == ["link:ü".encode(), "ü".encode()]
        assert await link.run(Script("return 7"), ["link:a"], []) == 7


async def test_commands_of_one_tick_are_one_write() -> None:
    with single() as server:
        async with Relay(server) as relay, linked(relay.url) as link:
            before, batches = len(relay.sent), link.counters.batches
            replies = await asyncio.gather(*[link.command("k", "INCR", "k") for _ in range(200)])
            assert replies == list(range(1, 201))
            assert link.counters.batches == batches + 1
            assert len(relay.sent) == before + 1, "as the server sees it"
            first = link.command("k", "GET", "k")
            await asyncio.sleep(0.001)
            assert [await first, await link.command("k", "GET", "k")] == [b"200", b"200"]
            assert link.counters.batches == batches + 3


async def test_a_batch_does_not_wait_for_the_one_before() -> None:
    with single() as server:
        async with Relay(server) as relay, linked(relay.url) as link:
            relay.black_hole()
            first = link.command("k", "INCR", "k")
            await eventually(lambda: b"INCR" in b"".join(relay.sent), "on its way")
            second = link.command("k", "INCR", "k")
            # held back with the first, it can be seen only when that goes on; but it has left this process
            await asyncio.sleep(0.02)
            assert link.counters.batches >= 2
            assert not first.done()
            await relay.restore()
            assert [await first, await second] == [1, 2]


async def test_every_reply_comes_to_its_own_caller_under_concurrency(redis_url: str) -> None:
    async def caller(link: Link, name: str) -> None:
        for turn in range(50):
            word = f"{name}:{turn}"
            assert await link.run(ECHO, ["link:k"], [word]) == [b"link:k", word.encode()]
            assert await link.command("link:k", "ECHO", word) == word.encode()

    async with linked(redis_url) as link:
        await asyncio.gather(*[caller(link, f"caller{number}") for number in range(64)])


async def test_an_error_reply_comes_to_its_caller_and_to_nobody_else(redis_url: str) -> None:
    async with linked(redis_url) as link:
        words = [("ECHO", "a"), ("NOSUCH",), ("ECHO", "b"), ("INCRBYFLOAT", "link:x", "?"), ("ECHO", "c")]
        replies = await asyncio.gather(*[link.command("k", *one) for one in words], return_exceptions=True)
        assert replies[::2] == [b"a", b"b", b"c"]
        assert [type(reply) for reply in replies[1::2]] == [redis.ResponseError] * 2
        assert link.counters.errors == 2
        assert link.up, "the server is well"
        with pytest.raises(redis.ResponseError, match="mine"):
            await link.run(Script("return redis.error_reply('ERR mine')"), ["k"], [])


async def test_an_error_nobody_waits_for_is_not_logged(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with linked(redis_url) as link:
        link.command("k", "NOSUCH")
        await link.command("k", "PING")
    link.command("k", "PING")
    await asyncio.sleep(0)
    assert not caplog.records


async def test_a_caller_that_leaves_leaves_its_reply_to_nobody(redis_url: str) -> None:
    async with linked(redis_url) as link:
        waiting = [link.command("k", "ECHO", str(number)) for number in range(100)]
        for one in waiting[::3]:
            one.cancel()
        await asyncio.sleep(0)
        waiting[1].cancel()  # on its way already
        rest = [one for one in waiting if not one.cancelled()]
        replies = await asyncio.gather(*rest)
        assert replies == [str(number).encode() for number in range(100) if number % 3 and number != 1]


async def test_scripts_that_the_server_has_forgotten_under_load_are_nobody_s_error() -> None:
    with single() as server:
        async with linked(server.url) as link:
            stop = False
            calls = 0

            async def caller(name: str) -> None:
                nonlocal calls
                while not stop:
                    assert await link.run(ECHO, ["k"], [name]) == [b"k", name.encode()]
                    calls += 1

            callers = [asyncio.create_task(caller(str(number))) for number in range(32)]
            for _ in range(20):
                await asyncio.to_thread(server.ask, "SCRIPT", "FLUSH")
                await _beyond(lambda: calls, calls + 100)
            stop = True
            await asyncio.gather(*callers)
            stat = server.info("errorstats")
            assert int(stat["errorstat_NOSCRIPT"].removeprefix("count=")) >= 20, "they were forgotten"
            assert link.counters.errors == 0


async def test_values_of_a_mebibyte_pass_both_ways(redis_url: str) -> None:
    values = {f"link:large{number}": bytes([number]) * (1 << 20) for number in range(8)}
    async with linked(redis_url) as link:
        await asyncio.gather(*[link.command(key, "SET", key, value, "PX", 60_000) for key, value in values.items()])
        replies = await asyncio.gather(*[link.command(key, "GET", key) for key in values])
        assert replies == list(values.values())
        assert await link.run(GET, ["link:large3"], []) == values["link:large3"]


@pytest.mark.clock
async def test_nobody_waits_longer_than_the_deadline_for_a_server_that_hangs() -> None:
    with single() as server:
        async with linked(server.url, deadline=DEADLINE) as link:
            await link.command("k", "SET", "k", "v")
            server.suspend()
            try:
                asked = [asyncio.create_task(outcome(link.command("k", "GET", "k"))) for _ in range(50)]
                await asyncio.sleep(DEADLINE / 2)
                later = [asyncio.create_task(outcome(link.command("k", "GET", "k"))) for _ in range(50)]
                late = await oversleep(DEADLINE)
                for reply, seconds in await asyncio.gather(*asked, *later):
                    assert isinstance(reply, Unreachable)
                    assert "gave no answer within 100 ms" in str(reply)
                    assert seconds < DEADLINE + max(late, 0) + SLACK
                assert asked[0].result()[1] > DEADLINE * 0.9, "the deadline and not something else"
                assert link.counters.timeouts == 1
                assert not link.up
                assert link.command("k", "GET", "k").done(), "refused at once"
                assert not await link.probe(), "it still hangs"
            finally:
                server.resume()
            assert link.command("k", "GET", "k").done()
            assert not link.up, "only a probe closes the breaker"
            await eventually(link.probe, "up")
            assert await link.command("k", "GET", "k") == b"v"


@pytest.mark.clock
async def test_a_loop_that_was_late_itself_does_not_blame_the_server() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()

    def block() -> None:
        """Where a loop has just polled, and timers come before it polls again."""
        ours.recv(1)
        time.sleep(0.2)

    with single() as server, ours, theirs:
        async with linked(server.url, deadline=0.05) as link:
            loop.add_reader(ours, block)
            try:
                for _ in range(5):
                    waiting = link.command("k", "DEBUG", "SLEEP", "0.02")
                    await asyncio.sleep(0.005)
                    theirs.send(b"x")
                    assert await waiting == b"OK"
            finally:
                loop.remove_reader(ours)
            assert link.counters.timeouts == 0


async def test_a_connection_that_is_reset_opens_the_breaker_and_a_probe_closes_it() -> None:
    with single() as server:
        async with Relay(server) as relay, linked(relay.url) as link:
            await relay.cut()
            await eventually(lambda: not link.up, "noticed without asking")
            assert isinstance(link.command("k", "GET", "k").exception(), Unreachable), "refused at once"
            assert not await link.probe()
            assert "cannot be reached" in link.trouble
            await relay.restore()
            accepted = relay.accepted
            assert isinstance((await outcome(link.command("k", "GET", "k")))[0], Unreachable)
            assert relay.accepted == accepted, "a command never connects"
            assert await link.probe()
            assert (link.trouble, await link.command("k", "ECHO", "a")) == ("", b"a")
            assert link.counters.reconnects == 2


def _said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What the link has told the log, and how loud."""
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "proxy.edges.redis_link"]


async def _cut(relay: Relay, link: Link) -> None:
    await relay.cut()
    await eventually(lambda: not link.up, "noticed")


async def test_the_log_says_once_what_is_wrong_and_that_it_is_well_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with single() as server:
        async with Relay(server) as relay, linked(relay.url) as link:
            assert _said(caplog) == []
            await _cut(relay, link)
            lost = link.trouble
            for _ in range(3):
                assert not await link.probe()
            gone = link.trouble
            assert lost != gone
            assert link.counters.failed_connects == 3
            await relay.restore()
            for _ in range(2):
                assert await link.probe()
    assert _said(caplog) == [("WARNING", lost), ("WARNING", gone), ("INFO", "Redis is connected again")]


async def test_of_a_server_that_comes_and_goes_the_log_says_so_now_and_then_and_in_the_end_what_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    leapt = 0.0
    with single() as server:
        async with Relay(server) as relay, linked(relay.url, now=lambda: time.monotonic() + leapt) as link:
            for _ in range(3):
                await _cut(relay, link)
                await relay.restore()
                assert await link.probe()
            assert [level for level, _ in _said(caplog)] == ["WARNING", "INFO"]
            await _cut(relay, link)
            assert not await link.probe()
            assert len(_said(caplog)) == 2
            leapt = 10.0
            assert not await link.probe()
            assert _said(caplog)[2:] == [("WARNING", link.trouble)]
            await relay.restore()


@pytest.mark.clock(only=Late)
async def test_those_on_a_connection_that_is_reset_are_told_at_once() -> None:
    with single() as server:
        async with Relay(server) as relay, linked(relay.url) as link:
            relay.black_hole()
            waiting = [asyncio.create_task(outcome(link.command("k", "GET", "k"))) for _ in range(10)]
            await asyncio.sleep(0.01)
            relay.reset()
            told = await asyncio.gather(*waiting)
            assert all(isinstance(reply, Unreachable) for reply, _ in told)
            await relay.restore()
            await eventually(link.probe, "up")
    in_time(max(seconds for _, seconds in told), 1.0)  # and not after the deadline of 5 s


@pytest.mark.clock
async def test_a_half_open_connection_costs_one_deadline_and_is_replaced() -> None:
    with single() as server:
        async with Relay(server) as relay, linked(relay.url, deadline=DEADLINE) as link:
            relay.black_hole()
            (reply, _), seconds = await timed(outcome(link.command("k", "SET", "k", "stale")))
            assert isinstance(reply, Unreachable)
            assert seconds < DEADLINE + 0.02 + SLACK
            up, seconds = await timed(link.probe())
            assert not up
            assert "no connection within" in link.trouble
            assert seconds < 12 * DEADLINE
            await relay.restore()
            await eventually(link.probe, "up")
            assert await link.command("k", "ECHO", "a") == b"a", "no reply of the old connection is taken for it"


async def test_a_killed_server_is_left_alone_until_it_is_back() -> None:
    with single() as server:
        async with linked(server.url) as link:
            await link.run(ECHO, ["k"], ["a"])
            server.kill()
            await eventually(lambda: not link.up, "noticed")
            assert not await link.probe()
            await asyncio.to_thread(server.restart, keep=False)
            assert await link.probe()
            known = await link.command("k", "SCRIPT", "EXISTS", ECHO.sha)
            assert known == [1], "scripts are there before anybody needs them"


async def test_a_server_that_still_loads_its_data_is_not_up() -> None:
    with single({"key-load-delay": "4000", "loading-process-events-interval-bytes": "1024"}) as server:
        for number in range(0, 1000, 100):
            server.ask("MSET", *[word for key in range(number, number + 100) for word in (f"k{key}", "v" * 99)])
        server.ask("SAVE")
        async with linked(server.url) as link:
            server.kill()
            await eventually(lambda: not link.up, "noticed")
            starting = asyncio.create_task(asyncio.to_thread(server.restart, keep=True))
            await eventually(lambda: _loading(link), "it said that it was loading")
            await eventually(link.probe, "up")
            assert await link.command("k1", "GET", "k1") == b"v" * 99
            await starting


async def _loading(link: Link) -> bool:
    return not await link.probe() and "loading" in link.trouble


async def test_something_that_is_no_redis_is_unreachable() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(greet, HOST, 0)
    port = listener.sockets[0].getsockname()[1]
    link = Link(f"redis://{HOST}:{port}", now=time.monotonic, spawn=Background().spawn)
    assert not await link.probe()
    assert "protocol" in link.trouble
    await link.close()
    listener.close()


async def test_a_host_without_a_name_is_unreachable() -> None:
    link = Link("redis://nowhere.invalid", now=time.monotonic, spawn=Background().spawn, deadline=2.0)
    assert not await link.probe()
    assert "nowhere.invalid:6379 cannot be reached" in link.trouble
    await link.close()


async def test_what_a_server_does_not_take_is_bounded() -> None:
    with single() as server:
        async with Relay(server) as relay, linked(relay.url) as link:
            relay.black_hole()
            piece, accepted = bytes(1 << 20), 0
            for _ in range(200):
                waiting = link.command("k", "SET", "k", piece)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                if waiting.done() and isinstance(waiting.exception(), Unreachable):
                    break
                accepted += 1
            assert accepted < 60, "16 MiB here, and what the kernel and the relay hold"
            assert link.up, "it is not broken yet"


async def test_calls_of_their_own_hold_up_nobody() -> None:
    with single() as server:
        async with linked(server.url) as link:
            blocked = asyncio.create_task(link.alone("k", [Call(("BLPOP", "list", 5))], 5.0))
            await eventually(lambda: server.calls("client|setname") >= 3, "connected")
            for number in range(20):
                assert await link.command("k", "ECHO", str(number)) == str(number).encode()
            assert not blocked.done()
            await link.command("list", "RPUSH", "list", "x")
            assert await blocked == [[b"list", b"x"]]
            connected = server.info("stats")["total_connections_received"]
            assert await link.alone("k", [Call.script(ECHO, ["k"], [1]), Call(("ECHO", "b"))], 5.0) == [
                [b"k", b"1"],
                b"b",
            ]
            assert int(server.info("stats")["total_connections_received"]) == int(connected) + 1, "only INFO's own"


async def test_calls_of_their_own_run_in_order_and_the_first_error_is_raised(redis_url: str) -> None:
    async with linked(redis_url) as link:
        with pytest.raises(redis.ResponseError, match=r"(?i)unknown command"):
            await link.alone("k", [Call(("NOSUCH",)), Call(("ECHO", "a"))], 1.0)
        replies = await asyncio.gather(*[link.alone("k", [Call(("ECHO", str(n)))], 5.0) for n in range(10)])
        assert replies == [[str(n).encode()] for n in range(10)]


@pytest.mark.clock
async def test_a_deadline_of_their_own_holds_for_calls_of_their_own() -> None:
    with single() as server:
        async with linked(server.url, deadline=DEADLINE) as link:
            await link.alone("k", [Call(("PING",))], 5.0)
            server.suspend()
            try:
                late = asyncio.create_task(oversleep(0.2))
                began = time.monotonic()
                with pytest.raises(Unreachable, match="within 200 ms"):
                    await link.alone("k", [Call(("PING",))], 0.2)
                assert 0.18 < time.monotonic() - began < 0.2 + 0.02 + max(await late, 0) + SLACK
                await eventually(lambda: not link.up, "whoever notices first makes the others look")
            finally:
                server.resume()


async def test_a_burst_of_calls_of_their_own_takes_few_connections_and_leaves_the_link_up() -> None:
    with single() as server:
        async with linked(server.url) as link:
            before = int(server.info("stats")["total_connections_received"])
            replies = await asyncio.gather(*[link.alone("k", [Call(("ECHO", str(n)))], 20.0) for n in range(400)])
            assert replies == [[str(n).encode()] for n in range(400)]
            assert int(server.info("stats")["total_connections_received"]) - before <= 4 + 1, "INFO's own is one"
            assert link.up


async def test_a_call_of_its_own_that_gets_no_connection_leaves_those_that_stand() -> None:
    with single() as server:
        deadline = 5 * DEADLINE  # those that stand are asked meanwhile, and are to answer
        async with linked(server.url, deadline=deadline) as link:
            server.ask("CONFIG", "SET", "maxclients", 2)  # those that stand
            with pytest.raises(Unreachable):
                await link.alone("k", [Call(("PING",))], 1.0)
            await asyncio.sleep(2 * deadline)  # time enough to be judged
            assert link.up
            assert await link.command("k", "ECHO", "a") == b"a"
            assert link.counters.reconnects == 1


@pytest.mark.clock
async def test_large_values_are_no_reason_to_replace_the_connection() -> None:
    with single() as server:
        values = {f"large{number}": bytes([number % 256]) * 102_400 for number in range(300)}
        async with linked(server.url) as patient:
            await asyncio.gather(*[patient.command(key, "SET", key, value) for key, value in values.items()])
        async with linked(server.url, deadline=DEADLINE) as link:
            began = time.monotonic()
            waiting = [link.command(key, "GET", key) for key in values]
            for one in waiting:  # what the proxy does with each; but ten deadlines are what anybody waits at most
                one.add_done_callback(lambda _: time.sleep(0.001 * (time.monotonic() < began + 3 * DEADLINE)))
            replies = await asyncio.gather(*waiting, return_exceptions=True)
            assert time.monotonic() - began > 2 * DEADLINE, "the point of it"
            assert replies == list(values.values())
            assert (link.counters.reconnects, link.counters.timeouts) == (1, 0)


async def test_what_is_urgent_does_not_wait_behind_what_is_large() -> None:
    with single() as server:
        async with linked(server.url) as link:
            await link.command("k", "SET", "large", bytes(32 << 20))
            large = [link.command("k", "GET", "large") for _ in range(4)]
            urgent = [link.command("k", "ECHO", "a", urgent=True), link.run(ECHO, ["k"], ["b"], urgent=True)]
            assert await asyncio.gather(*urgent) == [b"a", [b"k", b"b"]]
            assert not any(one.done() for one in large[1:])
            assert [len(value) for value in await asyncio.gather(*large)] == [32 << 20] * 4


async def test_either_connection_that_is_lost_opens_the_breaker() -> None:
    with single() as server:
        for turn in range(2):
            async with linked(server.url) as link:
                here = [await link.command("k", "CLIENT", "ID", urgent=urgent) for urgent in (False, True)]
                server.ask("CLIENT", "KILL", "ID", here[turn])
                await eventually(lambda: not link.up, "noticed")
                with pytest.raises(Unreachable):
                    await link.command("k", "PING", urgent=not turn)
                assert await link.probe()
                assert await link.command("k", "PING", urgent=True) == b"PONG"


@pytest.mark.clock
async def test_what_is_urgent_notices_a_server_that_hangs_within_the_deadline() -> None:
    with single() as server:
        async with linked(server.url, deadline=DEADLINE) as link:
            server.suspend()
            try:
                late = asyncio.create_task(oversleep(DEADLINE))
                reply, seconds = await outcome(link.run(ECHO, ["k"], ["a"], urgent=True))
                assert isinstance(reply, Unreachable)
                assert seconds < DEADLINE + 0.02 + max(await late, 0) + SLACK
                assert not link.up
            finally:
                server.resume()


async def test_what_fails_leaves_no_garbage_behind(redis_url: str) -> None:
    async def fail() -> None:
        for calls in ([Call(("NOSUCH",))], [Call(("ECHO", "a")), Call(("NOSUCH",))]):
            with pytest.raises(redis.ResponseError):
                await link.alone("k", calls, 5.0)
        with pytest.raises(redis.ResponseError):
            await link.command("k", "NOSUCH")
        for lost in (nobody, nowhere):
            assert not await lost.probe()
            with pytest.raises(Unreachable):
                await lost.command("k", "PING")

    ports = free_port(), free_port()
    nobody = Link(f"redis://{HOST}:{ports[0]}", now=time.monotonic, spawn=Background().spawn)
    nowhere = Link(f"redis+cluster://{HOST}:{ports[0]},{HOST}:{ports[1]}", now=time.monotonic, spawn=Background().spawn)
    async with linked(redis_url) as link:
        await fail()
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                await fail()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            ours = [thing for thing in gc.garbage if type(thing).__module__.startswith("proxy.")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert not ours
    await nobody.close()
    await nowhere.close()


async def test_calls_of_their_own_that_are_left_do_not_give_their_replies_to_the_next(redis_url: str) -> None:
    async with linked(redis_url) as link:
        leaving = asyncio.create_task(link.alone("k", [Call(("BLPOP", "link:nothing", 3))], 5.0))
        await asyncio.sleep(0.05)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await link.alone("k", [Call(("ECHO", "mine"))], 1.0) == [b"mine"], "nor do these wait for theirs"
        assert link.up


class Listener:
    def __init__(self, link: Link) -> None:
        self.heard: list[bytes] = []
        self.subscribed = 0
        self.hears = False
        link.listen("k", {"one": self.heard.append}, self._again)

    def _again(self, hearing: bool) -> None:
        assert hearing is not self.hears, "told what it knew"
        self.hears = hearing
        self.subscribed += hearing


async def test_a_subscription_survives_a_cut_and_says_that_it_may_have_missed_something() -> None:
    with single() as server:
        async with Relay(server) as relay, linked(relay.url) as link:
            listener = Listener(link)
            for turn in range(1, 4):
                await _beyond(lambda: listener.subscribed, turn)
                await asyncio.to_thread(server.ask, "PUBLISH", "one", f"turn {turn}")
                await _beyond(lambda: len(listener.heard), turn)
                relay.reset()
                await eventually(lambda: not link.up, "noticed")
                await link.probe()
            assert listener.heard == [b"turn 1", b"turn 2", b"turn 3"]
            assert listener.subscribed == 3


async def test_a_subscription_that_hears_nothing_any_more_is_replaced() -> None:
    with single() as server:
        async with Relay(server) as relay, linked(relay.url, deadline=DEADLINE) as link:
            listener = Listener(link)
            await eventually(lambda: listener.subscribed == 1, "subscribed")
            relay.black_hole()
            before = relay.accepted
            await eventually(lambda: relay.accepted > before, "replaced without a word from anybody")
            await relay.restore()
            await eventually(link.probe, "up")
            await eventually(lambda: listener.subscribed == 2, "subscribed again")
            await asyncio.to_thread(server.ask, "PUBLISH", "one", "news")
            await eventually(lambda: listener.heard == [b"news"], "heard once")


async def test_a_subscription_ends_with_the_breaker_of_its_server() -> None:
    with single() as server:
        async with linked(server.url) as link:
            listener = Listener(link)
            await eventually(lambda: listener.hears, "subscribed")
            server.ask("CLIENT", "KILL", "ID", await link.command("k", "CLIENT", "ID"))
            await eventually(lambda: not link.up, "noticed")
            await eventually(lambda: not listener.hears, "left, though its own connection stands")
            assert await link.probe()
            await eventually(lambda: listener.hears, "subscribed again")
            assert listener.subscribed == 2


async def test_close_tells_whoever_waits_and_opens_nothing_again() -> None:
    with single() as server:
        async with Relay(server) as relay, linked(relay.url) as link:
            Listener(link)
            relay.black_hole()
            waiting = link.command("k", "GET", "k")
            own = asyncio.create_task(link.alone("k", [Call(("PING",))], 5.0))
            await asyncio.sleep(0.01)
            await link.close()
            with pytest.raises(Unreachable, match="closed"):
                await waiting
            with pytest.raises(Unreachable, match="closed"):
                await link.command("k", "GET", "k")
            assert not await link.probe()
            assert not link.up
            await relay.restore()
            with pytest.raises(Unreachable):
                await own


@pytest.mark.clock
async def test_a_port_where_nobody_listens_is_known_at_once() -> None:
    link = Link(f"redis://{HOST}:{free_port()}", now=time.monotonic, spawn=Background().spawn)
    up, seconds = await timed(link.probe())
    assert not up
    assert seconds < 0.1 + SLACK
    await link.close()
