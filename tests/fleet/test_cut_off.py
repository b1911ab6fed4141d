"""Who was out of reach while others purged serves none of what was purged once it is back."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.edges.redis_records import MAX_RECORDS, Layout, source, write_body
from proxy.flow.follower import Follower
from proxy.flow.invalidation import InvalidationLog, Kind
from tests.e2e.harness import receive, request
from tests.e2e.process import Late, eventually, in_time, timed
from tests.fleet.harness import Fleet, Versions, fleet, in_step, tell
from tests.redis_servers import Relay, Server

pytestmark = pytest.mark.asyncio(loop_scope="function")

PURGES = 1000
CAUGHT_UP = 2.0  # seconds within which it must be so


@asynccontextmanager
async def _behind_relay(
    directory: Path, server: Server, redis: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Fleet, Relay]]:
    """Three of which the last reaches Redis through a relay."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(server))
        urls = [server.url, server.url, relay.url]
        here = await stack.enter_async_context(fleet(directory, lambda at: urls[at], {"redis": redis or {}}))
        yield here, relay


async def _fill(here: Fleet, versions: Versions, paths: Sequence[str]) -> None:
    """Everybody holds version 1 of each."""
    for path in paths:
        versions.add(path)
    for one in here.instances:
        for at in range(0, len(paths), 100):
            got = await asyncio.gather(*(one.get(path) for path in paths[at : at + 100]))
            assert {r.text for r in got} == {"1"}


async def _away(relay: Relay, how: str) -> None:
    if how == "cut":
        await relay.cut()
    else:
        relay.black_hole()


@pytest.mark.clock(only=Late)
@pytest.mark.parametrize("how", ["cut", "black hole"])
async def test_who_was_cut_off_during_a_thousand_purges_serves_none_of_the_purged(
    tmp_path: Path, server: Server, how: str
) -> None:
    redis = {"max_blind": "5m"}  # however long so many purges take, it serves what it has until it hears of them
    async with _behind_relay(tmp_path, server, redis) as (here, relay):
        versions = Versions(here.upstream)
        paths = [f"/p/{number}" for number in range(PURGES)]
        await _fill(here, versions, paths)
        away = here[2]
        await _away(relay, how)
        for number, path in enumerate(paths):
            versions.change(path)
            answer = await here[number % 2].invalidate(None, urls=[path])
            assert answer.status == 202, answer
        assert (await away.get(paths[0])).text == "1"  # it was cut off, and knows nothing of it

        await relay.restore()
        _, took = await timed(eventually(lambda: _says(here, paths[-1], "2"), "the last purge has arrived"))
        tell(f"{how}: caught up with {PURGES} purges {took * 1e3:.0f} ms after it was back")
        for at in range(0, PURGES, 100):
            got = await asyncio.gather(*(away.get(path) for path in paths[at : at + 100]))
            assert {r.text for r in got} == {"2"}
        in_time(took, CAUGHT_UP)


async def _says(here: Fleet, path: str, text: str) -> bool:
    return (await here[2].get(path)).text == text


async def test_while_cut_off_for_longer_than_max_blind_it_asks_the_upstream(tmp_path: Path, server: Server) -> None:
    async with _behind_relay(tmp_path, server, {"max_blind": "1s"}) as (here, relay):
        versions = Versions(here.upstream)
        paths = [f"/p/{number}" for number in range(20)]
        await _fill(here, versions, paths)
        await relay.cut()
        for path in paths:
            versions.change(path)
        assert (await here[0].invalidate(None, urls=paths)).status == 202
        await asyncio.sleep(1.5)
        assert {(await here[2].get(path)).text for path in paths} == {"2"}


async def test_told_to_revalidate_it_serves_nothing_unasked_a_second_after_it_was_cut_off(
    tmp_path: Path, server: Server
) -> None:
    async with _behind_relay(tmp_path, server, {"when_unreachable": "revalidate"}) as (here, relay):
        versions = Versions(here.upstream)
        paths = [f"/p/{number}" for number in range(20)]
        await _fill(here, versions, paths)
        relay.black_hole()
        for path in paths[:10]:
            versions.change(path)
        assert (await here[0].invalidate(None, urls=paths[:10])).status == 202
        await asyncio.sleep(1.2)
        assert [(await here[2].get(path)).text for path in paths] == ["2"] * 10 + ["1"] * 10
        assert all(versions.conditional[path] for path in paths)
        await relay.restore()


async def _revalidates_first(here: Fleet, versions: Versions, kept: Sequence[str], purged: Sequence[str]) -> None:
    """Nothing of what the last one held is served before the upstream was asked for it."""
    asked = {path: here.upstream.count(path) for path in (*kept, *purged)}
    conditional = {path: versions.conditional[path] for path in kept}
    for path in (*kept, *purged):
        answer = await here[2].get(path)
        assert answer.text == str(versions.now(path)), (path, answer.cache)
        assert here.upstream.count(path) == asked[path] + 1, (path, answer.cache)
    assert all(versions.conditional[path] == conditional[path] + 1 for path in kept)


