"""Instances that follow a shared log over real connections."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from proxy.edges.clock import Clock
from proxy.edges.redis_link import Link
from proxy.edges.redis_log import RedisLog
from proxy.flow.background import Background
from proxy.flow.invalidation import InvalidationLog
from proxy.rules.message import Entry
from tests.e2e.process import eventually
from tests.edges.redis_log_kit import entry, served

BLIND: Final = 30.0


class Skewed(Clock):
    """Its host's time of day is wrong, and its time may leap, as for a process that was suspended."""

    __slots__ = ("leapt",)

    def __init__(self, skew: float = 0.0) -> None:
        super().__init__()
        self.leapt = 0.0
        self.now = lambda: time.monotonic() + self.leapt
        self.correct(skew)


@dataclass
class Member:
    link: Link
    log: InvalidationLog
    told: RedisLog
    clock: Skewed
    words: list[bytes]
    calls: int = 0

    def entry(self, name: str) -> Entry:
        return entry(self.log, name, self.clock.now())

    def serves(self, subject: Entry) -> bool:
        return served(self.log, subject, self.clock.now())

    async def caught_up(self) -> None:
        await eventually(lambda: self.told.state().blind_seconds == 0, "trust")


@asynccontextmanager
async def member(
    url: str,
    prefix: str,
    name: str,
    *,
    skew: float = 0.0,
    deadline: float = 5.0,
    blind: float = BLIND,
) -> AsyncIterator[Member]:
    """One instance; at its end nothing of it is left."""
    background, clock = Background(), Skewed(skew)
    link = Link(url, now=time.monotonic, spawn=background.spawn, deadline=deadline)
    log = InvalidationLog(shared=True)

    words: list[bytes] = []

    def count() -> None:
        joined.calls += 1

    told = RedisLog(
        link,
        log,
        prefix=prefix,
        instance=name,
        max_blind=blind,
        clock=clock,
        spawn=background.spawn,
        on_applied=count,
        on_word=words.append,
        on_hearing=lambda _: None,
    )
    joined = Member(link, log, told, clock, words)
    await told.start()
    try:
        yield joined
    finally:
        await told.close()
        await link.close()
        assert await background.drain(5) == 0, "it left tasks behind"


@asynccontextmanager
async def fleet(url: str, prefix: str, *names: str) -> AsyncIterator[list[Member]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(member(url, prefix, name)) for name in names]
