"""The flow between a client and an upstream that do nothing on their own: every await is a gate."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from proxy.edges.memory import Memory
from proxy.flow.answers import Answers
from proxy.flow.background import Background
from proxy.flow.breaker import Breaker
from proxy.flow.exchange import Exchange
from proxy.flow.fill import Fill
from proxy.flow.flights import FlightMemory, Flights
from proxy.flow.gate import Gate, Gates
from proxy.flow.invalidation import InvalidationLog, Kind
from proxy.flow.invalidator import Invalidator
from proxy.flow.limiter import Limit, Limiter
from proxy.flow.local_log import LocalLog
from proxy.flow.ports import Asked, Call, ClientError, OriginError, Outcome, Tunnel
from proxy.flow.purge import Purge
from proxy.flow.sharing import SharedLog, SharedStore
from proxy.flow.site import Lane, Site, Upstream
from proxy.flow.tally import Tallies
from proxy.flow.throttle import Throttle
from proxy.rules.client import Networks
from proxy.rules.keys import key_of, url_of
from proxy.rules.message import Entry, Head, Headers, Reason, Request, fold
from proxy.rules.policy import Policy
from proxy.rules.purging import PurgeRule
from proxy.rules.quota import GateRule
from proxy.rules.report import Account
from proxy.rules.routes import Match, Route

HOST: Final = "example.com"
URL: Final = f"http://{HOST}/a"
NOW: Final = 1000.0
WALL: Final = 1_700_000_000.0
PLAIN: Final = Policy(jitter=0.0)
FRESH: Final = "Cache-Control: max-age=60"
STALEABLE: Final = "Cache-Control: max-age=60, stale-while-revalidate=60, stale-if-error=60"
ETAG: Final = 'ETag: "1"'
_PASSES: Final = 30  # more turns of the loop than any chain of wake-ups here is long


class FakeClock:
    """Time stands where it was put."""

    def __init__(self) -> None:
        self.at, self.chance = NOW, 1.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return WALL + self.at - NOW

    def roll(self) -> float:
        return self.chance


def lines(*written: str) -> Headers:
    """Fields as they are written in a message."""
    return tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in written))


def request(
    *written: str, method: str = "GET", target: str = "/a", host: str = HOST, length: int | None = 0
) -> Request:
    headers = (("Host", host), *lines(*written))
    return Request(method, target, host, "http", False, headers, fold(headers), length, True, False, False)


class Up:
    """One call as the upstream has it, and its answer: nothing happens until the test says so."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.sent = fold(call.headers)
        self.length: int | None = None
        self.close_delimited = False
        self.closed = 0  # times
        self.on_close: Callable[[], None] | None = None
        self.over = False  # no answer will be read: it failed, or its caller went away
        self.body = bytearray()  # of the request
        self.taken = 0  # bytes of its answer's body
        self._connected = asyncio.Event()
        self._head: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self._steps: asyncio.Queue[bytes | OriginError | None] = asyncio.Queue()

    def connect(self) -> None:
        """The first gate."""
        self._connected.set()

    def answer(
        self, *written: str, status: int = 200, length: int | None = None, close_delimited: bool = False
    ) -> None:
        """The second gate: the head comes."""
        headers = lines(*written)
        if length is not None:
            headers = (*headers, ("Content-Length", str(length)))
        bodiless = status == 304 or self.call.method == "HEAD"
        self.length, self.close_delimited = 0 if bodiless else length, close_delimited
        self.connect()
        self._head.set_result(Head(status, "Whatever", headers, fold(headers)))

    def fail(self, reason: Reason = Reason.CONNECT) -> None:
        """No head comes."""
        self.connect()
        self._head.set_exception(OriginError(reason))
        self._head.exception()  # where its caller has just gone nobody else looks

    def send(self, *chunks: bytes) -> None:
        """More gates: one for each chunk."""
        for chunk in chunks:
            self._steps.put_nowait(chunk)

    def end(self, last: bytes | None = None) -> None:
        """The last gate."""
        if last is not None:
            self.send(last)
        self._steps.put_nowait(None)

    def cut(self) -> None:
        """The body ends short."""
        self._steps.put_nowait(OriginError(Reason.ABORTED))

    def reply(self, *written: str, body: bytes = b"", status: int = 200) -> None:
        """All at once."""
        self.answer(*written, status=status, length=len(body))
        self.end(None if self.call.method == "HEAD" else body or None)

    @property
    def waited_for(self) -> bool:
        """Whether somebody still waits for its head."""
        return not self.over and not self._head.done()

    # -- flow.ports.Answer

    async def arrive(self) -> Self:
        try:
            if self.call.body is not None:
                async for chunk in self.call.body:
                    self.body += chunk
            await self._connected.wait()
            await self._head
        except BaseException as error:
            self.over = True
            if isinstance(error, OriginError):  # which no future may keep: it holds the frames it passes
                self._head = asyncio.get_running_loop().create_future()
                self._head.cancel()
            raise
        return self

    @property
    def head(self) -> Head:
        return self._head.result()

    async def chunks(self) -> AsyncIterator[bytes]:
        while (step := await self._steps.get()) is not None:
            if isinstance(step, OriginError):
                raise OriginError(step.reason)  # not one that a frame on its way holds
            self.taken += len(step)
            yield step

    def tunnel(self) -> Tunnel:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1
        if self.on_close is not None:
            self.on_close()
        self.over = True


