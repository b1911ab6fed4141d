"""Asking a running instance."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from proxy.admin import client
from proxy.admin.client import Answer, Instance, Unanswered
from tests.admin.kit import TOKEN


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8081", "http://127.0.0.1:8081"),
        ("127.0.0.1:8081", "http://127.0.0.1:8081"),
        ("localhost", "http://localhost"),
        ("https://Cache.internal/admin/", "https://cache.internal/admin"),
        ("http://[::1]:8081/", "http://[::1]:8081"),
    ],
)
def test_an_instance_is_named_by_its_url(url: str, shown: str) -> None:
    assert str(Instance.at(url, None)) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "ftp://a",
        "http://a:x",
        "http://a:99999",
        "http://u:hidden@a",
        "http://a/?x",
        "http://a b",
        "http://[a",
    ],
)
def test_what_is_no_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="its URL") as caught:
        Instance.at(url, None)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é"])
def test_what_is_no_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ValueError, match="the token has a character") as caught:
        Instance.at("http://a", token)
    assert "X: y" not in str(caught.value)


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(Instance.at("http://a", TOKEN)) + str(Instance.at("http://a", TOKEN))


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[Instance, list[bytes]]]:
    """An instance that always says this, and what it was asked."""
    asked: list[bytes] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        if writer.can_write_eof():
            writer.write_eof()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    async with server:
        yield Instance.at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base", TOKEN), asked


def post(instance: Instance) -> Callable[[], Answer]:
    return lambda: instance.post("/x?y=1", {"a": 1}, 0.0)


async def test_it_is_asked_with_token_and_type_below_its_path() -> None:
    async with answering(b'HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\n{"id":"b"}') as (instance, asked):
        assert await asyncio.to_thread(post(instance)) == Answer(202, {"id": "b"})
        assert asked[0].startswith(b"POST /base/x?y=1 HTTP/1.1\r\n")
        assert b"\r\nContent-Type: application/json\r\n" in asked[0]
        assert f"\r\nAuthorization: Bearer {TOKEN}\r\n".encode() in asked[0]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff", b"[" * 100_000])
async def test_what_is_not_data_has_no_members(body: bytes) -> None:
    async with answering(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n" + body) as (instance, _):
        assert await asyncio.to_thread(post(instance)) == Answer(502, {})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "cannot be reached|does not speak HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", "broke off its answer"),
    ],
)
async def test_what_is_no_answer_is_none(answer: bytes, said: str) -> None:
    async with answering(answer) as (instance, _):
        with pytest.raises(Unanswered, match=said):
            await asyncio.to_thread(post(instance))


def test_who_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        instance = Instance.at(f"127.0.0.1:{silent.getsockname()[1]}", None)
        with pytest.raises(Unanswered, match="does not answer"):
            instance.post("/x", {}, 0.0)


def test_https_is_verified() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        instance = Instance.at(f"https://127.0.0.1:{plain.getsockname()[1]}", None)
        plain.close()
        with pytest.raises(Unanswered, match="cannot be reached"):
            instance.post("/x", {}, 0.0)
