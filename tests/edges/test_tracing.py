"""What traces tell: the flow is real, the spans are kept in memory or go to a collector on a socket."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from proxy.edges.tracing import MOMENT, TELL_AGAIN, OpenTelemetry, start
from proxy.flow.sharing import Found
from proxy.flow.traced import Traced
from proxy.rules.message import Reason
from proxy.rules.policy import Policy
from proxy.rules.purging import PurgeRule
from proxy.rules.quota import GateRule
from proxy.rules.routes import Match
from tests.e2e.process import Late, free_port, in_time
from tests.edges.collector import collector
from tests.flow.kit import FRESH, STALEABLE, FakeClient, World, request
from tests.flow.test_fleet import FakeShared, elsewhere
from tests.flow.test_purge import FakeLog

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"traceparent: 00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"traceparent: 00-{TRACE}-{SPAN}-00"
STATE = "tracestate: vendor=1"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of whoever runs the tests, and nothing left behind."""
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    yield
    source = logging.getLogger("opentelemetry")
    source.handlers.clear()
    source.propagate = True


class Tracing:
    """Traces of one world."""

    def __init__(self, world: World) -> None:
        self.world, self.kept = world, InMemorySpanExporter()
        self.otel = OpenTelemetry("1.0", "me", world.clock.now, SimpleSpanProcessor(self.kept))
        self.traced = Traced(self.otel, world.exchange.hit, world.exchange.begin)

    def ask(
        self,
        *written: str,
        method: str = "GET",
        target: str = "/a",
        host: str = "example.com",
        upload: Sequence[bytes] = (),
    ) -> FakeClient:
        """As World.ask, through the traced ways."""
        client = FakeClient(upload)
        client.run = self.world.run
        self.world.clients.append(client)
        length = sum(map(len, upload))
        asked = self.world.exchange.read(request(*written, method=method, target=target, host=host, length=length))
        if asked.plain and self.traced.hit(asked, client):
            return client
        return self.world.run(client, self.traced.begin(asked, client))

    async def miss(self, *written: str, target: str = "/a", body: bytes = b"old") -> None:
        """Fetch and store."""
        self.ask(target=target)
        await self.world.idle()
        self.world.last.reply(*written, body=body)
        await self.world.idle()

    def told(self) -> list[ReadableSpan]:
        """What has ended since it was last asked, in the order of its ends."""
        spans = list(self.kept.get_finished_spans())
        self.kept.clear()
        return spans


@contextmanager
def traced(world: World) -> Iterator[Tracing]:
    tracing = Tracing(world)
    try:
        yield tracing
    finally:
        tracing.otel.provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def identity(span: ReadableSpan) -> tuple[str, str]:
    where = span.get_span_context()
    assert where is not None
    return f"{where.trace_id:032x}", f"{where.span_id:016x}"


def parent(span: ReadableSpan) -> str:
    return "" if span.parent is None else f"{span.parent.span_id:016x}"


