"""What two requests must share to share an answer: scheme, host and whole target, and what the
route adds or leaves out (RFC 9111 section 2).
"""

from hashlib import blake2b
from typing import Final
from urllib.parse import urljoin

from proxy.rules.fields import spelled_otherwise
from proxy.rules.message import Fields, Request
from proxy.rules.policy import KeyRule
from proxy.rules.wire import Refused, canonical_host, canonical_target

_SHORT: Final = 128  # characters


def cache_target(target: str, rule: KeyRule) -> str:
    """The target without the query parameters that the route ignores; order is kept."""
    if not rule.ignore_query:
        return target
    path, mark, query = target.partition("?")
    if not mark:
        return target
    kept = "&".join(pair for pair in query.split("&") if not _ignored(pair, rule))
    return f"{path}?{kept}" if kept else path


def _ignored(pair: str, rule: KeyRule) -> bool:
    if ";" in pair:  # upstreams that part there see more in it than one parameter
        return False
    name = pair.partition("=")[0]
    return any(name == p or (p[-1:] == "*" and name.startswith(p[:-1])) for p in rule.ignore_query)


def url_of(scheme: str, host: str, target: str, rule: KeyRule) -> str:
    """What an invalidation of this URL names: every variant and every keyed header lies under it."""
    return f"{scheme}://{host}{cache_target(target, rule)}"


def keyed_names(fields: Fields, rule: KeyRule) -> tuple[str, ...]:
    """The fields that are in the key: those of the rule, and those present that an upstream may read as one of them."""
    return (*rule.headers, *spelled_otherwise(fields, rule.headers)) if rule.headers else ()


def key_of(request: Request, url: str, rule: KeyRule) -> str:
    """The cache key. LF separates: it can be in neither a URL nor a field value."""
    fields = request.fields
    return "\n".join((url, *(f"{name}={fields.get(name, '')}" for name in keyed_names(fields, rule))))


def short(name: str) -> str:
    """The name, or where it is long a digest of it: what is remembered by name must not grow with names."""
    return name if len(name) <= _SHORT else blake2b(name.encode(), digest_size=16).hexdigest()


def same_origin_target(reference: str, request: Request) -> str | None:
    """The canonical target of a Location or Content-Location on the request's own origin, else None.

    Only those may be invalidated (RFC 9111 section 4.4).
    """
    try:
        url = urljoin(f"{request.scheme}://{request.host}{request.target}", reference).partition("#")[0]
        scheme, _, rest = url.partition("://")
        end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
        if scheme != request.scheme or canonical_host(rest[:end], scheme) != request.host:
            return None
        return canonical_target(rest[end:] if rest[end:].startswith("/") else f"/{rest[end:]}")
    except (ValueError, Refused):  # nothing that a request could ask for
        return None
