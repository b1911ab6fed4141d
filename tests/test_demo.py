import asyncio
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient

from proxy.demo import TOUR, Demo, tour
from tests.redis_servers import until

Client = TestClient[web.Request, web.Application]
MakeClient = Callable[[web.Application], Awaitable[Client]]


@pytest.fixture
async def api(aiohttp_client: MakeClient) -> Client:
    return await aiohttp_client(Demo(delay=0).app())


@pytest.mark.parametrize(
    ("path", "cache_control"),
    [
        ("/products/1", "max-age=60"),
        ("/news", "max-age=3, stale-while-revalidate=60"),
        ("/greeting", "max-age=60"),
        ("/report", "max-age=2"),
        ("/weather", "max-age=2, stale-if-error=600"),
        ("/account", "no-store"),
    ],
)
async def test_every_endpoint_shows_one_thing_and_counts_what_it_is_asked(
    api: Client, path: str, cache_control: str
) -> None:
    for asked in (1, 2):
        answer = await api.get(path)
        body = await answer.json()
        assert (answer.status, answer.headers["Cache-Control"], body["asked"]) == (200, cache_control, asked)
        assert body["generated"].endswith(" GMT")


async def test_a_post_changes_a_product(api: Client) -> None:
    before = await (await api.get("/products/7")).json()
    changed = await api.post("/products/7")
    after = await api.get("/products/7")
    assert changed.status == 200
    assert (await after.json())["revision"] == before["revision"] + 1
    assert after.headers["Surrogate-Key"] == "products product-7"
    assert after.headers["Cache-Tag"] == "catalog"


@pytest.mark.parametrize(
    ("accepted", "language"), [("fr", "fr"), ("de-AT,de;q=0.9", "de"), ("ES", "es"), ("xx", "en"), ("", "en")]
)
async def test_a_greeting_varies_by_language(api: Client, accepted: str, language: str) -> None:
    answer = await api.get("/greeting", headers={"Accept-Language": accepted})
    assert (answer.headers["Vary"], answer.headers["Content-Language"]) == ("Accept-Language", language)


async def test_a_report_is_revalidated_by_its_etag(api: Client) -> None:
    first = await api.get("/report")
    second = await api.get("/report", headers={"If-None-Match": first.headers["ETag"]})
    assert (first.status, second.status, await second.read()) == (200, 304, b"")
    assert second.headers["ETag"] == first.headers["ETag"]


async def test_the_weather_fails_for_as_long_as_the_outage_lasts(api: Client) -> None:
    assert (await api.post("/weather/outage")).status == 200
    assert (await api.get("/weather")).status == 503
    assert (await api.delete("/weather/outage")).status == 200
    assert (await api.get("/weather")).status == 200


async def test_the_export_is_streamed(api: Client) -> None:
    answer = await api.get("/export")
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert len(await answer.read()) == 4 * 1024 * 1024


def test_the_tour_names_the_cache_and_only_paths_that_exist() -> None:
    shown = tour("http://cache.test:1")
    routes = [route.resource for route in Demo(0).app().router.routes() if route.resource is not None]
    urls = [word.strip("`") for word in shown.split() if word.strip("`").startswith("http://cache.test:1/")]
    assert len(urls) >= len(TOUR)
    for url in urls:
        path = url.removeprefix("http://cache.test:1")
        assert any(route.get_info().get("path") == path or _fits(route, path) for route in routes), path


def _fits(route: web.AbstractResource, path: str) -> bool:
    pattern = route.get_info().get("pattern")
    return pattern is not None and pattern.fullmatch(path) is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_answer_under_way_finish(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.demo", "--delay", "0.5", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).split()[-1].decode()
    async with ClientSession() as session:
        export = await session.get(f"{url}/export")  # its head is here, its body still comes
        process.send_signal(number)
        assert len(await export.read()) == 4 * 1024 * 1024
    assert await process.wait() == 0


def test_beside_a_command_the_api_lives_as_long_as_the_command() -> None:
    code = (
        "import sys, urllib.request; "
        "print(urllib.request.urlopen(sys.argv[1] + '/news').status, sys.argv[1], flush=True); input()"
    )
    command = [sys.executable, "-m", "proxy.demo", "--delay", "0", "--", sys.executable, "-c", code, "{url}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        status, url = process.stdout.readline().decode().split()
        assert status == "200"
        with urllib.request.urlopen(f"{url}/news") as answer:
            assert answer.status == 200
        process.kill()  # the API is told nothing, and its end of standard output is the last to close
        assert process.stdout.read() == b""
    # An ending process closes its files in turn, and whoever waits at the last of them is reset.
    until(lambda: _refuses(f"{url}/news"), "nobody listens any more")


def _refuses(url: str) -> bool:
    try:
        urllib.request.urlopen(url).close()
    except OSError as error:
        return "refused" in str(error)
    return False


def test_a_command_that_cannot_be_run_takes_the_api_with_it() -> None:
    command = [sys.executable, "-m", "proxy.demo", "--", "/nonexistent/command"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == "/nonexistent/command: No such file or directory\n"
