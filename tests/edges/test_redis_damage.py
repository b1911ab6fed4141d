"""Whatever is in Redis, by accident or by malice: it is counted, and a claim comes back in time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.edges.redis_script import Script
from proxy.flow.sharing import Apart, Lead
from tests.edges.fleet import Fleet, Instance, fleet_over, sealed, until
from tests.edges.test_codec import JSON, NUMBERS, TERMS, paid
from tests.redis_servers import Server, single

SOON: Final = 20.0  # seconds; no claim here is to wait for a hundredth of that


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as started:
        yield started


@pytest.fixture
async def fleet(server: Server) -> AsyncIterator[Fleet]:
    async with fleet_over(server) as made:
        yield made


@pytest.mark.parametrize(
    ("damage", "counter"),
    [
        (lambda frame: frame[:-1], "damaged"),
        (lambda frame: frame[:60], "damaged"),
        (lambda frame: frame[:30], "damaged"),
        (lambda _: b"", "damaged"),
        (lambda frame: b"XY" + frame[2:], "damaged"),
        (lambda frame: frame[:2] + b"\x02" + frame[3:], "unknown_version"),
        (lambda frame: frame[:3] + b"\x01" + frame[4:], "damaged"),
        (lambda frame: frame[:56] + b"\xff" + frame[57:], "damaged"),
        (lambda frame: frame[:-3] + b"\x00" + frame[-2:], "damaged"),
    ],
    ids=["cut", "cut in the head", "shorter than a head", "empty", "magic", "version", "kind", "epoch", "body"],
)
async def test_a_value_that_cannot_be_read_is_a_counted_miss(
    fleet: Fleet, server: Server, damage: Callable[[bytes], bytes], counter: str
) -> None:
    a = await fleet.instance()
    await a.kept(a.entry(b"hello, world"))
    (key,) = fleet.keys("e")
    server.ask("SET", key, damage(server.ask("GET", key)), "PX", 60_000)
    claim = await a.claim()
    assert isinstance(claim, Lead)
    assert claim.base is None
    assert getattr(a.counters, counter) == 1
    assert a.counters.damaged + a.counters.unknown_version == 1
    await a.kept(a.entry(b"again"), claim)
    assert (await a.found()).rest.endswith(b"again")


async def test_any_byte_of_a_stored_value_may_be_altered_without_an_exception(fleet: Fleet, server: Server) -> None:
    a = await fleet.instance()
    await a.kept(a.entry(b"hello, world"))
    (key,) = fleet.keys("e")
    whole: bytes = server.ask("GET", key)
    for at in range(len(whole)):
        altered = whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]
        await a.link.command(key, "SET", key, altered, "PX", 60_000)
        assert isinstance(await a.claim(), Lead), at
        await until(lambda: not fleet.keys("l"))
    assert a.counters.damaged + a.counters.unknown_version == len(whole)
    assert a.counters.errors == 0


async def test_a_value_of_another_key_is_a_counted_miss(fleet: Fleet, server: Server) -> None:
    a = await fleet.instance()
    await a.kept(a.entry(key="http://h/other"))
    (other,) = fleet.keys("e")
    await a.kept(a.entry())
    (own,) = set(fleet.keys("e")) - {other}
    server.ask("COPY", other, own, "REPLACE")
    assert isinstance(await a.claim(), Lead)
    assert a.counters.damaged == 1


async def test_an_error_of_redis_is_counted_and_everybody_goes_alone(fleet: Fleet, server: Server) -> None:
    a = await fleet.instance()
    await a.kept(a.entry())
    (key,) = fleet.keys("e")
    server.ask("DEL", key)
    server.ask("HSET", key, "a", "b")
    assert isinstance(await a.claim(), Apart)
    assert a.counters.errors == 1


@pytest.mark.parametrize("reply", ["{1}", "'1'", "false"])
async def test_an_answer_to_storing_that_makes_no_sense_ends_a_lease_all_the_same(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reply: str
) -> None:
    a = await fleet.instance()
    lead = await a.lead()
    monkeypatch.setattr("proxy.edges.redis_store._FILL", Script(f"return {reply}"))
    await a.kept(a.entry(), lead)
    await until(lambda: len(a.background) == 1)  # it is not renewed any more
    assert a.counters.kept == 0
    assert not caplog.records


@pytest.mark.parametrize("key", ["value", "lease", "waiters"])
@pytest.mark.parametrize("words", [("HSET", "a", "b"), ("RPUSH", "a"), ("SET", "a"), ("SADD", "\n")])
async def test_a_key_of_another_type_holds_nobody_up(
    fleet: Fleet, server: Server, key: str, words: tuple[str, ...]
) -> None:
    a, b = await fleet.instances(2)
    name = a.key_of(key)
    server.ask(words[0], name, *words[1:])
    for instance in (a, b):
        claim = await asyncio.wait_for(instance.claim(within=0.1), SOON)
        if isinstance(claim, Lead) and claim.lease.take():
            await instance.kept(instance.entry(), claim)
    await asyncio.wait_for(a.claim(within=0.1), SOON)


FRAMES: Final = st.builds(
    sealed,
    st.lists(st.floats() | st.sampled_from(NUMBERS), min_size=8, max_size=8) | st.just(NUMBERS),
    st.builds(lambda at, value: [*TERMS[:at], value, *TERMS[at + 1 :]], st.integers(0, 12), JSON).map(paid)
    | JSON.map(orjson.dumps)
    | st.binary(max_size=80),
    epoch=st.just(b"e1") | st.binary(max_size=255),
    flags=st.integers(0, 255),
)
LEASES: Final = st.builds(
    lambda holder, epoch, n: b"%b %b %b" % (holder, epoch, n),
    st.binary(max_size=9) | st.just(b"t"),
    st.binary(max_size=9) | st.just(b"e1"),
    st.binary(max_size=9) | st.integers().map(lambda n: b"%d" % n),
)


def test_whatever_redis_holds_a_claim_comes_back_in_time(server: Server) -> None:
    async def come_back(fleet: Fleet, instance: Instance, value: bytes, lease: bytes, waiter: bytes) -> None:
        names = [instance.key_of(key) for key in ("value", "lease", "waiters")]
        fleet.server.ask("SET", names[0], value, "PX", 60_000)
        fleet.server.ask("SET", names[1], lease, "PX", 60_000)
        fleet.server.ask("SADD", names[2], waiter)
        for _ in range(2):
            claim = await asyncio.wait_for(instance.claim(within=0.02), SOON)
            if isinstance(claim, Lead) and claim.lease.take():
                await asyncio.wait_for(instance.kept(instance.entry(), claim), SOON)
        fleet.server.ask("DEL", *names)

    with asyncio.Runner() as runner:

        async def made() -> tuple[Fleet, Instance]:
            fleet = Fleet(server)
            return fleet, await fleet.instance()

        fleet, instance = runner.run(made())

        @settings(max_examples=150, deadline=None)
        @given(
            FRAMES | st.binary(max_size=200),
            LEASES | st.binary(max_size=40) | st.binary(max_size=9).map(lambda reason: b"!" + reason),
            st.binary(max_size=20),
        )
        def holds(value: bytes, lease: bytes, waiter: bytes) -> None:
            runner.run(come_back(fleet, instance, value, lease, waiter))

        try:
            holds()
        finally:
            runner.run(fleet.close())
