"""The upstream client, byte for byte: what goes out and what comes in."""

import asyncio
import gzip
from pathlib import Path
from typing import Final

import pytest

from proxy.rules.message import Reason
from tests.edges.scripted import (
    HOST,
    OK,
    Case,
    H,
    Peer,
    ask,
    cases,
    client,
    failure,
    get,
    pieces,
    post,
    read,
    replies,
    upstream,
)

# -- what goes out

TARGETS = [
    "/",
    "/a?",
    "//x",
    "/a|b",
    "/%7E",
    "/~",
    "/a;b=1",
    "/a+b",
    "/a?b=?c",
    "/%2f%2F",
    "/a%20b?q=%C3%A9&r",
    "/?",
    "/a//b/",
]
TARGETS += ["/[x]{y}^`", "/a?x=[1]|2", "/a:b@c", "/%zz"]


async def test_the_target_goes_out_byte_for_byte_behind_the_base_path() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer, _: int) -> None:
        while True:
            seen.append((await peer.head()).split(b"\r\n")[0])
            await peer.send(OK)

    async with upstream(script) as up:
        for base in ("", "/", "/base", "/base/", "/b%7Ease/x"):
            async with client(up.url + base) as origin:
                for target in TARGETS:
                    seen.clear()
                    await ask(origin, get(target))
                    assert seen == [f"GET {base.rstrip('/')}{target} HTTP/1.1".encode()]


async def test_the_fields_go_out_as_they_are_and_nothing_is_added() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer, _: int) -> None:
        while True:
            seen.append(await peer.head())
            await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    headers = (("x-Z", "1"), ("hOST", "other.example:81"), ("X-z", "2"), ("Cookie", "a=b"), ("x-Z", "3"), ("Empty", ""))
    async with upstream(script) as up, client(up.url) as origin:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PURGE"):
            seen.clear()
            answer = await origin.fetch(get("/p", headers, method))
            answer.close()
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
            assert seen == [f"{method} /p HTTP/1.1\r\n{lines}\r\n".encode()]


async def test_values_keep_their_bytes_whatever_their_encoding() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer, _: int) -> None:
        seen.append(await peer.head())
        await peer.send(OK)

    async with upstream(script) as up, client(up.url) as origin:
        raw = (b"caf\xc3\xa9", b"caf\xe9", bytes(range(0x80, 0x100)))
        await ask(origin, get("/", (*HOST, *((f"X-{n}", value.decode("latin-1")) for n, value in enumerate(raw)))))
        assert [line.split(b": ")[1] for line in seen[0].split(b"\r\n")[2:-2]] == list(raw)


async def test_a_line_break_in_a_field_is_never_sent() -> None:
    async with upstream(replies(OK)) as up, client(up.url) as origin:
        for bad in (get("/", (("Host", "up\r\nX: y"),)), get("/a\r\nX: y"), get("/", (("Host", "a\nb"),))):
            with pytest.raises(ValueError, match="line break"):
                await origin.fetch(bad)
        assert not up.peers


async def test_the_environment_redirects_cookies_and_codings_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[bytes] = []
    packed = gzip.compress(b"x" * 1000)

    async def script(peer: Peer, _: int) -> None:
        seen.append(await peer.head())
        await peer.send(
            b"HTTP/1.1 302 Found\r\nLocation: /other\r\nSet-Cookie: s=1; Path=/\r\nContent-Encoding: gzip\r\n"
            b"Content-Length: %d\r\n\r\n" % len(packed) + packed
        )
        seen.append(await peer.head())
        await peer.send(OK)

    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with upstream(script) as up, client(up.url) as origin:
        assert await ask(origin) == (302, packed)
        assert await ask(origin) == (200, b"ok")
        assert seen == [b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"] * 2


async def test_a_body_of_known_length_goes_out_as_it_is() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer, _: int) -> None:
        while True:
            seen.append(await peer.head() + await peer.reader.readexactly(6))
            await peer.send(OK)

    async with upstream(script) as up, client(up.url) as origin:
        for _ in range(2):
            assert await ask(origin, post(pieces(b"abc", b"", b"def"), 6)) == (200, b"ok")
        assert seen == [b"POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 6\r\n\r\nabcdef"] * 2
        assert len(up.peers) == 1


async def test_a_body_of_unknown_length_goes_out_chunked() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer, _: int) -> None:
        while True:
            seen.append(await peer.head() + await peer.reader.readuntil(b"\r\n0\r\n\r\n"))
            await peer.send(OK)

    async with upstream(script) as up, client(up.url) as origin:
        for _ in range(2):
            assert await ask(origin, post(pieces(b"abc", b"", b"x" * 20), None)) == (200, b"ok")
        body = b"3\r\nabc\r\n14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n"
        assert seen == [b"POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n" + body] * 2
        assert len(up.peers) == 1


async def test_an_empty_chunked_body_is_its_last_chunk() -> None:
    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        assert await peer.reader.readexactly(5) == b"0\r\n\r\n"
        await peer.send(OK)

    async with upstream(script) as up, client(up.url) as origin:
        assert await ask(origin, post(pieces(), None)) == (200, b"ok")


# -- what comes in