class FakeOrigin:
    """An upstream that remembers every call."""

    def __init__(self) -> None:
        self.calls: list[Up] = []

    async def fetch(self, call: Call) -> Up:
        up = Up(call)
        self.calls.append(up)
        call.sent()
        return await up.arrive()

    async def close(self) -> None:
        raise NotImplementedError

    async def retire(self) -> None:
        raise NotImplementedError


class FakeClient:
    """One request's client: holds what it is given, and holds it to the order of the port."""

    peer = "192.0.2.1"
    trusted = False
    refused = None

    def __init__(self, upload: Sequence[bytes] = ()) -> None:
        self.sent = 0
        self.status: int | None = None
        self.fields: Mapping[str, str] = {}
        self.got = b""
        self.raw = b""  # all of it, as a connection gets it
        self.done = False  # the answer is whole
        self.aborted = False
        self.task: asyncio.Task[None] | None = None
        self.work: Coroutine[Any, Any, None] | None = None
        self.unheard = False  # it left before its exchange took a step
        self._length: int | None = None
        self._upload = upload
        self._reads = asyncio.Event()
        self._reads.set()
        self._gone = self._left = False
        self.run: Callable[[FakeClient, Coroutine[Any, Any, None] | None], FakeClient] | None = None

    def refuse_to_read(self) -> None:
        self._reads.clear()

    def read(self) -> None:
        self._reads.set()

    def vanish(self) -> None:
        """The connection is lost: the next write finds out."""
        self._gone = True
        self._reads.set()

    def leave(self) -> None:
        """The connection is lost: the exchange is ended."""
        self._left = True
        if self.task is None:
            assert not self.done, "this was answered at once"
            return  # it waits without one
        assert self.work is not None
        self.unheard |= inspect.getcoroutinestate(self.work) == inspect.CORO_CREATED
        self.task.cancel()

    @property
    def how(self) -> str:
        """Its Cache-Status."""
        return self.fields.get("cache-status", "")

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.done or self.aborted or (self._left if self.task is None else self.task.done())

    # -- flow.ports.Client

    def resume(self, step: Callable[[], Coroutine[Any, Any, None] | None]) -> bool:
        if self._left:
            return False
        assert not self.over
        assert self.task is None
        assert self.run is not None
        self.run(self, step())
        return True

    def put(self, head: bytes, tail: bytes) -> None:
        self.got = self._open(head, tail)
        self.sent = len(self.got)
        self.done = True

    def send(self, head: bytes, tail: bytes, size: int) -> None:
        self.got = self._open(head, tail)
        assert len(self.got) == size
        self.sent = size
        self.done = True

    def start(self, head: bytes, tail: bytes = b"\r\n", *, length: int | None, close: bool = False) -> None:
        assert self._open(head, tail) == b""
        assert not (close and length is not None), "a known length needs no end of the connection"
        self._length = length

    def _open(self, head: bytes, tail: bytes) -> bytes:
        """Note the head; gives what stands behind it."""
        assert self.status is None, "answered twice"
        assert head.endswith(b"\r\n"), "the connection's own fields go here"
        self.raw = head + tail
        whole, end, body = self.raw.partition(b"\r\n\r\n")
        assert end
        first, *rest = whole.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.fields = fold(tuple((name, value) for name, _, value in (line.partition(": ") for line in rest)))
        return body

    async def write(self, data: bytes) -> None:
        assert self.status is not None
        assert not self.done
        assert not self.aborted
        await self._reads.wait()
        if self._gone:
            raise ClientError("the client left")
        self.got += data
        self.raw += data
        self.sent += len(data)

    def finish(self) -> None:
        assert self.status is not None
        assert not self.done
        assert self._length is None or len(self.got) == self._length, "shorter or longer than its head says"
        self.done = True

    def abort(self) -> None:
        self.aborted = True

    async def body(self) -> AsyncIterator[bytes]:
        for chunk in self._upload:
            yield chunk

    def upgrade(self, head: bytes) -> AsyncIterator[bytes]:
        self._open(head, b"\r\n")
        return self.body()


