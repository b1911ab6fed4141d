"""One whole instance in this process: start, stop, reload, and what it watches."""

import asyncio
import errno
import logging
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import trustme

from proxy import app as module
from proxy.app import App, run
from proxy.config.document import ConfigError, Problem
from proxy.config.vocabulary import Address
from proxy.edges.connection import Connection
from proxy.flow.invalidation import Kind
from proxy.rules.limits import Limits
from proxy.rules.policy import Policy
from proxy.rules.quota import GateRule
from proxy.rules.routes import Match, Route
from proxy.settings import Admin, ServerTls, Settings, Shutdown, Upstream, UpstreamTls
from tests.e2e.process import free_port
from tests.flow.kit import FakeClock

PATIENCE: Final = 30.0  # real seconds after which a test that hangs fails


@dataclass
class Api:
    """An upstream. `/slow` waits for the gate before its answer, `/begun` behind the first half of its body."""

    name: str
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    url: str = ""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                target = head.split(b" ")[1].decode()
                self.asked.append(target)
                control = "max-age=60" if target == "/kept" else "no-store"
                body = f"{self.name}{target}".encode()
                if target == "/slow":
                    await self.gate.wait()
                text = f"HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(text.encode() + body[:2])
                if target == "/begun":
                    await self.gate.wait()
                writer.write(body[2:])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def api(name: str = "one") -> AsyncIterator[Api]:
    made = Api(name)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        made.gate.set()
        server.close()


def settings(*urls: str, **more: Any) -> Settings:  # noqa: ANN401 - the fields of Settings
    """One upstream a URL, named u0, u1, …; requests whose path begins with the name go there, the rest to u0."""
    upstreams = {f"u{number}": Upstream(f"u{number}", url) for number, url in enumerate(urls)}
    routes = [Route(name, Match(path=f"/{name}/*"), name, Policy()) for name in upstreams if name != "u0"]
    usual: dict[str, Any] = {
        "upstreams": upstreams,
        "routes": (*routes, Route("rest", Match(), "u0", Policy())),
        "listen": Address("127.0.0.1", free_port()),
        "admin": Admin(Address("127.0.0.1", free_port())),
        "access_log": False,
        "shutdown": Shutdown(delay=0.0, timeout=PATIENCE),
        "limits": Limits(max_connections=100),
    }
    return Settings(**(usual | more))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - what is waited for is not ours to announce
            await asyncio.sleep(0.001)


