"""Builds everything from Settings, and owns start, reload and stop."""

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from proxy.admin.access import Access
from proxy.admin.config import Config
from proxy.admin.entries import Entries
from proxy.admin.explain import Explain
from proxy.admin.hottest import Hottest
from proxy.admin.instances import Instances
from proxy.admin.invalidations import Invalidations
from proxy.admin.metrics import Metrics
from proxy.admin.reading import Redis, Sources
from proxy.admin.server import AdminServer
from proxy.certificates import load_pair, server_context
from proxy.config.document import ConfigError
from proxy.config.effective import effective
from proxy.edges.clock import Clock
from proxy.edges.journal import AccessLog
from proxy.edges.listener import Listener
from proxy.edges.memory import Memory
from proxy.edges.origin import HttpOrigin
from proxy.edges.redis_buckets import RedisBuckets
from proxy.edges.redis_log import RedisLog
from proxy.edges.shared import Shared
from proxy.fleet import Fleet
from proxy.flow.answers import Answers
from proxy.flow.background import Background
from proxy.flow.exchange import Exchange
from proxy.flow.explain import Explainer
from proxy.flow.fill import Fill
from proxy.flow.flights import FlightMemory, Flights
from proxy.flow.heads import Heads
from proxy.flow.invalidator import Invalidator
from proxy.flow.inventory import Inventory
from proxy.flow.purge import Purge
from proxy.flow.tally import Tallies
from proxy.flow.throttle import Throttle
from proxy.flow.traced import Traced
from proxy.process import raise_file_limit, spare_the_collector, trouble_the_collector
from proxy.rules.message import Reason
from proxy.settings import ServerTls, Settings
from proxy.sites import Sites

if TYPE_CHECKING:
    from proxy.edges.tracing import OpenTelemetry

_log = logging.getLogger("readthrough")

RECLAIM_STEP = 0.02  # seconds between two steps of a walk through memory
RECLAIM_REST = 5.0  # and before each walk
_POLL = 0.05  # seconds between looks while draining
_CERTIFICATE_POLL = 2.0  # seconds between looks at the certificate files
_OTHER_FILES = 64  # beside connections


def run(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Serve until told to stop; returns the exit code. `reload` reads the configuration again."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, reload))


async def _serve(settings: Settings, reload: Callable[[], Settings]) -> int:
    try:
        app = App(settings)
    except ValueError as error:  # a certificate of an upstream's that cannot be used
        _log.error("cannot start: %s", error)
        return 1
    stopping = Stopping()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: stopping.ask(delayed=True))
    loop.add_signal_handler(signal.SIGINT, lambda: stopping.ask(delayed=False))
    loop.add_signal_handler(signal.SIGHUP, lambda: app.background.spawn(app.reload(reload), "reload"))
    try:
        await app.start()
    except (OSError, ValueError) as error:
        _log.error("cannot start: %s", error)
        await app.close()
        return 1
    await stopping.asked.wait()
    return await app.stop(stopping.rush)


class Stopping:
    """Whether it was `asked` to stop, and whether it is to `rush`."""

    def __init__(self) -> None:
        self.asked, self.rush = asyncio.Event(), asyncio.Event()

    def ask(self, *, delayed: bool) -> None:
        """A signal. Ctrl-C, which is not `delayed`, has nobody to wait for; a second signal means now."""
        if self.asked.is_set() or not delayed:
            self.rush.set()
        self.asked.set()


@dataclass(frozen=True, slots=True)
class Berth:
    """The place of one process among several that serve on one port: which it is, the Unix socket where it answers
    as admin, and the file whose lock orders what they all write.
    """

    number: int
    admin: Path
    turns: Path


