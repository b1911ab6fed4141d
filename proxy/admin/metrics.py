"""`GET /metrics` and `GET /stats`: the numbers of this process, for Prometheus and as JSON."""

from collections.abc import Iterable, Mapping
from typing import Final

import orjson
from aiohttp import hdrs, web
from prometheus_client.exposition import choose_encoder

from proxy.admin.exposition import written
from proxy.admin.families import Snapshot
from proxy.admin.listener import Handler
from proxy.admin.reading import Sources, read
from proxy.admin.stats import Refused, most_refused, stats_of
from proxy.flow.hot import COUNTERS

RAW: Final = "application/vnd.readthrough.snapshot+json"  # what the process that speaks for several asks for
_OPEN_METRICS: Final = "application/openmetrics-text"


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
        return await exposed(snapshot, accepted)

    async def _stats(self, request: web.BaseRequest) -> web.Response:
        # All are needed where several are asked: what each refuses little may be refused most by all of them together.
        snapshot, refused = read(self._sources), most_refused(self._sources.tallies.refused.top(COUNTERS))
        if request.headers.get(hdrs.ACCEPT) == RAW:
            return web.Response(body=orjson.dumps({"numbers": snapshot, "refused": refused}), content_type=RAW)
        return stats_answer(snapshot, refused)


async def exposed(snapshot: Snapshot, accepted: str, *, several: bool = False) -> web.Response:
    """A snapshot in the format that is `accepted`; of `several` processes where it says which is whose."""
    _, content_type = choose_encoder(accepted)
    text = await written(snapshot, several=several, open_metrics=content_type.startswith(_OPEN_METRICS))
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type})


def stats_answer(snapshot: Snapshot, refused: Iterable[Refused]) -> web.Response:
    """A snapshot as JSON for people and pages, and whom the limits have refused."""
    return web.Response(body=orjson.dumps(stats_of(snapshot, refused)), content_type="application/json")
