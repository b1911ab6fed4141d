"""`GET /entries?url=`: what is stored of a URL, in this process."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import orjson
from aiohttp import web

from proxy.admin.asking import Described, header_mistakes, is_target, split_url
from proxy.admin.listener import Handler
from proxy.admin.problems import Mistake, Refusal, Trouble
from proxy.flow.inventory import Inventory
from proxy.flow.site import Site
from proxy.rules.limits import Limits
from proxy.rules.wire import Refused

_SCHEMES: Final = ("http", "https")


class Entries:
    """Looks where a GET of the URL would. `site` and `limits` are as they are now."""

    def __init__(self, inventory: Inventory, site: Callable[[], Site], limits: Callable[[], Limits]) -> None:
        self._inventory, self._site, self._limits = inventory, site, limits

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """What this answers: see `AdminServer`."""
        return {"/entries": {"GET": self._entries}}

    async def _entries(self, request: web.BaseRequest) -> web.Response:
        url, headers = _question(request)
        parts = split_url(url)
        found = {}
        for scheme, authority, target in self._places(url) if parts is None else [parts]:
            described = Described("GET", scheme, authority, target, headers)
            try:
                asked = described.request(self._limits())
            except Refused as refused:
                raise Refusal(
                    Trouble.BAD_REQUEST, f"Nothing can be stored of it, since it is refused: {refused.detail}"
                ) from None
            found[f"{asked.scheme}://{asked.host}{asked.target}"] = self._inventory.stored(asked)
        members = {
            "url": url,
            "searched": list(found),
            "not_searched": [] if parts is not None else sorted(self._patterns()),
            "entries": [stored for listed in found.values() for stored in listed],
        }
        return web.Response(body=orjson.dumps(members), content_type="application/json")

    def _places(self, target: str) -> Iterator[tuple[str, str, str]]:
        """A target on both schemes of every host that a route names."""
        hosts = {route.match.host for route in self._site().routes if route.match.host is not None}
        for host in sorted(hosts - self._patterns()):
            for scheme in _SCHEMES:
                yield scheme, host, target

    def _patterns(self) -> set[str]:
        """What stands for hosts that nobody can list."""
        hosts = [route.match.host or "*" for route in self._site().routes]
        return {host for host in hosts if host.startswith("*")}


def _question(request: web.BaseRequest) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The URL or target, and header fields that are keyed. Raises Refusal with every mistake."""
    query = list(request.rel_url.query.items())
    mistakes = [
        Mistake("query", "has a parameter that is not known here", "write url=… and header=Name:value")
        for name, _ in query
        if name not in ("url", "header")
    ]
    urls = [value for name, value in query if name == "url"]
    if len(urls) != 1 or not (is_target(urls[0]) or split_url(urls[0])):
        what = "is not given once" if len(urls) != 1 else "is neither a path nor an http or https URL"
        mistakes.append(Mistake("url", what, "write url=https://host/path, percent-encoded where needed, or url=/path"))
    lines = [value.partition(":") for name, value in query if name == "header"]
    headers = tuple([(name, value.strip(" \t")) for name, _, value in lines])
    mistakes += header_mistakes(headers)
    if mistakes:
        raise Refusal(Trouble.BAD_REQUEST, "The query has mistakes.", mistakes=mistakes)
    return urls[0], headers
