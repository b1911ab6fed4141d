"""The data listener: accepts connections and watches their deadlines with one timer for all."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic

from proxy.edges.connection import Connection
from proxy.edges.shared import SWEEP, Shared
from proxy.flow.heads import A

UNSENT: Final = 128 << 10  # bytes the kernel may hold unsent per connection


@dataclass(frozen=True, slots=True)
class Making:
    """What becomes of an accepted socket; `wait` is for the handshake, in seconds."""

    connection: Callable[[], asyncio.Protocol]
    tls: ssl.SSLContext | None
    wait: float | None


class Listener(Generic[A]):
    """The listening sockets. `shared` is what their connections have in common."""

    def __init__(self, shared: Shared[A]) -> None:
        self.shared = shared
        self._servers: dict[asyncio.Server, Making] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None, *, reuse_port: bool = False) -> int:
        """Accept connections; returns the port. Raises OSError where the address is taken. With `reuse_port`
        other processes of this user may listen there too, and the kernel spreads the connections over them.
        """
        loop = asyncio.get_running_loop()
        scheme = "https" if tls else "http"
        wait = self.shared.limits.header_timeout if tls else None
        made = Making(lambda: Connection(self.shared, scheme), tls, wait)
        server = await loop.create_server(
            made.connection,
            host,
            port,
            ssl=tls,
            backlog=4096,
            reuse_port=reuse_port,
            ssl_handshake_timeout=wait,
            ssl_shutdown_timeout=wait,
        )
        for listening in server.sockets:  # accepted ones inherit it
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # tunnels have no other deadline
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                # Without it the kernel takes megabytes at once, and a client that reads slowly but
                # steadily looks as if it had stopped.
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self._servers[server] = made
        if self._timer is None:
            self._sweep()
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def stop_accepting(self) -> None:
        """Close the listening sockets and every connection that waits for nothing.

        Connections that the kernel has made and nobody has accepted would be reset with the socket: they are
        accepted first. Only those made between the last of them and the closing are lost.
        """
        self.shared.draining = True
        for connection in list(self.shared.connections):
            connection.close_if_idle()
        for server, made in self._servers.items():
            for listening in server.sockets:
                for waiting in _queued(listening.fileno()):
                    self.shared.spawn(_adopt(waiting, made), "adopt")
            server.close()

    def close(self) -> None:
        """Cut what is left, and stop accepting if that is still to be done."""
        if self._timer is not None:
            self._timer.cancel()
        for server in self._servers:
            server.close()
        for connection in list(self.shared.connections):
            connection.abort()

    def _sweep(self, due: float | None = None) -> None:
        """Look at all connections, and then again. `due` is when this was to happen."""
        loop = asyncio.get_running_loop()
        if due is not None:  # whatever is late here is late for everybody
            self.shared.lag.observe(max(self.shared.now() - due, 0.0))
        self.shared.sweep()
        self._timer = loop.call_later(SWEEP, self._sweep, self.shared.now() + SWEEP)


def _queued(listening: int) -> Iterator[socket.socket]:
    """Accept what waits on a listening socket, and no more."""
    with socket.socket(fileno=os.dup(listening)) as sock:
        sock.settimeout(0.0)  # it is so already; the object has to know
        while True:
            try:
                waiting, _ = sock.accept()
            except ConnectionAbortedError:  # that one has left meanwhile
                continue
            except OSError:  # there is none, or no room for another file
                return
            waiting.settimeout(0.0)
            yield waiting


async def _adopt(waiting: socket.socket, made: Making) -> None:
    try:
        await asyncio.get_running_loop().connect_accepted_socket(
            made.connection,
            waiting,
            ssl=made.tls,
            ssl_handshake_timeout=made.wait,
            ssl_shutdown_timeout=made.wait,
        )
    except OSError:  # no handshake, or not in time
        waiting.close()
