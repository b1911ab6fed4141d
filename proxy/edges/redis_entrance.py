"""How a connection to a Redis server begins: TLS, login and database, and in words what went wrong with that."""

import asyncio
import ssl as tls
from dataclasses import dataclass, field
from typing import Any, Final

from redis import RedisError

from proxy.edges.redis_wire import Unreachable, Wire, Word


@dataclass(frozen=True, slots=True)
class Entrance:
    """What a server asks for before it serves."""

    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    ssl: tls.SSLContext | None = None


async def connect(wire: Wire, entrance: Entrance, within: float, *setup: tuple[Word, ...]) -> None:
    """Connect, log in and send the commands of `setup`, all in one round trip. Raises Unreachable.

    `within` is in seconds. What the server refuses of `setup` does not matter, but where it refuses PING.
    """
    host, port = wire.address
    try:
        async with asyncio.timeout(within):
            await asyncio.get_running_loop().create_connection(
                lambda: wire, host, port, ssl=entrance.ssl, server_hostname=host if entrance.ssl else None
            )
            await _enter(wire, entrance, setup)
    except BaseException as error:
        wire.close()
        if isinstance(error, Unreachable | asyncio.CancelledError):
            raise
        raise Unreachable(f"{wire.name} {_why(error, within)}") from None


async def _enter(wire: Wire, entrance: Entrance, setup: tuple[tuple[Word, ...], ...]) -> None:
    must: list[asyncio.Future[Any]] = []
    if entrance.username or entrance.password:
        user = (entrance.username,) if entrance.username else ()
        must.append(wire.order("AUTH", *user, entrance.password))
    if entrance.db:
        must.append(wire.order("SELECT", entrance.db))
    may = [wire.order("CLIENT", "SETNAME", "readthrough"), *[wire.order(*words) for words in setup]]
    must.append(wire.order("PING"))
    await asyncio.gather(*must)
    await asyncio.gather(*may, return_exceptions=True)


def _why(error: BaseException, within: float) -> str:
    """In words, and without what the server has said: it may repeat what it was sent."""
    if isinstance(error, TimeoutError):
        return f"gave no connection within {within * 1000:g} ms"
    if isinstance(error, RedisError):
        code = str(error).partition(" ")[0]
        return _REFUSALS.get(code, f"refused to serve: {code}")
    if isinstance(error, tls.SSLCertVerificationError):
        return f"has a certificate that is not accepted: {error.verify_message}"
    if isinstance(error, tls.SSLError):
        return "does not speak TLS as expected"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or type(error).__name__}"
    raise error


_REFUSALS: Final = {
    "WRONGPASS": "refused the user or the password",
    "NOAUTH": "asks for a password",
    "NOPERM": "does not permit this user to connect",
    "LOADING": "is still loading its data",
}