@pytest.mark.clock(only=Late)
async def test_a_log_that_was_trimmed_past_its_position_makes_it_revalidate_all_it_held(
    tmp_path: Path, server: Server
) -> None:
    async with _behind_relay(tmp_path, server) as (here, relay):
        versions = Versions(here.upstream)
        kept = [f"/kept/{number}" for number in range(100)]
        purged = [f"/purged/{number}" for number in range(100)]
        await _fill(here, versions, [*kept, *purged])
        await relay.cut()
        for path in purged:
            versions.change(path)
        assert (await here[0].invalidate(None, urls=purged)).status == 202
        before = await asyncio.to_thread(server.ask, "XRANGE", "{rt}:log", "-", "+", "COUNT", "1")
        await asyncio.to_thread(_write, server, MAX_RECORDS + 1000)
        after = await asyncio.to_thread(server.ask, "XRANGE", "{rt}:log", "-", "+", "COUNT", "1")
        assert before[0][0] != after[0][0]  # the oldest have gone

        await relay.restore()
        known = eventually(lambda: _distrusts(here, kept[-1]), "it knows that it has missed something")
        _, took = await timed(known)
        await _revalidates_first(here, versions, kept[:-1], purged)
        in_time(took, CAUGHT_UP)


def _write(server: Server, records: int) -> None:
    """So many purges, as the script writes them: an instance would take its time, for their number is limited."""
    layout, follower = Layout("rt", "writer"), Follower(InvalidationLog(shared=True), 30.0)
    for at in range(0, records, 1000):
        body = write_body([(Kind.TARGET, f"/other/{at + number}") for number in range(1000)], "", soft=False)
        keys, args = layout.append(follower, f"batch-{at}", 1000, body, ())
        server.ask("EVAL", source("append"), len(keys), *keys, *args)


async def _distrusts(here: Fleet, path: str) -> bool:
    asked = here.upstream.count(path)
    await here[2].get(path)
    return here.upstream.count(path) > asked


@pytest.mark.clock(only=Late)
async def test_a_redis_that_came_back_empty_makes_everybody_revalidate_all_they_held(
    tmp_path: Path, server: Server
) -> None:
    async with fleet(tmp_path, server.url) as here:
        versions = Versions(here.upstream)
        kept = [f"/kept/{number}" for number in range(100)]
        changed = [f"/changed/{number}" for number in range(100)]
        await _fill(here, versions, [*kept, *changed, "/last"])
        await asyncio.to_thread(server.restart, keep=False)
        known = eventually(lambda: _distrusts(here, "/last"), "it knows that the log is another")
        _, took = await timed(known)
        for one in here.instances:  # the others find out each by itself
            await eventually(lambda one=one: in_step(here, one), "it follows the other log")  # type: ignore[misc]
        for path in changed:  # a purge of these may have been lost with the log
            versions.change(path)
        await _revalidates_first(here, versions, kept, changed)
        asked = len(here.upstream.calls)
        for path in (*kept, *changed):  # and what one has found out, all know
            assert {r.text for r in await here.in_turn(path)} == {str(versions.now(path))}
        assert len(here.upstream.calls) == asked
        in_time(took, CAUGHT_UP)


@pytest.mark.clock(only=Late)
async def test_told_to_drop_it_asks_for_what_it_held_without_a_condition(tmp_path: Path, server: Server) -> None:
    async with fleet(tmp_path, server.url, {"redis": {"after_gap": "drop"}}) as here:
        versions = Versions(here.upstream)
        paths = [f"/kept/{number}" for number in range(20)]
        await _fill(here, versions, [*paths, "/last"])
        await asyncio.to_thread(server.restart, keep=False)
        known = eventually(lambda: _distrusts(here, "/last"), "it knows that the log is another")
        _, took = await timed(known)
        for path in paths:
            assert (await here[2].get(path)).text == "1"
        assert [here.upstream.count(path) for path in paths] == [2] * 20
        assert not any(versions.conditional.values())
        in_time(took, CAUGHT_UP)


async def test_who_was_suspended_for_longer_than_max_blind_serves_none_of_the_purged(
    tmp_path: Path, server: Server
) -> None:
    """Requests wait in its sockets, so they are the first that it sees when it goes on, before any word of Redis."""
    async with fleet(tmp_path, server.url, {"redis": {"max_blind": "1s"}}) as here:
        versions = Versions(here.upstream)
        paths = [f"/p/{number}" for number in range(200)]
        await _fill(here, versions, paths)
        asleep = here[2]
        streams = await asleep.crowd(len(paths))
        asleep.proxy.signal(signal.SIGSTOP)
        for path in paths:
            versions.change(path)
            assert (await here[0].invalidate(None, urls=[path])).status == 202
        answer = await here[0].invalidate("100ms", urls=["/nothing"])
        assert answer.status == 202, answer  # it has not applied it
        await asyncio.sleep(1.5)
        for stream, path in zip(streams, paths, strict=True):
            stream.write(request(path))
        asleep.proxy.signal(signal.SIGCONT)
        got = await asyncio.gather(*(receive(stream) for stream in streams))
        assert [r.text for r in got] == ["2"] * len(paths)
        for stream in streams:
            stream.close()


async def test_a_new_instance_serves_nothing_from_the_store_that_was_purged_before_it_came(
    tmp_path: Path, server: Server
) -> None:
    async with fleet(tmp_path, server.url, {"redis": {"max_blind": "1s"}}) as here:  # the dead one is waited for
        versions = Versions(here.upstream)
        paths = [f"/p/{number}" for number in range(40)]
        await _fill(here, versions, paths)
        await here[2].kill()
        for path in paths[:20]:
            versions.change(path)
        assert (await here[0].invalidate(None, urls=paths[:20])).status == 202
        await here[2].launch()
        await here.joined()
        assert [(await here[2].get(path)).text for path in paths] == ["2"] * 20 + ["1"] * 20
        assert sum(here.upstream.count(path) for path in paths[20:]) == 20  # those it found in the store
