"""The data listener: accepts connections and watches their deadlines with one timer for all."""

import asyncio
import socket
import ssl
from typing import Final, Generic

from proxy.edges.connection import Connection
from proxy.edges.shared import SWEEP, Shared
from proxy.flow.heads import A

UNSENT: Final = 128 << 10  # bytes the kernel may hold unsent per connection


class Listener(Generic[A]):
    """The listening sockets. `shared` is what their connections have in common."""

    def __init__(self, shared: Shared[A]) -> None:
        self.shared = shared
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Accept connections; returns the port. Raises OSError where the address is taken."""
        loop = asyncio.get_running_loop()
        scheme = "https" if tls else "http"
        wait = self.shared.limits.header_timeout if tls else None
        server = await loop.create_server(
            lambda: Connection(self.shared, scheme),
            host,
            port,
            ssl=tls,
            backlog=4096,
            ssl_handshake_timeout=wait,
            ssl_shutdown_timeout=wait,
        )
        for listening in server.sockets:  # accepted ones inherit it
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # tunnels have no other deadline
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                # Without it the kernel takes megabytes at once, and a client that reads slowly but
                # steadily looks as if it had stopped.
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self._servers.append(server)
        if self._timer is None:
            self._sweep()
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def stop_accepting(self) -> None:
        """Close the listening sockets and every connection that waits for nothing."""
        self.shared.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self.shared.connections):
            connection.close_if_idle()

    def close(self) -> None:
        """Cut what is left, and stop accepting if that is still to be done."""
        if self._timer is not None:
            self._timer.cancel()
        for server in self._servers:
            server.close()
        for connection in list(self.shared.connections):
            connection.abort()

    def _sweep(self) -> None:
        self.shared.sweep()
        self._timer = asyncio.get_running_loop().call_later(SWEEP, self._sweep)