def links(span: ReadableSpan) -> list[tuple[str, str]]:
    return [(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") for link in span.links]


def failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR


def named(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    """By name, of which each is there once."""
    found = {span.name: span for span in spans}
    assert len(found) == len(spans), [span.name for span in spans]
    return found


async def test_a_miss_is_a_request_with_a_look_up_a_flight_and_the_call_that_this_makes() -> None:
    async with World(match=Match(path="/a")) as w:
        with traced(w) as t:
            await t.miss(FRESH)
            spans = named(t.told())
            assert spans.keys() == {"GET all", "cache look-up", "flight", "GET"}
            asked, look, flight, call = (spans[name] for name in ("GET all", "cache look-up", "flight", "GET"))
            assert len({identity(span)[0] for span in spans.values()}) == 1
            assert parent(asked) == ""
            assert parent(look) == parent(flight) == identity(asked)[1]
            assert parent(call) == identity(flight)[1]
            assert (asked.kind, call.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
            assert attributes(asked) == {
                "http.request.method": "GET",
                "http.response.status_code": 200,
                "http.route": "/a",
                "url.scheme": "http",
                "url.path": "/a",
                "server.address": "example.com",
                "client.address": "192.0.2.1",
                "network.protocol.version": "1.1",
                "readthrough.route": "all",
                "readthrough.cache": "miss",
                "readthrough.reason": "absent",
                "readthrough.stored": True,
            }
            assert attributes(look) == {"readthrough.outcome": "absent"}
            assert attributes(flight) == {"readthrough.outcome": "stored"}
            assert attributes(call) == {
                "http.request.method": "GET",
                "http.response.status_code": 200,
                "url.path": "/a",
                "server.address": "up.internal",
                "readthrough.upstream": "up",
            }
            assert not any(map(failed, spans.values()))


async def test_a_hit_is_a_request_with_a_look_up() -> None:
    async with World() as w:
        with traced(w) as t:
            await t.miss(FRESH)
            t.told()
            assert t.ask().got == b"old"
            spans = named(t.told())
            assert spans.keys() == {"GET all", "cache look-up"}
            said = attributes(spans["GET all"])
            assert (said["readthrough.cache"], said["readthrough.reason"]) == ("hit", "hit")
            assert said["http.response.status_code"] == 200


async def test_a_follower_is_linked_to_the_flight_of_another_trace() -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask()
            await w.idle()
            t.ask()
            await w.idle()
            w.last.reply(FRESH, body=b"x")
            await w.idle()
            spans = t.told()
            (flight,) = [span for span in spans if span.name == "flight"]
            led, followed = sorted(
                (span for span in spans if span.kind is SpanKind.SERVER), key=lambda span: len(span.links)
            )
            assert parent(flight) == identity(led)[1]
            assert links(led) == []
            assert links(followed) == [identity(flight)]
            assert identity(followed)[0] != identity(flight)[0]
            assert attributes(followed)["readthrough.collapsed"] is True
            assert sum(span.kind is SpanKind.CLIENT for span in spans) == 1


async def test_a_refresh_is_a_trace_of_its_own_linked_to_the_request_that_caused_it() -> None:
    async with World() as w:
        with traced(w) as t:
            await t.miss(STALEABLE)
            t.told()
            w.clock.at += 61
            t.ask()
            await w.idle()
            (asked,) = [span for span in t.told() if span.kind is SpanKind.SERVER]
            assert attributes(asked)["readthrough.cache"] == "stale"
            w.last.reply(STALEABLE, body=b"new")
            await w.idle()
            spans = named(t.told())
            assert spans.keys() == {"refresh", "flight", "GET"}
            refresh = spans["refresh"]
            assert links(refresh) == [identity(asked)]
            assert parent(refresh) == ""
            assert identity(refresh)[0] != identity(asked)[0]
            assert parent(spans["flight"]) == identity(refresh)[1]
            assert parent(spans["GET"]) == identity(spans["flight"])[1]
            assert identity(spans["GET"])[0] in w.last.sent["traceparent"]


async def test_a_refresh_is_told_of_where_its_request_is_though_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    async with World() as w:
        with traced(w) as t:
            await w.store(STALEABLE)
            w.clock.at += 61
            t.ask(PARENT)
            await w.idle()
            w.last.reply(STALEABLE, body=b"new")
            await w.idle()
            spans = named(t.told())
            assert spans.keys() == {"GET all", "cache look-up", "refresh", "flight", "GET"}
            assert identity(spans["GET all"])[0] == TRACE
            assert identity(spans["refresh"])[0] != TRACE


async def test_an_upstream_that_cannot_be_reached_is_an_error_of_call_flight_and_request() -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask()
            await w.idle()
            w.last.fail(Reason.CONNECT)
            await w.idle()
            spans = named(t.told())
            for name in ("GET all", "flight", "GET"):
                assert failed(spans[name]), name
                assert attributes(spans[name])["error.type"] == "connect"
            assert attributes(spans["GET all"])["http.response.status_code"] == 502
            assert not failed(spans["cache look-up"])


async def test_an_error_of_the_upstreams_is_one_of_the_request_by_its_status() -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask()
            await w.idle()
            w.last.reply(body=b"busy", status=503)
            await w.idle()
            spans = named(t.told())
            assert attributes(spans["GET"])["error.type"] == attributes(spans["GET all"])["error.type"] == "503"
            assert failed(spans["GET"])
            assert failed(spans["GET all"])


async def test_a_stale_answer_in_place_of_an_error_is_none() -> None:
    async with World() as w:
        with traced(w) as t:
            await t.miss("Cache-Control: max-age=60, stale-if-error=600")
            t.told()
            w.clock.at += 61
            t.ask()
            await w.idle()
            w.last.reply(status=500)
            await w.idle()
            spans = named(t.told())
            assert attributes(spans["flight"])["readthrough.outcome"] == "bridged"
            assert not failed(spans["GET all"])
            assert failed(spans["GET"])


async def test_a_body_that_breaks_off_is_an_error_of_flight_and_request() -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask()
            await w.idle()
            w.last.answer(FRESH, length=10)
            w.last.send(b"half")
            await w.idle()
            w.last.cut()
            await w.idle()
            spans = named(t.told())
            assert attributes(spans["flight"])["error.type"] == attributes(spans["GET all"])["error.type"] == "aborted"
            assert attributes(spans["GET all"])["readthrough.complete"] is False


async def test_what_is_passed_on_is_called_by_the_request_itself() -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask(method="POST", upload=[b"body"])
            await w.idle()
            w.last.reply(body=b"done", status=201)
            await w.idle()
            spans = named(t.told())
            assert spans.keys() == {"POST all", "cache look-up", "POST"}
            assert parent(spans["POST"]) == identity(spans["POST all"])[1]


async def test_a_call_lasts_until_its_answer_has_ended() -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask()
            await w.idle()
            w.last.answer(FRESH, length=4)
            w.last.send(b"ab")
            await w.idle()
            assert {span.name for span in t.told()} == {"cache look-up"}
            w.last.end(b"cd")
            await w.idle()
            assert {span.name for span in t.told()} == {"GET", "flight", "GET all"}


async def test_a_client_that_leaves_ends_its_request_and_not_the_flight() -> None:
    async with World() as w:
        with traced(w) as t:
            client = t.ask()
            await w.idle()
            client.leave()
            await w.idle()
            spans = named(t.told())
            said = attributes(spans["GET all"])
            assert (said["http.response.status_code"], said["readthrough.reason"]) == (499, "client-gone")
            assert said["readthrough.complete"] is False
            assert not failed(spans["GET all"])
            w.last.reply(FRESH, body=b"x")
            await w.idle()
            assert named(t.told()).keys() == {"flight", "GET"}


async def test_a_flight_that_nobody_wants_any_more_is_abandoned() -> None:
    async with World() as w:
        with traced(w) as t:
            client = t.ask()
            await w.idle()
            w.last.answer("Cache-Control: no-store", length=1 << 20)
            w.last.send(b"x")
            await w.idle()
            client.leave()
            await w.idle()
            spans = named(t.told())
            assert attributes(spans["flight"])["readthrough.outcome"] == "abandoned"
            assert not failed(spans["flight"])


async def test_the_shared_store_is_a_step_of_what_asks_it() -> None:
    shared = FakeShared()
    theirs = await elsewhere(FRESH)
    async with World(shared=shared) as w:
        with traced(w) as t:
            client = t.ask()
            await w.idle()
            shared.say(Found(theirs))
            await w.idle()
            assert client.got == b"theirs"
            spans = named(t.told())
            assert spans.keys() == {"GET all", "cache look-up", "shared store"}
            assert attributes(spans["shared store"]) == {"readthrough.outcome": "found"}
            assert parent(spans["shared store"]) == identity(spans["GET all"])[1]
            assert attributes(spans["GET all"])["readthrough.reason"] == "shared-store"


async def test_a_refresh_for_the_fleet_asks_the_shared_store_first() -> None:
    shared = FakeShared()
    async with World(shared=shared) as w:
        with traced(w) as t:
            t.ask()
            await w.idle()
            shared.lead()
            await w.idle()
            w.last.reply(STALEABLE, body=b"x")
            await w.idle()
            t.told()
            w.clock.at += 61
            t.ask()
            await w.idle()
            t.told()
            shared.lead()
            await w.idle()
            w.last.reply(STALEABLE, body=b"y")
            await w.idle()
            spans = named(t.told())
            assert spans.keys() == {"refresh", "shared store", "flight", "GET"}
            assert attributes(spans["shared store"]) == {"readthrough.outcome": "lead"}


async def test_a_call_that_its_client_leaves_is_abandoned() -> None:
    async with World() as w:
        with traced(w) as t:
            client = t.ask(method="HEAD")
            await w.idle()
            client.leave()
            await w.idle()
            call = named(t.told())["HEAD"]
            assert attributes(call)["readthrough.outcome"] == "abandoned"
            assert not failed(call)


async def test_a_write_that_its_client_leaves_is_told_of_at_its_end() -> None:
    async with World() as w:
        with traced(w) as t:
            client = t.ask(method="POST")
            await w.idle()
            client.leave()
            await w.idle()
            w.last.reply(status=204)
            await w.idle()
            assert attributes(named(t.told())["POST"])["http.response.status_code"] == 204


async def test_a_question_to_the_shared_store_that_nobody_waits_for_is_abandoned() -> None:
    shared = FakeShared()
    async with World(shared=shared) as w:
        with traced(w) as t:
            w.ask()
            await w.idle()
            shared.lead()
            await w.idle()
            w.last.reply(STALEABLE, body=b"x")
            await w.idle()
            w.clock.at += 61
            t.ask()
            await w.idle()
            t.told()
            assert await w.background.drain(within=0.0) == 1
            spans = named(t.told())
            assert spans.keys() == {"refresh", "shared store"}
            assert attributes(spans["shared store"])["readthrough.outcome"] == "abandoned"


async def test_a_traced_call_leaves_the_gate_of_its_upstream() -> None:
    async with World(upstream_gate=GateRule(requests=1, queue=0, wait=1.0)) as w:
        with traced(w) as t:
            for target in ("/a", "/b"):
                client = t.ask(target=target)
                await w.idle()
                w.last.reply(FRESH, body=b"x")
                await w.idle()
                assert client.status == 200
            assert sum(span.kind is SpanKind.CLIENT for span in t.told()) == 2


async def test_the_trace_of_the_client_goes_on() -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask(PARENT, STATE)
            await w.idle()
            names = [name.lower() for name, _ in w.last.call.headers]
            assert (names.count("traceparent"), names.count("tracestate")) == (1, 1)
            sent = w.last.sent
            w.last.reply(FRESH, body=b"x")
            await w.idle()
            spans = named(t.told())
            assert identity(spans["GET all"])[0] == TRACE
            assert parent(spans["GET all"]) == SPAN
            version, trace, span, flags = sent["traceparent"].split("-")
            assert (version, trace, span) == ("00", *identity(spans["GET"]))
            assert int(flags, 16) & 1
            assert sent["tracestate"] == "vendor=1"


@pytest.mark.parametrize(
    "written",
    [
        "traceparent: 00-0-0-01",
        f"traceparent: 00-{'0' * 32}-{SPAN}-01",
        f"traceparent: ff-{TRACE}-{SPAN}-01",
        "traceparent:",
    ],
)
async def test_a_malformed_trace_of_the_clients_begins_anew(written: str) -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask(written, STATE)
            await w.idle()
            assert TRACE not in w.last.sent["traceparent"]
            assert "tracestate" not in w.last.sent
            w.last.reply(FRESH, body=b"x")
            await w.idle()
            assert parent(named(t.told())["GET all"]) == ""


async def test_two_traces_in_one_request_are_none() -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask(PARENT, PARENT)
            await w.idle()
            names = [name.lower() for name, _ in w.last.call.headers]
            assert names.count("traceparent") == 1
            assert TRACE not in w.last.sent["traceparent"]
            w.last.reply(body=b"x")
            await w.idle()


async def test_who_is_not_sampled_upstream_of_us_is_not_here_nor_behind_us() -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask(UNSAMPLED, STATE)
            await w.idle()
            assert w.last.sent["traceparent"] == f"00-{TRACE}-{SPAN}-00"
            assert w.last.sent["tracestate"] == "vendor=1"
            w.last.reply(FRESH, body=b"x")
            await w.idle()
            assert t.told() == []


async def test_who_is_not_sampled_here_is_not_behind_us_whatever_the_client_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with World() as w:
        with traced(w) as t:
            t.ask(PARENT)
            await w.idle()
            assert w.last.sent["traceparent"] == f"00-{TRACE}-{SPAN}-00"
            w.last.reply(FRESH, body=b"x")
            t.ask(target="/b")
            await w.idle()
            version, trace, span, flags = w.last.sent["traceparent"].split("-")
            assert (version, len(trace), len(span), int(flags, 16) & 1) == ("00", 32, 16, 0)
            w.last.reply(body=b"x")
            await w.idle()
            assert t.told() == []


async def test_a_ratio_is_kept_to_by_hits_and_by_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    async with World(noted=False) as w:
        with traced(w) as t:
            await w.store(FRESH)
            for _ in range(2000):
                t.ask()
            hits = sum(span.kind is SpanKind.SERVER for span in t.told())
            for _ in range(2000):
                t.ask("Cache-Control: only-if-cached", target="/none")
            misses = sum(span.kind is SpanKind.SERVER for span in t.told())
    assert 390 < hits < 620  # 500, give or take more than five standard deviations
    assert 390 < misses < 620


async def test_a_trace_is_decided_about_by_its_own_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is upstream and goes by the same ratio decides alike."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    async with World(noted=False) as w:
        with traced(w) as t:
            await w.store(FRESH)
            for _ in range(200):
                t.ask()
            traces = [int(identity(span)[0], 16) for span in t.told() if span.kind is SpanKind.SERVER]
            assert len(traces) > 50
            assert all(trace & (1 << 64) - 1 < 1 << 63 for trace in traces)


@pytest.mark.parametrize(
    ("name", "ratio", "sampler"),
    [
        ("always_on", "", ALWAYS_ON),
        ("always_off", "", ALWAYS_OFF),
        ("parentbased_always_off", "", ALWAYS_OFF),
        ("traceidratio", "0.25", TraceIdRatioBased(0.25)),
        ("parentbased_traceidratio", "0.00001", TraceIdRatioBased(0.00001)),
        ("parentbased_traceidratio", "1", TraceIdRatioBased(1.0)),
    ],
)
def test_a_trace_that_begins_here_is_decided_about_as_the_sampler_would(
    monkeypatch: pytest.MonkeyPatch, name: str, ratio: str, sampler: Sampler
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", name)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    otel = OpenTelemetry("1.0", "me", lambda: 0.0, SimpleSpanProcessor(InMemorySpanExporter()))
    limit = TraceIdRatioBased.get_bound_for_rate(float(ratio or 1))
    for low in (1, limit - 1, limit, limit + 1, (1 << 64) - 1):
        trace = 7 << 64 | low & (1 << 64) - 1
        monkeypatch.setattr("proxy.edges.tracing.getrandbits", lambda _, trace=trace: trace)
        wanted = sampler.should_sample(None, trace, "x").decision.is_sampled()  # type: ignore[no-untyped-call]
        assert (otel.sampled(request(), None, "192.0.2.1") is not None) == wanted, hex(trace)


async def test_queries_credentials_and_other_fields_are_in_no_span() -> None:
    secret = "s3cret"
    async with World(Policy(jitter=0.0, share_credentials=True)) as w:
        with traced(w) as t:
            fields = (f"Authorization: Bearer {secret}", f"Cookie: a={secret}", f"User-Agent: {secret}", f"X: {secret}")
            t.ask(*fields, target=f"/a?key={secret}")
            await w.idle()
            w.last.reply(FRESH, f"X-Secret: {secret}", body=b"x")
            await w.idle()
            spans = t.told()
            assert len(spans) == 4
            for span in spans:
                assert secret not in span.to_json()


async def test_methods_that_clients_invent_are_one() -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask(method="BREW")
            await w.idle()
            w.last.reply(body=b"x")
            await w.idle()
            spans = named(t.told())
            assert spans.keys() == {"HTTP all", "cache look-up", "HTTP"}
            assert attributes(spans["HTTP all"])["http.request.method"] == "_OTHER"


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("a.example:8080", {"server.address": "a.example", "server.port": 8080}),
        ("[::1]:8080", {"server.address": "::1", "server.port": 8080}),
        ("[::1]", {"server.address": "::1"}),
    ],
)
async def test_a_host_is_an_address_and_a_port(host: str, said: dict[str, object]) -> None:
    async with World() as w:
        with traced(w) as t:
            t.ask("Cache-Control: only-if-cached", host=host)
            told = attributes(named(t.told())["GET all"])
            assert {name: value for name, value in told.items() if name.startswith("server.")} == said


async def test_a_request_that_no_route_takes_is_told_of_without_one() -> None:
    async with World(match=Match(path="/a")) as w:
        with traced(w) as t:
            t.ask(target="/b")
            spans = named(t.told())
            assert spans.keys() == {"GET"}
            said = attributes(spans["GET"])
            assert (said["http.response.status_code"], said["readthrough.reason"]) == (404, "no-route")
            assert "http.route" not in said


@pytest.mark.parametrize(("allow", "status"), [("192.0.2.0/24", 200), ("198.51.100.0/24", 403)])
async def test_a_purge_is_told_of(allow: str, status: int) -> None:
    async with World(purging=PurgeRule((ip_network(allow),), ())) as w:
        with traced(w) as t:
            t.ask(method="PURGE")
            await w.idle()
            (span,) = t.told()
            assert attributes(span)["http.response.status_code"] == status


async def test_a_purge_whose_client_leaves_is_told_of() -> None:
    log = FakeLog()
    log.gate.clear()
    async with World(told=log, purging=PurgeRule((ip_network("192.0.2.0/24"),), ())) as w:
        with traced(w) as t:
            client = t.ask(method="PURGE")
            await w.idle()
            client.leave()
            await w.idle()
            (span,) = t.told()
            assert attributes(span)["readthrough.reason"] == "client-gone"
            assert attributes(span)["readthrough.complete"] is False
            log.gate.set()
            await w.idle()


async def test_a_bug_of_ours_ends_its_request_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World() as w:
        with traced(w) as t:

            def broken(*_: object, **__: object) -> None:
                raise RuntimeError("a bug")

            monkeypatch.setattr(w.memory, "find", broken)
            with pytest.raises(RuntimeError, match="a bug"):
                t.ask()
            w.clients.clear()
            (span,) = [span for span in t.told() if span.kind is SpanKind.SERVER]
            assert failed(span)
            assert attributes(span)["error.type"] == "internal"


async def test_nothing_behind_its_end_changes_a_span(caplog: pytest.LogCaptureFixture) -> None:
    async with World() as w:
        with traced(w) as t:
            span = t.otel.sampled(request(), None, "192.0.2.1")
            assert span is not None
            span.end("first")
            span.end("second", Reason.INTERNAL)
            (told,) = t.told()
            assert attributes(told)["readthrough.outcome"] == "first"
            assert not failed(told)
    assert caplog.records == []


# -- the collector


def told_of(otel: OpenTelemetry, count: int) -> None:
    for _ in range(count):
        span = otel.sampled(request(), None, "192.0.2.1")
        assert span is not None
        span.end()


async def its_threads(within: float = 60.0) -> None:
    """Until those have ended that the library has begun."""
    async with asyncio.timeout(within):
        while any(thread.name.startswith("OtelBatch") for thread in threading.enumerate()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_spans_reach_a_collector_with_our_name_and_the_last_ones_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.endpoint)
        otel = start("1.2", "me", asyncio.get_running_loop().time)
        assert otel is not None
        told_of(otel, 700)
        await otel.close()
        assert len(there.spans) == 700
        resource = there.spans[0].resource
        assert resource["service.name"] == "readthrough"
        assert resource["service.version"] == "1.2"
        assert resource["service.instance.id"]


async def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=7,team=a")
    async with World() as w:
        with traced(w) as t:
            said = t.otel.provider.resource.attributes
            assert (said["service.name"], said["service.version"], said["team"]) == ("mine", "7", "a")


def test_the_environment_may_disable_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "TRUE")
    assert start("1", "me", lambda: 0.0) is None


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]
)
def test_what_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name):
        start("1", "me", lambda: 0.0)


