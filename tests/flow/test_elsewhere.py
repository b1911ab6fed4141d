"""What other instances have, the short way: the bytes of the long one, and never where something is left to decide."""

from dataclasses import replace
from typing import Final

import pytest

from proxy.flow.sharing import Apart, Found
from proxy.flow.tally import Method, Result, Source
from proxy.flow.tracing import Step, TraceSpan
from proxy.rules.message import Reason
from proxy.rules.report import Account
from proxy.rules.respond import age_line, from_entry
from proxy.rules.wire import field_lines
from tests.flow.kit import ETAG, FRESH, PLAIN, STALEABLE, FakeClient, World, request
from tests.flow.test_fleet import FakeShared, elsewhere, fleet
from tests.flow.test_hits import LARGE, REQUESTS, RESPONSES, STAMP
from tests.flow.test_limiter import Limited, quota
from tests.flow.test_traced import FakeSpan

GETS: Final = [pytest.param(asking, id=name) for name, (asking, method) in REQUESTS.items() if method == "GET"]


async def looking(w: World, shared: FakeShared, *asking: str) -> FakeClient:
    """A request that waits to hear what others have."""
    client = w.ask(*asking)
    await w.idle()
    assert len(shared.asked) == 1
    return client


@pytest.mark.parametrize("asking", GETS)
@pytest.mark.parametrize("response", [name for name in RESPONSES if name != "varying"])
async def test_an_answer_has_the_bytes_of_the_entry_however_it_is_asked_for(
    response: str, asking: tuple[str, ...]
) -> None:
    fields, body, status = RESPONSES[response]
    async with World() as w:
        w.ask()
        await w.idle()
        w.last.reply(*fields, body=body, status=status)
        await w.idle()
        held = w.stored()
        assert held is not None
        entry = held.entry
    shared = FakeShared()
    async with World(x_cache=True, shared=shared) as w:
        w.clock.at += 10.7
        client = await looking(w, shared, *asking)
        shared.say(Found(entry))
        await w.idle()
        account = Account(Reason.SHARED_STORE, ttl=29 if "Age: 20" in fields else 49)
        own = age_line(entry, w.clock.at) + field_lines(account.headers(x_cache=True))
        reply = from_entry(request(*asking), entry, own)
        assert client.raw == reply.head + reply.tail + b"".join(map(bytes, reply.pieces))
        assert w.calls == []
        (told,) = w.outcomes
        assert (told.route, told.status, told.account) == ("all", reply.status, account)
        assert (told.sent, told.complete) == (len(client.got), True)
        assert told.request_id == told.request.fields.get("x-request-id", "")


async def test_what_is_found_is_kept_here_and_counted_with_what_it_has_saved() -> None:
    entry = await elsewhere(FRESH)
    entry = replace(entry, terms=replace(entry.terms, fetch_seconds=1.5))
    w, shared = fleet()
    async with w:
        client = await looking(w, shared)
        w.clock.at += 0.02
        shared.say(Found(entry))
        await w.idle()
        assert client.task is None
        assert w.stored() is not None
        tally = w.tallies.requests["all", Method.GET, 2, Result.SHARED]
        assert (tally.noted, tally.plain, tally.sent) == (1, 0, len(b"theirs"))
        assert w.tallies.saved == {"all": 1.5}
        assert w.tallies.durations["all", Source.CACHE].total == pytest.approx(0.02)
        assert w.ask().how == "readthrough; hit; ttl=59"


async def test_a_large_body_is_sent_at_the_pace_of_its_client() -> None:
    entry = await elsewhere(FRESH, body=LARGE)
    w, shared = fleet()
    async with w:
        client = await looking(w, shared)
        client.refuse_to_read()
        shared.say(Found(entry))
        await w.idle()
        assert (client.done, client.got) == (False, b"")
        client.read()
        await w.idle()
        assert client.got == LARGE


async def test_what_is_found_stale_is_served_and_renewed() -> None:
    entry = await elsewhere(STALEABLE)
    w, shared = fleet()
    async with w:
        w.clock.at += 70
        client = await looking(w, shared)
        shared.say(Found(entry))
        await w.idle()
        assert client.how == "readthrough; hit; ttl=-10; detail=shared-store"
        shared.say(Apart())
        await w.idle()
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert w.ask().got == b"new"


