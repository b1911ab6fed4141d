"""From a configuration to what serves it: upstreams, limits and gates, of which a reload keeps what is the same."""

from collections.abc import Callable
from hashlib import blake2b
from urllib.parse import urlsplit

from proxy.certificates import upstream_context
from proxy.edges.origin import HttpOrigin, Spawn
from proxy.flow.breaker import Breaker
from proxy.flow.gate import Gate, Gates
from proxy.flow.limiter import Limit, Limiter
from proxy.flow.ports import Buckets
from proxy.flow.site import Lane, Site, Upstream
from proxy.flow.tally import Tallies
from proxy.rules.purging import PurgeRule
from proxy.rules.quota import Quota
from proxy.rules.routes import Route
from proxy.settings import Settings
from proxy.settings import Upstream as UpstreamSettings


class Sites:
    """`buckets` makes those of a route's quota, `body_timeout` is in seconds, `now` gives monotonic seconds."""

    def __init__(
        self,
        buckets: Callable[[str, Quota], Buckets],
        tallies: Tallies,
        body_timeout: Callable[[], float],
        spawn: Spawn,
        now: Callable[[], float],
    ) -> None:
        self._make_buckets, self._tallies = buckets, tallies
        self._body_timeout, self._spawn, self._now = body_timeout, spawn, now
        self._upstreams: dict[UpstreamSettings, Upstream] = {}
        self._buckets: dict[tuple[str, Quota], Buckets] = {}
        self._gates: dict[str, Gates] = {}  # by the route's name

    @property
    def upstreams(self) -> list[Upstream]:
        """All that are in use, or about to be."""
        return list(self._upstreams.values())

    @property
    def buckets(self) -> list[tuple[str, Quota, Buckets]]:
        """Those of each limit, with its route's name."""
        return [(route, quota, made) for (route, quota), made in self._buckets.items()]

    @property
    def gates(self) -> list[tuple[str, Gates]]:
        """Those of each route that has any, by its name."""
        return list(self._gates.items())

    def make(self, settings: Settings) -> Site:
        """Raises OSError or ValueError where a certificate is unusable; then nothing has changed."""
        made = {u: self._upstreams.get(u) or self._upstream(u) for u in settings.upstreams.values()}
        self._upstreams.update(made)
        for wanted, upstream in made.items():
            upstream.breaker.change(wanted.breaker.failures, wanted.breaker.open)
            if upstream.gate is not None and wanted.gate is not None:
                upstream.gate.change(wanted.gate)
        lanes = {route.name: self._lane(route, settings.upstreams[route.upstream]) for route in settings.routes}
        allowed = settings.purge_method
        purging = None if allowed is None else PurgeRule(allowed.allow, settings.trusted_proxies)
        return Site(settings.routes, lanes, purging, settings.trusted_proxies)

    def retire(self, settings: Settings) -> tuple[list[Upstream], list[Buckets]]:
        """Forget what this configuration does not use any more; it is the caller's to end."""
        upstreams = [self._upstreams.pop(u) for u in set(self._upstreams) - set(settings.upstreams.values())]
        limits = {(route.name, quota) for route in settings.routes for quota in route.quotas}
        gated = {route.name for route in settings.routes if route.gate is not None}
        self._gates = {route: made for route, made in self._gates.items() if route in gated}
        return upstreams, [self._buckets.pop(limit) for limit in set(self._buckets) - limits]

    def _lane(self, route: Route, upstream: UpstreamSettings) -> Lane:
        limiter, gates = None, None
        if route.quotas:
            limits = [Limit(quota, self._buckets_of(route.name, quota)) for quota in route.quotas]
            limiter = Limiter(route.name, limits, self._tallies.refused, self._now)
        if route.gate is not None:
            gates = self._gates.setdefault(route.name, Gates(route.gate))
            gates.change(route.gate)
        return Lane(route, self._upstreams[upstream], _fingerprint(route, upstream), limiter, gates)

    def _buckets_of(self, route: str, quota: Quota) -> Buckets:
        made = self._buckets.get((route, quota))
        if made is None:
            made = self._buckets[route, quota] = self._make_buckets(route, quota)
        return made

    def _upstream(self, settings: UpstreamSettings) -> Upstream:
        tls = settings.tls
        context = None
        if settings.url.startswith("https:"):
            files = (tls.ca, tls.certificate, tls.key) if tls else (None, None, None)
            context = upstream_context(*files)
        origin = HttpOrigin(
            settings.url,
            connect_timeout=settings.connect_timeout,
            timeout=settings.timeout,
            max_connections=settings.max_connections,
            ssl=context,
            server_name=tls.server_name if tls else None,
            body_timeout=self._body_timeout,
            spawn=self._spawn,
        )
        # Who is under way at the same upstream, and how it does, is the same whatever else of it has changed.
        place = settings.name, settings.url
        before = next((made for known, made in self._upstreams.items() if (known.name, known.url) == place), None)
        breaker, gate = (None, None) if before is None else (before.breaker, before.gate)
        return Upstream(
            settings.name,
            urlsplit(settings.url).netloc,
            settings.preserve_host,
            settings.timeout,
            origin,
            breaker or Breaker(settings.breaker.failures, settings.breaker.open),
            None if settings.gate is None else gate or Gate(settings.gate),
        )


def _fingerprint(route: Route, upstream: UpstreamSettings) -> str:
    """Marks what is stored under this policy and from this upstream."""
    return blake2b(f"{route.policy.fingerprint()} {upstream.url}".encode(), digest_size=8).hexdigest()
