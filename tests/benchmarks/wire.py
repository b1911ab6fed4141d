"""One request as every subject gets it, and a plain socket that asks and reads one answer."""

import socket
from dataclasses import dataclass
from typing import Final

HOST: Final = "127.0.0.1"

# What a browser sends with a fetch() of an API: eleven fields, none of which a cache should mind.
FIELDS: Final = (
    ("Host", "api.example.com"),
    ("Connection", "keep-alive"),
    ("Sec-Ch-Ua", '"Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99"'),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    ),
    ("Accept", "application/json, text/plain, */*"),
    ("Sec-Fetch-Site", "same-site"),
    ("Sec-Fetch-Mode", "cors"),
    ("Sec-Fetch-Dest", "empty"),
    ("Referer", "https://www.example.com/products/1"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
)


def request(path: str, extra: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The bytes of a GET with the usual fields, and these after them."""
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (*FIELDS, *extra)), "", ""]
    return "\r\n".join(lines).encode()


@dataclass(frozen=True)
class Answer:
    """A response. Names of fields are in lower case; `size` is bytes on the wire, head and body."""

    status: int
    fields: dict[str, str]
    size: int
    body: bytes


class Asker:
    """A connection on which one request after another is asked."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, raw: bytes) -> Answer:
        """Send a request and read the answer to its Content-Length."""
        self._socket.sendall(raw)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        line, *rest = data[:end].decode("latin-1").split("\r\n")
        status = int(line.split(" ")[1])
        fields = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in rest)}
        size = end + 4 + (0 if status == 304 else int(fields["content-length"]))
        while len(data) < size:
            data += self._more()
        if len(data) > size:
            raise ConnectionError(f"{len(data) - size} bytes more than the answer has")
        return Answer(status, fields, size, data[end + 4 :])

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed before the answer was whole")
        return data

    def close(self) -> None:
        self._socket.close()


def ask(port: int, raw: bytes) -> Answer:
    """One request on a connection of its own."""
    asker = Asker(port)
    try:
        return asker.ask(raw)
    finally:
        asker.close()
