"""The scripted upstream: a real server whose every byte a test decides and records."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from ssl import SSLContext
from typing import Self

from tests.e2e.stream import Cut, Framing, Head, Stream


class Call:
    """One request that reached the upstream, and the connection to answer it on."""

    def __init__(self, stream: Stream, head: Head) -> None:
        self._continued = False
        self.stream, self.head = stream, head
        self.method, self.target, self.version = head.start
        framing, self._length = head.framing()
        self.framing = Framing.NONE if framing is Framing.CLOSE else framing
        self.complete = False  # whether the request came to its end
        self.received = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    async def body(self) -> bytes:
        """The request's body, asked for with 100 Continue where the client waits for that."""
        if not self.complete:
            if self.head.get("expect") and not self._continued:
                self._continued = True
                self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.received = await self.stream.body(self.framing, self._length)
            self.complete = True
        return self.received

    def write(self, data: bytes) -> None:
        self.stream.write(data)

    def answer(self, body: bytes | str = b"", *headers: str, status: str = "200 OK") -> None:
        """A whole answer of known length."""
        self.stream.write(message(body, *headers, status=status, head_only=self.method == "HEAD"))


Handler = Callable[[Call], Awaitable[None]]


def message(body: bytes | str = b"", *headers: str, status: str = "200 OK", head_only: bool = False) -> bytes:
    """A response with Content-Length, in bytes."""
    data = body.encode() if isinstance(body, str) else body
    return head(*headers, f"Content-Length: {len(data)}", status=status) + (b"" if head_only else data)


def head(*headers: str, status: str = "200 OK") -> bytes:
    """A response head with nothing in it but what is given."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, "")).encode("latin-1")


def replies(body: bytes | str = b"", *headers: str, status: str = "200 OK") -> Handler:
    """Answer every request alike."""

    async def handler(call: Call) -> None:
        await call.body()
        call.answer(body, *headers, status=status)

    return handler


def counts(*headers: str) -> Handler:
    """Answer with the number of the request: 1, 2, 3."""
    numbers = iter(range(1, 1 << 30))

    async def handler(call: Call) -> None:
        await call.body()
        call.answer(str(next(numbers)), *headers)

    return handler


class Upstream:
    """Handlers are chosen by path, or by `/first/*` of it; an unknown path gets 404. Everything seen is kept."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.calls: list[Call] = []
        self._counts: Counter[str] = Counter()
        self.connections = 0  # ever accepted
        self.streams: set[Stream] = set()
        self.broken: list[Exception] = []  # what came in was not HTTP, or a handler failed
        self.port = 0

    @classmethod
    async def start(cls, port: int = 0, tls: SSLContext | None = None) -> Self:
        self = cls()
        await self.listen(port, tls)
        return self

    async def listen(self, port: int, tls: SSLContext | None = None) -> None:
        """Begin to listen, again after `kill`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Stream(self._opened), "127.0.0.1", port, ssl=tls, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Stop listening and reset every connection."""
        self._server.close()
        for stream in list(self.streams):
            stream.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def on(self, path: str, handler: Handler) -> None:
        """Answer requests for a path, in place of what answered them before."""
        self._handlers[path] = handler

    def seen(self, path: str) -> list[Call]:
        """The requests for a path, oldest first."""
        return [call for call in self.calls if call.path == path]

    def count(self, path: str) -> int:
        """How many requests for a path there were."""
        return self._counts[path]

    def _opened(self, stream: Stream) -> None:
        self.connections += 1
        self.streams.add(stream)
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: Stream) -> None:
        try:
            while stream.buffer or stream.end is None:
                if not stream.buffer and not await self._idle(stream):
                    return
                call = Call(stream, await stream.head())
                self.calls.append(call)
                self._counts[call.path] += 1
                if call.framing is Framing.NONE:
                    call.complete = True
                handler = self._handlers.get(call.path) or self._handlers.get(f"/{call.path[1:].partition('/')[0]}/*")
                if handler is None:
                    await call.body()
                    call.answer(status="404 Not Found")
                else:
                    await handler(call)
                    if not stream.transport.is_closing():
                        await call.body()
        except Cut:
            pass  # the proxy may leave at any time; tests look at `complete`
        except Exception as error:  # noqa: BLE001 - kept, and raised by `site` in the test's name
            self.broken.append(error)
        finally:
            self.streams.discard(stream)
            stream.close()

    @staticmethod
    async def _idle(stream: Stream) -> bool:
        # A pooled connection may rest for as long as it likes: no patience here.
        while True:
            try:
                return await stream.more()
            except TimeoutError:
                continue
