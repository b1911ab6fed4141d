"""One request, top to bottom: what is answered at once, what waits, and what is refused."""

from dataclasses import replace

import pytest

from proxy.rules.message import Reason
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.routes import Match
from tests.flow.kit import ETAG, FRESH, PLAIN, STALEABLE, URL, World


async def test_a_hit_is_answered_at_once_without_a_task() -> None:
    async with World() as w:
        await w.store(FRESH)
        w.clock.at += 10
        client, work = w.plan()
        assert work is None
        assert (client.status, client.got) == (200, b"old")
        assert client.how == "readthrough; hit; ttl=50"
        assert client.fields["age"] == "10"
        assert len(w.background) == 0


async def test_a_miss_says_that_it_is_one_and_that_it_is_stored() -> None:
    async with World() as w:
        client = w.ask()
        await w.idle()
        w.last.reply(FRESH, body=b"x")
        await w.idle()
        assert client.how == "readthrough; fwd=uri-miss; fwd-status=200; stored"


@pytest.mark.parametrize(
    ("asking", "how"),
    [
        pytest.param(('If-None-Match: "1"',), (304, b""), id="a condition"),
        pytest.param(("Range: bytes=0-1",), (206, b"ol"), id="a range"),
        pytest.param(("Range: bytes=9-",), (416, b""), id="a range beyond its end"),
        pytest.param(("Range: bytes=0-1", 'If-Range: "2"'), (200, b"old"), id="a range of another"),
    ],
)
async def test_a_hit_answers_what_was_asked(asking: tuple[str, ...], how: tuple[int, bytes]) -> None:
    async with World() as w:
        await w.store(FRESH, ETAG)
        client = w.ask(*asking)
        assert (client.status, client.got) == how


async def test_a_stored_get_answers_head() -> None:
    async with World() as w:
        await w.store(FRESH)
        client = w.ask(method="HEAD")
        assert (client.status, client.got, client.fields["content-length"]) == (200, b"", "3")


@pytest.mark.parametrize(
    ("match", "status", "allow"),
    [(Match(path="/other"), 404, None), (Match(methods=("POST", "PUT")), 405, "POST, PUT")],
)
async def test_what_no_route_takes_is_refused_at_once(match: Match, status: int, allow: str | None) -> None:
    async with World(match=match) as w:
        client = w.ask()
        assert client.status == status
        assert client.fields.get("allow") == allow
        assert client.fields["content-type"] == "application/problem+json"
        assert w.outcomes[0].route is None


async def test_a_request_that_wants_only_what_is_stored_is_told_there_is_none() -> None:
    async with World() as w:
        client = w.ask("Cache-Control: only-if-cached")
        assert client.status == 504
        assert "only-if-cached" in client.how
        assert w.calls == []


@pytest.mark.parametrize(
    ("method", "fields", "upload"),
    [
        pytest.param("POST", (), (b"a", b"b"), id="another method"),
        pytest.param("GET", (), (b"a", b"b"), id="a GET with a body"),
        pytest.param("GET", ("Cache-Control: no-store",), (), id="no-store"),
        pytest.param("GET", ('If-Match: "1"',), (), id="a precondition of the origin's"),
    ],
)
async def test_what_is_not_for_the_cache_goes_through_as_it_is_each_for_itself(
    method: str, fields: tuple[str, ...], upload: tuple[bytes, ...]
) -> None:
    async with World() as w:
        clients = [w.ask(*fields, method=method, upload=upload) for _ in range(2)]
        await w.idle()
        assert [bytes(up.body) for up in w.calls] == [b"".join(upload)] * 2
        assert all(up.call.length == len(b"".join(upload)) for up in w.calls)
        for number, up in enumerate(w.calls):
            up.reply(FRESH, body=b"%d" % number)
        await w.idle()
        assert [client.got for client in clients] == [b"0", b"1"]
        assert w.stored() is None


async def test_where_the_cache_is_off_nothing_is_said_of_it() -> None:
    async with World(Policy(enabled=False)) as w:
        client = w.ask("Range: bytes=0-1")
        await w.idle()
        assert w.last.sent["range"] == "bytes=0-1"
        w.last.reply(FRESH, "Content-Range: bytes 0-1/9", body=b"ab", status=206)
        await w.idle()
        assert (client.status, client.got) == (206, b"ab")
        assert client.how == ""


async def test_another_policy_finds_nothing_of_what_was_stored_under_the_old() -> None:
    async with World() as w:
        await w.store(FRESH)
        w.exchange.site = w.site(replace(PLAIN, forward_tags=True))
        client = w.ask()
        await w.idle()
        assert len(w.calls) == 2
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert client.got == b"new"


async def test_nobody_under_a_new_policy_joins_a_fetch_under_the_old() -> None:
    async with World(replace(PLAIN, store_set_cookie=True)) as w:
        before = w.ask()
        await w.idle()
        w.exchange.site = w.site(PLAIN)
        after = w.ask()
        await w.idle()
        assert len(w.calls) == 2
        w.calls[0].reply(FRESH, "Set-Cookie: a=b", body=b"before")
        w.calls[1].reply(FRESH, body=b"after")
        await w.idle()
        assert (before.got, after.got) == (b"before", b"after")
        assert w.ask().got == b"after"


async def test_keyed_headers_and_ignored_parameters_make_the_key() -> None:
    rule = KeyRule(ignore_query=("utm_*",), headers=("x-tenant",))
    async with World(replace(PLAIN, key=rule)) as w:
        await w.store(FRESH, target="/a?utm_x=1", asking=("X-Tenant: one",))
        assert w.ask("X-Tenant: one", target="/a?utm_x=2").got == b"old"
        other = w.ask("X-Tenant: two")
        await w.idle()
        w.last.reply(FRESH, body=b"two")
        await w.idle()
        assert other.got == b"two"
        w.purge(value=URL)
        for tenant in ("one", "two"):
            w.ask(f"X-Tenant: {tenant}")
        await w.idle()
        assert len(w.calls) == 4, "a purge of the URL takes every one of them"
        for up in w.calls[2:]:
            up.reply(FRESH)


async def test_right_after_a_failure_a_stale_answer_is_given_at_once_but_only_where_one_may_be() -> None:
    async with World() as w:
        await w.store(STALEABLE)
        w.clock.at += 119
        w.ask("Cache-Control: no-cache")
        await w.idle()
        w.last.fail(Reason.TIMEOUT)
        await w.idle()
        assert w.ask("Cache-Control: no-cache").got == b"old"
        w.clock.at += 2  # within the seconds after the failure, past the window
        client = w.ask()
        await w.idle()
        assert client.status is None
        w.last.reply(FRESH)


async def test_one_note_is_made_of_each_exchange_however_it_ends() -> None:
    async with World() as w:
        gone = w.ask()
        await w.idle()
        gone.leave()
        await w.idle()
        w.last.reply(FRESH, body=b"abc")
        await w.idle()
        w.clock.at += 1.5
        w.ask()
        assert [(outcome.status, outcome.complete) for outcome in w.outcomes] == [(499, False), (200, True)]
        assert w.outcomes[0].account.reason is Reason.CLIENT_GONE
        assert w.outcomes[1].sent == 3
        assert [outcome.request_id for outcome in w.outcomes] == ["id", ""], "only the first went upstream with one"


async def test_who_leaves_before_the_exchange_took_a_step_leaves_nothing_behind() -> None:
    async with World() as w:
        w.ask().leave()
        await w.idle()
        assert w.calls == []
