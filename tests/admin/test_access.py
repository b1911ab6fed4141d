"""Who may ask, and under which names."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

import pytest

from proxy.admin.access import Access
from tests.admin.kit import AUTHORIZED, JSON, TOKEN, Admin, admin

GUARDED: Final = [("/invalidate", "POST"), ("/invalidations/b1", "GET"), ("/invalidate", "GET"), ("/x", "GET")]


def guarded(here: Admin) -> None:
    here.access = Access("127.0.0.1", TOKEN)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"Authorization": f"Bearer {TOKEN} {TOKEN}"},
        {"Authorization": "Bearer é"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("path", "method"), GUARDED)
async def test_without_the_token_every_path_says_the_same(path: str, method: str, headers: Mapping[str, str]) -> None:
    async with admin(change=guarded) as here:
        status, said, fields = await here.ask(path, method, {**JSON, **headers}, data=b'{"all":true}')
        assert (status, said["type"]) == (401, "urn:readthrough:error:unauthorized")
        assert (fields["WWW-Authenticate"], fields["Content-Type"]) == ("Bearer", "application/problem+json")
        assert said == (await here.ask("/invalidate", "POST", JSON))[1]
        assert here.log.batches == []


async def test_two_tokens_are_none() -> None:
    async with admin(change=guarded) as here:
        twice = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")]
        async with here.session.get("/invalidations/b1", headers=twice) as response:
            assert response.status == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
async def test_with_the_token_it_is_done(scheme: str) -> None:
    async with admin(change=guarded) as here:
        headers = {**JSON, "Authorization": f"{scheme} {TOKEN}"}
        assert (await here.ask("/invalidate", "POST", headers, data=b'{"all":true}'))[0] == 202


async def test_a_new_token_counts_from_the_next_request_on() -> None:
    async with admin(change=guarded) as here:
        assert (await here.ask("/x", headers=AUTHORIZED))[0] == 404
        here.access = Access("127.0.0.1", "another")
        assert (await here.ask("/x", headers=AUTHORIZED))[0] == 401


async def test_health_and_the_empty_page_ask_for_none() -> None:
    async with admin(change=guarded) as here:
        assert [(await here.ask(path))[0] for path in ("/healthz", "/readyz", "/")] == [200, 200, 200]
        for path in (b"/healthz/", b"/%68ealthz", b"//", b"/healthz/../x", b"/x?/healthz", b"http://localhost/x"):
            answer = await raw(here, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 401 "), path


async def test_without_a_configured_token_none_is_asked_for() -> None:
    async with admin() as here:
        assert (await here.invalidate({"all": True}))[0] == 202


@pytest.mark.parametrize(
    ("host", "listen", "hosts"),
    [
        ("127.0.0.1", "127.0.0.1", ()),
        ("127.0.0.1:9999", "127.0.0.1", ()),
        ("localhost", "127.0.0.1", ()),
        ("LocalHost:8081", "127.0.0.1", ()),
        ("[::1]:8081", "127.0.0.1", ()),
        ("127.0.0.1:8081", "0.0.0.0", ()),
        ("10.1.2.3:8081", "10.1.2.3", ()),
        ("[fd00::1]", "fd00::1", ()),
        ("admin.internal:8081", "Admin.internal", ()),
        ("cache.internal", "127.0.0.1", ("cache.internal",)),
        ("CACHE.internal:8081", "127.0.0.1", ("cache.internal",)),
        ("cache.internal:8081", "127.0.0.1", ("cache.internal:8081",)),
    ],
)
async def test_it_goes_by_its_names(host: str, listen: str, hosts: tuple[str, ...]) -> None:
    async with admin() as here:
        here.access = Access(listen, TOKEN, hosts)
        assert (await here.ask("/healthz", headers={"Host": host}))[0] == 200


@pytest.mark.parametrize(
    ("host", "hosts"),
    [
        ("evil.example", ()),
        ("evil.example:8081", ("cache.internal",)),
        ("localhost.evil.example", ()),
        ("127.0.0.1.evil.example", ()),
        ("127.0.0.2", ()),
        ("cache.internal", ("cache.internal:8081",)),
        ("cache.internal:8082", ("cache.internal:8081",)),
        ("x.cache.internal", ("cache.internal",)),
    ],
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/invalidations/b1", "/x"])
async def test_under_another_name_it_does_not_know_itself(path: str, host: str, hosts: tuple[str, ...]) -> None:
    async with admin() as here:
        here.access = Access("127.0.0.1", TOKEN, hosts)
        status, said, _ = await here.ask(path, headers={"Host": host, **AUTHORIZED})
        assert (status, said["type"]) == (421, "urn:readthrough:error:unknown-host")
        assert "admin.hosts" in said["detail"]
        assert host not in str(said)


async def raw(here: Admin, head: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    writer.write(head)
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    "hosts", [b"", b"Host: a b\r\n", b"Host: \r\n", b"Host: localhost\r\nHost: localhost\r\n", b"Host: u@localhost\r\n"]
)
async def test_exactly_one_valid_host_is_needed(hosts: bytes) -> None:
    async with admin() as here:
        answer = await raw(here, b"GET /healthz HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert b" 400 " in answer.partition(b"\r\n")[0]
        assert b"urn:readthrough:error:malformed" in answer


async def test_a_probe_that_names_no_host_is_no_browser() -> None:
    async with admin() as here:
        assert (await raw(here, b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 ")
        assert (await raw(here, b"GET /healthz HTTP/1.0\r\nHost: evil.example\r\n\r\n")).startswith(b"HTTP/1.0 421 ")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\x00\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: localhost\r\nAuthorization Bearer %s\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s" + b"x" * 20_000 + b"\r\n\r\n",
        b"Bearer %s\r\n\r\n",
        b"GET /%s HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"POST /invalidate HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: x\r\n\r\n",
    ],
)
async def test_the_token_is_in_no_answer_and_no_log_even_if_its_head_is_broken(
    head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with admin(change=guarded) as here:
        answer = await raw(here, head.replace(b"%s", TOKEN.encode()))
        assert b" 400 " in answer.partition(b"\r\n")[0]
        assert b"urn:readthrough:error:malformed" in answer
        logged = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
        assert TOKEN not in logged + answer.decode()
        assert TOKEN not in repr(here.access)


async def test_a_wrong_token_is_not_repeated_either(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with admin(change=guarded) as here:
        said: Any = await here.ask("/x", headers={"Authorization": f"Bearer {TOKEN}x"})
        assert TOKEN not in f"{caplog.text}{said}"
