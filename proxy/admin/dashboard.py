"""`GET /`: the dashboard, a page that asks the other paths for everything it shows.

What is here holds no data, so it needs no token. The page takes nothing from elsewhere, and may not: see the policy.
"""

from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from typing import Final

from aiohttp import hdrs, web

from proxy.admin.listener import Handler

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_ASSETS: Final = (
    *("dashboard.css", "dashboard.js", "icon.svg"),
    *("api.js", "charts.js", "explain.js", "live.js", "numbers.js", "purge.js", "screen.js"),
)
_FILES: Final = {"/": "dashboard.html", **{f"/assets/{name}": name for name in _ASSETS}}
PATHS: Final = frozenset(_FILES)
# Whatever a URL or a header that the page shows may hold, there is nothing that it could make the browser do.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_FIELDS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
}


class Dashboard:
    """The page and its assets, read once."""

    def __init__(self) -> None:
        place = files("proxy.admin") / "assets"
        self._routes = {
            path: {"GET": partial(_answer, place.joinpath(name).read_bytes(), _TYPES[name.rpartition(".")[2]])}
            for path, name in _FILES.items()
        }

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """What this answers: see `AdminServer`."""
        return self._routes


async def _answer(body: bytes, content_type: str, _request: web.BaseRequest) -> web.Response:
    return web.Response(body=body, headers={**_FIELDS, hdrs.CONTENT_TYPE: content_type})
