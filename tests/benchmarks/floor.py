"""The bare floor: what uvloop alone can do. It finds the end of a head and writes one prepared answer.

Run as a script: `floor.py PORT BODY_BYTES STATUS [BUSY]`. Nothing that answers from Python on uvloop can be faster.
With BUSY it works for so many microseconds before each answer: what a server costs that has that much to do.
"""

import asyncio
import sys
from time import perf_counter
from typing import cast

import uvloop


def answer(status: int, size: int) -> bytes:
    """The fields of a hit, so that as many bytes travel as from Readthrough."""
    lines = [
        f"HTTP/1.1 {'304 Not Modified' if status == 304 else '200 OK'}",
        "Date: Thu, 01 Jan 2026 00:00:00 GMT",
        "Content-Type: application/json",
        "Cache-Control: public, max-age=86400",
        'ETag: "bench-1"',
        "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
        *(() if status == 304 else (f"Content-Length: {size}",)),
        "Age: 10",
        "Via: 1.1 readthrough",
        "Cache-Status: readthrough; hit; ttl=86390",
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + b"x" * (0 if status == 304 else size)


class Floor(asyncio.Protocol):
    """A connection. Pipelined and cut requests are answered, since a load generator may send them."""

    def __init__(self, prepared: bytes, busy: float) -> None:
        self._prepared, self._busy = prepared, busy
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write  # uvloop's own type derives from neither

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        start = 0
        while (end := data.find(b"\r\n\r\n", start)) >= 0:
            start = end + 4
            if self._busy:
                done = perf_counter() + self._busy
                while perf_counter() < done:
                    pass
            self._write(self._prepared)
        if start != len(data):
            self._rest = data[start:]


async def serve(port: int, prepared: bytes, busy: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Floor(prepared, busy), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    port, size, status, busy = [int(argument) for argument in (*sys.argv[1:], "0")[:4]]
    uvloop.run(serve(port, answer(status, size), busy / 1e6))
