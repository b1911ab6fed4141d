"""What one client sends behind a head: freed of its framing, and kept until the exchange reads it."""

import asyncio
from collections import deque
from collections.abc import Callable

from proxy.flow.ports import ClientError
from proxy.rules.message import Request
from proxy.rules.wire import ChunkedReader, Refused, SizedReader


class Inbound:
    """The body of a `request`, or, without one, what a client sends into a tunnel. One reader.

    `wanted` is called when the reader begins to wait, `taken` when it took something: that is when
    a deadline starts and when a paused connection may read on. `size` is what waits, in bytes.
    `expects`: its client sends nothing before it is told to go on (100-continue, RFC 9110 section 10.1.1); who
    tells it sets that to False.
    """

    __slots__ = ("_chunks", "_framing", "_taken", "_waiter", "_wanted", "done", "error", "expects", "size")

    def __init__(self, wanted: Callable[[], None], taken: Callable[[], None], request: Request | None = None) -> None:
        self._chunks: deque[bytes] = deque()
        self._framing: SizedReader | ChunkedReader | None = None
        if request is not None:
            self._framing = ChunkedReader() if request.length is None else SizedReader(request.length)
        self.expects = request is not None and request.expects_continue
        self._wanted, self._taken = wanted, taken
        self._waiter: asyncio.Future[None] | None = None
        self.size = 0
        self.done = False
        self.error: str | None = None

    @property
    def waiting(self) -> bool:
        """Whether a reader is waiting for more."""
        return self._waiter is not None

    def take(self, buffer: bytearray) -> None:
        """Take what is its own off the front of `buffer`. Raises Refused where the framing is bad, having ended."""
        if self._framing is None:
            self._feed(bytes(buffer))
            buffer.clear()
            return
        try:
            piece = self._framing.feed(buffer)
        except Refused as refused:
            self.end(refused.detail)
            raise
        if piece:
            self._feed(piece)
        if self._framing.done:
            self.end()

    def _feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self.size += len(data)
        self._wake()

    def end(self, error: str | None = None) -> None:
        """No more bytes; with an `error`, before their time."""
        self.done, self.error = error is None, error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> "Inbound":
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self.error is not None:
                raise ClientError(self.error)
            if self.done:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            self._wanted()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = self._chunks.popleft()
        self.size -= len(chunk)
        self._taken()
        return chunk
