"""HTTP as the admin listener speaks it: JSON bodies in and out, and every error a problem document."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.admin.problems import Refusal, Trouble

_log = logging.getLogger("readthrough")

Handler = Callable[[web.BaseRequest], Awaitable[web.Response]]

MAX_BODY: Final = 1 << 20  # bytes; what aiohttp takes at most too
_BODY_TIMEOUT: Final = 10.0  # seconds for all of it
_FIELDS: Final = {
    hdrs.SERVER: "readthrough",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Content-Type-Options": "nosniff",
}


def json_answer(members: Mapping[str, Any], *, status: int = 200) -> web.Response:
    """An answer of plain data."""
    return web.json_response(members, status=status)


def peer_of(request: web.BaseRequest) -> str:
    """The address of whoever asks. Behind a Unix socket there is only the process that answers for several."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    told = None if isinstance(name, tuple) else request.headers.get(hdrs.X_FORWARDED_FOR)
    return told or request.remote or "unknown"


async def body_of(request: web.BaseRequest) -> bytes:
    """The body of a request. Raises Refusal where it is too large, too slow, or breaks off."""
    if (request.content_length or 0) > MAX_BODY:
        raise _too_large()
    try:
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        async with asyncio.timeout(_BODY_TIMEOUT):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _too_large() from None
    except TimeoutError:
        raise Refusal(Trouble.BODY_TIMEOUT, f"The body did not come within {_BODY_TIMEOUT:g} s.") from None
    except (HttpProcessingError, web.RequestPayloadError, ConnectionError):
        raise Refusal(Trouble.MALFORMED, "The body broke off or is badly framed.") from None


def _too_large() -> Refusal:
    return Refusal(Trouble.BODY_TOO_LARGE, f"The body is larger than {MAX_BODY} bytes: send it in pieces.")


async def answer(request: web.BaseRequest, handle: Handler) -> web.Response:
    """What the handler answers, or what went wrong there."""
    try:
        response = await handle(request)
    except Refusal as refusal:
        response = refusal.response()
    except Exception:  # noqa: BLE001 - it is logged, and whoever asked is told
        _log.exception("%s %s failed", request.method, request.rel_url.raw_path)
        response = Refusal(Trouble.INTERNAL, "Something went wrong here; it has been logged.").response()
    response.headers.update(_FIELDS)
    return response


class Connection(web.RequestHandler):
    """One client, to whom what aiohttp cannot read is explained like everything else."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to bytes that are no request. What they were is in `exc`: the token too, where a head has it."""
        del message
        level = logging.ERROR
        if isinstance(exc, HttpProcessingError):
            exc, level = None, logging.INFO
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        _log.log(level, "a request of %s could not be read: status %d", request.remote, status, exc_info=exc)
        trouble, detail = (
            (Trouble.INTERNAL, "Something went wrong here; it has been logged.")
            if status >= 500
            else (Trouble.MALFORMED, "This is not an HTTP request that can be read.")
        )
        response = Refusal(trouble, detail).response()
        response.headers.update(_FIELDS)
        response.force_close()
        return response


class Door(web.Server):
    """Makes a Connection of whatever connects."""

    def __init__(self, handle: Handler) -> None:
        async def answered(request: web.BaseRequest) -> web.Response:
            return await answer(request, handle)

        super().__init__(answered)

    def __call__(self) -> web.RequestHandler:
        """A new connection."""
        return Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=75.0,
            access_log=None,  # type: ignore[arg-type]  # none is kept
            auto_decompress=False,
        )
