"""`GET /config`: what is configured, as it works."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from proxy.admin.listener import Handler


class Config:
    """`effective` is the configuration as it is now, in its own words and without its secrets."""

    def __init__(self, effective: Callable[[], Mapping[str, Any]]) -> None:
        self._effective = effective

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """What this answers: see `AdminServer`."""
        return {"/config": {"GET": self._config}}

    async def _config(self, _request: web.BaseRequest) -> web.Response:
        return web.Response(body=orjson.dumps(self._effective()), content_type="application/json")
