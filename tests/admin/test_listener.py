"""HTTP as the admin listener speaks it: bodies, and what goes wrong."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Sequence

import pytest

from proxy.admin import listener
from proxy.flow.invalidation import Target
from tests.admin.kit import JSON, Admin, FakeLog, admin
from tests.admin.test_access import raw

POST = b"POST /invalidate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"


async def test_a_body_too_large_is_refused_by_what_it_says_and_by_what_it_is() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    async with admin() as here:
        for body in (io.BytesIO(b" " * (listener.MAX_BODY + 1)), pieces()):
            status, said, _ = await here.ask("/invalidate", "POST", JSON, data=body)
            assert (status, said["type"]) == (413, "urn:readthrough:error:body-too-large")


async def test_a_body_just_not_too_large_is_read() -> None:
    async with admin() as here:
        body = b'{"all":true}'.ljust(listener.MAX_BODY)
        assert (await here.ask("/invalidate", "POST", JSON, data=io.BytesIO(body)))[0] == 202


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_BODY_TIMEOUT", 0.05)
    async with admin() as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(POST + b'Content-Length: 12\r\n\r\n{"all"')
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()
        assert here.log.batches == []


@pytest.mark.parametrize("body", [b"zz\r\n{}\r\n0\r\n\r\n", b'c\r\n{"all":true}x\r\n0\r\n\r\n'])
async def test_a_badly_framed_body_changes_nothing(body: bytes) -> None:
    async with admin() as here:
        answer = await raw(here, POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert b" 400 " in answer.partition(b"\r\n")[0]
        assert b"urn:readthrough:error:malformed" in answer
        assert here.log.batches == []


async def test_a_client_that_leaves_in_mid_body_changes_nothing_and_nothing_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with admin() as here:
        _, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(POST + b'Content-Length: 100\r\n\r\n{"all":true}')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await here.ask("/healthz"))[0] == 200
        assert here.log.batches == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_who_waits_to_be_asked_for_the_body_is_asked() -> None:
    async with admin() as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 12\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b'{"all":true}')
        assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
        writer.close()
        await writer.wait_closed()


async def test_a_body_is_not_unpacked() -> None:
    async with admin() as here:
        headers = {**JSON, "Content-Encoding": "gzip"}
        assert (await here.ask("/invalidate", "POST", headers, data=b"\x1f\x8b"))[0] == 400


async def test_a_fault_of_ours_is_logged_and_nothing_of_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeLog):
        async def invalidate(self, targets: Sequence[Target], who: str, *, soft: bool) -> str:
            raise KeyError("inside", targets, who, soft)

    def broken(here: Admin) -> None:
        here.log = Broken()
        here.__post_init__()

    async with admin(change=broken) as here:
        status, said, _ = await here.invalidate({"all": True})
        assert (status, said["type"]) == (500, "urn:readthrough:error:internal")
        assert "inside" not in str(said)
    assert "POST /invalidate failed" in caplog.text
    assert "KeyError: ('inside'" in caplog.text


async def test_many_requests_share_a_connection() -> None:
    async with admin() as here:
        head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
        answer = await raw(here, (head + b"\r\n") * 2 + head + b"Connection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 ") == 3
