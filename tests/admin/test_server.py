"""The admin listener, over HTTP."""

from pathlib import Path

import aiohttp
import pytest

from proxy.admin.access import Access
from proxy.admin.server import AdminServer
from tests.admin.kit import JSON, admin


def idle() -> AdminServer:
    return AdminServer(lambda: True, access=lambda: Access("127.0.0.1"))


async def test_it_is_ready_exactly_while_it_says_so_and_tells_of_its_components() -> None:
    async with admin() as here:
        for ready in (False, True, False):
            here.ready, here.components = ready, {"redis": "reachable" if ready else "blind"}
            status, said, _ = await here.ask("/readyz")
            assert status == (200 if ready else 503)
            assert said == {"status": "ready" if ready else "not ready", "components": here.components}


@pytest.mark.parametrize("ready", [False, True])
async def test_it_is_alive_whether_ready_or_not(ready: bool) -> None:
    async with admin() as here:
        here.ready = ready
        assert (await here.ask("/healthz"))[:2] == (200, {"status": "alive"})


async def test_a_probe_may_be_a_head() -> None:
    async with admin() as here:
        here.ready = False
        assert (await here.ask("/healthz", "HEAD"))[:2] == (200, None)
        assert (await here.ask("/readyz", "HEAD"))[0] == 503


@pytest.mark.parametrize(
    ("path", "method", "status", "kind"),
    [
        ("/", "POST", 405, "method"),
        ("/x", "GET", 404, "not-found"),
        ("/x", "POST", 404, "not-found"),
        ("/invalidations", "GET", 404, "not-found"),
        ("/invalidations/b1/x", "GET", 404, "not-found"),
        ("/invalidations/*", "GET", 404, "not-found"),
        ("/*", "GET", 404, "not-found"),
        ("/readyz", "POST", 405, "method"),
        ("/invalidate", "GET", 405, "method"),
        ("/invalidate", "OPTIONS", 405, "method"),
    ],
)
async def test_what_is_not_there_is_a_problem_document(path: str, method: str, status: int, kind: str) -> None:
    async with admin() as here:
        said = await here.ask(path, method, JSON)
        assert (said[0], said[1]["type"], said[1]["status"]) == (status, f"urn:readthrough:error:{kind}", status)
        assert said[2]["Content-Type"] == "application/problem+json"


async def test_a_wrong_method_is_told_the_right_ones() -> None:
    async with admin() as here:
        assert (await here.ask("/readyz", "DELETE"))[2]["Allow"] == "GET, HEAD"
        assert (await here.ask("/invalidate", "GET"))[2]["Allow"] == "POST"


async def test_answers_are_kept_by_nobody_and_do_not_say_what_serves_them() -> None:
    async with admin() as here:
        for path in ("/healthz", "/x"):
            fields = (await here.ask(path))[2]
            assert (fields["Cache-Control"], fields["Server"]) == ("no-store", "readthrough")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_change_that_a_form_of_another_page_could_send_is_refused(kind: str) -> None:
    async with admin() as here:
        status, said, _ = await here.ask("/invalidate", "POST", {"Content-Type": kind}, data=b'{"all":true}')
        assert (status, said["type"]) == (415, "urn:readthrough:error:content-type")
        assert here.log.batches == []


async def test_it_listens_on_ipv6() -> None:
    async with admin("::1") as here:
        assert (await here.ask("/healthz"))[0] == 200


async def test_it_listens_at_a_unix_socket(tmp_path: Path) -> None:
    server = idle()
    await server.listen_at(tmp_path / "admin")
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "admin"))) as session:
        assert (await session.get("http://localhost/healthz")).status == 200
        assert (await session.get("http://elsewhere/healthz")).status == 421
    await server.close()


async def test_a_port_that_is_taken_is_an_error_and_can_be_closed_all_the_same() -> None:
    async with admin() as here:
        second = idle()
        with pytest.raises(OSError, match="in use"):
            await second.listen("127.0.0.1", here.port)
        await second.close()
        assert (await here.ask("/healthz"))[0] == 200


async def test_it_can_be_closed_without_having_listened() -> None:
    await idle().close()


async def test_closed_is_closed() -> None:
    async with admin() as here:
        assert (await here.ask("/healthz"))[0] == 200
        await here.server.close()
        with pytest.raises(aiohttp.ClientConnectionError):
            await here.ask("/healthz")
