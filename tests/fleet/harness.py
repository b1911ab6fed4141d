"""Several instances of the program behind which there is one Redis and one scripted upstream."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.e2e.harness import Config, Response, Site, ask, merge, receive, request
from tests.e2e.process import Proxy, allow_many_files, eventually
from tests.e2e.stream import Stream
from tests.e2e.upstream import Call, Handler, Upstream, head

Over = Mapping[str, Any]
LEASE = 2.0  # seconds for which a holder that says nothing is believed
WHOLE = "10s"  # what a purge waits for everybody
TRIES = 5  # a server that gets no processor for 100 ms has a purge refused


def tell(text: str) -> None:
    """A measured number, for whoever runs pytest with -s."""
    sys.stdout.write(f"\n{text}")


class Instance(Site):
    """One of the fleet. `environment` is added to that of its process; the connection to its admin listener is kept."""

    def __init__(self, upstream: Upstream, directory: Path, environment: Mapping[str, str]) -> None:
        super().__init__(upstream, directory, "127.0.0.1")
        self._environment = environment
        self._console: Stream | None = None

    async def start(self, over: Over) -> None:
        self.config = merge(self.config, over)
        await self.launch()

    async def launch(self) -> None:
        """Start its process, again after it was killed."""
        self.proxy = Proxy(self.directory, self.port, self.admin, self._environment)
        self.proxy.write(self.config)
        await self.proxy.spawn("serve", "-c", str(self.proxy.file))

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.proxy.signal(signal.SIGKILL)
        await self.proxy.exit()

    async def stop(self) -> None:
        """Stop it and look at what it leaves; a killed one has had no chance to say anything."""
        self.hang_up()
        if self.proxy.process.returncode is None:
            self.proxy.signal(signal.SIGCONT)
        await self.proxy.stop()

    def hang_up(self) -> None:
        """Close the connection to its admin listener."""
        if self._console is not None:
            self._console.close()
            self._console = None

    async def call(self, path: str, document: Mapping[str, Any] | None = None) -> Response:
        """One request to its admin listener: GET, or POST of a document."""
        if self._console is None or self._console.end is not None:
            self._console = await Stream.open(self.admin)
        where = f"127.0.0.1:{self.admin}"
        if document is None:
            return await ask(self._console, request(path, host=where))
        body = json.dumps(document).encode()
        fields = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        return await ask(self._console, request(path, *fields, method="POST", host=where) + body)

    async def invalidate(self, wait: str | None = WHOLE, *, tries: int = TRIES, **what: Any) -> Response:  # noqa: ANN401 - JSON
        """POST /invalidate, again where it is refused, which does no harm: so many tries in all."""
        answer = await self.call(f"/invalidate?wait={wait}" if wait else "/invalidate", what)
        return answer if answer.status != 503 or tries == 1 else await self.invalidate(wait, tries=tries - 1, **what)


class Fleet:
    """The instances, oldest first, and what is behind them."""

    def __init__(self, upstream: Upstream, instances: Sequence[Instance]) -> None:
        self.upstream, self.instances = upstream, instances

    def __getitem__(self, number: int) -> Instance:
        return self.instances[number]

    async def everywhere(self, path: str, *headers: str) -> list[Response]:
        """The same request to every instance at once."""
        return await asyncio.gather(*(instance.get(path, *headers) for instance in self.instances))

    async def in_turn(self, path: str, *headers: str) -> list[Response]:
        """The same request to every instance, one after the other."""
        return [await instance.get(path, *headers) for instance in self.instances]

    async def at_once(
        self, requests: Sequence[bytes], among: Sequence[Instance] | None = None
    ) -> tuple[list[Response], float]:
        """Requests dealt out to the instances, each on a connection of its own, connected beforehand; responses in
        that order, and when the clock started.
        """
        dealt = among or self.instances
        crowds = await asyncio.gather(
            *(one.crowd(len(requests[number :: len(dealt)])) for number, one in enumerate(dealt))
        )
        streams = [crowds[number % len(dealt)][number // len(dealt)] for number in range(len(requests))]
        try:
            started = asyncio.get_running_loop().time()
            for stream, raw in zip(streams, requests, strict=True):
                stream.write(raw)
            return await asyncio.gather(*(receive(stream) for stream in streams)), started
        finally:
            for stream in streams:
                stream.close()

    async def joined(self, within: float = 20.0) -> None:
        """Wait until every instance shares the store and the log with the first."""
        for number, instance in enumerate(self.instances):
            await eventually(lambda one=instance: _shares(self, one), f"instance {number} has joined", within)  # type: ignore[misc]


_probes = iter(range(1, 1 << 30))


async def _shares(fleet: Fleet, one: Instance) -> bool:
    """Whether what another instance fetches is found by this one, and what it purges is gone here."""
    return await uses_store(fleet, one) and await in_step(fleet, one)


async def uses_store(fleet: Fleet, one: Instance) -> bool:
    """Whether this one finds what its neighbour has fetched a moment ago."""
    path = f"/probe/{next(_probes)}"
    fleet.upstream.on(path, fresh(path))
    other = fleet[0] if one is not fleet[0] else fleet[-1]
    await other.get(path)
    await one.get(path)
    return fleet.upstream.count(path) == 1


async def in_step(fleet: Fleet, one: Instance) -> bool:
    """Whether a purge through it is applied by everybody at once."""
    answer = await one.invalidate("200ms", tries=1, urls=[f"/probe/{next(_probes)}"])
    # Everybody: who is not known to live is not waited for, so count them.
    return answer.status == 200 and len(json.loads(answer.body)["applied"]) >= len(fleet.instances)


def fresh(body: bytes | str, *headers: str, seconds: int = 600) -> Handler:
    """Answer with something that is fresh for so long."""

    async def handler(call: Call) -> None:
        await call.body()
        call.answer(body, f"Cache-Control: max-age={seconds}", *headers)

    return handler


class Versions:
    """Things at the upstream that change. The answer is `VERSION`, with an ETag, and is fresh for ten minutes.

    The version is read when the request comes; `pauses` gives seconds before the head and between head and body.
    """

    def __init__(self, upstream: Upstream, *headers: str) -> None:
        self._upstream, self._headers = upstream, headers
        self._now: dict[str, int] = {}
        self.conditional: dict[str, int] = {}  # requests that asked only for what has changed
        self.pauses: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)

    def add(self, path: str, *headers: str) -> None:
        self._now[path] = 1
        self.conditional[path] = 0
        fields = (*self._headers, *headers, "Cache-Control: max-age=600")

        async def handler(call: Call) -> None:
            version, pauses = self._now[path], self.pauses()
            tag = f'"{version}"'
            self.conditional[path] += "if-none-match" in call.head
            if pauses[0]:
                await asyncio.sleep(pauses[0])
            if call.head.get("if-none-match") == tag:
                call.write(head(f"ETag: {tag}", *fields, status="304 Not Modified"))
                return
            body = str(version).encode()
            call.write(head(f"ETag: {tag}", *fields, f"Content-Length: {len(body)}"))
            if pauses[1]:
                await asyncio.sleep(pauses[1])
            call.write(body)

        self._upstream.on(path, handler)

    def change(self, path: str) -> int:
        """A new version is there; which."""
        self._now[path] += 1
        return self._now[path]

    def now(self, path: str) -> int:
        return self._now[path]


@asynccontextmanager
async def fleet(
    directory: Path,
    redis_url: str | Callable[[int], str],
    over: Over | Callable[[int], Over] | None = None,
    *,
    size: int = 3,
    environment: Callable[[int], Mapping[str, str]] = lambda _: {},
    join: bool = True,
) -> AsyncIterator[Fleet]:
    """All running, and with each other unless `join` is off; at the end each must go quietly.

    `over` is laid over the usual configuration, and like the URL may differ from instance to instance.
    """
    allow_many_files()
    upstream = await Upstream.start()
    instances = []
    for number in range(size):
        place = directory / str(number)
        place.mkdir()
        instances.append(Instance(upstream, place, environment(number)))
    here = Fleet(upstream, instances)
    started: list[Instance] = []

    async def start(number: int, one: Instance) -> None:
        url = redis_url(number) if callable(redis_url) else redis_url
        laid: Config = {"redis": {"url": url}, "access_log": "off"}
        await one.start(merge(laid, (over(number) if callable(over) else over) or {}))
        started.append(one)

    try:
        try:
            for problem in await asyncio.gather(*map(start, range(size), instances), return_exceptions=True):
                if problem is not None:
                    raise problem
            if join:
                await here.joined()
            yield here
        finally:
            problems = await asyncio.gather(*(one.stop() for one in started), return_exceptions=True)
        for problem in problems:
            if problem is not None:
                raise problem
        assert not upstream.broken, upstream.broken
    finally:
        await upstream.kill()
