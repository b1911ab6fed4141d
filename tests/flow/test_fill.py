"""What fetches leave behind: refreshes, bridges over failures, and what other methods do to what is stored."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import pytest

from proxy.flow.flights import FAILED_SECONDS
from proxy.flow.ports import Call, ClientError
from proxy.rules.message import Reason
from proxy.rules.quota import GateRule
from tests.flow.kit import ETAG, FRESH, HOST, PLAIN, STALEABLE, FakeClient, Up, World, request

SIE: str = "Cache-Control: max-age=60, stale-if-error=60"
SWR: str = "Cache-Control: max-age=60, stale-while-revalidate=60"


def _body(w: World) -> bytes | None:
    stored = w.stored()
    return None if stored is None else stored.body


# -- stale-while-revalidate


async def test_many_stale_hits_wait_for_nothing_and_cause_one_refresh() -> None:
    async with World() as w:
        await w.store(SWR, ETAG)
        w.clock.at += 61
        clients = [w.ask() for _ in range(20)]
        assert all(client.got == b"old" for client in clients), "answered before anything is asked"
        assert clients[0].how == "readthrough; hit; ttl=-1"
        await w.idle()
        assert len(w.calls) == 2
        assert w.last.sent["if-none-match"] == '"1"'
        w.last.reply(SWR, body=b"new")
        await w.idle()
        assert _body(w) == b"new"
        assert w.ask().got == b"new"
        assert len(w.calls) == 2


async def test_hits_while_the_refresh_takes_in_its_body_cause_no_other() -> None:
    async with World() as w:
        await w.store(SWR)
        w.clock.at += 61
        w.ask()
        await w.idle()
        w.last.answer(SWR)
        w.last.send(b"n")
        await w.idle()
        assert w.ask().got == b"old"
        await w.idle()
        assert len(w.calls) == 2
        w.last.end(b"ew")
        await w.idle()
        assert _body(w) == b"new"


async def test_a_refresh_that_is_told_304_renews_what_is_stored() -> None:
    async with World() as w:
        await w.store(SWR, ETAG)
        w.clock.at += 61
        w.ask()
        await w.idle()
        w.last.reply(SWR, status=304)
        await w.idle()
        client = w.ask()
        assert (client.got, client.how) == (b"old", "readthrough; hit; ttl=60")


async def test_a_head_hit_refreshes_by_a_get() -> None:
    async with World() as w:
        await w.store(SWR)
        w.clock.at += 61
        w.ask(method="HEAD")
        await w.idle()
        assert w.last.call.method == "GET"
        w.last.reply(SWR, body=b"new")
        await w.idle()
        assert _body(w) == b"new"


FAILURES = ["no connection", "a timeout", "500", "503", "520", "a body cut short"]


async def _fail(w: World, how: str) -> None:
    match how:
        case "no connection":
            w.last.fail(Reason.CONNECT)
        case "a timeout":
            w.last.fail(Reason.TIMEOUT)
        case "a body cut short":
            w.last.answer(SWR, length=5)
            w.last.send(b"ne")
            w.last.cut()
        case status:
            w.last.reply(status=int(status), body=b"broken")
    await w.idle()


@pytest.mark.parametrize("how", FAILURES)
async def test_a_refresh_that_fails_leaves_the_good_entry_and_is_not_tried_again_at_once(how: str) -> None:
    async with World() as w:
        await w.store(SWR)
        w.clock.at += 61
        w.ask()
        await w.idle()
        await _fail(w, how)
        w.clock.at += FAILED_SECONDS - 0.1
        assert w.ask().got == b"old"
        await w.idle()
        assert len(w.calls) == 2
        w.clock.at += 0.2
        assert w.ask().got == b"old"
        await w.idle()
        assert len(w.calls) == 3
        w.last.reply(SWR, body=b"new")
        await w.idle()
        assert _body(w) == b"new"


@pytest.mark.parametrize(
    ("answer", "status"), [("Cache-Control: no-store", 200), ("Cache-Control: private", 200), ("X: y", 404)]
)
async def test_a_refresh_that_brings_what_cannot_be_stored_drops_the_old(answer: str, status: int) -> None:
    async with World() as w:
        await w.store(SWR)
        w.clock.at += 61
        w.ask()
        await w.idle()
        w.last.reply(answer, body=b"new", status=status)
        await w.idle()
        assert _body(w) is None


async def test_a_refresh_is_early_by_chance_where_the_operator_wants_it() -> None:
    async with World(replace(PLAIN, early_refresh=1.0)) as w:
        client = w.ask()
        await w.idle()
        w.clock.at += 10  # what the fetch takes
        w.last.reply(FRESH, body=b"old")
        await w.idle()
        assert client.done
        w.clock.at += 30
        assert w.ask().got == b"old"
        await w.idle()
        assert len(w.calls) == 1
        w.clock.chance = 0.001
        assert w.ask().got == b"old"
        await w.idle()
        assert len(w.calls) == 2
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert _body(w) == b"new"


# -- stale-if-error


@pytest.mark.parametrize("how", ["no connection", "a timeout", "500", "503"])
async def test_a_failure_is_bridged_and_then_at_once_for_a_few_seconds(how: str) -> None:
    async with World() as w:
        await w.store(SIE)
        w.clock.at += 61
        clients = [w.ask(), w.ask()]
        await w.idle()
        assert len(w.calls) == 2
        await _fail(w, how)
        assert [client.got for client in clients] == [b"old"] * 2
        assert all("fwd=stale" in client.how and "detail=stale-if-error" in client.how for client in clients)
        w.clock.at += FAILED_SECONDS - 0.1
        again = w.ask()
        assert again.got == b"old", "without a wait"
        assert "hit" in again.how
        assert len(w.calls) == 2
        w.clock.at += 0.2
        w.ask()
        await w.idle()
        assert len(w.calls) == 3
        w.last.reply(SIE, body=b"new")
        await w.idle()
        assert _body(w) == b"new"


@pytest.mark.parametrize("how", ["no connection", "500"])
async def test_when_the_window_is_over_the_failure_is_told(how: str) -> None:
    async with World() as w:
        await w.store(SIE)
        w.clock.at += 121
        client = w.ask()
        await w.idle()
        await _fail(w, how)
        assert client.status in (500, 502)


@pytest.mark.parametrize("word", ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=60"])
@pytest.mark.parametrize("how", ["no connection", "500"])
async def test_what_must_be_revalidated_is_never_answered_stale(word: str, how: str) -> None:
    generous = replace(PLAIN, stale_if_error=600.0, stale_while_revalidate=600.0)
    async with World(generous) as w:
        await w.store(f"Cache-Control: max-age=60, stale-if-error=600, {word}", ETAG)
        w.clock.at += 61
        client = w.ask()
        assert not client.done
        await w.idle()
        await _fail(w, how)
        assert client.status in (500, 502)
        assert w.ask().done is False, "nor in the moment after"
        await w.idle()
        w.last.reply(FRESH)


async def test_an_error_that_says_it_is_fresh_does_not_replace_what_bridges_it() -> None:
    async with World() as w:
        await w.store(SIE)
        w.clock.at += 61
        client = w.ask()
        await w.idle()
        w.last.reply(FRESH, status=503, body=b"broken")
        await w.idle()
        assert client.got == b"old"
        assert _body(w) == b"old"


async def test_a_window_for_no_answer_is_none_for_errors() -> None:
    async with World() as w:
        await w.store("Cache-Control: max-age=60, stale-while-revalidate=5")
        w.clock.at += 64.5
        w.ask()
        await w.idle()
        w.last.reply(status=503)
        await w.idle()
        w.clock.at += 1  # past the window, within the seconds after a failure
        client = w.ask()
        await w.idle()
        assert not client.done
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert client.got == b"new"


async def test_an_open_breaker_calls_nobody_and_stale_bridges_it() -> None:
    async with World(breaker=2) as w:
        await w.store(SIE)
        for target in ("/x", "/y"):
            w.ask(target=target)
            await w.idle()
            w.last.fail()
        await w.idle()
        w.clock.at += 4.9
        refused = w.ask(target="/z")
        await w.idle()
        assert refused.status == 503
        assert "breaker-open" in refused.how
        assert len(w.calls) == 3
        w.clock.at += 56.2
        assert w.breaker.admits(w.clock.at)  # the probe of somebody else
        w.breaker.failed(w.clock.at, probe=True)
        stale = w.ask()
        await w.idle()
        assert stale.got == b"old"
        assert len(w.calls) == 3
        w.clock.at += 5
        probe = w.ask()
        await w.idle()
        w.last.reply(SIE, body=b"new")
        await w.idle()
        assert probe.got == b"new"


async def test_a_client_that_leaves_counts_for_nothing_with_the_breaker() -> None:
    async with World(breaker=1) as w:
        asking = w.ask("Authorization: mine", method="HEAD")
        await w.idle()
        asking.leave()
        await w.idle()
        assert w.last.over
        assert w.breaker.admits(w.clock.at)


# -- unsafe methods: RFC 9111 section 4.4


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "MADE-UP"])
@pytest.mark.parametrize("status", [200, 201, 204, 303])
async def test_success_takes_the_url_out_before_the_head_goes_out(method: str, status: int) -> None:
    async with World() as w:
        await w.store(FRESH)
        client = w.ask(method=method)
        await w.idle()
        assert _body(w) == b"old", "not before it is known to have succeeded"
        seen: list[bytes | None] = []
        start = client.start

        def at_start(head: bytes, tail: bytes = b"\r\n", *, length: int | None, close: bool = False) -> None:
            seen.append(_body(w))
            start(head, tail, length=length, close=close)

        client.start = at_start  # type: ignore[method-assign]
        w.last.answer(status=status, length=0)
        w.last.end()
        await w.idle()
        assert client.status == status
        assert seen == [None]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("status", [400, 404, 500, 0])
async def test_failure_leaves_it(method: str, status: int) -> None:
    async with World() as w:
        await w.store(FRESH)
        w.ask(method=method)
        await w.idle()
        w.last.reply(status=status) if status else w.last.fail()
        await w.idle()
        assert _body(w) == b"old"


_MAYBE_DONE: Final = [Reason.TIMEOUT, Reason.DISCONNECTED, Reason.BAD_RESPONSE, Reason.ABORTED]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("reason", _MAYBE_DONE, ids=lambda reason: reason.value)
async def test_a_write_whose_answer_never_came_may_have_been_done_so_what_is_stored_is_validated(
    method: str, reason: Reason
) -> None:
    async with World() as w:
        await w.store(SIE, ETAG)
        await w.store(FRESH, target="/c")
        client = w.ask(method=method)
        await w.idle()
        w.last.fail(reason)
        await w.idle()
        assert client.status in (502, 504)
        assert w.ask(target="/c").how == "readthrough; hit; ttl=60"
        again = w.ask()
        await w.idle()
        assert w.last.sent["if-none-match"] == '"1"'
        w.last.fail(Reason.TIMEOUT)
        await w.idle()
        assert again.got == b"old", "it may bridge the outage that the write has met"


@pytest.mark.parametrize(
    ("status", "goes"), [(200, True), (204, True), (303, True), (401, False), (404, False), (500, False)]
)
async def test_a_write_goes_on_without_its_client_and_is_judged_by_its_answer(status: int, goes: bool) -> None:
    async with World(gate=GateRule(1, 0)) as w:
        await w.store(FRESH)
        client = w.ask(method="POST")
        await w.idle()
        client.leave()
        await w.idle()
        assert client.over
        assert _body(w) == b"old"
        busy = w.ask(target="/b")
        await w.idle()
        assert busy.status == 503, "it keeps its client's place"
        w.last.reply(status=status)
        await w.idle()
        assert (_body(w) is None) is goes
        assert w.gates is not None
        assert len(w.gates) == 0


async def test_a_write_whose_client_leaves_and_that_is_never_answered_makes_it_be_validated() -> None:
    async with World() as w:
        await w.store(FRESH)
        client = w.ask(method="POST")
        await w.idle()
        client.leave()
        await w.idle()
        w.last.fail(Reason.TIMEOUT)
        await w.idle()
        w.ask()
        await w.idle()
        assert [call.call.method for call in w.calls] == ["GET", "POST", "GET"]
        w.last.reply(FRESH)


async def test_a_write_that_meets_a_bug_of_ours_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    w = World()

    async def broken(_call: Call) -> Up:
        raise KeyError("a bug")

    monkeypatch.setattr(w.origin, "fetch", broken)
    client = w.ask(method="POST")
    await w.idle()
    assert client.task is not None
    with pytest.raises(RuntimeError, match="the write failed"):
        await client.task
    assert w.outcomes == [], "it is no client that left"


async def test_a_write_whose_body_breaks_off_was_none() -> None:
    class Breaking(FakeClient):
        async def body(self) -> AsyncIterator[bytes]:
            yield b"x"
            raise ClientError("the client left")

    async with World() as w:
        await w.store(FRESH)
        asked = w.exchange.read(request(method="POST", length=2))
        client = Breaking()
        w.clients.append(client)
        w.run(client, w.exchange.begin(asked, client))
        await w.idle()
        assert w.last.body == b"x"
        assert _body(w) == b"old"


async def test_a_fetch_that_a_write_without_an_answer_has_overtaken_is_not_stored() -> None:
    async with World() as w:
        w.ask()
        await w.idle()
        get = w.last
        w.ask(method="POST")
        await w.idle()
        w.last.fail(Reason.TIMEOUT)
        await w.idle()
        get.reply(FRESH, body=b"old")
        await w.idle()
        assert _body(w) is None


@pytest.mark.parametrize(
    "reason",
    [Reason.CONNECT, Reason.CONNECT_TIMEOUT, Reason.OVERLOADED],
    ids=lambda reason: reason.value,
)
async def test_a_write_that_was_never_sent_leaves_it(reason: Reason) -> None:
    async with World() as w:
        await w.store(FRESH)
        client = w.ask(method="POST")
        await w.idle()
        w.last.fail(reason)
        await w.idle()
        assert client.status in (502, 503, 504)
        assert _body(w) == b"old"


async def test_a_write_whose_client_leaves_while_it_waits_for_a_place_upstream_was_never_sent() -> None:
    async with World(upstream_gate=GateRule(1, 1, 60.0)) as w:
        await w.store(FRESH)
        w.ask(target="/b")
        await w.idle()
        client = w.ask(method="POST")
        await w.idle()
        client.leave()
        await w.idle()
        assert _body(w) == b"old"
        w.last.reply()
        await w.idle()
        assert [call.call.method for call in w.calls] == ["GET", "GET"]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_what_writes_nothing_leaves_it_though_its_client_leaves(method: str) -> None:
    async with World() as w:
        await w.store(FRESH)
        client = w.ask("Cache-Control: no-cache", method=method)
        await w.idle()
        client.leave()
        await w.idle()
        assert _body(w) == b"old"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PROPFIND"])
async def test_safe_methods_leave_it(method: str) -> None:
    async with World() as w:
        await w.store(FRESH, body=b"")
        w.ask("Cache-Control: no-cache", method=method)
        await w.idle()
        w.last.reply(FRESH)
        await w.idle()
        assert _body(w) == b""


@pytest.mark.parametrize("field", ["Location", "Content-Location"])
@pytest.mark.parametrize(
    ("reference", "gone"),
    [
        (f"http://{HOST}/b", True),
        ("/b", True),
        ("b", True),
        (f"https://{HOST}/b", False),
        ("http://elsewhere.example/b", False),
        (f"http://{HOST}.evil/b", False),
        ("http://[bad/b", False),
    ],
)
async def test_what_the_answer_points_to_goes_too_on_the_same_origin(field: str, reference: str, gone: bool) -> None:
    async with World() as w:
        await w.store(FRESH, target="/b")
        await w.store(FRESH, target="/c")
        w.ask(method="POST")
        await w.idle()
        w.last.reply(f"{field}: {reference}", status=201)
        await w.idle()
        assert (w.stored(target="/b") is None) is gone
        assert w.stored(target="/c") is not None


async def test_unsafe_methods_invalidate_nothing_where_the_operator_says_so() -> None:
    async with World(replace(PLAIN, unsafe_invalidates=False)) as w:
        await w.store(FRESH, 'Cache-Groups: "news"')
        w.ask(method="POST")
        await w.idle()
        w.last.reply('Cache-Group-Invalidation: "news"')
        await w.idle()
        assert _body(w) == b"old"
        w.ask(method="POST")
        await w.idle()
        w.last.fail(Reason.TIMEOUT)
        await w.idle()
        assert _body(w) == b"old"


# -- groups: RFC 9875 section 3

GROUPS: Final = 'Cache-Group-Invalidation: "news", "sport"'


async def _grouped(w: World) -> None:
    """One thing of each group, one of both, one of none, one of a group of that name elsewhere, and mere tags."""
    await w.store(FRESH, 'Cache-Groups: "news"', target="/news")
    await w.store(FRESH, 'Cache-Groups: "x", "sport";a="b"', target="/sport")
    await w.store(FRESH, 'Cache-Groups: "news", "sport"', target="/both")
    await w.store(FRESH, 'Cache-Groups: "News", "b"', target="/other")
    await w.store(FRESH, target="/none")
    await w.store(FRESH, "Surrogate-Key: news sport", "Cache-Tag: news", target="/tags")
    client = w.ask(target="/far", host="far.example")
    await w.idle()
    w.last.reply(FRESH, 'Cache-Groups: "news"', body=b"old")
    await w.idle()
    assert client.status == 200


def _left(w: World) -> set[str]:
    targets = ("/news", "/sport", "/both", "/other", "/none", "/tags")
    left = {target for target in targets if w.stored(target=target) is not None}
    far = w.memory.find("http://far.example/far", request(target="/far", host="far.example"), w.clock.at)
    return left | ({"/far"} if far is not None else set())


async def test_the_groups_that_an_answer_names_go_too_on_their_origin_alone() -> None:
    async with World() as w:
        await _grouped(w)
        client = w.ask(method="POST", target="/form")
        await w.idle()
        w.last.reply(GROUPS)
        await w.idle()
        assert _left(w) == {"/other", "/none", "/tags", "/far"}
        assert client.fields["cache-group-invalidation"] == '"news", "sport"', "other caches want to know it too"


@pytest.mark.parametrize(
    ("method", "status", "field"),
    [
        pytest.param("GET", 200, GROUPS, id="a safe method"),
        pytest.param("HEAD", 200, GROUPS, id="a HEAD"),
        pytest.param("OPTIONS", 200, GROUPS, id="another safe one"),
        pytest.param("POST", 404, GROUPS, id="a request that failed"),
        pytest.param("POST", 500, GROUPS, id="an upstream that failed"),
        pytest.param("POST", 200, "Cache-Group-Invalidation: news", id="what is no list of strings"),
        pytest.param("POST", 200, 'Cache-Group-Invalidation: "news", x', id="not even in part (RFC 9651 4.2)"),
        pytest.param("POST", 200, 'Cache-Groups: "news"', id="the groups that an answer is in itself"),
    ],
)
async def test_of_all_else_no_group_goes(method: str, status: int, field: str) -> None:
    async with World() as w:
        await _grouped(w)
        w.ask("Cache-Control: no-cache", method=method, target="/form")
        await w.idle()
        w.last.reply(field, status=status)
        await w.idle()
        assert _left(w) == {"/news", "/sport", "/both", "/other", "/none", "/tags", "/far"}


async def test_a_fetch_in_the_air_is_overtaken_by_its_group() -> None:
    async with World() as w:
        w.ask()
        await w.idle()
        get = w.last
        get.answer(FRESH, 'Cache-Groups: "news"', length=3)
        await w.idle()
        w.ask(method="POST", target="/form")
        await w.idle()
        w.last.reply(GROUPS)
        await w.idle()
        get.end(b"old")
        await w.idle()
        assert _body(w) is None


# -- HEAD: RFC 9111 section 4.3.5


async def _head(w: World, *answer: str, status: int = 200, asking: tuple[str, ...] = (), length: int = 3) -> None:
    w.clock.at += 61
    client = w.ask(*asking, method="HEAD")
    await w.idle()
    w.last.answer(*answer, status=status, length=length)
    w.last.end()
    await w.idle()
    assert client.status == status


async def test_a_head_that_agrees_freshens_what_is_stored() -> None:
    async with World() as w:
        await w.store(FRESH, ETAG, "X: old")
        await _head(w, FRESH, ETAG, "X: new")
        client = w.ask()
        assert (client.got, client.fields["x"]) == (b"old", "new")
        assert client.how == "readthrough; hit; ttl=60"


@pytest.mark.parametrize("answer", [(FRESH, 'ETag: "2"'), (FRESH, ETAG, "Last-Modified: x")])
async def test_a_head_with_other_validators_outdates_it(answer: tuple[str, ...]) -> None:
    async with World() as w:
        await w.store(FRESH, ETAG)
        await _head(w, *answer)
        assert _body(w) is None


async def test_a_head_with_another_length_outdates_it() -> None:
    async with World() as w:
        await w.store(FRESH, ETAG)
        await _head(w, FRESH, ETAG, length=4)
        assert _body(w) is None


@pytest.mark.parametrize("status", [304, 403, 405, 429, 500])
async def test_a_head_that_is_not_200_says_nothing_of_it(status: int) -> None:
    async with World() as w:
        await w.store(STALEABLE, ETAG)
        await _head(w, ETAG, status=status, asking=('If-None-Match: "1"', "Cache-Control: no-cache"))
        assert _body(w) == b"old"


async def test_a_head_overtaken_by_a_purge_brings_nothing_back() -> None:
    async with World() as w:
        await w.store(FRESH, ETAG)
        w.clock.at += 61
        w.ask(method="HEAD")
        await w.idle()
        w.purge()
        w.last.answer(FRESH, ETAG, length=3)
        w.last.end()
        await w.idle()
        assert _body(w) is None


async def test_a_head_whose_answer_cannot_be_judged_leaves_no_connection_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with World(noted=False) as w:  # whoever owns the connection says that it failed
        await w.store(FRESH, ETAG)
        monkeypatch.setattr(w.memory, "put", lambda _: 1 / 0)
        w.clock.at += 61
        client = w.ask(method="HEAD")
        await w.idle()
        w.last.answer(FRESH, ETAG, length=3)
        w.last.end()
        await w.idle()
        assert [record.getMessage() for record in w.errors.seen] == ["task exchange failed"]
        w.errors.seen.clear()
        assert client.status is None
        assert w.last.closed == 1


async def test_who_refreshes_with_credentials_throws_nothing_out() -> None:
    async with World() as w:
        await w.store("Cache-Control: max-age=60, stale-while-revalidate=60")
        w.clock.at += 61
        w.ask("Authorization: Basic x")
        await w.idle()
        w.last.reply("Cache-Control: max-age=60", body=b"mine")
        await w.idle()
        assert w.stored() is not None


async def test_who_is_told_304_with_credentials_throws_nothing_out() -> None:
    async with World() as w:
        await w.store(SWR, ETAG)
        w.clock.at += 61
        for _ in range(3):
            assert w.ask("Authorization: Basic x").got == b"old"
            await w.idle()
            if w.last.waited_for:
                w.last.reply(status=304)
            await w.idle()
        assert len(w.calls) == 2, "what brings nothing to others is not tried again at every hit"
        assert _body(w) == b"old"
        assert w.ask().got == b"old"
        await w.idle()
        w.last.reply(SWR, status=304)
        await w.idle()
        assert w.ask().how == "readthrough; hit; ttl=60"


@pytest.mark.parametrize("answer", ["Cache-Control: no-store", "Cache-Control: private", "Set-Cookie: a=b"])
async def test_a_304_that_forbids_to_keep_it_throws_out_what_is_stored(answer: str) -> None:
    async with World() as w:
        await w.store(SWR, ETAG)
        w.clock.at += 61
        assert w.ask().got == b"old"
        await w.idle()
        w.last.reply(answer, status=304)
        await w.idle()
        assert _body(w) is None


async def test_one_refresh_for_those_with_and_without_credentials() -> None:
    async with World() as w:
        await w.store("Cache-Control: max-age=60, stale-while-revalidate=60")
        w.clock.at += 61
        w.ask("Cookie: a=b")
        w.ask()
        await w.idle()
        assert len(w.calls) == 2
        w.last.reply("Cache-Control: max-age=60")
        await w.idle()


@pytest.mark.parametrize("status", [400, 401, 403, 416, 429])
async def test_one_clients_error_says_nothing_of_what_others_may_share(status: int) -> None:
    async with World() as w:
        await w.store("Cache-Control: max-age=60")
        w.ask("Cache-Control: no-cache")
        await w.idle()
        w.last.reply(status=status)
        await w.idle()
        assert w.stored() is not None
        w.clock.at += 61
        first, second = w.ask(), w.ask()
        await w.idle()
        assert len(w.calls) == 3
        w.last.reply("Cache-Control: max-age=60", body=b"new")
        await w.idle()
        assert (first.got, second.got) == (b"new", b"new")


async def test_an_event_stream_is_its_askers_alone() -> None:
    async with World(replace(PLAIN, default_ttl=30.0)) as w:
        first, second = w.ask(), w.ask()
        await w.idle()
        w.last.answer("Content-Type: text/event-stream")
        await w.idle()
        assert len(w.calls) == 2
        w.last.answer("Content-Type: text/event-stream")
        for call, event in zip(w.calls, (b"one", b"two"), strict=True):
            call.send(event)
        await w.idle()
        assert (first.got, second.got) == (b"one", b"two")
        for call in w.calls:
            call.end(None)
        await w.idle()
        assert w.stored() is None


async def test_a_refresh_that_would_be_for_one_alone_is_not_tried_at_every_hit() -> None:
    async with World() as w:
        await w.store("Cache-Control: max-age=1, stale-while-revalidate=60")
        w.clock.at += 2
        w.ask("Authorization: Basic x")
        await w.idle()
        w.last.reply("Cache-Control: max-age=60", body=b"mine")
        await w.idle()
        for _ in range(5):
            w.ask("Authorization: Basic x")
            await w.idle()
        assert len(w.calls) == 2
        w.ask()
        await w.idle()
        w.last.reply("Cache-Control: max-age=60", body=b"new")
        await w.idle()
        stored = w.stored()
        assert stored is not None
        assert stored.body == b"new"
