"""An admin listener on a real socket, and a log that tells what it was asked."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

import aiohttp

from proxy.admin.access import Access
from proxy.admin.invalidations import Invalidations
from proxy.admin.server import AdminServer
from proxy.flow.invalidation import Target
from proxy.flow.invalidator import Invalidator
from proxy.flow.sharing import LogUnreachable, Progress
from proxy.flow.site import Site
from proxy.flow.throttle import Throttle
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.routes import Match, Route
from tests.e2e.process import free_port

Body = bytes | BytesIO | AsyncIterator[bytes] | None

TOKEN: Final = "correct-horse-battery-staple"
JSON: Final = {"Content-Type": "application/json"}
AUTHORIZED: Final = {"Authorization": f"Bearer {TOKEN}"}


def site(*routes: tuple[Match, KeyRule]) -> Site:
    """Routes as they key; where they lead nobody asks here."""
    return Site(tuple(Route(f"r{i}", match, "up", Policy(key=rule)) for i, (match, rule) in enumerate(routes)), {})


@dataclass
class FakeLog:
    """A shared log. `instances` apply a batch when the test says so; `down` is Redis gone."""

    instances: dict[str, float | None] = field(default_factory=lambda: {"a": 1.25})
    down: bool = False
    forgetful: bool = False
    waited: list[float] = field(default_factory=list)
    batches: list[tuple[Sequence[Target], str, bool]] = field(default_factory=list)

    async def announce(self, targets: Sequence[Target], *, soft: bool = False) -> None:
        raise AssertionError(targets, soft)

    async def invalidate(self, targets: Sequence[Target], who: str, *, soft: bool) -> str:
        if self.down:
            raise LogUnreachable
        self.batches.append((targets, who, soft))
        return f"b{len(self.batches)}"

    async def progress(self, batch: str, within: float) -> Progress | None:
        self.waited.append(within)
        if self.down:
            raise LogUnreachable
        if self.forgetful or batch not in {f"b{i + 1}" for i in range(len(self.batches))}:
            return None
        applied = {name: ms for name, ms in self.instances.items() if ms is not None}
        return Progress(applied, self._pending())

    def _pending(self) -> tuple[str, ...]:
        return tuple(name for name, ms in self.instances.items() if ms is None)


@dataclass
class Admin:
    """`ready`, `components` and `access` are what the server is told; `at` is the time of its throttle."""

    port: int
    site: Site
    log: FakeLog = field(default_factory=FakeLog)
    ready: bool = True
    components: Mapping[str, str] = field(default_factory=dict)
    access: Access = field(default_factory=lambda: Access("127.0.0.1"))
    at: float = 0.0
    server: AdminServer = field(init=False)
    session: aiohttp.ClientSession = field(init=False)

    def __post_init__(self) -> None:
        throttle = Throttle(lambda: self.at)
        self.server = AdminServer(
            lambda: self.ready,
            access=lambda: self.access,
            components=lambda: self.components,
            parts=[Invalidations(Invalidator(self.log, throttle), lambda: self.site)],
        )

    async def ask(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, data: Body = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, body (as data where it is JSON) and fields of an answer."""
        async with self.session.request(method, path, headers=headers, data=data) as response:
            said = await (response.json(content_type=None) if "json" in response.content_type else response.read())
            return response.status, said, response.headers

    async def invalidate(self, body: object, query: str = "") -> tuple[int, Any, Mapping[str, str]]:
        return await self.ask(f"/invalidate{query}", "POST", JSON, json.dumps(body).encode())


@asynccontextmanager
async def admin(
    host: str = "127.0.0.1", routes: Site | None = None, change: Callable[[Admin], None] = lambda _: None
) -> AsyncIterator[Admin]:
    """One that listens."""
    made = Admin(free_port(host), site() if routes is None else routes)
    change(made)
    await made.server.listen(host, made.port)
    authority = f"[{host}]" if ":" in host else host
    async with aiohttp.ClientSession(f"http://{authority}:{made.port}") as made.session:
        try:
            yield made
        finally:
            await made.server.close()
