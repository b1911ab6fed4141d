"""The admin listener, over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from proxy.admin.server import AdminServer
from tests.e2e.process import free_port


@dataclass
class Admin:
    server: AdminServer
    session: aiohttp.ClientSession
    port: int
    ready: bool = False

    async def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        async with self.session.request(method, path) as response:
            json = response.content_type == "application/json"
            return response.status, await response.json() if json else await response.read()


@asynccontextmanager
async def admin(host: str = "127.0.0.1") -> AsyncIterator[Admin]:
    port = free_port(host)
    server = AdminServer(lambda: made.ready)
    await server.listen(host, port)
    authority = f"[{host}]" if ":" in host else host
    async with aiohttp.ClientSession(f"http://{authority}:{port}") as session:
        made = Admin(server, session, port)
        try:
            yield made
        finally:
            await server.close()


async def test_it_is_ready_exactly_while_it_says_so() -> None:
    async with admin() as here:
        for ready in (False, True, False):
            here.ready = ready
            said = (200, {"status": "ready"}) if ready else (503, {"status": "not ready"})
            assert await here.ask("/readyz") == said


@pytest.mark.parametrize("ready", [False, True])
async def test_it_is_alive_whether_ready_or_not(ready: bool) -> None:
    async with admin() as here:
        here.ready = ready
        assert await here.ask("/healthz") == (200, {"status": "alive"})


async def test_a_probe_may_be_a_head() -> None:
    async with admin() as here:
        assert (await here.ask("/healthz", "HEAD"))[0] == 200
        assert (await here.ask("/readyz", "HEAD"))[0] == 503


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/", "GET", 404), ("/x", "GET", 404), ("/readyz", "POST", 405)]
)
async def test_nothing_else_is_there(path: str, method: str, status: int) -> None:
    async with admin() as here:
        assert (await here.ask(path, method))[0] == status


async def test_it_listens_on_ipv6() -> None:
    async with admin("::1") as here:
        assert (await here.ask("/healthz"))[0] == 200


async def test_a_port_that_is_taken_is_an_error_and_can_be_closed_all_the_same() -> None:
    async with admin() as here:
        second = AdminServer(lambda: True)
        with pytest.raises(OSError, match="in use"):
            await second.listen("127.0.0.1", here.port)
        await second.close()
        assert (await here.ask("/healthz"))[0] == 200


async def test_it_can_be_closed_without_having_listened() -> None:
    await AdminServer(lambda: True).close()


async def test_closed_is_closed() -> None:
    async with admin() as here:
        assert (await here.ask("/healthz"))[0] == 200
        await here.server.close()
        with pytest.raises(aiohttp.ClientConnectionError):
            await here.ask("/healthz")
