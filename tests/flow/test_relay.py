"""Coalescing, seen from outside: who shares whose answer, and who never does."""

from dataclasses import replace

import pytest

from proxy.rules.message import Reason
from proxy.rules.quota import GateRule
from tests.flow.kit import ETAG, FRESH, PLAIN, STALEABLE, FakeClient, World

MINE = "Cache-Control: max-age=60, stale-if-error=60"
OPERATED = replace(PLAIN, default_ttl=60.0)


def _bodies(clients: list[FakeClient]) -> list[bytes]:
    assert all(client.done for client in clients)
    return [client.got for client in clients]


# -- what may be shared


async def test_many_at_once_are_one_fetch_and_all_get_it() -> None:
    async with World() as w:
        clients = [w.ask() for _ in range(20)]
        await w.idle()
        assert len(w.calls) == 1
        w.last.reply(FRESH, body=b"one")
        await w.idle()
        assert _bodies(clients) == [b"one"] * 20
        assert "stored" in clients[0].how
        assert "collapsed" not in clients[0].how
        assert all("collapsed" in client.how for client in clients[1:])


async def test_who_comes_while_the_body_is_on_its_way_gets_it_from_its_first_byte() -> None:
    async with World() as w:
        first = w.ask()
        await w.idle()
        w.last.answer(FRESH)
        w.last.send(b"ab", b"cd")
        await w.idle()
        late = w.ask()
        await w.idle()
        assert (first.got, late.got) == (b"abcd", b"abcd")
        w.last.end(b"ef")
        await w.idle()
        assert _bodies([first, late]) == [b"abcdef"] * 2
        assert len(w.calls) == 1


async def test_followers_read_at_their_own_pace_and_nobody_waits_for_the_slow() -> None:
    async with World() as w:
        clients = [w.ask() for _ in range(3)]
        clients[0].refuse_to_read()  # the leader, of all
        clients[1].refuse_to_read()
        await w.idle()
        w.last.answer(FRESH)
        for number in range(10):
            w.last.send(b"%d" % number * 1000)
        w.last.end()
        await w.idle()
        assert clients[2].done
        assert w.stored() is not None
        assert clients[0].got == clients[1].got == b""
        clients[1].read()
        await w.idle()
        clients[0].read()
        await w.idle()
        assert len(set(_bodies(clients))) == 1
        assert len(clients[0].got) == 10_000


async def test_the_leader_leaves_before_the_head_and_nobody_notices() -> None:
    async with World() as w:
        leader, follower = w.ask(), w.ask()
        await w.idle()
        leader.leave()
        await w.idle()
        w.last.reply(FRESH, body=b"one")
        await w.idle()
        assert follower.got == b"one"
        assert w.stored() is not None
        assert len(w.calls) == 1


@pytest.mark.parametrize("way", [FakeClient.leave, FakeClient.vanish])
async def test_the_leader_leaves_in_mid_body_and_nobody_notices(way: object) -> None:
    async with World() as w:
        leader, follower = w.ask(), w.ask()
        await w.idle()
        w.last.answer(FRESH)
        w.last.send(b"a")
        await w.idle()
        leader.leave() if way is FakeClient.leave else leader.vanish()
        w.last.end(b"b")
        await w.idle()
        assert not leader.done
        assert follower.got == b"ab"
        assert w.stored() is not None


@pytest.mark.parametrize("when", ["before the head", "in mid-body"])
async def test_all_leave_and_what_can_be_stored_still_is(when: str) -> None:
    async with World() as w:
        clients = [w.ask(), w.ask()]
        await w.idle()
        if when == "in mid-body":
            w.last.answer(FRESH)
            w.last.send(b"a")
            await w.idle()
        for client in clients:
            client.leave()
        await w.idle()
        if when == "before the head":
            w.last.answer(FRESH)
            w.last.send(b"a")
        w.last.end(b"b")
        await w.idle()
        stored = w.stored()
        assert stored is not None
        assert stored.body == b"ab"


async def test_all_leave_and_what_cannot_be_stored_is_aborted_at_once() -> None:
    async with World() as w:
        client = w.ask()
        await w.idle()
        w.last.answer("Cache-Control: no-store")
        w.last.send(b"a")
        await w.idle()
        assert client.got == b"a"
        client.leave()
        await w.idle()
        assert w.last.closed == 1
        assert len(w.background) == 0


async def test_all_left_before_a_head_that_cannot_be_stored_and_it_is_aborted_without_waiting_for_its_body() -> None:
    async with World() as w:
        client = w.ask()
        await w.idle()
        client.leave()
        await w.idle()
        w.last.answer("Cache-Control: no-store")
        await w.idle()
        assert w.last.closed == 1
        assert len(w.background) == 0


