"""A configuration full of secrets, and clients with some of their own: none of them is said anywhere.

Everything that an instance writes or answers is kept and searched, while all goes well and while everything fails.
"""

import json
import signal
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import aiohttp
import pytest

from proxy import cli
from proxy.admin.access import OPEN
from proxy.config.document import ConfigError
from proxy.config.load import load
from tests.e2e.harness import HOST, merge
from tests.e2e.process import Proxy, eventually, free_port
from tests.e2e.process import run as run_process
from tests.e2e.stream import Cut, Stream
from tests.e2e.upstream import Upstream, replies
from tests.redis_servers import Server

ENVIRON: Final = {
    "ADMIN_TOKEN": "s3cret-token",
    "REDIS_PASSWORD": "s3cret%2Fredis%40word",
    "PATH_KEY": "s3cret-path",
    "WHOLE": "s3cret-whole",
    "NEXT_TOKEN": "s3cret-next",
    "ODD": "s3cret-odd",
}
CLIENTS: Final = {
    "X-Api-Key": "s3cret-client-key",
    "Cookie": "session=s3cret-cookie",
    "Authorization": "Bearer s3cret-bearer",
    "Proxy-Authorization": "Basic s3cret-proxy",
}
MARK: Final = "s3cret"


def told(*outputs: str) -> list[str]:
    """Lines in which there is a secret, plain or in another dress."""
    dressed = {MARK, unquote(ENVIRON["REDIS_PASSWORD"])}
    dressed |= {b64encode(f"{before}{MARK}".encode()).decode()[4:8] for before in ("", "a", "ab")}
    return [line for output in outputs for line in output.splitlines() if any(form in line for form in dressed)]


class Told(list[str]):
    """Everything that was answered, one line each, whatever is in it."""

    def check(self, *more: str) -> None:
        assert told(*more, *[line.split("ANSWER", 1)[1] for line in self]) == []


@asynccontextmanager
async def guarded(directory: Path, over: Mapping[str, Any], upstream: Upstream) -> AsyncIterator[Proxy]:
    """An instance whose every place for a secret has one, most of them from variables."""
    port, admin, dead = free_port(), free_port(), free_port()
    config = {
        "listen": f"127.0.0.1:{port}",
        "admin": {"listen": f"127.0.0.1:{admin}", "token": "${ADMIN_TOKEN}"},
        "shutdown": {"delay": "0s", "timeout": "15s"},
        "upstreams": {
            "api": {"url": f"http://127.0.0.1:{upstream.port}/${{PATH_KEY}}"},
            "dead": {"url": f"http://127.0.0.1:{dead}/${{WHOLE}}", "breaker": {"failures": 3}},
            "tls": {"url": f"https://127.0.0.1:{upstream.port}/${{PATH_KEY}}"},
        },
        "routes": [
            {"name": "dead", "match": {"path": "/dead/*"}, "upstream": "dead"},
            {"name": "tls", "match": {"path": "/tls/*"}, "upstream": "tls"},
            {
                "name": "keyed",
                "match": {"path": "/keyed/*"},
                "upstream": "api",
                "cache": {"default_ttl": "60s", "credentials": "share", "key": {"headers": ["X-Api-Key"]}},
            },
            {"name": "all", "match": {"path": "/*"}, "upstream": "api"},
        ],
    }
    proxy = Proxy(directory, port, admin, ENVIRON)
    proxy.write(merge(config, over))
    await proxy.spawn("serve", "-c", str(proxy.file))
    try:
        yield proxy
    finally:
        await proxy.stop()


async def data(proxy: Proxy, said: Told) -> None:
    """Requests of all kinds on the data port: answered, refused, failing, broken."""
    fields = [f"{name}: {value}" for name, value in CLIENTS.items()]
    for path in ("/vary/a", "/keyed/a", "/keyed/b", "/dead/a", "/tls/a", "/plain", "/missing"):
        for method in ("GET", "HEAD", "GET", "POST"):
            lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", "Connection: close", *fields, "", ""]
            await raw(proxy.port, "\r\n".join(lines).encode(), said)
    for broken in (b"X-Api-Key : %s", b"Authorization: %s\0", b" %s", b"Transfer-Encoding: %s"):
        line = broken % CLIENTS["X-Api-Key"].encode()
        await raw(proxy.port, b"GET /plain HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n", said)


async def raw(port: int, question: bytes, said: Told) -> None:
    stream = await Stream.open(port)
    try:
        stream.write(question)
        said.append(f"{question!r} ANSWER {(await stream.rest())[0].decode('latin-1')!r}")
    except Cut as cut:
        said.append(f"{question!r} ANSWER {cut.got!r}")
    finally:
        stream.close()


