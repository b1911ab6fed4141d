"""The admin listener: alive and ready, for whoever decides to send traffic here."""

from collections.abc import Callable

from aiohttp import web


class AdminServer:
    """`ready` says whether requests should come here: not while starting or draining."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready
        app = web.Application()
        app.add_routes([web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)])
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=75.0, shutdown_timeout=1.0)

    async def listen(self, host: str, port: int) -> None:
        """Accept connections. Raises OSError where the address is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def close(self) -> None:
        """Stop."""
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._ready():
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not ready"}, status=503)
