"""Who takes the short way and who the long one, when some of the requests are traced."""

import pytest

from proxy.flow.answers import Pending
from proxy.flow.ports import Client
from proxy.flow.site import Asked
from proxy.flow.traced import Traced
from proxy.flow.tracing import Step, TraceSpan
from proxy.rules.message import Headers, Reason, Request
from proxy.rules.report import Account
from proxy.rules.routes import Route
from tests.flow.kit import FRESH, FakeClient, World, request


class FakeSpan:
    """flow.tracing.TraceSpan"""

    outbound: Headers = (("traceparent", "ours"),)

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.errors: list[Reason | None] = []

    def step(self, step: Step) -> TraceSpan:
        assert step in Step
        return FakeSpan()

    def call(self, method: str, target: str, upstream: str, host: str) -> TraceSpan:
        assert "" not in (method, target, upstream, host)
        return FakeSpan()

    def apart(self) -> TraceSpan:
        return FakeSpan()

    def follow(self, flight: TraceSpan) -> None:
        assert flight is not self

    def head(self, status: int) -> None:
        assert status

    def answered(self, status: int, account: Account, *, complete: bool) -> None:
        assert complete or account.reason is Reason.CLIENT_GONE
        self.answers.append(status)

    def end(self, outcome: str = "", error: Reason | None = None) -> None:
        assert isinstance(outcome, str)
        self.errors.append(error)


class FakeTracer:
    """flow.tracing.Tracer: samples what it is told to, and counts how often it was asked."""

    def __init__(self, *decisions: bool) -> None:
        self.decisions = list(decisions)
        self.spans: list[FakeSpan] = []

    def sampled(self, request: Request, route: Route | None, peer: str) -> TraceSpan | None:
        assert (request.host, peer) == ("example.com", FakeClient.peer)
        assert route is None or route.name == "all"
        if not self.decisions.pop(0):
            return None
        self.spans.append(FakeSpan())
        return self.spans[-1]

    def silent(self, request: Request) -> TraceSpan:
        assert request.host == "example.com"
        return FakeSpan()


class Ways:
    """A world behind traced ways, and which of its own were taken."""

    def __init__(self, world: World, *decisions: bool) -> None:
        self.world, self.tracer, self.taken = world, FakeTracer(*decisions), list[str]()
        self.traced = Traced(self.tracer, self.hit, self.begin)

    def hit(self, asked: Asked, client: Client) -> bool:
        self.taken.append("hit")
        return self.world.exchange.hit(asked, client)

    def begin(self, asked: Asked, client: Client, span: TraceSpan | None) -> Pending | None:
        self.taken.append("begin")
        return self.world.exchange.begin(asked, client, span)

    def ask(self, *written: str, target: str = "/a") -> FakeClient:
        """As a connection does."""
        client = FakeClient()
        client.run = self.world.run
        self.world.clients.append(client)
        asked = self.world.exchange.read(request(*written, target=target))
        if asked.plain and self.traced.hit(asked, client):
            return client
        return self.world.run(client, self.traced.begin(asked, client))


async def test_a_hit_that_is_not_sampled_takes_the_short_way() -> None:
    async with World() as w:
        await w.store(FRESH)
        ways = Ways(w, False)
        assert ways.ask().got == b"old"
        assert ways.taken == ["hit"]


async def test_a_hit_that_is_sampled_takes_the_long_way_to_the_same_answer() -> None:
    async with World() as w:
        await w.store(FRESH)
        ways = Ways(w, False, True)
        short, long = ways.ask(), ways.ask()
        assert ways.taken == ["hit", "begin"]
        assert short.raw == long.raw
        assert ways.tracer.spans[0].answers == [200]


@pytest.mark.parametrize("sampled", [False, True])
async def test_a_miss_is_decided_about_once(sampled: bool) -> None:
    async with World() as w:
        ways = Ways(w, sampled)
        ways.ask()
        await w.idle()
        assert ways.tracer.decisions == []
        assert ways.taken == (["begin"] if sampled else ["hit", "begin"])
        w.last.reply(FRESH, body=b"x")
        await w.idle()
        assert [span.answers for span in ways.tracer.spans] == [[200]] * sampled


async def test_what_is_not_plain_is_decided_about_once_too() -> None:
    async with World() as w:
        await w.store(FRESH)
        ways = Ways(w, True)
        assert ways.ask("Cache-Control: max-age=5").got == b"old"
        assert ways.taken == ["begin"]
        assert ways.tracer.spans[0].answers == [200]


async def test_a_decision_is_nobody_elses() -> None:
    async with World() as w:
        ways = Ways(w, False, True)
        lost = FakeClient()
        assert not ways.traced.hit(w.exchange.read(request()), lost)  # and its connection breaks before it begins
        assert ways.ask("Cache-Control: only-if-cached").status == 504
        assert [span.answers for span in ways.tracer.spans] == [[504]]


async def test_every_call_upstream_is_in_our_trace_instead_of_the_clients() -> None:
    async with World() as w:
        ways = Ways(w, True, False)
        for target in ("/a", "/b"):
            ways.ask("Traceparent: theirs", "tracestate: theirs", target=target)
            await w.idle()
            names = [name.lower() for name, _ in w.last.call.headers]
            assert names.count("traceparent") == 1
            assert "tracestate" not in names
            assert w.last.sent["traceparent"] == "ours"
            w.last.reply(FRESH, body=b"x")
            await w.idle()


async def test_without_tracing_the_clients_trace_goes_on_untouched() -> None:
    async with World() as w:
        w.ask("traceparent: theirs", "tracestate: theirs")
        await w.idle()
        assert (w.last.sent["traceparent"], w.last.sent["tracestate"]) == ("theirs", "theirs")
        w.last.reply(FRESH, body=b"x")
        await w.idle()


async def test_a_bug_behind_the_long_way_ends_its_span_as_an_error() -> None:
    async with World() as w:
        ways = Ways(w, True)

        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        traced = Traced(ways.tracer, ways.hit, broken)
        with pytest.raises(RuntimeError, match="a bug"):
            traced.begin(w.exchange.read(request()), FakeClient())
        assert ways.tracer.spans[0].errors == [Reason.INTERNAL]


async def test_a_bug_while_waiting_ends_its_span_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(noted=False) as w:
        ways = Ways(w, True)

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(w.memory, "variant", broken)
        ways.ask()
        await w.idle()
        assert [record.getMessage() for record in w.errors.seen] == ["task exchange failed"]
        w.errors.seen.clear()
        assert ways.tracer.spans[0].answers == []
        assert ways.tracer.spans[0].errors == [Reason.INTERNAL]
