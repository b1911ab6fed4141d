"""What fetches leave behind: refreshes, bridges over failures, and what other methods do to what is stored."""

from dataclasses import replace

import pytest

from proxy.flow.flights import FAILED_SECONDS
from proxy.rules.message import Reason
from tests.flow.kit import ETAG, FRESH, PLAIN, STALEABLE, World

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
