"""Instances of the shared store over one Redis: each with its own link, clock and log, told of purges by the test."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha1
from struct import Struct, pack
from typing import Final
from zlib import crc32

from proxy.edges.redis_link import Link
from proxy.edges.redis_store import RedisStore
from proxy.flow.background import Background
from proxy.flow.invalidation import InvalidationLog, Kind, Record
from proxy.flow.sharing import Claim, Found, Lead, Wanted
from proxy.rules.message import Entry, Headers
from tests.redis_servers import Server
from tests.rules.build import bare

KEY: Final = "http://h/a"
EPOCH: Final = "e1"
NEVER: Final = float("-inf")
PATIENCE: Final = 20.0  # seconds after which somebody hangs
LONG: Final = 60.0  # seconds that nobody waits in a test that passes
HEAD: Final = Struct("<2sBBddddddIB")  # of a frame


async def until(question: Callable[[], object], within: float = 20.0) -> None:
    """Wait until the question is answered with yes."""
    deadline = time.monotonic() + within
    while not question():
        assert time.monotonic() < deadline, "it does not come about"
        await asyncio.sleep(0.002)


def wanted(
    fields: Mapping[str, str] | None = None, *, key: str = KEY, apart: bool = False, known: float = NEVER
) -> Wanted:
    return Wanted(key, "", fields or {}, apart, key, "h", (), known)


class Instance:
    """One of the fleet. `skew` is what its clock is off by; `deaf`: it hears no words, and does not know it."""

    def __init__(
        self, url: str, name: str, *, skew: float = 0.0, deaf: bool = False, number: int = 0, deadline: float = 2.0
    ) -> None:
        self.name, self.skew = name, skew
        self.background = Background()
        self.link = Link(url, now=time.monotonic, spawn=self.background.spawn, deadline=deadline)
        self.log = InvalidationLog(shared=True)
        self.log.restart(EPOCH, number)
        self.store = RedisStore(
            self.link,
            self.log,
            prefix="rt",
            instance=name,
            now=self.now,
            wall=lambda: time.time() + skew,
            spawn=self.background.spawn,
        )
        self.counters = self.store.counters
        self.heard: list[bytes] = []
        self.held: list[Lead] = []  # a lease ends when it is dropped
        self._deaf, self._listening = deaf, asyncio.Event()

    def now(self) -> float:
        return time.monotonic() + self.skew

    async def start(self) -> None:
        assert await self.link.probe(), self.link.trouble
        if not self._deaf:
            self.link.listen("rt:log", {f"rt:to:{self.name}": self._hear}, self._hearing)
            await asyncio.wait_for(self._listening.wait(), 5)
        else:
            self.store.on_hearing(True)

    def _hearing(self, hearing: bool) -> None:
        self.store.on_hearing(hearing)
        if hearing:
            self._listening.set()

    def _hear(self, payload: bytes) -> None:
        self.heard.append(payload)
        self.store.on_word(payload)

    async def stop(self) -> None:
        await self.store.close()
        await self.die()

    async def die(self) -> None:
        """Go without a word to anybody."""
        await self.link.close()
        await self.background.drain(0)

    def entry(
        self,
        body: bytes = b"x",
        *,
        key: str = KEY,
        vary: Headers = (),
        tags: tuple[str, ...] = (),
        window: float = 0.0,
    ) -> Entry:
        """What a fetch of this instance brings just now."""
        return bare(key, body, vary=vary, tags=tags, at=self.now(), window=window, seq=self.log.position)

    def key_of(self, part: str) -> str:
        """Where Redis has its `value`, `lease` or `waiters`."""
        return str(getattr(self.store._desk.place("", KEY, (), False), part))  # noqa: SLF001 - nobody else knows

    def keep(self, lead: Lead | None, entry: Entry, *, took: float = 0.0) -> None:
        self.store.keep(lead.lease if lead is not None else None, entry, self.now() - took)

    async def kept(self, entry: Entry, lead: Lead | None = None, *, took: float = 0.0) -> None:
        """Keep it, and wait for Redis to have it, or not."""
        before = self.link.counters.commands
        self.keep(lead, entry, took=took)
        await until(lambda: self.link.counters.commands > before)
        await self.link.command("rt:log", "PING")

    async def claim(self, asked: Wanted | None = None, within: float = 5.0) -> Claim:
        return await self.store.claim(asked or wanted(), within)

    def claiming(self, asked: Wanted | None = None, within: float = 5.0) -> asyncio.Task[Claim]:
        return asyncio.create_task(self.claim(asked, within))

    async def lead(self, asked: Wanted | None = None) -> Lead:
        """Take the lease."""
        claim = await self.claim(asked)
        assert isinstance(claim, Lead), claim
        assert claim.lease.take()
        self.held.append(claim)
        return claim

    async def found(self, asked: Wanted | None = None) -> Entry:
        claim = await self.claim(asked)
        assert isinstance(claim, Found), claim
        return claim.entry

    async def waiting(self, asked: Wanted | None = None, within: float = 5.0) -> asyncio.Task[Claim]:
        """A claim that has been told to wait."""
        before = self.counters.waits
        task = self.claiming(asked, within)
        await until(lambda: self.counters.waits > before or task.done())
        assert not task.done(), task.result()
        return task

    def applies(self, number: int, kind: Kind = Kind.URL, value: str = KEY, *, soft: bool = False) -> None:
        """A record of the shared log arrives."""
        self.log.apply(Record(kind, value, soft, self.now()), number)
        self.store.on_records()


class Fleet:
    """All of them, over one server that begins empty."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._instances: list[Instance] = []
        server.ask("FLUSHALL")

    async def instance(
        self, *, skew: float = 0.0, deaf: bool = False, number: int = 0, deadline: float = 2.0
    ) -> Instance:
        name = f"i{len(self._instances)}"
        instance = Instance(self.server.url, name, skew=skew, deaf=deaf, number=number, deadline=deadline)
        self._instances.append(instance)
        await instance.start()
        return instance

    async def instances(self, count: int) -> list[Instance]:
        return [await self.instance() for _ in range(count)]

    def keys(self, kind: str = "") -> list[str]:
        """Redis keys: `e` answers, `l` leases, `w` those who wait."""
        names = [name.decode() for name in self.server.ask("KEYS", "rt:*")]
        return [name for name in names if name.rpartition(":")[2].startswith(kind)]

    def lease(self) -> bytes:
        """The only one."""
        (key,) = self.keys("l")
        value: bytes = self.server.ask("GET", key)
        return value

    async def close(self) -> None:
        for instance in self._instances:
            await instance.stop()


@asynccontextmanager
async def fleet_over(server: Server) -> AsyncIterator[Fleet]:
    fleet = Fleet(server)
    try:
        yield fleet
    finally:
        await fleet.close()


def validated(entry: Entry) -> Entry:
    """The entry as one that has to be validated for every request."""
    return replace(entry, terms=replace(entry.terms, always_validate=True))


def varied(instance: Instance, body: bytes, *vary: tuple[str, str]) -> Entry:
    return instance.entry(body, vary=vary)


def stamped(head: bytes, payload: bytes, stored_ms: float, asked_ms: float) -> bytes:
    """The whole frame, as lua/fill.lua makes it."""
    told = head + pack("<dd", stored_ms, asked_ms)
    return told + sha1(told, usedforsecurity=False).hexdigest()[:8].encode() + payload


def sealed(numbers: Sequence[float], payload: bytes, *, epoch: bytes = EPOCH.encode(), flags: int = 0) -> bytes:
    """A frame that is whole, whatever it says. The numbers: n; fresh, stale, left, age, held, stored, asked in ms."""
    head = HEAD.pack(b"RT", 1, flags, *numbers[:6], crc32(payload), len(epoch)) + epoch
    return stamped(head, payload, *numbers[6:8])