async def test_all_leave_a_shared_error_and_it_is_aborted() -> None:
    async with World() as w:
        clients = [w.ask(), w.ask()]
        await w.idle()
        w.last.answer(status=500)
        w.last.send(b"a")
        await w.idle()
        for client in clients:
            client.leave()
        await w.idle()
        assert w.last.closed == 1
        assert len(w.background) == 0


# -- what may not


UNSHAREABLE = {
    "no-store": ("Cache-Control: no-store",),
    "private": ("Cache-Control: private, max-age=60",),
    "set-cookie": (FRESH, "Set-Cookie: s=1"),
    "no freshness": (),
    "vary on everything": (FRESH, "Vary: *"),
}


@pytest.mark.parametrize("answer", UNSHAREABLE.values(), ids=UNSHAREABLE.keys())
async def test_an_answer_for_one_goes_to_one_and_the_rest_ask_all_at_once(answer: tuple[str, ...]) -> None:
    async with World() as w:
        clients = [w.ask() for _ in range(5)]
        await w.idle()
        assert len(w.calls) == 1
        w.calls[0].reply(*answer, body=b"0")
        await w.idle()
        assert clients[0].done
        assert len(w.calls) == 5, "nobody queues behind another"
        for number, up in enumerate(w.calls[1:], 1):
            up.reply(*answer, body=b"%d" % number)
        await w.idle()
        assert sorted(_bodies(clients)) == [b"0", b"1", b"2", b"3", b"4"]
        assert w.stored() is None


@pytest.mark.parametrize("who", ["Authorization: Basic x", "Cookie: a=b"])
@pytest.mark.parametrize("policy", [PLAIN, OPERATED], ids=["the upstream's word", "the operator's"])
async def test_what_says_who_asks_is_answered_for_each_alone(who: str, policy: object) -> None:
    assert policy in (PLAIN, OPERATED)
    # A Cookie alone does not keep what the upstream itself calls fresh from being shared; no word at all does.
    answer = (FRESH,) if who.startswith("Authorization") and policy is PLAIN else ("Last-Modified: x",)
    async with World(PLAIN if policy is PLAIN else OPERATED) as w:
        clients = [w.ask(who) for _ in range(4)]
        await w.idle()
        w.calls[0].reply(*answer, body=b"0")
        await w.idle()
        assert len(w.calls) == 4
        for number, up in enumerate(w.calls):
            if up.waited_for:
                up.reply(*answer, body=b"%d" % number)
        await w.idle()
        assert len(set(_bodies(clients))) == 4
        assert w.stored() is None


async def test_under_an_operators_ttl_who_says_who_asks_does_not_wait_at_all() -> None:
    async with World(OPERATED) as w:
        clients = [w.ask("Cookie: a=b") for _ in range(4)]
        await w.idle()
        assert len(w.calls) == 4
        for up in w.calls:
            up.reply(body=b"x")
        await w.idle()
        assert all("bypass" in client.how for client in clients)
        assert w.stored() is None


async def test_requests_with_and_without_credentials_never_wait_for_each_other() -> None:
    async with World() as w:
        with_, without = w.ask("Cookie: a=b"), w.ask()
        await w.idle()
        assert len(w.calls) == 2
        assert "cookie" in w.calls[0].sent
        assert "cookie" not in w.calls[1].sent
        w.calls[0].reply(FRESH, body=b"with")
        w.calls[1].reply(FRESH, body=b"without")
        await w.idle()
        assert (with_.got, without.got) == (b"with", b"without")


@pytest.mark.parametrize(
    "secret", [("Set-Cookie: s=1",), ("Cache-Control: private",), ("Cache-Control: no-store",)], ids=lambda s: s[0]
)
@pytest.mark.parametrize("who", [(), ("Cookie: a=b",)], ids=["anonymous", "with cookies"])
async def test_a_304_for_one_goes_to_one(secret: tuple[str, ...], who: tuple[str, ...]) -> None:
    async with World() as w:
        await w.store(FRESH, ETAG)
        w.clock.at += 61
        leader, follower = w.ask(*who), w.ask(*who)
        await w.idle()
        w.last.reply("Cache-Control: max-age=60", "X-Mine: 1", *secret, status=304)
        await w.idle()
        assert leader.got == b"old"
        assert leader.fields["x-mine"] == "1"
        for up in w.calls:
            if up.waited_for:
                up.reply(FRESH, body=b"new")
        await w.idle()
        assert follower.got == b"new"
        assert "x-mine" not in follower.fields


# -- errors