async def test_the_response_head_keeps_order_spelling_bytes_and_phrase() -> None:
    raw = b"HTTP/1.1 299 Tr\xe8s  bien \xc3\xa9\r\nx-B: 2\r\nX-a:  caf\xe9 \r\nx-b: \xc3\xa9\r\n"
    raw += b"DATE: now\r\nContent-length: 2\r\n\r\nok"
    async with upstream(replies(raw)) as up, client(up.url) as origin:
        answer = await origin.fetch(get())
        assert await read(answer) == b"ok"
    head = answer.head
    assert (head.status, head.reason, head.http10) == (299, "Tr\xe8s  bien \xc3\xa9", False)
    assert head.headers == (
        ("x-B", "2"),
        ("X-a", "caf\xe9"),
        ("x-b", "\xc3\xa9"),
        ("DATE", "now"),
        ("Content-length", "2"),
    )
    assert head.fields["x-b"] == "2, \xc3\xa9"


async def test_hop_by_hop_fields_stop_here() -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nConnection: X-Gone, cache-control, keep-alive\r\nX-Gone: 1\r\nKeep-Alive: timeout=9\r\n"
        b"Cache-Control: no-store\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\nUpgrade: h2c\r\nX-Kept: 1\r\n\r\n"
        b"2;ext=1\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
    )
    async with upstream(replies(raw)) as up, client(up.url) as origin:
        for _ in range(2):
            answer = await origin.fetch(get())
            assert answer.head.headers == (("Cache-Control", "no-store"), ("X-Kept", "1"))
            assert dict(answer.head.fields) == {"cache-control": "no-store", "x-kept": "1"}
            assert (answer.length, answer.close_delimited) == (None, False)
            assert await read(answer) == b"ok"
        assert len(up.peers) == 1


BODILESS = [
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "5"),
    ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n", None),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "7"),
    ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n", None),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "0"),
]


async def test_responses_without_a_body_have_length_0_and_keep_their_content_length() -> None:
    for method, raw, declared in BODILESS:
        async with upstream(replies(raw, OK)) as up, client(up.url) as origin:
            answer = await origin.fetch(get(method=method))
            assert (answer.length, answer.close_delimited) == (0, False)
            assert answer.head.fields.get("content-length") == declared
            assert await read(answer) == b""
            assert await ask(origin) == (200, b"ok")
            # Of a HEAD without either field the parser believes that its connection must end.
            assert len(up.peers) == (1 if b":" in raw else 2) or method == "GET"


async def test_interim_responses_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 199 Hm\r\n\r\n"
    async with upstream(replies(interim + OK)) as up, client(up.url) as origin:
        answer = await origin.fetch(get())
        assert answer.head.headers == (("Content-Length", "2"),)
        assert await read(answer) == b"ok"
        assert await ask(origin) == (200, b"ok")
        assert len(up.peers) == 1


AMBIGUOUS: Final = {
    "two equal lengths": H + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "two different lengths": H + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "a list of lengths": H + b"Content-Length: 2, 2\r\n\r\nok",
    "a signed length": H + b"Content-Length: +2\r\n\r\nok",
    "a negative length": H + b"Content-Length: -2\r\n\r\nok",
    "a hexadecimal length": H + b"Content-Length: 0x2\r\n\r\nok",
    "an empty length": H + b"Content-Length:\r\n\r\nok",
    "a length beyond all measure": H + b"Content-Length: 99999999999999999999999\r\n\r\nok",
    "a length and a coding": H + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a coding and a length": H + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "another coding": H + b"Transfer-Encoding: gzip\r\n\r\nok",
    "another coding inside": H + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked twice": H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a status below 100": b"HTTP/1.1 099 Hm\r\nContent-Length: 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    "space before the colon": H + b"X : 1\r\nContent-Length: 2\r\n\r\nok",
    "a bare CR in a value": H + b"X: a\rb\r\nContent-Length: 2\r\n\r\nok",
    "NUL in a value": H + b"X: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "an empty name": H + b": 1\r\nContent-Length: 2\r\n\r\nok",
    "101 nobody asked for": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "space behind a name that the parser knows": H + b"Content-Length : 2\r\n\r\nok",
    "and of the coding": H + b"Transfer-Encoding : chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "and of the connection": H + b"Connection : x-a\r\nContent-Length: 2\r\n\r\nok",
    "101 without Upgrade": b"HTTP/1.1 101 Switching\r\n\r\n",
    "a malformed chunk": H + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "a line too long": H + b"X: " + b"a" * 40_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "a phrase too long": b"HTTP/1.1 200 " + b"a" * 40_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "too many fields": H + b"X: 1\r\n" * 300 + b"Content-Length: 2\r\n\r\nok",
    "too large a head": H + b"".join(b"X: %s\r\n" % (b"a" * 20_000) for _ in range(4)) + b"Content-Length: 2\r\n\r\nok",
}


async def test_a_malformed_or_ambiguous_response_is_an_error_and_its_connection_gone() -> None:
    for name, raw in AMBIGUOUS.items():
        async with upstream(replies(raw, OK)) as up, client(up.url) as origin:
            assert await failure(ask(origin)) is Reason.BAD_RESPONSE, name
            assert await ask(origin) == (200, b"ok"), name
            assert len(up.peers) == 2, name
            assert (origin.requests, origin.errors, origin.retries) == (2, 1, 0)


async def test_a_head_of_60_kib_is_fine() -> None:
    raw = H + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 20_000) for n in range(3)) + b"Content-Length: 2\r\n\r\nok"
    async with upstream(replies(raw)) as up, client(up.url) as origin:
        assert await ask(origin) == (200, b"ok")


@pytest.mark.parametrize("case", cases(globals()), ids=lambda case: case.__name__)
def test_on_the_loop_of_the_standard_library(case: Case) -> None:
    asyncio.run(case())