READ: Final = (
    *("/", "/healthz", "/readyz", "/stats", "/metrics", "/config", "/hot?top=1000", "/nothing", "/invalidations/x"),
    f"/entries?url=http://{HOST}/vary/a",
    f"/entries?url=http://{HOST}/keyed/a&header=X-Api-Key:{CLIENTS['X-Api-Key']}",
)


async def admin(proxy: Proxy, said: Told, token: str) -> set[int]:
    """All that can be asked of the admin listener, with the token, without, and with ones that are not quite it."""
    statuses = set()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{proxy.admin}") as session:
        for given in (token, f"{token}x", token[:-1], None):
            headers = {} if given is None else {"Authorization": f"Bearer {given}"}
            for path in READ:
                async with session.get(path, headers=headers) as response:
                    said.append(f"{path} {given} ANSWER {dict(response.headers)} {await response.text()!r}")
                    assert given == token or (response.status == 401) is (path not in OPEN), path
                    statuses.add(response.status)
            for path, body in (
                ("/explain", {"url": f"http://{HOST}/vary/a", "headers": CLIENTS}),
                ("/explain", {"url": f"http://{HOST}/keyed/a", "headers": CLIENTS}),
                ("/explain", {"url": f"http://{HOST}/dead/a", "headers": CLIENTS}),
                ("/invalidate", {"urls": ["/vary/a"], "tags": ["t"]}),
                ("/invalidate", {"urls": "x"}),
                ("/invalidate", []),
            ):
                async with session.post(path, json=body, headers=headers) as response:
                    said.append(f"{path} {given} ANSWER {dict(response.headers)} {await response.text()!r}")
                    statuses.add(response.status)
        for line in (f"Authorization: Bearer {token}\0", f"Authorization Bearer {token}", f"Bearer {token}"):
            await raw(proxy.admin, f"GET /stats HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n".encode(), said)
    return statuses


@asynccontextmanager
async def api() -> AsyncIterator[Upstream]:
    upstream = await Upstream.start()
    base = f"/{ENVIRON['PATH_KEY']}"
    upstream.on(f"{base}/vary/a", replies("x", "Cache-Control: public, max-age=60", "Vary: Cookie, X-Api-Key"))
    upstream.on(f"{base}/keyed/a", replies("x", "Cache-Control: public, max-age=60"))
    upstream.on(f"{base}/keyed/b", replies("x", "Cache-Control: no-store"))
    upstream.on(f"{base}/plain", replies("x"))
    # Under its first segment are all: what the rest of the path says does not matter.
    upstream.on(f"{base}/*", replies("x", "Cache-Control: public, max-age=60", "Vary: Cookie, X-Api-Key"))
    try:
        yield upstream
    finally:
        await upstream.kill()


@pytest.mark.parametrize("workers", [1, 2])
async def test_nothing_of_it_is_said_whether_all_goes_well_or_nothing_does(workers: int, tmp_path: Path) -> None:
    acl = f"app on >{unquote(ENVIRON['REDIS_PASSWORD'])} ~* &* +@all"
    redis = Server({"user": ["default off", acl, "root on >root ~* &* +@all"]}, admin=("root", "root")).start()
    over = {"workers": workers, "redis": {"url": f"redis://app:${{REDIS_PASSWORD}}@127.0.0.1:{redis.port}/0"}}
    said = Told()
    try:
        async with api() as upstream, guarded(tmp_path, over, upstream) as proxy:
            await data(proxy, said)
            statuses: set[int] = set()
            for _ in range(5):  # a Redis that is late has an invalidation refused
                if 202 not in statuses:
                    statuses |= await admin(proxy, said, ENVIRON["ADMIN_TOKEN"])
            assert statuses >= {200, 202, 400, 401, 404}
            seen = str(said)
            assert "(hidden " in seen, "what hides was not looked at"
            assert "variants" in seen

            redis.ask("ACL", "SETUSER", "app", "resetpass", ">another")
            redis.ask("CLIENT", "KILL", "USER", "app")
            await data(proxy, said)
            redis.kill()
            await upstream.kill()
            await data(proxy, said)
            assert 503 in await admin(proxy, said, ENVIRON["ADMIN_TOKEN"])

            await reload(proxy, said)
            said.check(proxy.stdout, proxy.stderr)
            assert "tls" in proxy.stderr, "that upstream was to fail"
    finally:
        redis.close()


async def reload(proxy: Proxy, said: Told) -> None:
    """A new token, and configurations that are refused."""
    good = json.loads(proxy.file.read_text())
    proxy.write(merge(good, {"admin": {"token": "${NEXT_TOKEN}"}}))
    proxy.signal(signal.SIGHUP)
    await eventually(lambda: "configuration reloaded" in proxy.stderr, "the reload")
    assert 404 in await admin(proxy, said, ENVIRON["NEXT_TOKEN"])
    for number, text in enumerate(list(WRONG.values())[::6], 1):
        proxy.file.write_text(text)
        proxy.signal(signal.SIGHUP)
        await eventually(partial(refusals, proxy, number), f"refusal {number}")


