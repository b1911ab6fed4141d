"""A scripted upstream, the program in front of it, and a client that says what it got."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.process import Proxy, allow_many_files, free_port
from tests.e2e.stream import Framing, Head, Stream
from tests.e2e.upstream import Upstream

Config = dict[str, Any]
Over = Mapping[str, Any] | Callable[[int], Mapping[str, Any]] | None
HOST = "api.example.test"


@dataclass(frozen=True, slots=True)
class Response:
    """A response that came whole. `at` is the loop's time when its last byte had come."""

    head: Head
    body: bytes
    framing: Framing
    at: float

    @property
    def status(self) -> int:
        return int(self.head.start[1])

    @property
    def cache(self) -> str:
        """What this cache says of itself in Cache-Status: its last member."""
        value = self.head.get("cache-status")
        return value.rpartition(", ")[2] if value else ""

    @property
    def hit(self) -> bool:
        return self.cache.startswith("readthrough; hit")

    @property
    def stored(self) -> bool:
        return self.cache.endswith("; stored")

    @property
    def age(self) -> int:
        return int(self.head["age"])

    @property
    def text(self) -> str:
        return self.body.decode()


def request(path: str, *headers: str, method: str = "GET", host: str = HOST, version: str = "1.1") -> bytes:
    """A request head in bytes."""
    return "".join(f"{x}\r\n" for x in (f"{method} {path} HTTP/{version}", f"Host: {host}", *headers, "")).encode()


def post(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """A request with a body of known length, in bytes."""
    return request(path, *headers, f"Content-Length: {len(body)}", method=method) + body


async def receive(stream: Stream, method: str = "GET") -> Response:
    """The next response on a connection; `method` is what it answers. Raises Cut."""
    head = await stream.head()
    assert head.start[0] == "HTTP/1.1", head
    framing, length = head.framing()
    status = int(head.start[1])
    if method == "HEAD" or status in (204, 304) or status < 200:
        framing, length = Framing.NONE, 0
    body = await stream.body(framing, length)
    return Response(head, body, framing, asyncio.get_running_loop().time())


async def ask(stream: Stream, raw: bytes) -> Response:
    """Send on a connection and take the one response."""
    stream.write(raw)
    return await receive(stream, raw.split(b" ", 1)[0].decode())


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Config:
    """`over` laid upon `base`, mappings one in another."""
    merged = deepcopy(dict(base))
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old or {}, value) if both else deepcopy(value)
    return merged


class Site:
    """One upstream and one proxy in front of it, on 127.0.0.1."""

    def __init__(self, upstream: Upstream, directory: Path, listen: str) -> None:
        self.upstream, self.directory = upstream, directory
        self.port, self.admin = free_port("::1" if "[" in listen else "127.0.0.1"), free_port()
        self.config: Config = {
            "listen": f"{listen}:{self.port}",
            "admin": {"listen": f"127.0.0.1:{self.admin}"},
            "shutdown": {"delay": "0s", "timeout": "15s"},
            "upstreams": {
                "origin": {
                    "url": f"http://127.0.0.1:{upstream.port}",
                    "connect_timeout": "20s",  # a crowd may have to wait for a processor
                    "breaker": {"failures": 1000000},
                }
            },
            "routes": [{"name": "all", "match": {"path": "/*"}, "upstream": "origin"}],
        }
        self.proxy: Proxy

    async def start(self, over: Mapping[str, Any]) -> None:
        self.config = merge(self.config, over)
        self.proxy = await Proxy.start(self.directory, self.config, self.port, self.admin)

    async def connect(self, limit: int = 1 << 20) -> Stream:
        return await Stream.open(self.port, limit=limit)

    async def get(self, path: str, *headers: str, host: str = HOST, method: str = "GET") -> Response:
        """One request on a connection of its own. Raises Cut."""
        return await self.send(request(path, *headers, host=host, method=method))

    async def send(self, raw: bytes) -> Response:
        """Any one request on a connection of its own. Raises Cut."""
        stream = await self.connect()
        try:
            return await ask(stream, raw)
        finally:
            stream.close()

    async def crowd(self, size: int) -> list[Stream]:
        """That many open connections."""
        streams: list[Stream] = []
        while len(streams) < size:
            streams += await asyncio.gather(*(self.connect() for _ in range(min(100, size - len(streams)))))
        return streams

    async def at_once(self, requests: list[bytes]) -> tuple[list[Response], float]:
        """Each on a connection of its own, connected beforehand; responses and when the clock started."""
        streams = await self.crowd(len(requests))
        try:
            started = asyncio.get_running_loop().time()
            for stream, raw in zip(streams, requests, strict=True):
                stream.write(raw)
            return await asyncio.gather(*(receive(stream) for stream in streams)), started
        finally:
            for stream in streams:
                stream.close()


@asynccontextmanager
async def site(directory: Path, over: Over = None, listen: str = "127.0.0.1") -> AsyncIterator[Site]:
    """Both running; at the end the proxy must go quietly and the upstream have seen nothing but HTTP.

    `over` is laid over the usual configuration; it may ask for the upstream's port.
    """
    allow_many_files()
    upstream = await Upstream.start()
    here = Site(upstream, directory, listen)
    try:
        await here.start(over(upstream.port) if callable(over) else over or {})
        try:
            yield here
        finally:
            await here.proxy.stop()
        assert not upstream.broken, upstream.broken
    finally:
        await upstream.kill()
