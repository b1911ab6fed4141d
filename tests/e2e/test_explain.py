"""Explaining a request over the admin listener, and then sending it: through sockets, by the table of tests/flow.

The instance is whole, but time stands where the table puts it and the access log is kept. What the upstream says,
and when, each row decides.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, cast

import aiohttp
import pytest

from proxy import app as module
from proxy.app import App
from proxy.edges.origin import HttpOrigin
from proxy.flow.invalidation import InvalidationLog, Kind
from proxy.flow.ports import Asked, Outcome
from proxy.flow.site import Site
from proxy.rules.message import Reason
from proxy.rules.policy import Policy
from proxy.rules.report import Account
from proxy.rules.routes import Route
from proxy.settings import Breaker, Upstream
from tests.e2e.stream import Cut, Stream
from tests.e2e.upstream import Call, head, message
from tests.e2e.upstream import Upstream as Api
from tests.flow.kit import HOST, FakeClock, request
from tests.flow.test_explain import CONDITIONS, ID, ROWS, Row, state
from tests.test_app import running, settings

_SILENCE: Final = 1.5  # seconds until it is called so
_WORDS: Final = {Kind.URL: "urls", Kind.PREFIX: "prefixes", Kind.TAG: "tags"}


class Journal:
    """The access log, kept."""

    def __init__(self, *_where: object) -> None:
        self.dropped = self.lost = 0
        self.outcomes: list[tuple[str, int, Account]] = []  # the id of its request, status and account

    def hit(self, asked: Asked, _peer: str, _route: str, status: int, _sent: int, _seconds: float) -> None:
        told = Account(Reason.HIT)
        self.outcomes.append((asked.request.fields.get("x-request-id", ""), status, told))

    def record(self, outcome: Outcome) -> None:
        # To an upstream it has gone under an id of our own where the client gave none.
        self.outcomes.append((outcome.request.fields.get("x-request-id", ""), outcome.status, outcome.account))

    def refused(self, _peer: str, status: int, reason: Reason) -> None:
        self.outcomes.append(("", status, Account(reason)))

    def close(self) -> None:
        pass


class Up:
    """One call as the upstream has it: what it answers, and when, the test says."""

    def __init__(self, call: Call, *, patient: bool) -> None:
        self._call, self._patient = call, patient
        self.sent = {name.lower() for name, _ in call.head.headers}
        self.waited_for = True
        self.headed = self.over = False
        self.done = asyncio.Event()

    def reply(self, *written: str, body: bytes = b"", status: int = 200) -> None:
        self._say(message(body, *written, _CLOSE, status=f"{status} Whatever", head_only=self._call.method == "HEAD"))
        self._finish()

    def answer(self, *written: str, status: int, length: int) -> None:
        self.headed = True
        self._say(head(*written, _CLOSE, f"Content-Length: {length}", status=f"{status} Whatever"))

    def end(self, last: bytes) -> None:
        self._say(last)
        self._finish()

    def fail(self, _reason: Reason) -> None:
        """A connection that dies; or silence, where that is what the row is about."""
        self.waited_for = False
        if self._patient:
            self._call.stream.reset()
            self._finish()

    async def settled(self) -> None:
        """Until it is known what has become of it: of silence when it has been waited for long enough."""
        if not self.waited_for and not self._patient and not self.over:
            await self._call.stream.rest()
            self._finish()

    def _say(self, raw: bytes) -> None:
        self.waited_for = False
        self._call.write(raw)

    def _finish(self) -> None:
        self.over = True
        self.done.set()


_CLOSE: Final = "Connection: close"  # on a connection that was used before, a call that dies is repeated


@dataclass
class Client:
    """One request's client, and what it got."""

    status: int | None = None
    fields: dict[str, str] = field(default_factory=dict)
    done: bool = False
    over: bool = False  # done, or broken off

    @property
    def how(self) -> str:
        return self.fields.get("cache-status", "")

    async def ask(self, port: int, raw: bytes, method: str) -> None:
        stream = await Stream.open(port)
        try:
            stream.write(raw)
            got = await stream.head()
            self.status = int(got.start[1])
            self.fields = {name.lower(): value for name, value in got.headers}
            framing, length = got.framing()
            if method != "HEAD" and self.status != 304:
                await stream.body(framing, length)
            self.done = True
        except Cut:
            pass
        finally:
            self.over = True
            stream.close()


