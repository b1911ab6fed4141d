"""What every call upstream has in common: a place at the gate, and a word where there is no answer."""

import logging

import pytest

from proxy.rules.message import Reason
from proxy.rules.quota import GateRule
from tests.flow.kit import ETAG, FRESH, PLAIN, FakeClient, World
from tests.flow.test_limiter import fetched


async def test_an_upstream_with_too_much_under_way_is_spared_and_a_stale_answer_stands_in() -> None:
    async with World(upstream_gate=GateRule(1, 0, 60.0), policy=PLAIN) as w:
        await fetched(w, "Cache-Control: max-age=10, stale-if-error=100")
        w.clock.at += 20.0
        busy = w.ask(target="/busy")
        await w.idle()
        refused, stale = w.ask(target="/other"), w.ask()
        await w.idle()
        assert (refused.status, refused.fields["retry-after"]) == (503, "60")
        assert b"upstream-busy" in refused.got
        assert stale.got == b"old"
        w.last.reply(FRESH, body=b"busy")
        await w.idle()
        assert busy.got == b"busy"
        assert w.upstream_gate is not None
        assert w.upstream_gate.inside == 0
        assert not w.breaker.open, "it is not the upstream that failed"


async def test_a_place_at_the_upstream_is_given_back_however_the_call_ends() -> None:
    async with World(upstream_gate=GateRule(1, 0, 60.0)) as w:
        assert w.upstream_gate is not None
        gone = w.ask(method="POST", target="/1")
        await w.idle()
        gone.leave()
        await w.idle()
        assert w.upstream_gate.inside == 1, "a write goes on"
        w.last.reply()
        await w.idle()
        assert w.upstream_gate.inside == 0
        failed = w.ask(target="/2")
        await w.idle()
        w.last.fail(Reason.CONNECT)
        await w.idle()
        assert failed.status == 502
        assert w.upstream_gate.inside == 0


async def test_who_waited_at_the_gate_while_the_breaker_opened_is_held_back() -> None:
    async with World(upstream_gate=GateRule(1, 5, 60.0), breaker=1) as w:
        waiting = [w.ask(target=f"/{number}") for number in range(3)]
        await w.idle()
        w.last.fail(Reason.TIMEOUT)
        await w.idle()
        assert [client.status for client in waiting] == [504, 503, 503]
        assert all(b"breaker-open" in client.got for client in waiting[1:])
        assert len(w.calls) == 1
        assert w.upstream_gate is not None
        assert w.upstream_gate.inside == 0
        assert w.exchange.site.lanes["all"].upstream.tally.held_back == 2


async def test_of_those_at_the_gate_of_an_upstream_that_failed_the_first_inside_goes_to_see() -> None:
    async with World(upstream_gate=GateRule(1, 5, 60.0), breaker=1) as w:
        w.ask(target="/busy")
        await w.idle()
        w.breaker.failed(w.clock.at, probe=False)
        w.clock.at += 5.0
        gone, probe, behind = (w.ask(method="POST", target=f"/{name}") for name in ("gone", "probe", "behind"))
        await w.idle()
        gone.leave()
        w.last.fail(Reason.DISCONNECTED)
        await w.idle()
        assert [call.call.target for call in w.calls] == ["/busy", "/probe"]
        assert not w.breaker.would_admit(w.clock.at), "one is out"
        w.last.fail(Reason.TIMEOUT)
        await w.idle()
        assert [probe.status, behind.status] == [504, 503]
        assert len(w.calls) == 2
        w.clock.at += 5.0
        well = w.ask(target="/well")
        await w.idle()
        w.last.reply(FRESH, body=b"well")
        await w.idle()
        assert well.got == b"well"
        assert not w.breaker.open


async def _busy(w: World, *waiting: FakeClient) -> None:
    """Whoever waits behind the newest call has done so for 20 seconds, and the first of them goes."""
    await w.idle()
    assert not any(client.over for client in waiting)
    w.clock.at += 20.0
    w.last.reply("Cache-Control: no-store")
    await w.idle()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_wait_at_the_gate_is_no_delay_of_the_upstream_s(method: str) -> None:
    async with World(upstream_gate=GateRule(1, 5, 60.0)) as w:
        await w.store("Cache-Control: max-age=60", ETAG)
        tally = w.exchange.site.lanes["all"].upstream.tally
        w.ask(target="/busy")
        await w.idle()
        await _busy(w, w.ask("Cache-Control: no-cache", method=method))
        before = tally.durations.total
        w.last.reply("Cache-Control: max-age=10", "Age: 0", ETAG, body=b"old")
        await w.idle()
        assert tally.durations.total == before, "it answered at once"
        entry = w.stored()
        assert entry is not None
        assert entry.entry.fresh_until - w.clock.at == 10.0


async def test_what_waits_at_the_gate_has_not_been_sent_and_may_be_joined_by_who_wants_it_anew() -> None:
    async with World(upstream_gate=GateRule(2, 5, 60.0)) as w:
        w.ask(target="/other")
        w.ask(target="/busy")
        await w.idle()
        led = w.ask()
        await w.idle()
        w.clock.at += 1.0
        joined = w.ask("Cache-Control: no-cache")
        await _busy(w, led, joined)
        assert [call.call.target for call in w.calls] == ["/other", "/busy", "/a"]
        sent = w.last
        w.clock.at += 1.0
        late = w.ask("Cache-Control: no-cache")
        w.calls[0].reply("Cache-Control: no-store")
        await w.idle()
        assert len(w.calls) == 4, "what was sent before it came is not new enough for it"
        sent.reply(FRESH, body=b"first")
        w.last.reply(FRESH, body=b"second")
        await w.idle()
        assert [client.got for client in (led, joined, late)] == [b"first", b"first", b"second"]


async def test_answers_of_an_upstream_are_counted_by_class_even_where_a_stale_one_is_sent_instead() -> None:
    async with World() as w:
        tally = w.exchange.site.lanes["all"].upstream.tally
        await fetched(w, "Cache-Control: max-age=10, stale-if-error=100")
        w.clock.at += 20.0
        stale = w.ask()
        await w.idle()
        w.last.reply(status=503)
        await w.idle()
        assert stale.got == b"old"
        w.ask(target="/none")
        await w.idle()
        w.last.reply(status=404)
        await w.idle()
        w.ask(target="/cut")
        await w.idle()
        w.last.fail(Reason.DISCONNECTED)
        await w.idle()
        assert tally.answers == {2: 1, 3: 0, 4: 1, 5: 1}, "what gave no answer is counted elsewhere"


async def test_why_an_upstream_gives_no_answer_is_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async with World() as w:
        for after in (0.0, 1.0, 8.0, 2.0):
            w.clock.at += after
            w.ask(target=f"/{after}")
            await w.idle()
            w.last.fail(Reason.DISCONNECTED)
            await w.idle()
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in told] == ["upstream up: disconnected"] * 2
