"""A slow API to put Readthrough in front of: `python -m proxy.demo [--port PORT]`.

Every answer takes a second and says when it was generated and how often the API was asked for it.
With `-- COMMAND`, the command takes this process's place, `{url}` in it replaced by the API's address,
and the API lives exactly as long as the command does.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from typing import Final

from aiohttp import web

TOUR: Final = (
    (
        "curl -i {base}/products/1",
        "about a second: Cache-Status: readthrough; fwd=uri-miss; fwd-status=200; stored",
        "again, milliseconds: Cache-Status: readthrough; hit; ttl=…",
    ),
    (
        "curl -i -X POST {base}/products/1",
        "the product changes, and what is stored of it goes: the next GET is a miss",
    ),
    (
        "curl -i {base}/news",
        "fresh for 3 seconds, then for 60 more stale at once (hit; ttl=-1) and refreshed behind your back",
    ),
    (
        "curl -i -H 'Accept-Language: fr' {base}/greeting",
        "Vary: one answer is stored for each language (en, de, es, fr)",
    ),
    (
        "curl -i {base}/report",
        "fresh for 2 seconds, then revalidated by its ETag: Cache-Status: readthrough; fwd=stale; fwd-status=304",
    ),
    (
        "curl -i {base}/weather",
        "fresh for 2 seconds; `curl -X POST {base}/weather/outage` and ask again: the stale answer bridges",
        "the outage (detail=stale-if-error), which `curl -X DELETE {base}/weather/outage` ends",
    ),
    (
        "curl -i {base}/account",
        "no-store: always a second, nothing stored",
    ),
    (
        "curl {base}/export | wc -c",
        "4 MiB, streamed; the second time from memory",
    ),
)
GREETINGS: Final = {"en": "Good morning", "de": "Guten Morgen", "es": "Buenos días", "fr": "Bonjour"}
EXPORT_LINES: Final = 64
EXPORT_LINE: Final = b"." * 65535 + b"\n"
GRACE: Final = 5.0  # seconds for answers under way when told to stop

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Demo:
    """The API's state: how often each path was asked for, product revisions, whether there is an outage.

    `delay` is what every answer takes, in seconds.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._asked: Counter[str] = Counter()
        self._revisions: Counter[str] = Counter()
        self._outage = False

    def app(self) -> web.Application:
        """The API as an application."""

        @web.middleware
        async def slowly(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._asked[request.path] += 1
            await asyncio.sleep(self._delay)
            return await handler(request)

        app = web.Application(middlewares=[slowly])
        app.add_routes(
            [
                web.get("/products/{id}", self._product),
                web.post("/products/{id}", self._change_product),
                web.get("/news", self._news),
                web.get("/greeting", self._greeting),
                web.get("/report", self._report),
                web.get("/weather", self._weather),
                web.post("/weather/outage", self._begin_outage),
                web.delete("/weather/outage", self._end_outage),
                web.get("/account", self._account),
                web.get("/export", self._export),
            ]
        )
        return app

    def _answer(self, request: web.Request, cache_control: str, *, status: int = 200, **fields: object) -> web.Response:
        about = {"path": request.path, "generated": formatdate(usegmt=True), "asked": self._asked[request.path]}
        return web.json_response({**about, **fields}, status=status, headers={"Cache-Control": cache_control})

    async def _product(self, request: web.Request) -> web.Response:
        product = request.match_info["id"]
        answer = self._answer(request, "max-age=60", product=product, revision=self._revisions[product])
        answer.headers["Surrogate-Key"] = f"products product-{product}"
        answer.headers["Cache-Tag"] = "catalog"
        return answer

    async def _change_product(self, request: web.Request) -> web.Response:
        product = request.match_info["id"]
        self._revisions[product] += 1
        return self._answer(request, "no-store", product=product, revision=self._revisions[product])

    async def _news(self, request: web.Request) -> web.Response:
        return self._answer(request, "max-age=3, stale-while-revalidate=60")

    async def _greeting(self, request: web.Request) -> web.Response:
        wanted = request.headers.get("Accept-Language", "")[:2].lower()
        language = wanted if wanted in GREETINGS else "en"
        answer = self._answer(request, "max-age=60", greeting=GREETINGS[language])
        answer.headers["Vary"] = "Accept-Language"
        answer.headers["Content-Language"] = language
        return answer

    async def _report(self, request: web.Request) -> web.Response:
        etag = '"the-report-never-changes"'
        if etag in request.headers.get("If-None-Match", ""):
            answer = web.Response(status=304, headers={"Cache-Control": "max-age=2"})
        else:
            answer = self._answer(request, "max-age=2")
        answer.headers["ETag"] = etag
        return answer

    async def _weather(self, request: web.Request) -> web.Response:
        if self._outage:
            return self._answer(request, "no-store", status=503, error="outage")
        return self._answer(request, "max-age=2, stale-if-error=600", weather="sunny")

    async def _begin_outage(self, request: web.Request) -> web.Response:
        self._outage = True
        return self._answer(request, "no-store", outage=True)

    async def _end_outage(self, request: web.Request) -> web.Response:
        self._outage = False
        return self._answer(request, "no-store", outage=False)

    async def _account(self, request: web.Request) -> web.Response:
        return self._answer(request, "no-store", balance=42)

    async def _export(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Cache-Control": "max-age=60", "Content-Type": "text/plain"})
        await answer.prepare(request)
        for _ in range(EXPORT_LINES):
            await answer.write(EXPORT_LINE)
            await asyncio.sleep(self._delay / EXPORT_LINES)
        await answer.write_eof()
        return answer


async def serve(listener: socket.socket, delay: float, lifeline: int | None) -> None:
    """Serve until SIGTERM or SIGINT, or, where there is a `lifeline`, until that descriptor reads its end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if lifeline is None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    else:
        loop.add_reader(lifeline, stop.set)
    runner = web.AppRunner(Demo(delay).app(), access_log=None, shutdown_timeout=GRACE)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await stop.wait()
    await runner.cleanup()


def accompany(command: Sequence[str], listener: socket.socket, delay: float) -> None:
    """Become `command`, with the API beside it; exit 1 where it cannot be run."""
    lifeline, held = os.pipe()
    if os.fork() == 0:
        # The kernel closes `held` when the command ends, however it ends: the API cannot be left behind.
        # A session of its own keeps Ctrl-C for the command, which may still need the API to finish its work.
        os.close(held)
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # also where it is sent by name and not by the terminal
        asyncio.run(serve(listener, delay, lifeline))
        return
    url = "http://{}:{}".format(*listener.getsockname())
    os.set_inheritable(held, True)  # noqa: FBT003 - the only way to call it
    try:
        os.execvp(command[0], [part.replace("{url}", url) for part in command])  # noqa: S606 - the user's own command
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def tour(base: str) -> str:
    """What to try through a cache at `base`, and what to expect."""
    lines = [f"A demo API, a second per answer, is behind {base}. In another terminal:", ""]
    for command, *expectations in TOUR:
        lines += [f"  {command}", *[f"      {line}" for line in expectations], ""]
    return "\n".join(lines).replace("{base}", base)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m proxy.demo", description="A slow API to try Readthrough with.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; without, a free one")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds that every answer takes")
    parser.add_argument("--try", dest="base", metavar="URL", help="print the lines to try through a cache there")
    parser.add_argument("command", nargs="*", help="after --, what to run in front; {url} is the API's address")
    given = parser.parse_args(argv)
    listener = socket.create_server(("127.0.0.1", given.port), backlog=1024)
    if given.base:
        print(tour(given.base), flush=True)
    if given.command:
        accompany(given.command, listener, given.delay)
        return
    print("The demo API is at http://{}:{}".format(*listener.getsockname()), flush=True)
    asyncio.run(serve(listener, given.delay, None))


if __name__ == "__main__":
    main(sys.argv[1:])
