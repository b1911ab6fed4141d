"""Traces by OpenTelemetry, an optional extra that nothing but this file imports, and nobody where `tracing` is off.

Endpoint, sampler, limits and names come from the standard OTEL_… variables. Spans carry what the HTTP semantic
conventions ask for, but no query, no credentials and no value of a header field except Host.
"""

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from random import getrandbits
from threading import Thread
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from proxy.flow.tally import result_of
from proxy.flow.tracing import Step, TraceSpan
from proxy.rules.message import Fields, Headers, Reason, Request
from proxy.rules.report import Account
from proxy.rules.routes import Route

_log = logging.getLogger("readthrough")

MOMENT: Final = 1.0  # seconds that a shutdown waits for the collector to take what is left
TELL_AGAIN: Final = 60.0  # seconds before the same trouble is told again
_NOWHERE: Final = Context()
_DECIDED: Final = contexts.create_key("readthrough-decided")
_YES: Final = Decision.RECORD_AND_SAMPLE
_DECISIVE: Final = TraceIdRatioBased.TRACE_ID_LIMIT  # the bits of a trace's id that a ratio looks at
# How samplers describe themselves (OpenTelemetry specification, Trace SDK, Sampling).
_ROOT: Final = re.compile(r"(?:ParentBased\{root:)?(?:(AlwaysOffSampler)|TraceIdRatioBased\{([0-9.e-]+)\})(?:,.*)?\}?")
_W3C: Final = TraceContextTextMapPropagator()
# Any other is a client's own invention, of which there may be any number (semantic conventions, HTTP spans).
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})