@pytest.mark.clock(only=Late)
async def test_a_collector_that_cannot_be_reached_is_told_of_once_in_a_while_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://user:s3cret@127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    loop = asyncio.get_running_loop()
    otel = start("1", "me", loop.time)
    assert otel is not None
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            told_of(otel, 10)
            await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            while not caplog.records:  # noqa: ASYNC110 - another thread logs
                await asyncio.sleep(0.01)
        began = loop.time()
        await otel.close()
        closed = loop.time()
        await its_threads()
        ended = loop.time()
    assert [record.name for record in caplog.records] == ["readthrough"] * len(caplog.records)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == len(set(texts)), "each once"
    assert "tracing: " in texts[0]
    assert "s3cret" not in "".join(texts)
    in_time(closed - began, MOMENT + 2.0)
    in_time(ended - closed, 5.0)  # not as long as it tries: some ten seconds


@pytest.mark.clock(only=Late)
async def test_the_loop_goes_on_while_the_collector_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    hung, over = asyncio.Event(), asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        hung.set()
        await over.wait()
        return web.Response()

    server = TestServer(web.Application())
    server.app.router.add_post("/v1/traces", silent)
    await server.start_server()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", str(server.make_url("")))
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    loop = asyncio.get_running_loop()
    otel = start("1", "me", loop.time)
    assert otel is not None
    told_of(otel, 10)
    async with asyncio.timeout(30):
        await hung.wait()  # by the loop, while the other thread waits for an answer
    told_of(otel, 3000)  # more than there is room for
    began = loop.time()
    await otel.close()
    took = loop.time() - began
    over.set()
    await its_threads()
    await server.close()
    in_time(took, MOMENT + 2.0)


