"""Who may ask: the bearer token, and the names this listener goes by."""

from dataclasses import dataclass, field
from hashlib import blake2b
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address

from aiohttp import hdrs, web

from proxy.admin.dashboard import PATHS
from proxy.admin.problems import Refusal, Trouble
from proxy.rules.wire import Refused, valid_host

OPEN = PATHS | {"/healthz", "/readyz"}  # no token is asked for here
_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Access:
    """What the configuration says of it. `listen` is a name or an address without brackets; `hosts` are further
    Host values, lower-case: with a port for that one alone, without for any.
    """

    listen: str
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()

    def check(self, request: web.BaseRequest) -> None:
        """Raises Refusal, for a path that exists as for one that does not, and in the same time."""
        self._check_host(request)
        if self.token is not None and not self._authorized(request) and request.rel_url.raw_path not in OPEN:
            raise Refusal(
                Trouble.UNAUTHORIZED,
                "This asks for `Authorization: Bearer TOKEN` with the token of the configuration's admin.token.",
                headers=((hdrs.WWW_AUTHENTICATE, "Bearer"),),
            )

    def _authorized(self, request: web.BaseRequest) -> bool:
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # Digests, since a comparison of the tokens themselves would tell how long the right one is.
        same = compare_digest(_digest(token.strip(" ")), _digest(self.token or ""))
        return same and scheme.lower() == "bearer"

    def _check_host(self, request: web.BaseRequest) -> None:
        """A page that has its own name resolve to this machine (DNS rebinding) still says its own name."""
        given = request.headers.getall(hdrs.HOST, [])
        if not given and request.version < (1, 1):
            return  # no browser: they all name a host
        try:
            (host,) = given
            host = valid_host(host, "http")
        except (ValueError, Refused):
            raise Refusal(Trouble.MALFORMED, "Exactly one valid Host field is needed.") from None
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        known = {*_LOCAL, _bracketed(self.listen.lower()), *self.hosts}
        if host not in known and name not in known and name != _arrived_at(request):
            raise Refusal(
                Trouble.UNKNOWN_HOST,
                "This listener does not go by the name in Host. Ask it by its address, or add the name to admin.hosts"
                " in the configuration.",
            )


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=32).digest()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _arrived_at(request: web.BaseRequest) -> str | None:
    """This machine's address that the client has connected to: the listen address, where that is every one."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    if not isinstance(name, tuple):  # a Unix socket has no address
        return None
    address = ip_address(name[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return _bracketed(str(mapped or address))