def start(version: str, instance: str, now: Callable[[], float]) -> "OpenTelemetry | None":
    """Tracing as the environment asks for it; None where it says OTEL_SDK_DISABLED. `now` gives monotonic seconds.

    Raises ValueError where it asks for what there is not.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    for name, known in (("OTEL_TRACES_EXPORTER", "otlp"), *[(name, "http/protobuf") for name in _PROTOCOLS]):
        value = os.environ.get(name, "").strip()
        if value not in ("", known):
            raise ValueError(f"{name}: {value!r} is not known here; write {known}, or leave it out")
    return OpenTelemetry(version, instance, now)


_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")


class OpenTelemetry:
    """Implements `flow.tracing.Tracer`. `processor` takes the spans that have ended, in place of the collector that
    the environment names.
    """

    def __init__(
        self, version: str, instance: str, now: Callable[[], float], processor: SpanProcessor | None = None
    ) -> None:
        self._complaints = _Complaints(now)
        self._complaints.listen()
        self._ids = _Ids()
        self.provider = TracerProvider(
            resource=_resource(version, instance), id_generator=self._ids, shutdown_on_exit=False
        )
        self._sampler = self.provider.sampler
        self._bound = _bound(self._sampler)
        self.provider.sampler = _AsDecided(self._sampler)
        self._exporter: OTLPSpanExporter | None = None
        if processor is None:
            self._exporter = OTLPSpanExporter()
            processor = BatchSpanProcessor(self._exporter)
        self.provider.add_span_processor(processor)
        self.tracer = self.provider.get_tracer("readthrough", version)

    def sampled(self, request: Request, route: Route | None, peer: str) -> TraceSpan | None:
        """The sampler is asked by the trace alone, before anything is made for a span that most often is not wanted."""
        fields, context, trace_id = request.fields, _NOWHERE, getrandbits(128)
        if "traceparent" in fields:
            context = _W3C.extract(fields, _NOWHERE)
            if context:
                trace_id = trace.get_current_span(context).get_span_context().trace_id
        elif trace_id & _DECISIVE >= self._bound:  # what the sampler would say, for most hits and a tenth of the time
            return None
        decision = self._sampler.should_sample(context, trace_id, "request", SpanKind.SERVER)
        if decision.decision is not _YES:
            return None
        if not context:
            self._ids.next_trace = trace_id
        method = request.method if request.method in _METHODS else "_OTHER"
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "url.scheme": request.scheme,
            "url.path": request.path,
            "network.protocol.version": "1.0" if request.http10 else "1.1",
            "client.address": peer,
            **_server(request.host),
        }
        name = method if method != "_OTHER" else "HTTP"
        if route is not None:
            name = f"{name} {route.name}"
            attributes["http.route"] = route.match.path
            attributes["readthrough.route"] = route.name
        return self._root(name, contexts.set_value(_DECIDED, decision, context), SpanKind.SERVER, attributes)

    def silent(self, request: Request) -> TraceSpan:
        """What is upstream is told that the trace is not sampled, whatever the client has said."""
        return _Silent(request.fields)

    def refresh(self, cause: SpanContext) -> TraceSpan:
        """A new trace, sampled since its cause is."""
        decided = SamplingResult(_YES)
        context = contexts.set_value(_DECIDED, decided, _NOWHERE)
        return self._root("refresh", context, SpanKind.INTERNAL, {}, [trace.Link(cause)])

    def _root(
        self, name: str, context: Context, kind: SpanKind, attributes: Attributes, links: Sequence[trace.Link] = ()
    ) -> TraceSpan:
        return _Recorded(self, self.tracer.start_span(name, context, kind, attributes, links))

    async def close(self) -> None:
        """Send what is left, if the collector takes it within a moment; nothing waits for it longer than that."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self.provider.shutdown()
            with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop is closed
                loop.call_soon_threadsafe(done.set)

        # Not in the loop's executor, whose threads the interpreter waits for before it ends.
        Thread(target=flush, name="last spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MOMENT):
                await done.wait()
        self._complaints.close()
        if self._exporter is not None and not done.is_set():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # ends its waiting for another try
            _log.warning("tracing: the collector did not take the last spans in time")


class _Recorded:
    """A span that traces tell of."""

    __slots__ = ("_context", "_span", "_tracing", "where")

    def __init__(self, tracing: OpenTelemetry, span: trace.Span) -> None:
        self._tracing, self._span = tracing, span
        self.where = span.get_span_context()
        self._context: Context | None = None  # made for the first of its parts

    @property
    def outbound(self) -> Headers:
        fields: dict[str, str] = {}
        _W3C.inject(fields, self._inside())
        return tuple(fields.items())

    def step(self, step: Step) -> TraceSpan:
        return self._part(step.value, SpanKind.INTERNAL, None)

    def call(self, method: str, target: str, upstream: str, host: str) -> TraceSpan:
        known = method if method in _METHODS else "_OTHER"
        attributes = {
            "http.request.method": known,
            "url.path": target.partition("?")[0],
            "readthrough.upstream": upstream,
            **_server(host),
        }
        return self._part(known if known != "_OTHER" else "HTTP", SpanKind.CLIENT, attributes)

    def apart(self) -> TraceSpan:
        return self._tracing.refresh(self.where)

    def follow(self, flight: TraceSpan) -> None:
        if isinstance(flight, _Recorded):
            self._span.add_link(flight.where)

    def head(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 400:  # to the one who asked it is an error (semantic conventions, HTTP spans)
            self._fail(str(status))

    def answered(self, status: int, account: Account, *, complete: bool) -> None:
        if not self._span.is_recording():
            return
        reason = account.reason
        self._span.set_attributes(
            {
                "http.response.status_code": status,
                "readthrough.cache": result_of(account).value,
                "readthrough.reason": reason.value,
            }
        )
        if account.stored:
            self._span.set_attribute("readthrough.stored", value=True)
        if account.collapsed:
            self._span.set_attribute("readthrough.collapsed", value=True)
        if not complete:
            self._span.set_attribute("readthrough.complete", value=False)
        if status >= 500 or not (complete or reason is Reason.CLIENT_GONE):
            self._fail(str(status) if account.fwd_status is not None else reason.value)
        self._span.end()

    def end(self, outcome: str = "", error: Reason | None = None) -> None:
        if not self._span.is_recording():
            return
        if outcome:
            self._span.set_attribute("readthrough.outcome", outcome)
        if error is not None:
            self._fail(error.value)
        self._span.end()

    def _part(self, name: str, kind: SpanKind, attributes: Attributes) -> TraceSpan:
        return _Recorded(self._tracing, self._tracing.tracer.start_span(name, self._inside(), kind, attributes))

    def _inside(self) -> Context:
        if self._context is None:
            self._context = trace.set_span_in_context(self._span, _NOWHERE)
        return self._context

    def _fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))