def complaints(say: Callable[[logging.Logger], None], caplog: pytest.LogCaptureFixture, *at: float) -> list[str]:
    """What is told of what the library says at these times."""
    times = iter(at)
    otel = OpenTelemetry("1", "me", lambda: next(times), SimpleSpanProcessor(InMemorySpanExporter()))
    with caplog.at_level(logging.DEBUG):
        for _ in at:
            say(logging.getLogger("opentelemetry.exporter.somewhere"))
    asyncio.run(otel.close())
    return [record.getMessage() for record in caplog.records]


def test_the_same_trouble_is_told_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    told = complaints(lambda log: log.error("code %s: %s", 503, OSError("s3cret")), caplog, 0.0, 1.0, TELL_AGAIN, 61.0)
    assert told == ["tracing: code 503: OSError"] * 2


def test_texts_that_the_library_quotes_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert complaints(lambda log: log.warning("bad header: %s", "key=s3cret"), caplog, 0.0) == [
        "tracing: bad header: …"
    ]


async def test_what_it_complains_of_behind_its_end_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    otel = OpenTelemetry("1", "me", lambda: 0.0, SimpleSpanProcessor(InMemorySpanExporter()))
    await otel.close()
    logging.getLogger("opentelemetry.sdk.trace.export").warning("too late")
    assert caplog.records == []


def test_what_is_no_warning_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert complaints(lambda log: log.info("dull"), caplog, 0.0) == []
