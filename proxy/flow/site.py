"""The configuration as the flow uses it: routes joined to their upstreams, and one request on its way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from proxy.flow.breaker import Breaker
from proxy.flow.gate import Gate, Gates
from proxy.flow.limiter import Limiter, Payers, Permit
from proxy.flow.ports import Client, Origin
from proxy.flow.sharing import Wanted
from proxy.flow.tally import UpstreamTally
from proxy.flow.tracing import TraceSpan
from proxy.rules.client import Networks
from proxy.rules.keys import key_of, url_of
from proxy.rules.lookup import Fetch, has_credentials, is_plain, on_request
from proxy.rules.message import Entry, Fields, Reason, Request, held_once
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.purging import PurgeRule
from proxy.rules.quota import client_of
from proxy.rules.report import Account
from proxy.rules.respond import END, from_entry, only_condition, takes_whole, unmodified
from proxy.rules.routes import Route, Unrouted, route
from proxy.rules.wire import field_lines

SMALL: Final = 4 << 10  # bytes; the 304 of an entry is remembered by all that is stored of it, or by its head


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go. `host` is its authority, sent as Host unless the client's is preserved;
    `timeout` in seconds is to the response head.
    """

    name: str
    host: str
    preserve_host: bool
    timeout: float
    origin: Origin
    breaker: Breaker
    gate: Gate | None = None
    tally: UpstreamTally = field(default_factory=UpstreamTally)


@dataclass(frozen=True, slots=True)
class Lane:
    """One route with its upstream. `fingerprint` marks what is stored under this very policy.

    `blunt` is the policy without an ear for the request's own Cache-Control; `hit_lines` what a hit
    adds to what is stored, but for its age and its time left, in seconds, and `shared_lines` what an answer does
    that another instance has.
    """

    route: Route
    upstream: Upstream
    fingerprint: str
    limiter: Limiter | None = None
    gates: Gates | None = None
    blunt: Policy = field(init=False)
    hit_lines: bytes = field(init=False)
    shared_lines: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blunt", replace(self.route.policy, respect_request=False))
        for name, reason in (("hit_lines", Reason.HIT), ("shared_lines", Reason.SHARED_STORE)):
            told = Account(reason, ttl=0).headers(x_cache=self.route.x_cache)
            object.__setattr__(self, name, b"Age: %d\r\n" + field_lines(told).replace(b"ttl=0", b"ttl=%d"))

    @property
    def policy(self) -> Policy:
        """The route's cache rules."""
        return self.route.policy


@dataclass(frozen=True, slots=True)
class Site:
    """Every lane by its route's name, and the routes in order. A reload makes a new one.

    `purging`: who may send a PURGE; without it nobody may. `trusted` are the networks whose forwarding fields are
    believed.
    """

    routes: tuple[Route, ...]
    lanes: Mapping[str, Lane]
    purging: PurgeRule | None = None
    trusted: Networks = ()

    def keyed_url(self, scheme: str, host: str, target: str) -> str:
        """The URL as a GET of it is keyed and invalidated: by the rule of the route that GET takes."""
        found = route(self.routes, host, target.partition("?")[0], "GET")
        rule = KeyRule() if isinstance(found, Unrouted) else found.route.policy.key
        return url_of(scheme, host, target, rule)


@dataclass(frozen=True, slots=True)
class Absent:
    """What there is to do for a request of which nothing is stored here: `wanted` of other instances, and then the
    `plan`. `shelf` is as a Visit has it.
    """

    plan: Fetch
    wanted: Wanted
    shelf: str


