"""Unsafe requests: what they invalidate, and that they are carried out and judged whoever waits."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import pytest

from proxy.flow.ports import Call, ClientError
from proxy.rules.message import Reason
from proxy.rules.quota import GateRule
from tests.flow.kit import ETAG, FRESH, HOST, PLAIN, FakeClient, Up, World, request

SIE: str = "Cache-Control: max-age=60, stale-if-error=60"


def _body(w: World) -> bytes | None:
    stored = w.stored()
    return None if stored is None else stored.body


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
