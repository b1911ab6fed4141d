"""`GET /metrics` and `GET /stats`: the numbers of this process, for Prometheus and as JSON."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Final

import orjson
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy.admin.families import FAMILIES, Family, Kind, Snapshot, Value
from proxy.admin.listener import Handler
from proxy.admin.reading import Sources, read
from proxy.admin.stats import stats_of
from proxy.flow.tally import BOUNDS

RAW: Final = "application/vnd.readthrough.snapshot+json"  # what the process that speaks for several asks for
_LIMITS: Final = (*[str(bound) for bound in BOUNDS], "+Inf")


class Metrics:
    """Reads the numbers whenever it is asked."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """What this answers: see `AdminServer`."""
        return {"/metrics": {"GET": self._metrics}, "/stats": {"GET": self._stats}}

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        snapshot, accepted = read(self._sources), request.headers.get(hdrs.ACCEPT, "")
        if accepted == RAW:
            return web.Response(body=orjson.dumps(snapshot), content_type=RAW)
        return exposed(snapshot, accepted)

    async def _stats(self, _request: web.BaseRequest) -> web.Response:
        return stats_answer(read(self._sources))


def exposed(snapshot: Snapshot, accepted: str, *, several: bool = False) -> web.Response:
    """A snapshot in the format that is `accepted`; of `several` processes where it says which is whose."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot, several=several))
    encode, content_type = choose_encoder(accepted)
    return web.Response(body=encode(registry), headers={hdrs.CONTENT_TYPE: content_type})


def stats_answer(snapshot: Snapshot) -> web.Response:
    """A snapshot as JSON for people and pages."""
    return web.Response(body=orjson.dumps(stats_of(snapshot)), content_type="application/json")


class _Collector(Collector):
    def __init__(self, snapshot: Snapshot, *, several: bool) -> None:
        self._snapshot, self._several = snapshot, several

    def collect(self) -> Iterator[Metric]:
        """All families of which there is a number."""
        for name, samples in self._snapshot.items():
            family = FAMILIES[name]
            metric = _metric(family, (*family.labels, "worker") if family.each and self._several else family.labels)
            for labels, value in samples:
                _add(metric, labels, value)
            yield metric


def _metric(family: Family, labels: tuple[str, ...]) -> Metric:
    match family.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(family.name, family.help, labels=labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(family.name, family.help, labels=labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(family.name, family.help, labels=labels)


def _add(metric: Metric, labels: Any, value: Value) -> None:  # noqa: ANN401 - from JSON
    if isinstance(metric, HistogramMetricFamily):
        counts, total = value
        metric.add_metric(labels, list(zip(_LIMITS, accumulate(counts), strict=True)), total)
    elif isinstance(metric, CounterMetricFamily | GaugeMetricFamily):
        metric.add_metric(labels, value)