@dataclass(slots=True, eq=False)
class Asked:
    """A request as the configuration reads it, the same whenever it is asked: nothing of the time, of who
    asks or of what is stored. `lane` None: no route takes it, `allow` names the methods that would;
    `purging`: it is a PURGE, and there are clients who may send one.

    `plain`: see `Request.simple` and `is_plain`; `personal`: only what the upstream itself calls fresh may
    answer it; `whole`: a 200 answers it as it is stored; `condition`: the entity tags that make it a 304.
    `payers` are who pays each limit of the route, `guest` who is counted at its gates, None where it is the peer.
    """

    request: Request
    site: Site
    lane: Lane | None
    allow: tuple[str, ...] = ()
    purging: PurgeRule | None = None
    key: str = ""
    url: str = ""
    tags: tuple[str, ...] = ()
    plain: bool = False
    personal: bool = False
    whole: bool = False
    condition: str | None = None
    limiter: Limiter | None = None
    payers: Payers = ()
    guest: str | None = None
    fields: Fields = field(init=False)
    logged: bytes = b""  # made when the first line is written
    hits: int = 0  # of its remembered answer, that have still to be counted
    _absent: Absent | None = None  # made when it is first asked for

    def __post_init__(self) -> None:
        self.fields = self.request.fields

    def absent(self) -> Absent | None:
        """See there; None where it is not plain, or there is nothing to ask of others."""
        if self._absent is None:
            self._absent = self._find_absent()
        return self._absent

    def _find_absent(self) -> Absent | None:
        lane, fields = self.lane, self.fields
        if lane is None or not self.plain:
            return None
        plan = on_request(self.request, None, lane.policy, 0.0, held=False, roll=1.0)
        if not isinstance(plan, Fetch) or not plan.shared:
            return None
        apart, host = has_credentials(fields), self.request.host
        wanted = Wanted(self.key, lane.fingerprint, fields, apart, self.url, host, self.tags, float("-inf"))
        return Absent(held_once(plan), wanted, shelf_of(lane, self.key, fields))

    def takes(self, entry: Entry) -> bool:
        """Whether an entry that is fresh answers it, where it is plain, with nothing to decide."""
        terms, lane = entry.terms, self.lane
        if lane is None or terms.policy != lane.fingerprint or terms.always_validate:
            return False
        return terms.stated or not self.personal

    def reply(self, entry: Entry, own: bytes) -> tuple[bytes, bytes, int, int] | None:
        """Head, tail, status and bytes of body of an answer with what is stored, `own` fields added; the connection's
        go between head and tail. None where the body is too large to be sent at once.
        """
        lead, rest, end = entry.lead, entry.rest, entry.head_end
        if self.whole and not entry.pieces:
            return lead + own, rest, int(lead[9:12]), len(rest) - end
        if self.condition is not None and end <= SMALL:
            bare = unmodified(lead, rest if len(rest) <= SMALL else rest[:end], end, self.condition)
            if bare is not None:
                return bare, own + END, 304, 0
        reply = from_entry(self.request, entry, own)
        return None if reply.pieces else (reply.head, reply.tail, reply.status, reply.sent)


def read(site: Site, request: Request, *, trusted: bool = False) -> Asked:
    """Route and key a request. `trusted`: its peer is believed in what it forwards."""
    if request.method == "PURGE":  # an upstream would not know that it is not meant
        return Asked(request, site, None, () if site.purging else ("GET", "HEAD"), site.purging)
    routed = route(site.routes, request.host, request.path, request.method)
    if isinstance(routed, Unrouted):
        return Asked(request, site, None, routed.allow)
    lane = site.lanes[routed.route.name]
    policy = lane.policy
    url = url_of(request.scheme, request.host, request.target, policy.key)
    who = partial(client_of, request=request, networks=site.trusted, trusted=trusted)
    return Asked(
        request,
        site,
        lane,
        key=key_of(request, url, policy.key),
        url=url,
        tags=tuple([tag.format_map(routed.captures) for tag in policy.tags]),
        plain=request.simple and is_plain(request, policy),
        personal=has_credentials(request.fields) and not policy.share_credentials,
        whole=takes_whole(request),
        condition=only_condition(request),
        limiter=lane.limiter,
        payers=tuple([who(quota) for quota in lane.route.quotas]),
        guest=None if lane.route.gate is None else who(lane.route.gate),
    )


def unrouted(asked: Asked) -> tuple[int, Reason]:
    """What a request that no route takes is refused with."""
    return (405, Reason.METHOD) if asked.allow else (404, Reason.NO_ROUTE)


def shelf_of(lane: Lane, key: str, fields: Fields) -> str:
    """What requests must share to wait for each other: the key, the policy it is fetched under, and
    whether they say who asks.
    """
    return f"{lane.fingerprint} {key}" + ("\n*" if has_credentials(fields) else "")


@dataclass(slots=True, eq=False)  # frozen, each would take 1.5 µs more to make
class Visit:
    """One routed and keyed request. `now` is when its head was complete, in monotonic seconds.

    `seen` is the last invalidation applied when the store was asked. `guest` is who is counted at the route's gates,
    `permit` what its limits have said. `span` is what traces are told of it, or of the work that is done because of it.
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
    guest: str = ""
    permit: Permit | None = None
    span: TraceSpan | None = None

    @property
    def shelf(self) -> str:
        """See `shelf_of`."""
        return shelf_of(self.lane, self.key, self.request.fields)


def visit_of(
    asked: Asked,
    lane: Lane,
    client: Client,
    request_ids: Callable[[], str],
    now: float,
    seen: int,
    permit: Permit | None,
    span: TraceSpan | None,
) -> Visit:
    """A request that is no longer plain."""
    return Visit(  # by position: names make a dictionary, and that is 1 µs for each request
        asked.request,
        client,
        asked.site,
        lane,
        asked.key,
        asked.url,
        asked.tags,
        asked.request.fields.get("x-request-id") or request_ids(),
        now,
        seen,
        "" if lane.gates is None else lane.gates.client(asked.guest, client.peer),
        permit,
        span,
    )
