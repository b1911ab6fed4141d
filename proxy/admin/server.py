"""The admin listener: who may come in, and who answers what."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from aiohttp import hdrs, web

from proxy.admin.access import Access
from proxy.admin.dashboard import Dashboard
from proxy.admin.listener import Door, Handler, json_answer
from proxy.admin.problems import Refusal, Trouble


class Part(Protocol):
    """Answers some paths."""

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """Handlers by path and method. A path that ends with `/*` stands for any one segment there."""
        ...


class AdminServer:
    """`ready` says whether requests should come here: not while starting or draining. `access` is asked again for
    every request, `components` whenever somebody wants to know how it is: a few words for each that need no token
    to be read. What GET answers HEAD does.
    """

    def __init__(
        self,
        ready: Callable[[], bool],
        *,
        access: Callable[[], Access],
        components: Callable[[], Mapping[str, str]] = dict,
        parts: Iterable[Part] = (),
    ) -> None:
        self._ready, self._access, self._components = ready, access, components
        self._routes: dict[str, Mapping[str, Handler]] = {
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
        }
        for part in (Dashboard(), *parts):
            self._routes.update(part.routes)
        self._runner: web.ServerRunner | None = None

    async def listen(self, host: str, port: int) -> None:
        """Accept connections. Raises OSError where the address is taken."""
        await web.TCPSite(await self._run(), host, port).start()

    async def listen_at(self, path: Path) -> None:
        """Accept connections on a Unix socket, where only whoever may reach it asks. Raises OSError."""
        await web.UnixSite(await self._run(), path).start()

    async def _run(self) -> web.ServerRunner:
        self._runner = web.ServerRunner(Door(self._handle), shutdown_timeout=1.0)
        await self._runner.setup()
        return self._runner

    async def close(self) -> None:
        """Stop."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self._access().check(request)  # before it shows which paths there are
        path = request.rel_url.raw_path
        methods = self._routes.get(path) or self._routes.get(f"{path.rpartition('/')[0]}/*")
        if methods is None:
            raise Refusal(Trouble.NOT_FOUND, "There is nothing here by that path.")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allow = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)
            raise Refusal(Trouble.METHOD, f"This path takes {allow} only.", headers=((hdrs.ALLOW, allow),))
        if request.method not in ("GET", "HEAD") and request.content_type != "application/json":
            raise Refusal(Trouble.CONTENT_TYPE, "Changes are asked for with Content-Type: application/json.")
        return await handler(request)

    async def _healthz(self, _request: web.BaseRequest) -> web.Response:
        return json_answer({"status": "alive"})

    async def _readyz(self, _request: web.BaseRequest) -> web.Response:
        ready = self._ready()
        members = {"status": "ready" if ready else "not ready", "components": dict(self._components())}
        return json_answer(members, status=200 if ready else 503)