def refusals(proxy: Proxy, number: int) -> bool:
    return proxy.stderr.count("not reloaded") == number


WRONG: Final = {
    "a token with spaces": "admin: {listen: 127.0.0.1:1, token: s3cret token}",
    "a list for a token": "admin: {token: [s3cret-a, s3cret-b]}",
    "a mapping for a token": "admin: {token: {s3cret: s3cret}}",
    "a token twice": "admin: {token: s3cret-a, token: s3cret-b}",
    "a key that is nearly known": "admin: {tokn: s3cret}",
    "a section that is nearly known": "admn: {token: s3cret}",
    "another scheme": "redis: {url: 'rdis://u:s3cret@h/0'}",
    "a port that is none": "redis: {url: 'redis://u:s3cret@h:99999/0'}",
    "a password with a slash": "redis: {url: 'redis://u:s3cret/s3cret@h:x/0'}",
    "a password in the query": "redis: {url: 'redis://h/0?pasword=s3cret'}",
    "a URL for a section": "redis: 'redis://u:s3cret@h/0'",
    "a URL for an upstream": "upstreams: {a: 'http://u:s3cret@h/'}",
    "a user in an upstream's URL": "upstreams: {a: {url: 'http://u:s3cret@h/'}}",
    "a query in an upstream's URL": "upstreams: {a: {url: 'http://h/?key=s3cret'}}",
    "a fragment in an upstream's URL": "upstreams: {a: {url: 'http://h/#s3cret'}}",
    "spaces in an upstream's URL": "upstreams: {a: {url: 'http://h/s3cret s3cret'}}",
    "a size from a variable": "memory: {max_size: '${ODD}'}",
    "a duration with a variable": "limits: {idle_timeout: '${ODD}s'}",
    "an address from a variable": "listen: '${ODD}:x'",
    "a host from a variable": "admin: {hosts: ['${ODD} ${ODD}']}",
    "an upstream that is named by a variable": "routes: [{name: a, upstream: '${ODD}'}]",
    "a default that does not fit": "memory: {max_size: '${UNSET:-s3cret}'}",
    "a variable that is not there": "admin: {token: 's3cret${UNSET}'}",
    "a variable that is badly written": "admin: {token: 's3cret${UN SET}'}",
    "an open quote": 'admin:\n  token: "s3cret\n',
    "two colons": "admin:\n  token: s3cret: s3cret\n",
    "a tab": "admin:\n  token: s3cret\n\tx: s3cret\n",
    "a tag": "admin: {token: !s3cret s3cret}",
    "an alias": "admin: {token: *s3cret}",
    "an anchor": "admin: {token: &s3cret s3cret, hosts: *s3cret}",
    "a bad escape": 'admin: {token: "s3cret\\q"}',
    "a bad character": "admin: {token: s3cret\x07}",
    "a percent sign": "admin: {token: %s3cret}",
    "an at sign": "admin: {token: @s3cret}",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_no_mistake_in_a_configuration_is_told_with_a_secret(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "c.yaml"
    file.write_text(text)
    for command in ("check", "serve"):
        assert cli.main([command, "-c", str(file)]) == 2
        assert told(*capsys.readouterr()) == []
    with pytest.raises(ConfigError) as refused:
        load(file, ENVIRON)
    assert told(str(refused.value), repr(refused.value)) == []


COMMANDS: Final = (("stats",), ("purge", "--all"), ("explain", "http://a/"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_no_command_repeats_the_token_it_was_given(command: tuple[str, ...]) -> None:
    port = free_port()
    wrong = [
        ("--admin", f"http://127.0.0.1:{port}", "--token", "s3cret"),
        ("--admin", f"http://127.0.0.1:{port}", "--token", "s3cret token"),
        ("--admin", f"http://u:s3cret@127.0.0.1:{port}"),
        ("--admin", f"http://127.0.0.1:{port}/?key=s3cret"),
        ("--admin", "s3cret://s3cret"),
    ]
    for more in wrong:
        code, output = await run_process(*command, *more, env={"READTHROUGH_TOKEN": "s3cret-of-the-environment"})
        assert code in (1, 2)
        assert told(output) == []


def test_what_is_looked_for_would_be_found() -> None:
    dressed: Iterator[str] = iter([MARK, b64encode(b"user:s3cret").decode(), "s3cret/redis@word", "x s3cret-odd y"])
    assert all(told(line) for line in dressed)
    said = Told()
    said.append("asked s3cret ANSWER nothing")
    said.check("a line")
    said.append("asked ANSWER s3cret")
    with pytest.raises(AssertionError):
        said.check()
