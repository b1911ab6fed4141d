"""Flights: which request takes which, what they hold, and what is remembered of them."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.flow.flights import UNSHAREABLE_SECONDS, WINDOW, Failed, Flight, FlightMemory, Reader, Streaming
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.ports import OriginError
from proxy.rules.message import Head, Reason
from tests.flow.kit import ETAG, FRESH, PLAIN, URL, World

SMALL = replace(PLAIN, max_object_size=1000)
VARY = (FRESH, "Vary: Accept-Language")
PRIVATE = "Cache-Control: private"


async def _answer_all(w: World, *written: str, body: bytes = b"x", status: int = 200) -> None:
    await w.idle()
    for up in w.calls:
        if up.waited_for:
            up.reply(*written, body=body, status=status)
    await w.idle()


# -- one flight for each variant


async def test_each_variant_is_one_flight_once_the_first_answer_has_told_them_apart() -> None:
    async with World() as w:
        clients = {lang: [w.ask(f"Accept-Language: {lang}") for _ in range(5)] for lang in ("en", "fr", "de")}
        await w.idle()
        assert len(w.calls) == 1
        w.last.reply(*VARY, body=b"en")
        await w.idle()
        assert len(w.calls) == 3
        assert all(client.got == b"en" for client in clients["en"])
        for up in w.calls[1:]:
            up.reply(*VARY, body=up.sent["accept-language"].encode())
        await w.idle()
        assert {lang: {client.got for client in of} for lang, of in clients.items()} == {
            lang: {lang.encode()} for lang in ("en", "fr", "de")
        }
        assert len(w.calls) == 3


async def test_with_a_variant_stored_the_others_do_not_wait_for_each_other() -> None:
    async with World() as w:
        await w.store(*VARY, asking=("Accept-Language: en",))
        clients = [w.ask("Accept-Language: fr"), w.ask("Accept-Language: de"), w.ask("Accept-Language: fr")]
        await w.idle()
        assert [up.sent["accept-language"] for up in w.calls[1:]] == ["fr", "de"]
        await _answer_all(w, *VARY)
        assert all(client.done and "vary-miss" in client.how for client in clients)


async def test_a_variant_whose_body_is_still_on_its_way_is_no_answer_to_another() -> None:
    async with World() as w:
        english = w.ask("Accept-Language: en")
        await w.idle()
        w.last.answer(*VARY)
        w.last.send(b"he")
        await w.idle()
        french = w.ask("Accept-Language: fr")
        await w.idle()
        assert french.status is None
        assert len(w.calls) == 2
        w.calls[1].reply(*VARY, body=b"bonjour")
        w.calls[0].end(b"llo")
        await w.idle()
        assert (english.got, french.got) == (b"hello", b"bonjour")


# -- the memory of what is unshareable


async def _learn(w: World, *answer: str, status: int = 200) -> None:
    client = w.ask()
    await w.idle()
    w.last.reply(*answer, status=status)
    await w.idle()
    assert client.done


async def test_a_key_that_proved_unshareable_has_nobody_waiting_for_a_while() -> None:
    async with World() as w:
        await _learn(w, PRIVATE)
        clients = [w.ask() for _ in range(3)]
        await w.idle()
        assert len(w.calls) == 1 + 3
        await _answer_all(w, PRIVATE)
        assert all(client.done for client in clients)


async def test_when_that_is_over_one_finds_out_while_the_rest_still_pass() -> None:
    async with World() as w:
        await _learn(w, PRIVATE)
        w.clock.at += UNSHAREABLE_SECONDS
        clients = [w.ask() for _ in range(3)]
        await w.idle()
        assert len(w.calls) == 1 + 3, "nobody waits for the probe"
        await _answer_all(w, FRESH, body=b"shared")
        assert all(client.done for client in clients)
        assert w.stored() is not None, "the probe's"
        w.clock.at += 61
        for _ in range(3):
            w.ask()
        await w.idle()
        assert len(w.calls) == 1 + 3 + 1, "and from then on they share"
        await _answer_all(w, FRESH)


async def test_a_probe_that_finds_the_same_leaves_it_remembered() -> None:
    async with World() as w:
        await _learn(w, PRIVATE)
        w.clock.at += UNSHAREABLE_SECONDS
        await _learn(w, PRIVATE)
        for _ in range(3):
            w.ask()
        await w.idle()
        assert len(w.calls) == 2 + 3
        await _answer_all(w, PRIVATE)


@pytest.mark.parametrize("ends", ["a request of its own kind", "an error", "no answer", "a cut", "an abort"])
async def test_what_proves_nothing_about_the_key_is_not_remembered(ends: str) -> None:
    async with World() as w:
        client = w.ask(*(("Cache-Control: no-store",) if ends == "a request of its own kind" else ()))
        await w.idle()
        match ends:
            case "an error":
                w.last.reply("Cache-Control: no-store", status=500)
            case "no answer":
                w.last.fail()
            case "a cut":
                w.last.answer(FRESH)
                w.last.cut()
            case "an abort":
                client.leave()
                await w.idle()
                w.last.fail()
            case _:
                w.last.reply(PRIVATE)
        await w.idle()
        for _ in range(3):
            w.ask()
        await w.idle()
        assert len(w.calls) == 2
        await _answer_all(w, FRESH)


async def test_credentials_of_some_are_not_held_against_the_rest() -> None:
    async with World() as w:
        client = w.ask("Authorization: Basic x")
        await w.idle()
        w.last.reply(FRESH)  # not `public`: for this one alone
        await w.idle()
        assert client.done
        for _ in range(3):
            w.ask()
        await w.idle()
        assert len(w.calls) == 2
        await _answer_all(w, FRESH)


# -- requests that want it new


async def test_no_cache_joins_no_flight_from_before_it_but_those_that_came_with_it() -> None:
    async with World() as w:
        old = w.ask()
        await w.idle()
        w.clock.at += 1
        clients = [w.ask("Cache-Control: no-cache") for _ in range(3)]
        await w.idle()
        assert len(w.calls) == 2
        w.calls[0].reply(FRESH, body=b"old")
        await w.idle()
        assert old.done
        assert not any(client.done for client in clients)
        w.calls[1].reply(FRESH, body=b"new")
        await w.idle()
        assert [client.got for client in clients] == [b"new"] * 3


async def test_a_validation_from_before_a_no_cache_request_does_not_count_for_it() -> None:
    async with World() as w:
        await w.store(FRESH, ETAG)
        first = w.ask("Cache-Control: no-cache")
        await w.idle()
        w.clock.at += 1
        second = w.ask("Cache-Control: no-cache")
        await w.idle()
        assert len(w.calls) == 3
        w.calls[1].reply(FRESH, status=304)
        await w.idle()
        assert first.got == b"old"
        assert not second.done
        w.calls[2].reply(FRESH, body=b"new")
        await w.idle()
        assert second.got == b"new"


# -- conditions, ranges, HEAD: applied to the one answer


@pytest.mark.parametrize(
    ("asking", "status", "got"),
    [
        (('If-None-Match: "1"',), 304, b""),
        (('If-None-Match: "2"',), 200, b"0123456789"),
        (("If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",), 304, b""),
        (("Range: bytes=2-4",), 206, b"234"),
        (("Range: bytes=-3",), 206, b"789"),
        (("Range: bytes=99-",), 416, b""),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
async def test_the_fetch_is_a_plain_get_and_each_gets_of_it_what_it_asked_for(
    asking: Sequence[str], status: int, got: bytes
) -> None:
    async with World() as w:
        for leading in (True, False):
            clients = [w.ask(*asking), w.ask()] if leading else [w.ask(), w.ask(*asking)]
            await w.idle()
            assert w.last.sent.keys().isdisjoint({"range", "if-none-match", "if-modified-since"})
            w.last.answer(FRESH, ETAG, "Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT", length=10)
            w.last.send(b"0123", b"4567")
            w.last.end(b"89")
            await w.idle()
            special, plain = clients if leading else reversed(clients)
            assert (special.status, special.got) == (status, got)
            assert (plain.status, plain.got) == (200, b"0123456789")
            stored = w.stored()
            assert stored is not None
            assert stored.body == b"0123456789"
            w.purge()
        assert len(w.calls) == 2


async def test_a_range_of_what_is_too_large_to_keep_is_asked_for_alone() -> None:
    async with World(SMALL) as w:
        client = w.ask("Range: bytes=0-4")
        await w.idle()
        w.last.answer(FRESH, length=5000)
        await w.idle()
        assert len(w.calls) == 2
        assert w.calls[0].closed == 1
        assert w.last.sent["range"] == "bytes=0-4"
        w.last.reply("Content-Range: bytes 0-4/5000", body=b"01234", status=206)
        await w.idle()
        assert (client.status, client.got) == (206, b"01234")


async def test_head_neither_leads_nor_joins() -> None:
    async with World() as w:
        get, head = w.ask(), w.ask(method="HEAD")
        await w.idle()
        assert sorted(up.call.method for up in w.calls) == ["GET", "HEAD"]
        await _answer_all(w, FRESH)
        assert get.done
        assert head.done


# -- what flights hold in memory


async def test_a_body_that_outgrows_what_may_be_kept_reaches_its_readers_whole_and_is_not_stored() -> None:
    async with World(SMALL) as w:
        clients = [w.ask(), w.ask()]
        await w.idle()
        w.last.answer(FRESH)
        for number in range(8):
            w.last.send(b"%d" % number * 400)
            await w.idle()
        w.last.end()
        await w.idle()
        assert all(client.got == b"".join(b"%d" % n * 400 for n in range(8)) for client in clients)
        assert w.stored() is None
        w.ask(), w.ask()
        await w.idle()
        assert len(w.calls) == 3, "and the key is remembered"
        await _answer_all(w, FRESH)


async def test_who_comes_when_the_first_bytes_are_gone_goes_alone() -> None:
    async with World(SMALL) as w:
        first = w.ask()
        await w.idle()
        w.last.answer(FRESH)
        w.last.send(b"a" * 900, b"b" * 900)
        await w.idle()
        late = w.ask()
        await w.idle()
        assert len(w.calls) == 2
        w.calls[0].end(b"c")
        w.calls[1].reply(FRESH, body=b"own")
        await w.idle()
        assert (len(first.got), late.got) == (1801, b"own")


async def test_a_body_that_outgrows_what_may_be_kept_outdates_what_is_stored() -> None:
    async with World(SMALL) as w:
        await w.store(FRESH)
        client = w.ask("Cache-Control: no-cache")
        await w.idle()
        w.last.answer(FRESH)
        w.last.send(b"x" * 900)
        w.last.end(b"x" * 900)
        await w.idle()
        assert client.done
        assert w.stored() is None


@pytest.mark.parametrize("answer", [("Cache-Control: no-store",), (FRESH,)], ids=["unstorable", "flights full"])
async def test_behind_a_slow_reader_the_fetch_stops_at_the_window(answer: tuple[str, ...]) -> None:
    async with World(flight_memory=1000) as w:
        client = w.ask()
        client.refuse_to_read()
        await w.idle()
        w.last.answer(*answer)
        w.last.send(*[b"x" * 50_000 for _ in range(40)])
        w.last.end()
        await w.idle()
        assert w.last.taken <= WINDOW + 2 * 50_000, "what waits, what went beyond, what the reader has in hand"
        assert w.last.closed == 0
        client.read()
        await w.idle()
        assert len(client.got) == 2_000_000
        assert w.stored() is None


async def test_all_flights_together_hold_no_more_than_their_limit_and_a_window_each() -> None:
    async with World(flight_memory=1_000_000) as w:
        clients = [w.ask(target=f"/{number}") for number in range(10)]
        for client in clients:
            client.refuse_to_read()
        await w.idle()
        for up in w.calls:
            up.answer(FRESH)
            up.send(*[b"x" * 100_000 for _ in range(12)])
            await w.idle()
        held = sum(up.taken for up in w.calls)  # nobody has read a byte
        for client in clients:
            client.leave()
        assert held <= 1_000_000 + 10 * (WINDOW + 2 * 100_000)


# -- nobody waits for ever


@pytest.mark.parametrize("full", ["too large", "flights full"])
async def test_a_follower_whose_leader_left_is_not_forgotten_when_the_body_comes_with_the_head(full: str) -> None:
    async with World(SMALL, flight_memory=1000 if full == "flights full" else 1 << 20) as w:
        leader, follower = w.ask(), w.ask()
        await w.idle()
        leader.leave()
        await w.idle()
        w.last.answer(FRESH)
        w.last.send(b"x" * 1500)
        w.last.end(b"y")
        await _answer_all(w, FRESH, body=b"x" * 1500 + b"y")
        assert follower.over
        assert follower.aborted or len(follower.got) == 1501


async def test_a_follower_is_not_forgotten_when_the_leader_leaves_just_as_both_are_woken() -> None:
    async with World(SMALL) as w:
        leader, follower = w.ask(), w.ask()
        await w.idle()
        w.last.answer(FRESH)
        w.last.send(b"x" * 1500)
        await w.idle(passes=1)
        leader.leave()
        await w.idle()
        w.calls[0].end(b"y")
        await _answer_all(w, FRESH, body=b"x" * 1500 + b"y")
        assert follower.over
        assert follower.aborted or len(follower.got) == 1501


async def test_a_bug_in_mid_body_ends_what_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World() as w:
        clients = [w.ask(), w.ask()]
        await w.idle()
        monkeypatch.setattr(w.memory, "put", lambda _: 1 / 0)
        w.last.reply(FRESH, body=b"x")
        await w.idle()
        over = [client.over for client in clients]
        assert [record.getMessage() for record in w.errors.seen] == ["task flight failed"]
        w.errors.seen.clear()
        for client in clients:
            client.leave()
        assert over == [True, True]


# -- one flight by itself


def _flight(memory: FlightMemory) -> Flight:
    return Flight(URL, "example.com", (), InvalidationLog(), memory)


async def test_all_who_wait_hear_of_one_arrival() -> None:
    flight = _flight(FlightMemory(100))
    waiting = [asyncio.create_task(flight.arrived()) for _ in range(3)]
    await asyncio.sleep(0)
    arrival = Failed(Reason.CONNECT)
    flight.settle(arrival)
    assert await asyncio.gather(*waiting, flight.arrived()) == [arrival] * 4


async def test_a_broken_body_is_read_to_where_it_broke() -> None:
    memory = FlightMemory(100)
    flight = _flight(memory)
    flight.settle(Streaming(Head(200, "OK", (), {}), None, close=False, draft=None, reason=None, shared=True))
    reader = flight.reader()
    assert reader is not None
    assert await flight.push(b"abc", 100)
    flight.end(Reason.ABORTED)
    assert await anext(reader) == b"abc"
    with pytest.raises(OriginError, match="aborted"):
        await anext(reader)
    assert memory.used == 3, "held for whoever still reads"
    reader.close()
    assert memory.used == 0


def _unkept(flight: Flight, count: int) -> list[Reader]:
    """Readers of a body that is for them alone."""
    readers = [flight.reader() for _ in range(count)]
    flight.settle(Streaming(Head(200, "OK", (), {}), None, close=False, draft=None, reason=None, shared=False))
    return [reader for reader in readers if reader is not None]


@pytest.mark.parametrize("slow", [0, 1])
async def test_however_many_read_they_are_looked_through_but_twice_for_each_chunk(slow: int) -> None:
    class Counting(set[Reader]):
        looks = 0

        def __iter__(self) -> Iterator[Reader]:
            self.looks += 1
            return super().__iter__()

    flight = _flight(FlightMemory(100))
    flight._readers = counting = Counting()  # noqa: SLF001 - how often nobody else can tell
    readers = _unkept(flight, 50)
    for _ in range(10):
        await flight.push(b"x", 100)
        for reader in readers[slow:]:
            await anext(reader)
        assert slow or flight.chunks == []
    for reader in readers[:slow]:
        assert [await anext(reader) for _ in range(10)] == [b"x"] * 10
    assert flight.chunks == []
    assert counting.looks <= 2 * (10 + 1), "once more at the first, when nobody has counted yet"


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40), st.integers(0, 5))
def test_what_nobody_needs_any_more_is_gone_and_nothing_else(steps: list[tuple[int, bool]], kept_for: int) -> None:
    async def run() -> None:
        flight = _flight(FlightMemory(1000))
        flight.task = asyncio.ensure_future(asyncio.sleep(0))
        readers = [reader for _ in range(4) if (reader := flight.reader()) is not None]
        flight.settle(Streaming(Head(200, "OK", (), {}), None, close=False, draft=None, reason=None, shared=True))
        pushed, there = 0, set(readers)
        for which, leaves in steps:
            while any(reader.at == pushed for reader in there):
                await flight.push(b"%d" % pushed, kept_for)  # which is outgrown at some chunk
                pushed += 1
            reader = readers[which]
            if reader not in there:
                continue
            if leaves and len(there) > 1:
                reader.close()
                there.discard(reader)
            else:
                assert await anext(reader) == b"%d" % (reader.at - 1)
            oldest = 0 if flight.kept else min(reader.at for reader in there)
            assert flight.chunks == [b"%d" % number for number in range(oldest, pushed)]
        for reader in there:
            reader.close()
        await asyncio.wait([flight.task])

    asyncio.run(run())


def test_room_is_claimed_whole_or_not_at_all() -> None:
    memory = FlightMemory(10)
    assert [memory.take(6), memory.take(5), memory.take(4)] == [True, False, True]
    assert memory.used == 10


async def test_a_failure_is_told_for_a_moment() -> None:
    async with World() as w:
        w.flights.failed.add("shelf", w.clock.at + 3, Reason.TIMEOUT)
        assert w.flights.failed_lately("shelf", w.clock.at + 2.9) is Reason.TIMEOUT
        assert w.flights.failed_lately("shelf", w.clock.at + 3) is None
        assert w.flights.failed_lately("other", w.clock.at) is None