async def test_what_must_be_validated_is() -> None:
    entry = await elsewhere("Cache-Control: max-age=60, no-cache", ETAG)
    w, shared = fleet()
    async with w:
        client = await looking(w, shared)
        shared.say(Found(entry))
        await w.idle()
        assert w.last.sent["if-none-match"] == '"1"'
        w.last.reply(FRESH, status=304)
        await w.idle()
        assert client.got == b"theirs"


async def test_what_only_the_operator_calls_fresh_is_not_for_who_says_who_asks() -> None:
    entry = await elsewhere(STAMP)
    w, shared = fleet()
    async with w:
        client = await looking(w, shared, "Cookie: a=b")
        shared.say(Found(entry))
        await w.idle()
        assert not client.done
        w.last.reply(FRESH, body=b"mine")
        await w.idle()
        assert client.got == b"mine"
        assert w.accounts[-1].reason is Reason.CREDENTIALS


async def test_where_the_operator_says_what_is_fresh_who_says_who_asks_need_not_even_look() -> None:
    shared = FakeShared()
    async with World(replace(PLAIN, default_ttl=60.0), shared=shared) as w:
        client = w.ask("Cookie: a=b")
        await w.idle()
        assert shared.asked == []
        w.last.reply(body=b"mine")
        await w.idle()
        assert client.got == b"mine"


async def test_a_process_that_stood_still_while_it_waited_believes_nothing_of_it() -> None:
    entry = await elsewhere("Cache-Control: max-age=6000")
    w, shared = fleet()
    w.log.trusted_until = w.clock.at + 1
    async with w:
        client = await looking(w, shared)
        w.clock.at += 1
        shared.say(Found(entry))
        await w.idle()
        w.last.reply(FRESH, body=b"ours")
        await w.idle()
        assert client.got == b"ours"


async def test_another_variant_that_is_held_here_is_thought_of_first() -> None:
    shared = FakeShared()
    async with World(shared=shared) as w:
        w.ask("X: 1")
        await w.idle()
        shared.say(Apart())
        await w.idle()
        w.last.reply(FRESH, "Vary: X")
        await w.idle()
        client, work = w.plan("X: 2")
        assert work is not None
        w.run(client, work)
        await w.idle()
        shared.say(Apart())
        await w.idle()
        w.last.reply(FRESH, "Vary: X", body=b"two")
        await w.idle()
        assert client.got == b"two"


class Recorded(FakeSpan):
    """What a trace is told of a request."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Step, Part]] = []

    def step(self, step: Step) -> TraceSpan:
        part = Part()
        self.steps.append((step, part))
        return part


class Part(FakeSpan):
    """And of a part of it."""

    outcome = ""

    def end(self, outcome: str = "", error: Reason | None = None) -> None:
        super().end(outcome, error)
        self.outcome = outcome


@pytest.mark.parametrize("limited", [False, True])
async def test_it_is_told_in_a_trace_once_and_takes_no_task_for_it(*, limited: bool) -> None:
    entry = await elsewhere(FRESH)
    shared = FakeShared()
    async with Limited(quota(), shared=shared) if limited else World(shared=shared) as w:
        span, client = Recorded(), FakeClient()
        client.run = w.run
        w.clients.append(client)
        assert w.exchange.begin(w.exchange.read(request()), client, span) is None
        await w.idle()
        shared.say(Found(entry))
        await w.idle()
        assert (client.done, client.task) == (True, None)
        assert [(step, part.outcome) for step, part in span.steps] == [(Step.LOOK_UP, "absent"), (Step.SHARED, "found")]
        assert span.answers == [200]


async def test_who_finds_a_fetch_under_way_here_asks_nobody_else() -> None:
    w, shared = fleet()
    async with w:
        first = w.ask()
        await w.idle()
        shared.say(Apart())
        await w.idle()
        second = w.ask()
        await w.idle()
        assert len(shared.asked) == 1
        w.last.reply(FRESH, body=b"ours")
        await w.idle()
        assert (first.got, second.got) == (b"ours", b"ours")
