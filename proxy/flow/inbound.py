"""A queue of bytes between a connection that receives them and the exchange that reads them."""

import asyncio
from collections import deque
from collections.abc import Callable

from proxy.flow.ports import ClientError


class Inbound:
    """A request body, or what a client sends into a tunnel. One reader.

    `wanted` is called when the reader begins to wait, `taken` when it took something: that is when
    a deadline starts and when a paused connection may read on. `size` is what waits, in bytes.
    """

    __slots__ = ("_chunks", "_taken", "_waiter", "_wanted", "done", "error", "size")

    def __init__(self, wanted: Callable[[], None], taken: Callable[[], None]) -> None:
        self._chunks: deque[bytes] = deque()
        self._wanted, self._taken = wanted, taken
        self._waiter: asyncio.Future[None] | None = None
        self.size = 0
        self.done = False
        self.error: str | None = None

    @property
    def waiting(self) -> bool:
        """Whether a reader is waiting for more."""
        return self._waiter is not None

    def feed(self, data: bytes) -> None:
        """More bytes."""
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
