"""`POST /explain`: why a request would be answered as it would be. A dry run."""

import json
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from itertools import islice
from typing import Any, Final

import orjson
from aiohttp import hdrs, web

from proxy.admin.asking import Described, header_mistakes, split_url
from proxy.admin.listener import Handler, body_of
from proxy.admin.page import parts
from proxy.admin.problems import Mistake, Refusal, Trouble
from proxy.flow.explain import Explainer, refused
from proxy.flow.explanation import AsRead
from proxy.rules.limits import Limits
from proxy.rules.wire import Refused

PAGE: Final = "application/vnd.readthrough.explanation+json"  # with what the command line would print of it
_MEMBERS: Final = ("method", "url", "headers", "client")
_SHOWN: Final = 80  # characters of a member that is not known
_MISTAKES: Final = 100  # that are made out
_HEADS: Final = 4  # times the longest head: what a body may have, since JSON escapes and quotes


class Explain:
    """Runs the rules of a request without one. `limits` are those of the data listener, as they are now."""

    def __init__(self, explainer: Explainer, limits: Callable[[], Limits]) -> None:
        self._explainer, self._limits = explainer, limits

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """What this answers: see `AdminServer`."""
        return {"/explain": {"POST": self._explain}}

    async def _explain(self, request: web.BaseRequest) -> web.Response:
        limits = self._limits()
        raw = await body_of(request, _HEADS * limits.max_header_bytes)  # all of it is read in one go
        described, client = _described(raw, limits.max_headers)
        trusted = client is not None and self._explainer.trusts(client)
        try:
            explanation = self._explainer.explain(described.request(limits, trusted=trusted), client)
        except Refused as why:
            given = AsRead(described.method, described.scheme, described.authority, described.target)
            explanation = refused(given, why)
        body = orjson.dumps(explanation)
        if request.headers.get(hdrs.ACCEPT) == PAGE:
            read = orjson.loads(body)
            return web.Response(body=orjson.dumps({**read, "page": list(parts(read))}), content_type=PAGE)
        return web.Response(body=body, content_type="application/json")


def _described(raw: bytes, max_headers: int) -> tuple[Described, str | None]:
    """The request that a body describes, and whose it is. Raises Refusal with its mistakes."""
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise _wrong([Mistake("body", "is not a JSON object", 'write {"url": "https://host/path"}')])
    instead = f"write {', '.join(_MEMBERS)}"
    unknown = islice((name for name in body if name not in _MEMBERS), _MISTAKES)
    mistakes = [Mistake(ascii(name[:_SHOWN]), "is not known here", instead) for name in unknown]
    method, url = body.get("method", "GET"), body.get("url")
    if not isinstance(method, str) or not method.isascii() or not method.isprintable():
        mistakes.append(Mistake("method", "is not a method", 'write "GET"'))
    parts = split_url(url) if isinstance(url, str) else None
    if parts is None:
        what = "is missing" if url is None else "is no http or https URL that can be asked for"
        mistakes.append(Mistake("url", what, 'write "https://host/path", without user name, spaces and fragment'))
    headers = _headers(body.get("headers", {}), max_headers + 1)
    if headers is None:
        mistakes.append(
            Mistake("headers", "is not a mapping of texts", 'write {"Name": "value"} or [["Name", "value"]]')
        )
    elif len(headers) > max_headers:
        mistakes.append(
            Mistake("headers", f"has more than {max_headers} fields", "leave some out: no such request is taken")
        )
    else:
        mistakes += islice(header_mistakes(headers), max(0, _MISTAKES - len(mistakes)))
    client = body.get("client")
    if client is not None and not (isinstance(client, str) and _is_address(client)):
        mistakes.append(Mistake("client", "is not an IP address", 'write "192.0.2.1", without a port'))
    if mistakes or parts is None:
        raise _wrong(mistakes)
    return Described(method, *parts, tuple(headers or ())), client


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _headers(given: object, most: int) -> list[tuple[str, str]] | None:
    """The first `most` of a mapping, in which a list stands for a field that is repeated, or of pairs; None where it is
    neither.
    """
    pairs: Iterator[Any]
    if isinstance(given, dict):
        pairs = ([name, value] for name, values in given.items() for value in _listed(values))
    elif isinstance(given, list):
        pairs = iter(given)
    else:
        return None
    first = list(islice(pairs, most))
    if not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair) for pair in first):
        return None
    return [(name, value) for name, value in first]


def _listed(values: object) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _wrong(mistakes: list[Mistake]) -> Refusal:
    return Refusal(Trouble.BAD_REQUEST, "Nothing was explained: the body has mistakes.", mistakes=mistakes)