class Session:
    """One client connection to the data listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, target: str, *headers: str) -> None:
        lines = (f"GET {target} HTTP/1.1", "Host: a.test", *headers, "", "")
        self.writer.write("\r\n".join(lines).encode())

    async def answer(self) -> tuple[int, dict[str, str], str]:
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split(" ")[1]), headers, body.decode()

    async def get(self, target: str, *headers: str) -> str:
        self.ask(target, *headers)
        return (await self.answer())[2]


@asynccontextmanager
async def client(app: App, tls: ssl.SSLContext | None = None) -> AsyncIterator[Session]:
    listen = app.settings.listen
    name = "a.test" if tls else None
    reader, writer = await asyncio.open_connection(listen.host, listen.port, ssl=tls, server_hostname=name)
    try:
        yield Session(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def running(configured: Settings) -> AsyncIterator[App]:
    app = App(configured)
    await app.start()
    try:
        yield app
    finally:
        app.listener.stop_accepting()
        await app.close()


async def ready(app: App) -> bool:
    listen = app.settings.admin.listen
    async with aiohttp.ClientSession() as session, session.get(f"http://{listen.host}:{listen.port}/readyz") as answer:
        return answer.status == 200


# -- start and stop


async def test_it_serves_and_stops_and_lets_go_of_its_ports() -> None:
    async with api() as upstream:
        app = App(settings(upstream.url))
        await app.start()
        assert await ready(app)
        async with client(app) as session:
            assert await session.get("/x") == "one/x"
            assert await app.stop(asyncio.Event()) == 0  # an idle connection is nothing to wait for
        for listen in (app.settings.listen, app.settings.admin.listen):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((listen.host, listen.port))
        await until(lambda: upstream.open == 0)


async def test_before_it_stops_it_says_so_and_goes_on_serving() -> None:
    async with api() as upstream:
        app = App(settings(upstream.url, shutdown=Shutdown(delay=3600.0, timeout=PATIENCE)))
        await app.start()
        rush = asyncio.Event()
        async with client(app) as old:
            assert await old.get("/x") == "one/x"
            stopping = asyncio.create_task(app.stop(rush))
            await asyncio.sleep(0)
            assert not await ready(app)
            for session in (old, None):
                async with client(app) as new:
                    used = session or new
                    used.ask("/y")
                    status, headers, body = await used.answer()
                    assert (status, headers["connection"], body) == (200, "close", "one/y")
            assert not stopping.done()
            rush.set()
            async with asyncio.timeout(PATIENCE):
                assert await stopping == 0


@pytest.mark.parametrize("target", ["/slow", "/begun"])
async def test_what_is_in_flight_is_finished(target: str) -> None:
    async with api() as upstream:
        app = App(settings(upstream.url))
        await app.start()
        async with client(app) as session:
            session.ask(target)
            await until(lambda: upstream.asked)
            if target == "/begun":
                await until(lambda: session.reader._buffer)  # type: ignore[attr-defined]  # noqa: SLF001
            stopping = asyncio.create_task(app.stop(asyncio.Event()))
            await until(lambda: app.shared.draining)
            await asyncio.sleep(0.01)
            assert not stopping.done()
            upstream.gate.set()
            assert (await session.answer())[2] == f"one{target}"
            assert await stopping == 0


@pytest.mark.parametrize("why", ["time is up", "told to hurry"])
async def test_what_does_not_end_is_cut_and_is_said_to_be(why: str, caplog: pytest.LogCaptureFixture) -> None:
    async with api() as upstream:
        timeout = 0.01 if why == "time is up" else 3600.0
        app = App(settings(upstream.url, shutdown=Shutdown(0.0, timeout)))
        await app.start()
        rush = asyncio.Event()
        async with client(app) as session:
            session.ask("/begun")
            await session.reader.readuntil(b"\r\n\r\non")
            stopping = asyncio.create_task(app.stop(rush))
            if why == "told to hurry":
                await asyncio.sleep(0.01)
                rush.set()
            async with asyncio.timeout(PATIENCE):
                assert await stopping == 1
            with pytest.raises(ConnectionResetError):
                await session.reader.read()
            assert "1 connections were cut" in caplog.text
            assert not len(app.background)
        upstream.gate.set()
        await until(lambda: upstream.open == 0)


def taken_port() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize("which", ["listen", "admin"])
def test_a_port_that_is_taken_is_one_line_and_exit_code_1(which: str, caplog: pytest.LogCaptureFixture) -> None:
    with taken_port() as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        more = {"listen": address} if which == "listen" else {"admin": Admin(address)}
        configured = settings("http://127.0.0.1:1", **more)
        assert run(configured, lambda: configured) == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].startswith("cannot start: ")
    assert str(address.port) in errors[0]
    assert os.strerror(errno.EADDRINUSE).lower() in errors[0].lower()


@pytest.mark.parametrize("which", ["listen", "admin"])
def test_a_listen_address_that_nobody_knows_is_named_with_its_key(which: str, caplog: pytest.LogCaptureFixture) -> None:
    address = Address("nohost.invalid", 1)
    more = {"listen": address} if which == "listen" else {"admin": Admin(address)}
    configured = settings("http://127.0.0.1:1", **more)
    assert run(configured, lambda: configured) == 1
    (error,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    key = "listen" if which == "listen" else "admin.listen"
    assert error.startswith(f"cannot start: {key}: no address is known for nohost.invalid: ")


@dataclass
class Pem:
    """Certificate and key files for a.test, rewritten at will."""

    directory: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.tls = ServerTls(self.directory / "cert.pem", self.directory / "key.pem")
        self.client = ssl.create_default_context()
        self.authority.configure_trust(self.client)
        self.issued = 0

    def issue(self) -> tuple[bytes, bytes]:
        self.issued += 1
        leaf = self.authority.issue_cert("a.test", organization_unit_name=f"number {self.issued}")
        return leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        later = self.issued * 10 + path.stat().st_mtime + len(data) / 1000  # however coarse the file system's clock
        os.utime(path, (later, later))

    async def served(self, app: App) -> str:
        """The organisational unit in the certificate that a new connection gets."""
        async with client(app, self.client) as session:
            assert (await session.get("/x")).endswith("/x")
            certificate: dict[str, Any] = session.writer.get_extra_info("peercert")
        fields = {name: value for ((name, value),) in certificate["subject"]}
        return str(fields["organizationalUnitName"])


@pytest.mark.parametrize("fault", ["no file", "no certificate", "another's key", "encrypted key"])
def test_a_certificate_that_cannot_be_used_is_one_line_and_exit_code_1(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pem = Pem(tmp_path)
    certificate, key = pem.issue()
    if fault == "another's key":
        key = pem.issue()[1]
    if fault == "encrypted key":
        from cryptography.hazmat.primitives import serialization as pems  # noqa: PLC0415

        loaded = pems.load_pem_private_key(key, None)
        secret = pems.BestAvailableEncryption(b"secret")
        key = loaded.private_bytes(pems.Encoding.PEM, pems.PrivateFormat.TraditionalOpenSSL, secret)
    if fault != "no file":
        pem.tls.certificate.write_bytes(b"nonsense" if fault == "no certificate" else certificate)
    pem.tls.key.write_bytes(key)
    configured = settings("http://127.0.0.1:1", tls=pem.tls)
    assert run(configured, lambda: configured) == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].startswith("cannot start: ")


def test_an_upstreams_certificate_that_cannot_be_used_is_one_line_and_exit_code_1(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configured = settings("https://127.0.0.1:1")
    upstream = replace(configured.upstreams["u0"], tls=UpstreamTls(ca=tmp_path / "ca.pem"))
    configured = replace(configured, upstreams={"u0": upstream})
    assert run(configured, lambda: configured) == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == [f"cannot start: {tmp_path / 'ca.pem'}: No such file or directory"]


# -- open files


async def test_there_may_be_as_many_open_files_as_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 10_000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: made.append(limits))
    async with running(settings("http://127.0.0.1:1")):
        assert made == [(100 + 256 + 64, 10_000)]


# -- reload


async def test_a_reload_brings_new_routes_and_drops_no_connection() -> None:
    async with api("one") as one, api("two") as two:
        configured = settings(one.url)
        async with running(configured) as app, client(app) as session:
            for _ in range(3):  # so often that its head is remembered
                assert await session.get("/u1/x") == "one/u1/x"
            fresh = settings(one.url, two.url, listen=configured.listen, admin=configured.admin)
            await app.reload(lambda: fresh)
            assert await session.get("/u1/x") == "two/u1/x"
            assert await session.get("/x") == "one/x"
            assert one.connections == 1  # an upstream that did not change keeps its connections


async def test_a_reload_with_another_policy_forgets_what_was_stored_under_the_old_one() -> None:
    async with api() as upstream:
        configured = settings(upstream.url)
        async with running(configured) as app, client(app) as session:
            for _ in range(4):
                await session.get("/kept")
            assert upstream.asked == ["/kept"]
            await app.reload(lambda: configured)
            await session.get("/kept")
            assert upstream.asked == ["/kept"]
            (route,) = configured.routes
            other = replace(configured, routes=(replace(route, policy=Policy(stale_while_revalidate=1.0)),))
            await app.reload(lambda: other)
            await session.get("/kept")
            assert upstream.asked == ["/kept", "/kept"]


async def test_a_reload_with_less_memory_gives_some_back() -> None:
    async with api() as upstream:
        configured = settings(upstream.url)
        async with running(configured) as app, client(app) as session:
            for _ in range(2):
                await session.get("/kept")
            assert upstream.asked == ["/kept"]
            await app.reload(lambda: replace(configured, memory_max_size=1))
            while app.memory.size:  # noqa: ASYNC110 - it is done when others were
                await asyncio.sleep(0)
            await session.get("/kept")
            assert upstream.asked == ["/kept", "/kept"]


async def test_what_was_purged_gives_its_memory_back_without_being_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECLAIM_REST", 0.01)
    monkeypatch.setattr(module, "RECLAIM_STEP", 0.0)
    async with api() as upstream, running(settings(upstream.url)) as app, client(app) as session:
        await session.get("/kept")
        assert app.memory.count == 1
        app.log.append([(Kind.PREFIX, "/kept")], app.clock.now())
        await until(lambda: not app.memory.count)
        assert app.memory.size == 0
        await session.get("/kept")
        assert app.memory.count == 1


async def test_a_reload_changes_limits_and_trust() -> None:
    async with api() as upstream:
        configured = settings(upstream.url)
        async with running(configured) as app, client(app) as session:
            for size in (1500, 2000):
                for _ in range(3):
                    assert await session.get("/x", f"X: {'x' * size}") == "one/x"
            limits = replace(configured.limits, max_header_bytes=1000, max_connections=2)
            trusted = (ip_network("127.0.0.0/8"),)
            await app.reload(lambda: replace(configured, limits=limits, trusted_proxies=trusted))
            session.ask("/x", f"X: {'x' * 1500}")
            assert (await session.answer())[0] == 431
            async with client(app) as other:
                other.ask("/x", f"X: {'x' * 2000}")
                assert (await other.answer())[0] == 431
            async with client(app) as believed:
                await believed.get("/x")
                assert any(isinstance(c, Connection) and c.trusted for c in app.shared.connections)


async def test_a_reload_changes_whom_an_open_connection_is_trusted_to_speak_for() -> None:
    async with api() as upstream:
        trusting = settings(upstream.url, trusted_proxies=(ip_network("127.0.0.0/8"),))
        trusting = replace(trusting, routes=(Route("only", Match(host="b.test"), "u0", Policy()),))
        async with running(trusting) as app, client(app) as session:

            async def status() -> int:
                session.ask("/x", "X-Forwarded-Host: b.test")
                return (await session.answer())[0]

            assert [await status() for _ in range(3)] == [200] * 3  # so often that its head is remembered
            await app.reload(lambda: replace(trusting, trusted_proxies=()))
            assert await status() == 404
            await app.reload(lambda: trusting)
            assert await status() == 200


async def test_a_changed_body_timeout_reaches_an_upstream_that_did_not_change() -> None:
    async with api() as upstream:
        configured = settings(upstream.url)
        async with running(configured) as app, client(app) as session:
            assert await session.get("/x") == "one/x"
            await app.reload(lambda: replace(configured, limits=replace(configured.limits, body_timeout=0.05)))
            session.ask("/begun")
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await session.answer()
            assert upstream.connections == 1


def broken(error: Exception) -> Callable[[], Settings]:
    def read() -> Settings:
        raise error

    return read


PROBLEMS = (
    Problem("conf.yaml", 3, "routes[0].upstream", "names no upstream", "write u0"),
    Problem("conf.yaml", 9, "lissen", "is not a key", "write listen"),
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError(PROBLEMS), [str(problem) for problem in PROBLEMS]),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "conf.yaml"), ["conf.yaml"]),
    ],
    ids=["mistakes", "no file"],
)
async def test_a_reload_that_fails_keeps_what_was_and_says_why(
    error: Exception, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with api() as upstream:
        configured = settings(upstream.url)
        async with running(configured) as app, client(app) as session:
            await app.reload(broken(error))
            assert app.settings is configured
            assert await session.get("/x") == "one/x"
        assert "the old one stays" in caplog.text
        assert all(text in caplog.text for text in said)


async def test_a_reload_with_an_unusable_upstream_keeps_what_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with api() as upstream:
        configured = settings(upstream.url)
        async with running(configured) as app, client(app) as session:
            fresh = settings(upstream.url, "https://127.0.0.1:1", listen=configured.listen, admin=configured.admin)
            bad = replace(fresh.upstreams["u1"], tls=UpstreamTls(ca=tmp_path / "ca.pem"))
            await app.reload(lambda: replace(fresh, upstreams={**fresh.upstreams, "u1": bad}))
            assert app.settings is configured
            assert await session.get("/u1/x") == "one/u1/x"
        assert str(tmp_path / "ca.pem") in caplog.text


async def test_a_reload_names_what_cannot_change_and_changes_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with api("one") as one, api("two") as two:
        configured = settings(one.url)
        async with running(configured) as app, client(app) as session:
            await app.reload(lambda: configured)
            assert "restart" not in caplog.text
            fresh = settings(
                two.url,
                access_log=True,
                tls=ServerTls(tmp_path / "c", tmp_path / "k"),
                limits=replace(configured.limits, flight_memory=1 << 20),
            )
            await app.reload(lambda: fresh)
            assert await session.get("/x") == "two/x"
        said = [record.getMessage().split(" ")[0] for record in caplog.records if "restart" in record.getMessage()]
        assert sorted(said) == ["access_log", "admin.listen", "limits.flight_memory", "listen", "tls"]


@pytest.mark.parametrize("target", ["/u1/slow", "/u1/begun"])
async def test_an_upstream_that_is_gone_finishes_its_answers_first(target: str) -> None:
    async with api("one") as one, api("two") as two:
        base = target.removeprefix("/u1")
        configured = settings(one.url, two.url)
        configured = replace(configured, routes=(Route("two", Match(path=base), "u1", Policy()), configured.routes[-1]))
        without = settings(one.url, listen=configured.listen, admin=configured.admin)
        async with running(configured) as app, client(app) as session:
            session.ask(base)
            await until(lambda: two.asked)
            await app.reload(lambda: without)
            async with client(app) as other:
                assert await other.get("/u1/x") == "one/u1/x"
            assert two.open == 1
            two.gate.set()
            assert (await session.answer())[2] == f"two{base}"
            await until(lambda: two.open == 0)
            assert await session.get("/x") == "one/x"


async def test_a_request_that_waits_for_a_connection_to_an_upstream_that_is_gone_gets_it() -> None:
    async with api("one") as one, api("two") as two:
        configured = settings(one.url, two.url)
        narrow = replace(configured.upstreams["u1"], max_connections=1)
        configured = replace(
            configured,
            upstreams={**configured.upstreams, "u1": narrow},
            routes=(Route("two", Match(path="/*"), "u1", Policy()),),
        )
        without = settings(one.url, listen=configured.listen, admin=configured.admin)
        async with running(configured) as app, client(app) as first, client(app) as second:
            first.ask("/slow")
            await until(lambda: two.asked)
            second.ask("/x", "Authorization: b")
            await until(lambda: len(app.flights) == 2)
            await asyncio.sleep(0.01)
            await app.reload(lambda: without)
            two.gate.set()
            assert (await first.answer())[2] == "two/slow"
            assert (await second.answer())[2] == "two/x"
            await until(lambda: two.open == 0)


async def test_a_request_that_waits_at_its_route_s_gate_is_answered_by_an_upstream_that_is_gone() -> None:
    async with api("one") as one, api("two") as two:
        configured = settings(one.url, two.url)
        gate = GateRule(requests=1, queue=9, wait=PATIENCE)
        configured = replace(configured, routes=(Route("two", Match(path="/*"), "u1", Policy(), gate=gate),))
        without = settings(one.url, listen=configured.listen, admin=configured.admin)
        async with running(configured) as app, client(app) as first, client(app) as second, client(app) as third:
            first.ask("/slow")
            await until(lambda: two.asked)
            second.ask("/x")
            third.ask("/y")
            (_, gates), *_ = app.sites.gates
            await until(lambda: (seen := gates.gate("127.0.0.1")) is not None and seen.waiting == 2)
            await app.reload(lambda: without)
            two.gate.set()
            answers = [(await session.answer())[2] for session in (first, second, third)]
            assert answers == ["two/slow", "two/x", "two/y"]
            await until(lambda: two.open == 0)


async def test_an_upstream_that_comes_back_is_not_taken_away_again() -> None:
    async with api("one") as one, api("two") as two, api("three") as three:
        configured = settings(one.url, two.url, three.url)
        listen, admin = configured.listen, configured.admin
        configured = replace(
            configured, routes=(Route("two", Match(path="/begun"), "u1", Policy()), *configured.routes)
        )
        async with running(configured) as app, client(app) as session, client(app) as other:
            session.ask("/begun")
            assert await other.get("/u2/x") == "three/u2/x"
            await until(lambda: two.asked)
            await app.reload(lambda: settings(one.url, listen=listen, admin=admin))
            await app.reload(lambda: configured)
            two.gate.set()
            assert (await session.answer())[2] == "two/begun"
            await until(lambda: not len(app.background))
            for target, name in (("/u1/x", "two"), ("/u2/x", "three"), ("/x", "one")):
                assert await other.get(target) == name + target


# -- the certificate


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CERTIFICATE_POLL", 0.002)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("first", ["certificate", "key"])
async def test_a_new_certificate_is_taken_up_once_both_of_its_files_are_there(
    first: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pem = Pem(tmp_path)
    files = (pem.tls.certificate, pem.tls.key)
    for path, data in zip(files, pem.issue(), strict=True):
        pem.write(path, data)
    async with (
        api() as upstream,
        running(settings(upstream.url, tls=pem.tls)) as app,
        client(app, pem.client) as old,
    ):
        assert await pem.served(app) == "number 1"
        halves = list(zip(files, pem.issue(), strict=True))
        halves.sort(key=lambda half: (half[0] == pem.tls.key) == (first == "certificate"))
        pem.write(*halves[0])
        await until(lambda: "the old one stays" in caplog.text)
        assert await pem.served(app) == "number 1"
        pem.write(*halves[1])
        await until(lambda: "certificate read again" in caplog.text)
        assert await pem.served(app) == "number 2"
        assert await old.get("/x") == "one/x"


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("fault", ["half", "empty", "gone"])
async def test_a_certificate_that_is_half_written_changes_nothing(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pem = Pem(tmp_path)
    certificate, key = pem.issue()
    pem.write(pem.tls.certificate, certificate)
    pem.write(pem.tls.key, key)
    async with api() as upstream, running(settings(upstream.url, tls=pem.tls)) as app:
        certificate, key = pem.issue()
        pem.write(pem.tls.key, key)
        if fault == "gone":
            pem.tls.certificate.unlink()
        else:
            pem.write(pem.tls.certificate, certificate[: len(certificate) // 2] if fault == "half" else b"")
        await until(lambda: "the old one stays" in caplog.text)
        assert await pem.served(app) == "number 1"
        pem.write(pem.tls.certificate, certificate)
        await until(lambda: "certificate read again" in caplog.text)
        assert await pem.served(app) == "number 2"


# -- what operators may ask


async def asked_of(app: App, path: str, body: bytes | None = None) -> Any:  # noqa: ANN401 - JSON
    listen = app.settings.admin.listen
    method, headers = ("GET" if body is None else "POST"), {"Content-Type": "application/json"}
    if app.settings.admin.token is not None:
        headers["Authorization"] = f"Bearer {app.settings.admin.token}"
    url = f"http://{listen.host}:{listen.port}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers, data=body) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_a_request_is_explained_by_what_is_stored_and_configured_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Clock", FakeClock)
    async with api() as upstream, running(settings(upstream.url)) as app, client(app) as session:
        question = b'{"url": "http://a.test/kept"}'
        assert (await asked_of(app, "/explain", question))["answer"]["reason"] == "absent"
        session.ask("/kept")
        await session.answer()
        session.ask("/kept")
        _, headers, _ = await session.answer()
        explained = (await asked_of(app, "/explain", question))["answer"]
        assert (explained["cache_status"], explained["ttl"]) == (headers["cache-status"], 60)
        (entry,) = (await asked_of(app, "/entries?url=http://a.test/kept"))["entries"]
        assert (entry["route"], entry["current"], entry["length"], entry["asked"]) == ("rest", True, 8, True)
        await app.reload(lambda: replace(app.settings, routes=(Route("rest", Match(path="/x"), "u0", Policy()),)))
        assert (await asked_of(app, "/explain", question))["answer"]["reason"] == "no-route"
        assert (await asked_of(app, "/config"))["routes"][0]["match"]["path"] == "/x"


async def test_the_configuration_is_told_without_its_secrets_after_a_reload_too() -> None:
    async with api() as upstream:
        secret = f"{upstream.url}/s3cret-key"
        admin = Admin(Address("127.0.0.1", free_port()), token="s3cret-token")
        configured = settings(secret, admin=admin, varied=frozenset({secret, "s3cret-token"}))
        async with running(configured) as app:
            assert "s3cret" not in str(await asked_of(app, "/config"))
            await app.reload(lambda: replace(configured, varied=frozenset()))
            told = await asked_of(app, "/config")
            assert "s3cret" not in str(told)
            assert told["upstreams"]["u0"]["url"] == f"{upstream.url}/(hidden)"