class Wire:
    """An instance with what tests/flow/kit.World has of one, between sockets."""

    def __init__(self, app: App, session: aiohttp.ClientSession) -> None:
        self.app, self._session = app, session
        self.memory, self.flights, self.background = app.memory, app.flights, app.background
        self.exchange = app.exchange
        self.calls: list[Up] = []
        (lane,) = app.exchange.site.lanes.values()
        self.breaker = lane.upstream.breaker
        self._clients: list[Client] = []
        self._purges: list[asyncio.Task[Any]] = []
        self._tasks: list[asyncio.Task[None]] = []
        assert isinstance(lane.upstream.origin, HttpOrigin)
        self._origin = lane.upstream.origin
        self._patient = lane.upstream.timeout > _SILENCE

    @property
    def clock(self) -> FakeClock:
        return cast("FakeClock", self.app.clock)

    @property
    def log(self) -> InvalidationLog:
        return self.app.log

    @property
    def outcomes(self) -> list[tuple[str, int, Account]]:
        return cast("Journal", self.app.journal).outcomes

    @property
    def last(self) -> Up:
        return self.calls[-1]

    def site(self, policy: Policy) -> Site:
        configured = self.app.settings
        (route,) = configured.routes
        return self.app.sites.make(replace(configured, routes=(replace(route, policy=policy),)))

    async def called(self, call: Call) -> None:
        await call.body()
        up = Up(call, patient=self._patient)
        self.calls.append(up)
        await up.done.wait()
        call.stream.close()

    def ask(
        self, *written: str, method: str = "GET", target: str = "/a", host: str = HOST, upload: Sequence[bytes] = ()
    ) -> Client:
        body = b"".join(upload)
        length = [f"Content-Length: {len(body)}"] if body else []
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *written, *length, "", ""]
        client, raw = Client(), "\r\n".join(lines).encode() + body
        self._clients.append(client)
        self._tasks.append(asyncio.create_task(client.ask(self.app.settings.listen.port, raw, method)))
        return client

    async def idle(self) -> None:
        """Until everybody waits for the test."""
        for up in self.calls:
            await up.settled()
        quiet = 0
        async with asyncio.timeout(30):
            while quiet < 3:
                for _ in range(20):
                    await asyncio.sleep(0)
                quiet = quiet + 1 if self._quiet() else 0
                if not quiet:
                    await asyncio.sleep(0.001)

    def _quiet(self) -> bool:
        """Who has no answer has been read, what went upstream has come there, and nobody is at work."""
        tasks = [task.get_name() for task in asyncio.all_tasks()]
        asked = tasks.count("exchange") == sum(not client.over for client in self._clients)
        arrived = self._origin.requests == len(self.calls)
        working = {"flight", "refresh"} & set(tasks)
        waited = any(not up.over for up in self.calls)
        headed = sum(up.headed and not up.over for up in self.calls) <= sum(c.status is not None for c in self._clients)
        return asked and arrived and headed and (waited or not working) and all(purge.done() for purge in self._purges)

    async def store(self, *written: str, asking: Sequence[str] = (), target: str = "/a", body: bytes = b"old") -> None:
        client = self.ask(*asking, target=target)
        await self.idle()
        self.last.reply(*written, body=body)
        await self.idle()
        assert client.how.endswith("; stored"), client

    def purge(self, kind: Kind, value: str, *, soft: bool = False) -> None:
        asked = self.post("/invalidate", {_WORDS[kind]: [value], "soft": soft})
        self._purges.append(asyncio.create_task(asked))

    async def post(self, path: str, body: object) -> Any:  # noqa: ANN401 - JSON
        async with self._session.post(path, json=body) as response:
            assert response.ok, await response.text()
            return await response.json()

    async def explain(self, row: Row) -> Any:  # noqa: ANN401 - JSON
        headers = [line.split(": ", 1) for line in (*row.asking, ID)]
        if row.upload:
            headers.append(["Content-Length", str(sum(map(len, row.upload)))])
        url = f"http://{row.host}{row.target}"
        described = {"method": row.method, "url": url, "headers": headers, "client": "127.0.0.1"}
        return await self.post("/explain", described)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for up in self.calls:
            if not up.over:
                up.fail(Reason.CONNECT)
        async with asyncio.timeout(30):
            await asyncio.gather(*self._tasks, *self._purges)