class Errors(logging.Handler):
    """What was logged: a task of the flow that fails is a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store gives for a request."""

    entry: Entry
    body: bytes


class World:
    """Everything but the edges, real. On leaving it nothing may be left over."""

    def __init__(  # noqa: PLR0913 - each test names the few that it is about
        self,
        policy: Policy = PLAIN,
        *,
        flight_memory: int = 1 << 20,
        budget: int = 1 << 26,
        breaker: int = 1000,
        match: Match | None = None,
        x_cache: bool = False,
        store: type[Memory] = Memory,
        noted: bool = True,
        shared: SharedStore | None = None,
        told: SharedLog | None = None,
        purging: PurgeRule | None = None,
        limits: Sequence[Limit] = (),
        gate: GateRule | None = None,
        upstream_gate: GateRule | None = None,
        trusted: Networks = (),
    ) -> None:
        self.clock, self.origin, self.background = FakeClock(), FakeOrigin(), Background()
        self.log = InvalidationLog()
        self.memory = store(budget, self.log)
        self.flights = Flights(self.log, FlightMemory(flight_memory))
        self.breaker = Breaker(breaker, 5.0)
        self.outcomes: list[Outcome] = []
        self.clients: list[FakeClient] = []
        self.errors = Errors()
        self.match, self.x_cache, self.noted = Match() if match is None else match, x_cache, noted
        self.purging, self.limits, self.trusted = purging, limits, trusted
        self.gates, self.gate_rule = None if gate is None else Gates(gate), gate
        self.upstream_gate = None if upstream_gate is None else Gate(upstream_gate)
        fill = Fill(self.memory, self.log, self.flights, self.background, self.clock, shared, told)
        self.tallies = Tallies(self.clock.now, self.clock.roll)
        answers = Answers(self.clock, self if noted else None, lambda: "id", self.background, self.tallies)
        self.told = LocalLog(self.log, "me", self.clock.now) if told is None else told
        purge = Purge(Invalidator(self.told, Throttle(self.clock.now)), answers, self.background)
        self.exchange = Exchange(
            self.site(policy), self.memory, self.log, self.flights, fill, answers, self.clock, purge
        )

    def site(self, policy: Policy) -> Site:
        """A configuration of one route."""
        quotas = tuple([limit.quota for limit in self.limits])
        route = Route("all", self.match, "up", policy, self.x_cache, quotas, self.gate_rule)
        upstream = Upstream(
            "up",
            "up.internal",
            preserve_host=False,
            timeout=30.0,
            origin=self.origin,
            breaker=self.breaker,
            gate=self.upstream_gate,
        )
        limiter = Limiter("all", self.limits, self.tallies.refused, self.clock.now) if self.limits else None
        lane = Lane(route, upstream, policy.fingerprint(), limiter, self.gates)
        return Site((route,), {"all": lane}, self.purging, self.trusted)

    def record(self, outcome: Outcome) -> None:
        """flow.ports.Journal"""
        self.outcomes.append(outcome)

    def hit(self, asked: Asked, peer: str, route: str, status: int, sent: int, seconds: float) -> None:
        """flow.ports.Journal"""
        client = self.clients[-1]
        assert client.sent == sent
        told = Account(Reason.HIT, ttl=int(client.how.rpartition("=")[2]))
        wall, request_ = self.clock.wall(), asked.request
        request_id = request_.fields.get("x-request-id", "")
        self.outcomes.append(Outcome(wall, peer, request_, request_id, route, status, told, sent, seconds, True))

    # -- driving

    def plan(
        self,
        *written: str,
        method: str = "GET",
        target: str = "/a",
        host: str = HOST,
        upload: Sequence[bytes] = (),
    ) -> tuple[FakeClient, Coroutine[Any, Any, None] | None]:
        """A request up to where it must wait."""
        client = FakeClient(upload)
        client.run = self.run
        self.clients.append(client)
        wanted = request(*written, method=method, target=target, host=host, length=sum(map(len, upload)))
        asked = self.exchange.read(wanted)
        if asked.plain and self.exchange.hit(asked, client):
            return client, None
        return client, self.exchange.begin(asked, client)

    def run(self, client: FakeClient, work: Coroutine[Any, Any, None] | None) -> FakeClient:
        """The waiting, as a listener starts it."""
        if work is not None:
            client.work, client.task = work, self.background.spawn(work, "exchange")
        return client

    def ask(
        self, *written: str, method: str = "GET", target: str = "/a", host: str = HOST, upload: Sequence[bytes] = ()
    ) -> FakeClient:
        """A request, on its way."""
        return self.run(*self.plan(*written, method=method, target=target, host=host, upload=upload))

    async def idle(self, passes: int = _PASSES) -> None:
        """Until everybody waits at a gate; with fewer `passes`, not quite."""
        for _ in range(passes):
            await asyncio.sleep(0)

    @property
    def calls(self) -> list[Up]:
        """What the upstream was asked."""
        return self.origin.calls

    @property
    def last(self) -> Up:
        """The newest call."""
        return self.origin.calls[-1]

    async def store(self, *written: str, body: bytes = b"old", target: str = "/a", asking: Sequence[str] = ()) -> Entry:
        """Fetch and store."""
        client = self.ask(*asking, target=target)
        await self.idle()
        self.last.reply(*written, body=body)
        await self.idle()
        assert client.done
        found = self.stored(*asking, target=target)
        assert found is not None, client.how
        return found.entry

    def stored(self, *written: str, target: str = "/a") -> Stored | None:
        """What is stored for a request."""
        asked = request(*written, target=target)
        rule = self.exchange.site.routes[0].policy.key
        key = key_of(asked, url_of("http", asked.host, target, rule), rule)
        entry = self.memory.find(key, asked, self.clock.at)
        return None if entry is None else Stored(entry, b"".join(entry.body))

    def purge(self, kind: Kind = Kind.URL, value: str = URL, *, soft: bool = False) -> None:
        """One record."""
        self.log.append([(kind, value)], self.clock.at, soft=soft)

    @property
    def accounts(self) -> list[Account]:
        """How each exchange went, in the order of their ends."""
        return [outcome.account for outcome in self.outcomes]

    # -- leaving nothing behind

    async def __aenter__(self) -> Self:
        logging.getLogger("proxy").addHandler(self.errors)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.idle()
        logging.getLogger("proxy").removeHandler(self.errors)
        left = await self.background.drain(within=0.0)
        if error is not None:
            return
        assert [record.exc_info for record in self.errors.seen] == []
        assert left == 0, f"{left} tasks left behind"
        assert len(self.flights) == 0
        assert self.flights.memory.used == 0
        assert all(client.over for client in self.clients)
        heard = sum(not client.unheard for client in self.clients)
        assert len(self.outcomes) == heard * self.noted, "one note for each exchange"
        assert all(up.over for up in self.calls)
        assert all(up.closed == 1 for up in self.calls if up.closed), "closed exactly once"
