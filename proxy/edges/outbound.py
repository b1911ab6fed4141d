"""What one client is sent: at its pace, and watched, so that one that takes nothing is not waited for."""

import asyncio
import contextlib
import socket
import struct
from typing import Final

from proxy.flow.ports import ClientError

HALF_OPEN: Final = 5.0  # seconds of silence after which a client that closed its side of a stream is gone
APART: Final = 16 << 10  # bytes; what is longer costs more to copy behind its head than to hand over on its own
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends RST


class Outbound:
    """The sending side of a connection. One writer.

    `paused`: what waits for the client is enough. `used`: it has been sent something.
    """

    __slots__ = (
        "_chunked",
        "_drained",
        "_progress",
        "_progress_at",
        "_said",
        "_said_at",
        "_sent",
        "_transport",
        "paused",
    )

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.paused = False
        self._chunked = False  # the body that is given
        self._drained: asyncio.Future[None] | None = None
        self._sent = 0  # bytes handed to the transport
        self._progress, self._progress_at = 0, 0.0  # bytes that have left, and since when no more
        self._said, self._said_at = 0, 0.0  # bytes, and since when no more, of a stream whose client only listens

    @property
    def used(self) -> bool:
        """Whether anything was sent at all."""
        return self._sent > 0

    @property
    def pending(self) -> int:
        """Bytes that wait for the client."""
        return self._transport.get_write_buffer_size()

    def put(self, data: bytes) -> None:
        """Some bytes; of no use where the client has left."""
        if not self._transport.is_closing():
            self._sent += len(data)
            self._transport.write(data)

    def pair(self, head: bytes, tail: bytes) -> None:
        """The whole of an answer that is ready."""
        if len(tail) > APART:
            self._transport.write(head)
            self._sent += len(head)
        else:
            tail = head + tail
        self._transport.write(tail)
        self._sent += len(tail)

    def start(self, head: bytes, connection: bytes, tail: bytes, *, chunked: bool) -> None:
        """The head of an answer, or all of it: between `head` and `tail` go the fields that `connection` holds and,
        where the body is to be `chunked`, the one that says so. Of no use where the client has left.
        """
        self._chunked = chunked
        if not self._transport.is_closing():
            coding = b"Transfer-Encoding: chunked\r\n" if chunked else b""
            self.pair(b"".join((head, coding, connection)), tail)

    def give(self, data: bytes) -> None:
        """Some body. Raises ClientError where the client has left."""
        if self._transport.is_closing():
            raise ClientError("the client left")
        if self._chunked and data:
            size = b"%x\r\n" % len(data)
            self._sent += len(size) + len(data) + 2
            self._transport.writelines((size, data, b"\r\n"))
        elif data:
            self.put(data)

    def finish(self) -> None:
        """The body is complete."""
        if self._chunked:
            self._chunked = False  # a tunnel may follow
            self.put(b"0\r\n\r\n")

    async def drained(self) -> None:
        """Wait while it is paused. Raises ClientError where the client leaves."""
        if self.paused:
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await self._drained
            finally:
                self._drained = None

    def resume(self) -> None:
        """The client has caught up."""
        self.paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def end(self) -> None:
        """The client has left."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(ClientError("the client left"))

    def reset(self) -> None:
        """Cut the connection with a reset: a close could pass for the end of the body."""
        raw = self._transport.get_extra_info("socket")
        if raw is None:
            return  # it is gone already
        with contextlib.suppress(OSError, ValueError):  # or going
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def is_stuck(self, now: float, timeout: float) -> bool:
        """Whether the client has taken nothing of what waits for it for so many seconds, as often as it is asked."""
        pending = self.pending
        progress = self._sent - pending
        if not pending or progress != self._progress:
            self._progress, self._progress_at = progress, now
            return False
        return now - self._progress_at > timeout

    def is_silent(self, now: float) -> bool:
        """Whether a client that only listens has been sent nothing for HALF_OPEN, as often as it is asked: it may
        still be reading, or may be gone, and only a write would tell.
        """
        if self._sent != self._said:
            self._said, self._said_at = self._sent, now
            return False
        return now - self._said_at > HALF_OPEN
