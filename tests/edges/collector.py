"""A collector of traces: takes OTLP over HTTP, as the real ones do, and keeps what it is given."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

Value = str | int | bool


@dataclass(frozen=True, slots=True)
class Told:
    """One span, as it came. Ids are in hex; `parent` is empty for the first of its trace."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    attributes: Mapping[str, Value]
    links: tuple[tuple[str, str], ...]
    error: bool
    resource: Mapping[str, Value]


def _values(pairs: list[KeyValue]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        assert kind is not None
        found[pair.key] = getattr(pair.value, kind)
    return found


class Collector:
    """What has come so far, in `spans` and as `raw` bytes."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self.raw = b""
        self.endpoint = ""
        self._came = asyncio.Event()

    async def take(self, asked: web.Request) -> web.Response:
        """POST /v1/traces"""
        assert asked.content_type == "application/x-protobuf"
        body = await asked.read()
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            of = _values(list(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans += [
                    Told(
                        span.name,
                        span.kind,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        _values(list(span.attributes)),
                        tuple([(link.trace_id.hex(), link.span_id.hex()) for link in span.links]),
                        span.status.code == span.status.STATUS_CODE_ERROR,
                        of,
                    )
                    for span in scope.spans
                ]
        self._came.set()
        return web.Response(content_type="application/x-protobuf")

    async def until(self, count: int) -> list[Told]:
        """At least so many."""
        async with asyncio.timeout(20):
            while len(self.spans) < count:
                self._came.clear()
                await self._came.wait()
        return self.spans

    def of(self, path: str) -> list[Told]:
        """Everything in the traces of the requests for a path, in the order of its coming."""
        traces = {told.trace for told in self.spans if told.attributes.get("url.path") == path and told.kind == 2}
        return [told for told in self.spans if told.trace in traces]


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """One that listens on 127.0.0.1."""
    self = Collector()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/traces", self.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port, *_ = runner.addresses[0]
        self.endpoint = f"http://{host}:{port}"
        yield self
    finally:
        await runner.cleanup()
