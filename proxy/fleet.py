"""What this instance has in common with others: behind one Redis, or nothing where there is none."""

import os

from proxy.edges.buckets import LocalBuckets
from proxy.edges.clock import Clock
from proxy.edges.redis_buckets import Desk as Limits
from proxy.edges.redis_buckets import RedisBuckets
from proxy.edges.redis_link import Link
from proxy.edges.redis_log import RedisLog
from proxy.edges.redis_store import RedisStore
from proxy.flow.background import Background
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.local_log import LocalLog
from proxy.flow.ports import Buckets
from proxy.rules.quota import Quota
from proxy.settings import Redis


class Fleet:
    """`log` is the invalidation log as this instance has applied it, `told` the one that all share, `store` what
    all have fetched; None where there is nobody else. `workers` serve on this one's port, this one included: there
    are at least as many, even where nobody was heard of.
    """

    def __init__(self, redis: Redis | None, clock: Clock, workers: int = 1) -> None:
        self.instance = os.urandom(6).hex()
        self.told: RedisLog | LocalLog
        self.store: RedisStore | None = None
        self.link: Link | None = None
        self._services = Background()  # apart from the work for clients, which a stop waits for
        self._now = clock.now
        self._limits: Limits | None = None
        if redis is None:
            self.log = InvalidationLog()
            self.told = LocalLog(self.log, self.instance, clock.now)
            return
        # Told to revalidate at once: what was heard a second ago is as good as now.
        grace = 1.0 if redis.revalidate else redis.max_blind
        self.log = InvalidationLog(grace=grace, drop=redis.drop, shared=True)
        self.link = Link(redis.url, now=clock.now, spawn=self._services.spawn)
        self.store = RedisStore(
            self.link,
            self.log,
            prefix=redis.prefix,
            instance=self.instance,
            now=clock.now,
            wall=clock.wall,
            spawn=self._services.spawn,
        )
        self.told = RedisLog(
            self.link,
            self.log,
            prefix=redis.prefix,
            instance=self.instance,
            max_blind=grace,
            clock=clock,
            spawn=self._services.spawn,
            on_applied=self.store.on_records,
            on_word=self.store.on_word,
            on_hearing=self.store.on_hearing,
        )
        told = self.told
        self._limits = Limits(
            self.link, redis.prefix, lambda: max(workers, told.instances), clock.now, self._services.spawn
        )

    def buckets(self, route: str, quota: Quota) -> Buckets:
        """Those of one limit of a route."""
        if self._limits is None:
            return LocalBuckets(quota.rate, quota.burst, self._now)
        return RedisBuckets(self._limits, f"{route}/{quota.name}", quota.rate, quota.burst)

    async def start(self) -> None:
        """Catch up with the others, if that can be done in a moment; it goes on in the background."""
        if isinstance(self.told, RedisLog):
            await self.told.start()

    async def close(self) -> None:
        """Leave: others need not wait for this one any more."""
        if self.store is not None:
            await self.store.close()
        if isinstance(self.told, RedisLog):
            await self.told.close()
        if self.link is not None:
            await self.link.close()
        await self._services.drain(within=0.0)

    def state(self) -> dict[str, str]:
        """A few words for each part, for whoever asks whether this instance is ready: nothing here makes it unready."""
        if not isinstance(self.told, RedisLog):
            return {}
        state = self.told.state()
        if not state.reachable:
            word = "unreachable"
        elif state.blind_seconds:
            word = "its log cannot be read"
        else:
            word = "ok, but for some of its servers" if state.trouble else "ok"
        hits = ", and hits are validated" if state.blind_seconds else ""
        return {"redis": f"{word}{hits}" + (f": {state.trouble}" if state.trouble else "")}