class _Silent:
    """The span of a request that is not sampled, and of all its parts."""

    __slots__ = ("_fields", "_outbound")

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._outbound: Headers = ()

    @property
    def outbound(self) -> Headers:
        if not self._outbound:
            fields = self._fields
            parent = trace.get_current_span(_W3C.extract(fields, _NOWHERE)).get_span_context()
            trace_id, span_id = parent.trace_id, parent.span_id
            state: TraceState | None = parent.trace_state
            if not parent.is_valid:
                trace_id, span_id, state = getrandbits(128) or 1, getrandbits(64) or 1, None
            flags = TraceFlags(parent.trace_flags & ~TraceFlags.SAMPLED)
            told = trace.NonRecordingSpan(
                SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags, trace_state=state)
            )
            out: dict[str, str] = {}
            _W3C.inject(out, trace.set_span_in_context(told, _NOWHERE))
            self._outbound = tuple(out.items())
        return self._outbound

    def step(self, step: Step) -> TraceSpan:  # noqa: ARG002
        return self

    def call(self, method: str, target: str, upstream: str, host: str) -> TraceSpan:  # noqa: ARG002
        return self

    def apart(self) -> TraceSpan:
        return self

    def follow(self, flight: TraceSpan) -> None:
        pass

    def head(self, status: int) -> None:
        pass

    def answered(self, status: int, account: Account, *, complete: bool) -> None:
        pass

    def end(self, outcome: str = "", error: Reason | None = None) -> None:
        pass


class _Ids(RandomIdGenerator):
    """The trace that was decided about, then any."""

    next_trace = 0

    def generate_trace_id(self) -> int:
        trace_id, self.next_trace = self.next_trace, 0
        return trace_id or super().generate_trace_id()


class _AsDecided(Sampler):
    """What was decided before a span began, and for its parts what the sampler says."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[trace.Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        decided = None if parent_context is None else contexts.get_value(_DECIDED, parent_context)
        if isinstance(decided, SamplingResult):
            return SamplingResult(decided.decision, {**(attributes or {}), **decided.attributes}, decided.trace_state)
        return self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return self._sampler.get_description()


class _Complaints(logging.Handler):
    """What the library has to complain of, told by us: once in a while, and without the texts that it quotes, in which
    there may be the collector's credentials.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(logging.WARNING)
        self._now, self._told = now, dict[str, float]()
        self._source = logging.getLogger("opentelemetry")

    def listen(self) -> None:
        """Hear all of it from now on, in everybody's place."""
        self._source.addHandler(self)
        self._source.propagate = False

    def close(self) -> None:
        """Keep it from everybody: what fails from now on fails because this process ends."""
        self.setLevel(logging.CRITICAL + 1)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """The texts come from a fixed set, so there are few to remember."""
        now, text = self._now(), str(record.msg)
        if now - self._told.get(text, -TELL_AGAIN) < TELL_AGAIN:
            return
        self._told[text] = now
        quoted = record.args if isinstance(record.args, tuple) else ()
        with contextlib.suppress(TypeError, ValueError):
            text %= tuple(map(_harmless, quoted))
        _log.warning("tracing: %s", text)


def _harmless(argument: object) -> object:
    """What may be told of something quoted: its number, or what kind of error it is."""
    if argument is None or isinstance(argument, int | float):
        return argument
    return type(argument).__name__ if isinstance(argument, BaseException) else "…"


def _bound(sampler: Sampler) -> int:
    """A trace that begins here and whose id is not below this is not sampled, whoever asks for it."""
    found = _ROOT.fullmatch(sampler.get_description())
    if found is None:
        return _DECISIVE + 1  # nothing can be said of it
    return 0 if found[1] else TraceIdRatioBased.get_bound_for_rate(float(found[2]))


def _resource(version: str, instance: str) -> Resource:
    """Who tells: as the environment says, else by our own name."""
    named = Resource.create().attributes
    own: dict[str, str] = {SERVICE_VERSION: version, SERVICE_INSTANCE_ID: instance}
    if str(named.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return Resource({**own, **named, SERVICE_NAME: "readthrough"})
    return Resource({**own, **named})


def _server(host: str) -> Mapping[str, str | int]:
    """An authority as attributes."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        return {"server.address": host.strip("[]")}
    return {"server.address": name.strip("[]"), "server.port": int(port)}
