"""The API that both proxies front: as fast as the floor, its answers prepared, chosen by the path's first segment.

Run as a script: `upstream.py PORT`. `/1k/…` and `/64k/…` are cacheable for a day, `/vary-encoding/…` and
`/vary-language/…` are 1 KiB with a `Vary`, `/nostore/…` is 1 KiB with `no-store`. `/asked` tells how many
requests there were, which is the truth about how many were answered by a cache.
"""

import asyncio
import sys
from email.utils import formatdate
from typing import Final, cast

import uvloop

ETAG: Final = '"bench-1"'
DAY: Final = "public, max-age=86400"
ANSWERS: Final = {
    b"1k": (1024, DAY, ""),
    b"64k": (65536, DAY, ""),
    b"vary-encoding": (1024, DAY, "Accept-Encoding"),
    b"vary-language": (1024, DAY, "Accept-Language"),
    b"nostore": (1024, "no-store", ""),
}


def body(size: int) -> bytes:
    """JSON of this many bytes, the same in every run."""
    text = ",".join(f'{{"id":{number},"name":"product {number}"}}' for number in range(size // 24))
    return f"[{text}]".encode()[:size].ljust(size)


def answer(size: int, cache_control: str, vary: str) -> tuple[bytes, bytes]:
    """Head before the date, and all that follows it: whole prepared answers but for the second they are given in."""
    lines = [
        "",
        "Content-Type: application/json",
        f"Cache-Control: {cache_control}",
        f"ETag: {ETAG}",
        "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
        *((f"Vary: {vary}",) if vary else ()),
        f"Content-Length: {size}",
        "",
        "",
    ]
    return b"HTTP/1.1 200 OK\r\nDate: ", "\r\n".join(lines).encode() + body(size)


class Upstream:
    """What its connections share: the answers of this second, and how many requests there were."""

    def __init__(self) -> None:
        self.asked = 0
        self._templates = {name: answer(*shape) for name, shape in ANSWERS.items()}
        self.answers: dict[bytes, bytes] = {}

    def tick(self) -> None:
        """Write the date of this second into every answer, once a second."""
        loop = asyncio.get_running_loop()
        date = formatdate(usegmt=True).encode()
        self.answers = {name: before + date + after for name, (before, after) in self._templates.items()}
        loop.call_later(1.0, self.tick)


class Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write  # uvloop's own type derives from neither

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        start = 0
        while (end := data.find(b"\r\n\r\n", start)) >= 0:
            self._answer(data[data.find(b" /", start) + 2 : data.find(b" ", start + 5)])
            start = end + 4
        if start != len(data):
            self._rest = data[start:]

    def _answer(self, path: bytes) -> None:
        if path == b"asked":
            number = str(self._upstream.asked).encode()
            self._write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(number), number))
            return
        self._upstream.asked += 1
        found = self._upstream.answers.get(path.partition(b"/")[0])
        self._write(found or b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


async def serve(port: int) -> None:
    upstream = Upstream()
    upstream.tick()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(upstream), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
