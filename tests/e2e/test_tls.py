"""TLS and IPv6 on the listener, TLS towards the upstream."""

import asyncio
import os
import signal
import ssl
from pathlib import Path

import pytest
import trustme

from tests.e2e.harness import Site, ask, receive, request, site
from tests.e2e.process import eventually
from tests.e2e.stream import Cut, Stream
from tests.e2e.upstream import Upstream, replies

pytestmark = pytest.mark.asyncio(loop_scope="function")

FRESH = "Cache-Control: max-age=600"


def _issue(authority: trustme.CA, directory: Path, name: str = "localhost") -> None:
    """Write cert.pem and key.pem, each replaced whole as certificate tools do."""
    issued = authority.issue_cert(name, "127.0.0.1")
    for file, blob in (("key.pem", issued.private_key_pem), ("cert.pem", _chain(issued))):
        fresh = directory / f"{file}.new"
        fresh.write_bytes(blob if isinstance(blob, bytes) else blob.bytes())
        os.replace(fresh, directory / file)  # noqa: PTH105


def _chain(issued: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in issued.cert_chain_pems)


def _client(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def _serial(here: Site, context: ssl.SSLContext) -> object:
    stream = await Stream.open(here.port, tls=context)
    certificate = stream.transport.get_extra_info("peercert")
    assert (await ask(stream, request("/tls"))).text == "secure"
    stream.close()
    return certificate["serialNumber"]


async def _changed(here: Site, context: ssl.SSLContext, old: object) -> bool:
    return await _serial(here, context) != old


async def test_a_tls_listener_takes_a_new_certificate_without_a_restart(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = _client(authority)
    _issue(authority, tmp_path)
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    async with site(tmp_path, {"tls": tls}) as here:
        here.upstream.on("/tls", replies("secure", FRESH))
        old = await _serial(here, context)
        assert here.upstream.calls[0].head["x-forwarded-proto"] == "https"
        open_one = await Stream.open(here.port, tls=context)
        assert (await ask(open_one, request("/tls"))).hit

        _issue(authority, tmp_path)
        await eventually(lambda: _changed(here, context, old), "the new certificate is shown")
        assert (await ask(open_one, request("/tls"))).hit
        open_one.close()

        # A broken file changes nothing.
        new = await _serial(here, context)
        (tmp_path / "cert.pem").write_text("no certificate")
        here.proxy.signal(signal.SIGHUP)
        await asyncio.sleep(2)
        assert await _serial(here, context) == new


async def test_plain_text_on_a_tls_port_harms_nobody(tmp_path: Path) -> None:
    authority = trustme.CA()
    _issue(authority, tmp_path)
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    async with site(tmp_path, {"tls": tls, "limits": {"header_timeout": "1s"}}) as here:
        here.upstream.on("/tls", replies("secure", FRESH))
        for garbage in (request("/tls"), b"\x16\x03\x01", b"\0" * 100):
            stream = await here.connect()
            stream.write(garbage)
            await stream.rest()
            stream.close()
        stream = await here.connect()  # says nothing at all: the handshake has a deadline too
        await stream.rest()
        stream.close()
        assert here.upstream.count("/tls") == 0
        await eventually(lambda: _serves(here, _client(authority)), "it serves who shakes hands within a second")


async def _serves(here: Site, context: ssl.SSLContext) -> bool:
    try:
        return bool(await _serial(here, context))
    except (OSError, Cut):
        return False


async def test_large_bodies_and_pipelines_work_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    _issue(authority, tmp_path)
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    body = bytes(range(256)) * 8192
    async with site(tmp_path, {"tls": tls}) as here:
        here.upstream.on("/large", replies(body, FRESH))
        stream = await Stream.open(here.port, tls=_client(authority))
        stream.write(request("/large") * 10)
        for _ in range(10):
            assert (await receive(stream)).body == body
        stream.close()


async def test_a_listener_on_ipv6(tmp_path: Path) -> None:
    async with site(tmp_path, listen="[::1]") as here:
        here.upstream.on("/six", replies("six", FRESH))
        stream = await Stream.open(here.port, host="::1")
        response = await ask(stream, request("/six", host=f"[::1]:{here.port}"))
        assert response.text == "six"
        head = here.upstream.calls[0].head
        assert head["x-forwarded-for"] == "::1"
        assert '"[::1]"' in head["forwarded"]  # RFC 7239 section 6: brackets, and so quotes
        assert (await ask(stream, request("/six", host=f"[::1]:{here.port}"))).hit
        stream.close()


async def test_an_upstream_behind_tls_is_known_by_its_certificate_and_knows_ours(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    _issue(authority, tmp_path, "proxy.test")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("catalog.test").configure_cert(server)
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    upstream = await Upstream.start(tls=server)
    mine = {key: str(tmp_path / file) for key, file in (("certificate", "cert.pem"), ("key", "key.pem"))}
    good = {"ca": str(tmp_path / "ca.pem"), "server_name": "catalog.test", **mine}
    ways = {
        "good": good,
        "stranger": {**good, "ca": str(tmp_path / "stranger.pem")},
        "misnamed": {**good, "server_name": "other.test"},
        "nameless": {key: good[key] for key in ("ca", "server_name")},
    }
    url = f"https://127.0.0.1:{upstream.port}"
    over = {
        "upstreams": {name: {"url": url, "tls": tls} for name, tls in ways.items()},
        "routes": [{"name": name, "match": {"path": f"/{name}"}, "upstream": name} for name in ways],
    }
    async with site(tmp_path, over) as here:
        for name in ways:
            upstream.on(f"/{name}", replies("secure", FRESH))
            response = await here.get(f"/{name}")
            assert response.status == (200 if name == "good" else 502), name
        assert [call.path for call in upstream.calls] == ["/good"]
    await upstream.kill()