@pytest.mark.parametrize(
    ("reason", "status"),
    [(Reason.CONNECT, 502), (Reason.TIMEOUT, 504), (Reason.CONNECT_TIMEOUT, 504), (Reason.DISCONNECTED, 502)],
)
async def test_no_answer_reaches_all_who_wait_once(reason: Reason, status: int) -> None:
    async with World() as w:
        clients = [w.ask() for _ in range(5)]
        await w.idle()
        w.last.fail(reason)
        await w.idle()
        assert [client.status for client in clients] == [status] * 5
        assert len(w.calls) == 1
        assert w.stored() is None
        again = w.ask()
        await w.idle()
        assert len(w.calls) == 2, "and is not stored"
        w.last.reply(FRESH)
        await w.idle()
        assert again.status == 200


async def test_an_error_of_the_upstreams_reaches_all_who_wait_body_and_all_and_is_not_stored() -> None:
    async with World() as w:
        clients = [w.ask() for _ in range(5)]
        await w.idle()
        w.last.reply(status=500, body=b"broken")
        await w.idle()
        assert _bodies(clients) == [b"broken"] * 5
        assert [client.status for client in clients] == [500] * 5
        assert len(w.calls) == 1
        assert w.stored() is None


@pytest.mark.parametrize(
    ("answer", "who"),
    [
        pytest.param(("Set-Cookie: s=1",), (), id="with Set-Cookie"),
        pytest.param(("Cache-Control: private",), (), id="private"),
        pytest.param(("Vary: X",), (), id="with Vary"),
        pytest.param((), ("Cookie: a=b",), id="to a request with credentials"),
    ],
)
async def test_an_error_for_one_shows_the_others_its_status_and_not_its_body(
    answer: tuple[str, ...], who: tuple[str, ...]
) -> None:
    async with World() as w:
        clients = [w.ask(*who) for _ in range(3)]
        await w.idle()
        w.last.reply(*answer, status=503, body=b"dear Alice")
        await w.idle()
        assert [client.status for client in clients] == [503] * 3
        assert clients[0].got == b"dear Alice"
        assert all(b"Alice" not in client.got and "set-cookie" not in client.fields for client in clients[1:])
        assert len(w.calls) == 1


async def test_a_body_cut_short_aborts_all_who_read_it_and_is_not_stored() -> None:
    async with World() as w:
        clients = [w.ask(), w.ask()]
        await w.idle()
        w.last.answer(FRESH, length=5)
        w.last.send(b"ab")
        w.last.cut()
        await w.idle()
        assert all(client.aborted and not client.done for client in clients)
        assert w.stored() is None
        assert len(w.calls) == 1


async def test_a_body_cut_before_its_first_byte_can_still_become_the_stale_answer() -> None:
    async with World() as w:
        await w.store(STALEABLE.replace("stale-while-revalidate=60, ", ""))
        w.clock.at += 61
        clients = [w.ask(), w.ask()]
        await w.idle()
        w.last.answer(FRESH, length=5)
        w.last.cut()
        await w.idle()
        assert _bodies(clients) == [b"old", b"old"]
        assert all("stale-if-error" in client.how for client in clients)


async def test_a_body_cut_after_its_first_byte_can_not() -> None:
    async with World() as w:
        await w.store(MINE)
        w.clock.at += 61
        client = w.ask()
        await w.idle()
        w.last.answer(FRESH, length=5)
        w.last.send(b"ne")
        w.last.cut()
        await w.idle()
        assert client.aborted
        assert client.got == b"ne"
        stored = w.stored()
        assert stored is not None
        assert stored.body == b"old"


# -- what is too large to be stored, of which only a part is wanted

LARGE = replace(PLAIN, max_object_size=1000)
PART = "Range: bytes=0-1"
BULK = b"0123456789" * 200


async def _partly(w: World, client: FakeClient) -> None:
    """The answer to the range, after the whole has proved too large."""
    w.last.reply(FRESH, "Content-Range: bytes 0-1/2000", status=206, body=BULK[:2])
    await w.idle()
    assert (client.status, client.got) == (206, BULK[:2])


@pytest.mark.parametrize("gate", ["gate", "upstream_gate"])
async def test_a_part_of_something_large_needs_one_place_only(gate: str) -> None:
    async with World(LARGE, **{gate: GateRule(1, 0)}) as w:  # type: ignore[arg-type]
        client = w.ask(PART)
        await w.idle()
        w.last.reply(FRESH, body=BULK)
        await w.idle()
        assert [call.sent.get("range") for call in w.calls] == [None, "bytes=0-1"]
        await _partly(w, client)


async def test_the_whole_of_something_large_is_not_fetched_again_for_a_part_of_it_whoever_asks() -> None:
    async with World(replace(LARGE, default_ttl=60.0)) as w:
        first = w.ask(PART, "Cookie: a=mine")
        await w.idle()
        w.last.reply(body=BULK)
        await w.idle()
        await _partly(w, first)
        second = w.ask(PART, "Cookie: a=yours")
        await w.idle()
        assert [call.sent.get("range") for call in w.calls] == [None, "bytes=0-1", "bytes=0-1"]
        await _partly(w, second)