class App:
    """One running instance; with a `berth`, one of the processes that make it up."""

    def __init__(self, settings: Settings, berth: Berth | None = None) -> None:
        self.settings, self._berth = settings, berth
        self.clock = Clock()
        self.background = Background()
        self.fleet = Fleet(settings.redis, self.clock, settings.workers)
        self.log = self.fleet.log
        self.memory = Memory(settings.memory_max_size, self.log)
        self.flights = Flights(self.log, FlightMemory(settings.limits.flight_memory))
        turns = None if berth is None else berth.turns
        self.journal = AccessLog(sys.stdout.fileno(), self.clock.wall, turns) if settings.access_log else None
        fleet = self.fleet
        fill = Fill(self.memory, self.log, self.flights, self.background, self.clock, fleet.store, fleet.told)
        self.tallies = Tallies(self.clock.now, self.clock.roll)
        answers = Answers(self.clock, self.journal, _request_ids(), self.background, self.tallies)
        self.sites = Sites(fleet.buckets, self.tallies, self._body_timeout, self.background.spawn, self.clock.now)
        self.refusals: dict[Reason, int] = {}  # of requests that could not be read
        invalidator = Invalidator(fleet.told, Throttle(self.clock.now))
        purge = Purge(invalidator, answers, self.background)
        self.exchange = Exchange(
            self.sites.make(settings), self.memory, self.log, self.flights, fill, answers, self.clock, purge
        )
        self.tracing = _tracing(self.fleet.instance, self.clock.now) if settings.tracing else None
        traced = None if self.tracing is None else Traced(self.tracing, self.exchange.hit, self.exchange.begin)
        self.shared = Shared(
            Heads(self.exchange.read),
            self.exchange.hit if traced is None else traced.hit,
            self.exchange.begin if traced is None else traced.begin,
            self.background.spawn,
            self.clock.now,
            settings.limits,
            settings.trusted_proxies,
            self._refused,
        )
        self.listener = Listener(self.shared)
        self._serving = False
        shared = fleet.store is not None
        explainer = Explainer(
            lambda: self.exchange.site, self.memory, self.log, self.flights, self.clock.now, shared=shared
        )
        inventory = Inventory(lambda: self.exchange.site, self.memory, self.log, self.clock.now)
        self.admin = AdminServer(
            lambda: self._serving,
            access=self._access,
            components=fleet.state,
            parts=[
                Invalidations(invalidator, lambda: self.exchange.site),
                Explain(explainer, lambda: self.settings.limits),
                Entries(inventory, lambda: self.exchange.site, lambda: self.settings.limits),
                Config(lambda: effective(self.settings)),
                Metrics(self._sources()),
                Hottest(self.tallies.hot, self.exchange.settle),
                Instances(fleet.told),
            ],
        )
        self._tls_watch: asyncio.TimerHandle | None = None
        self._reclaiming: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Raises OSError where an address is taken or unknown, it or ValueError for an unusable certificate."""
        settings = self.settings
        connections = settings.limits.max_connections + sum(u.max_connections for u in settings.upstreams.values())
        raise_file_limit(connections + _OTHER_FILES)
        context = None
        if settings.tls is not None:
            seen = _stamp(settings.tls)
            context = server_context(settings.tls.certificate, settings.tls.key)
            self._watch_certificate(context, settings.tls, seen)
        await self.fleet.start()
        if self._berth is None:
            with resolving("admin.listen", settings.admin.listen.host):
                await self.admin.listen(settings.admin.listen.host, settings.admin.listen.port)
        else:
            await self.admin.listen_at(self._berth.admin)
        host, port = settings.listen.host, settings.listen.port
        with resolving("listen", host):
            port = await self.listener.listen(host, port, context, reuse_port=self._berth is not None)
        self._serving = True
        self._reclaim(iter(()), 0)
        spare_the_collector()
        if self._berth is None:
            announce(settings, port)

    async def reload(self, read: Callable[[], Settings]) -> None:
        """Take up a new configuration, or keep the old one and say why."""
        try:
            fresh = read()
            site = self.sites.make(fresh)
        except ConfigError as error:
            _log.error("configuration not reloaded, the old one stays:\n%s", "\n".join(map(str, error.errors)))
            return
        except (OSError, ValueError) as error:
            _log.error("configuration not reloaded, the old one stays: %s", error)
            return
        fresh = self.settings = settled(fresh, self.settings)
        self.exchange.site = site
        self.memory.resize(fresh.memory_max_size)
        self.background.spawn(self._shrink(), "shrink")
        self.shared.limits = fresh.limits
        self.shared.trust(fresh.trusted_proxies)
        self.shared.heads.forget()
        _log.info("configuration reloaded")
        upstreams, limits = self.sites.retire(fresh)  # no new request comes to these; those under way may end
        for upstream in upstreams:
            self.background.spawn(upstream.origin.retire(), "retire")
        for buckets in limits:
            self.background.spawn(buckets.close(), "retire")

    async def _shrink(self) -> None:
        while not self.memory.shrink():  # noqa: ASYNC110 - nobody else shrinks it
            # Others go first: a million entries at once would stop them for seconds.
            await asyncio.sleep(0)

    async def stop(self, rush: asyncio.Event) -> int:
        """Drain and end: 0, or 1 where work had to be cut. `rush` cuts the wait short."""
        shutdown = self.settings.shutdown
        self._serving = False
        self.shared.draining = True
        if not rush.is_set() and shutdown.delay:
            _log.info("not ready any more; serving for another %g s", shutdown.delay)
            await _either(rush, shutdown.delay)
        rush.clear()
        self.listener.stop_accepting()
        if self.shared.connections and shutdown.timeout:
            _log.info("finishing %d connections, for at most %g s", len(self.shared.connections), shutdown.timeout)
        end = self.clock.now() + shutdown.timeout
        while (self.shared.connections or len(self.background)) and self.clock.now() < end and not rush.is_set():
            await _either(rush, _POLL)
        cut = len(self.shared.connections)
        await self.close()
        if cut:
            _log.warning("%d connections were cut", cut)
        return 1 if cut else 0

    async def close(self) -> None:
        """Let go of everything, at once."""
        for timer in (self._tls_watch, self._reclaiming):
            if timer is not None:
                timer.cancel()
        self.listener.close()
        await self.background.drain(within=0.0)
        for upstream in self.sites.upstreams:
            await upstream.origin.close()
        await asyncio.gather(*[buckets.close() for _, _, buckets in self.sites.buckets])
        await self.fleet.close()
        await self.admin.close()
        if self.journal is not None:
            self.journal.close()
        if self.tracing is not None:
            await self.tracing.close()
        trouble_the_collector()

    def _sources(self) -> Sources:
        """Where what is counted is to be found."""
        link, store, told = self.fleet.link, self.fleet.store, self.fleet.told
        redis = None
        if link is not None and store is not None and isinstance(told, RedisLog):
            redis = Redis(lambda: link.up, link.counters, told.state, store.counters)
        return Sources(
            version=version("readthrough"),
            ready=lambda: self._serving,
            settle=self.exchange.settle,
            tallies=self.tallies,
            refusals=self.refusals,
            flights=self.flights,
            memory=self.memory,
            log=self.log,
            upstreams=lambda: [
                (made, made.origin) for made in self.sites.upstreams if isinstance(made.origin, HttpOrigin)
            ],
            limits=lambda: [
                (route, quota, made, made.counters if isinstance(made, RedisBuckets) else None)
                for route, quota, made in self.sites.buckets
            ],
            gates=lambda: self.sites.gates,
            accepted=self.shared.counters,
            connections=self.shared.connections,
            lag=self.shared.lag,
            journal=self.journal,
            redis=redis,
        )

    def _access(self) -> Access:
        admin = self.settings.admin
        return Access(admin.listen.host, admin.token, admin.hosts)

    def _body_timeout(self) -> float:
        return self.settings.limits.body_timeout

    def _refused(self, peer: str, status: int, reason: Reason) -> None:
        self.refusals[reason] = self.refusals.get(reason, 0) + 1
        if self.journal is not None:
            self.journal.refused(peer, status, reason)

    def _reclaim(self, walk: Iterator[None], seen: int) -> None:
        """Give back, bit by bit, the memory of what was purged; up to the position `seen` of the log that is done."""
        pause = RECLAIM_STEP
        if next(walk, self) is self:
            pause, position = RECLAIM_REST, self.log.position
            if position != seen:
                walk, seen = self.memory.reclaim(), position
        self._reclaiming = asyncio.get_running_loop().call_later(pause, self._reclaim, walk, seen)

    def _watch_certificate(self, context: ssl.SSLContext, tls: ServerTls, seen: tuple[float, ...]) -> None:
        """Read the certificate again whenever its files change: new connections get the new one."""
        try:
            found = _stamp(tls)
            if found != seen:
                load_pair(context, tls.certificate, tls.key)
                seen = found
                _log.info("certificate read again")
        except (OSError, ValueError) as error:  # half written, most likely: the old one stays for now
            _log.warning("certificate not read again, the old one stays: %s", error)
        again = asyncio.get_running_loop().call_later
        self._tls_watch = again(_CERTIFICATE_POLL, self._watch_certificate, context, tls, seen)


@contextmanager
def resolving(key: str, host: str) -> Iterator[None]:
    """What is raised where the host under `key` has no address names both."""
    try:
        yield
    except socket.gaierror as error:
        raise OSError(f"{key}: no address is known for {host}: {error.strerror}") from None


def announce(settings: Settings, port: int) -> None:
    """Log where to connect."""
    scheme = "https" if settings.tls else "http"
    _log.info("readthrough %s serves %s://%s:%d", version("readthrough"), scheme, _shown(settings.listen.host), port)
    _log.info("health is at http://%s:%d/readyz", _shown(settings.admin.listen.host), settings.admin.listen.port)


def settled(fresh: Settings, running: Settings) -> Settings:
    """What a reload leads to: `fresh`, but for what cannot change while running, which stays and is named."""
    for name, old, new in (
        ("listen", running.listen, fresh.listen),
        ("workers", running.workers, fresh.workers),
        ("admin.listen", running.admin.listen, fresh.admin.listen),
        ("tls", running.tls, fresh.tls),
        ("redis", running.redis, fresh.redis),
        ("access_log", running.access_log, fresh.access_log),
        ("tracing", running.tracing, fresh.tracing),
        ("limits.flight_memory", running.limits.flight_memory, fresh.limits.flight_memory),
    ):
        if old != new:
            _log.warning("%s cannot change while running: restart for it", name)
    return replace(
        fresh,
        listen=running.listen,
        workers=running.workers,
        admin=replace(fresh.admin, listen=running.admin.listen),
        tls=running.tls,
        redis=running.redis,
        access_log=running.access_log,
        tracing=running.tracing,
        limits=replace(fresh.limits, flight_memory=running.limits.flight_memory),
        varied=fresh.varied | running.varied,
    )


def _tracing(instance: str, now: Callable[[], float]) -> "OpenTelemetry | None":
    """Raises ValueError where the environment asks for what there is not."""
    from proxy.edges.tracing import start  # noqa: PLC0415 - an extra, loaded where it is wanted

    return start(version("readthrough"), instance, now)


def _stamp(tls: ServerTls) -> tuple[float, ...]:
    return tls.certificate.stat().st_mtime, tls.key.stat().st_mtime


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def _request_ids() -> Callable[[], str]:
    """Ids that no other process makes: random, then counting."""
    prefix, numbers = os.urandom(6).hex(), count(1)
    return lambda: f"{prefix}-{next(numbers):x}"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
