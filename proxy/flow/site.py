"""The configuration as the flow uses it: routes joined to their upstreams, and one request on its way."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from proxy.flow.breaker import Breaker
from proxy.flow.ports import Client, Origin
from proxy.rules.keys import url_of
from proxy.rules.lookup import has_credentials
from proxy.rules.message import Request
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.routes import Route, Unrouted, route


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go. `host` is its authority, sent as Host unless the client's is preserved."""

    name: str
    host: str
    preserve_host: bool
    origin: Origin
    breaker: Breaker


@dataclass(frozen=True, slots=True)
class Lane:
    """One route with its upstream. `fingerprint` marks what is stored under this very policy.

    `blunt` is the policy without an ear for the request's own Cache-Control.
    """

    route: Route
    upstream: Upstream
    fingerprint: str
    blunt: Policy = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blunt", replace(self.route.policy, respect_request=False))

    @property
    def policy(self) -> Policy:
        """The route's cache rules."""
        return self.route.policy


@dataclass(frozen=True, slots=True)
class Site:
    """Every lane by its route's name, and the routes in order. A reload makes a new one."""

    routes: tuple[Route, ...]
    lanes: Mapping[str, Lane]

    def keyed_url(self, scheme: str, host: str, target: str) -> str:
        """The URL as a GET of it is keyed and invalidated: by the rule of the route that GET takes."""
        found = route(self.routes, host, target.partition("?")[0], "GET")
        rule = KeyRule() if isinstance(found, Unrouted) else found.route.policy.key
        return url_of(scheme, host, target, rule)


@dataclass(frozen=True, slots=True)
class Visit:
    """One routed and keyed request. `now` is when its head was complete, in monotonic seconds.

    `seen` is the last invalidation applied when the store was asked.
    """

    request: Request
    client: Client
    site: Site
    lane: Lane
    key: str
    url: str
    tags: tuple[str, ...]
    request_id: str
    now: float
    seen: int

    @property
    def shelf(self) -> str:
        """What requests must share to wait for each other: the key, the policy it is fetched under, and
        whether they say who asks.
        """
        return f"{self.lane.fingerprint} {self.key}" + ("\n*" if has_credentials(self.request.fields) else "")