@asynccontextmanager
async def wire(row: Row, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    monkeypatch.setattr(module, "Clock", FakeClock)
    monkeypatch.setattr(module, "AccessLog", Journal)
    api = await Api.start()
    try:
        up = Upstream("up", f"http://127.0.0.1:{api.port}", breaker=Breaker(row.breaker, 5.0))
        if row.breaker == 1:  # only an upstream that says nothing at all opens it
            up = replace(up, timeout=_SILENCE)
        up = replace(up, gate=row.upstream_gate)
        routes = (Route("all", row.match, "up", row.policy, quotas=row.limits, gate=row.gate),)
        configured = settings(up.url, upstreams={"up": up}, routes=routes, access_log=True)
        async with running(configured) as app:
            listen = configured.admin.listen
            async with aiohttp.ClientSession(f"http://127.0.0.1:{listen.port}") as session, Wire(app, session) as w:
                for path in {row.target.partition("?")[0], "/a", "/b"}:
                    api.on(path, w.called)
                yield w
        assert not api.broken
    finally:
        await api.kill()


def short(said: Any) -> str:  # noqa: ANN401 - JSON
    answer = said["answer"]
    words = [answer["act"]]
    if answer["act"] == "fetch":
        words += [answer["fwd"], answer["reason"], way(said)]
    else:
        words += [str(answer["status"]), answer["reason"]]
    words += [flag for flag in ("renews", "validates", "bridged") if answer.get(flag)]
    return " ".join(words)


def way(said: Any) -> str:  # noqa: ANN401 - JSON
    (found,) = [step["way"] for step in said["steps"] if step["step"] == "upstream"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
async def test_what_is_explained_is_what_is_then_sent(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    async with wire(row, monkeypatch) as w:
        for act in row.acts:
            await act(w)  # type: ignore[arg-type]  # what it uses of a World is there
            await w.idle()
        wanted = request(*row.asking, method=row.method, target=row.target, host=row.host)
        before = state(w, w.exchange.read(wanted).key)  # type: ignore[arg-type]  # likewise
        said = await w.explain(row)
        assert state(w, w.exchange.read(wanted).key) == before, "it changed something"  # type: ignore[arg-type]
        assert short(said).removesuffix(" bridged") == row.says.removesuffix(" bridged")
        assert short(said).endswith(" bridged") or not row.says.endswith(" bridged")

        calls = len(w.calls)
        client = w.ask(*row.asking, ID, method=row.method, target=row.target, host=row.host, upload=row.upload)
        await w.idle()
        new = w.calls[calls:]
        for up in w.calls:
            if up.waited_for:
                up.reply(*row.reply, body=b"new")
        await w.idle()
        for up in w.calls:
            if not up.over:
                up.end(b"old")
        await w.idle()
        assert client.done
        agrees(said["answer"], row, w, client, new, way=None if said["answer"]["act"] != "fetch" else way(said))


def agrees(answer: Any, row: Row, w: Wire, client: Client, new: list[Up], *, way: str | None) -> None:  # noqa: ANN401
    """What was said, and what the client, the upstream and the access log got."""
    ((_, status, account),) = [outcome for outcome in w.outcomes if outcome[0] == "mine"]
    assert client.status == status
    assert account.reason.value == (answer["reason"] if row.told is None else row.told.value)
    assert (None if account.fwd is None else account.fwd.value) == answer["fwd"]
    said = client.how or None
    if way is None:
        assert (client.status, said) == (answer["status"], answer["cache_status"])
        for name in ("age", "retry-after"):
            known = answer[name.replace("-", "_")]
            assert client.fields.get(name) == (None if known is None else str(known))
        assert bool(new) == answer["renews"]
        return
    assert bool(new) == (way != "join")
    assert account.collapsed == (way == "join")
    assert answer["stores"] or not account.stored
    if row.told is None:
        assert answer["cache_status"] == (said and re.sub(r"; (fwd-status=\d+|stored)", "", said))
    if new and not any(line.lower().startswith(CONDITIONS) for line in row.asking):
        assert answer["validates"] == any(name in new[0].sent for name in CONDITIONS)
