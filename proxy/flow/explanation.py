"""What `explain` says, as plain data: the decisions about one request, in the order in which they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique

from proxy.flow.invalidation import Kind
from proxy.rules.message import Fwd, Reason
from proxy.rules.routes import Miss


@unique
class Step(Enum):
    """The decisions there are."""

    REQUEST = "request"
    ROUTE = "route"
    PURGE = "purge"
    KEY = "key"
    CACHE = "cache"
    VARIANTS = "variants"
    INVALIDATION = "invalidation"
    FRESHNESS = "freshness"
    CLIENT = "client"
    LIMITS = "limits"
    REMEMBERED = "remembered"
    UPSTREAM = "upstream"


@unique
class Standing(Enum):
    """What the invalidation log makes of an entry."""

    VALID = "valid"
    STALE = "stale"
    GONE = "gone"
    DISTRUSTED = "distrusted"


@unique
class Trust(Enum):
    """Whether somebody vouches for the log being complete here."""

    TRUSTED = "trusted"
    BLIND = "blind"


@unique
class Way(Enum):
    """How a request goes upstream."""

    LEAD = "lead"  # a fetch that others may join
    JOIN = "join"  # one that is in the air
    ALONE = "alone"


@unique
class Pays(Enum):
    """What a request pays for."""

    HIT = "hit"
    MISS = "miss"


@unique
class OverLimit(Enum):
    """What a client without tokens gets, as the configuration says it."""

    REJECT = "reject"
    SERVE_STALE = "serve_stale"


@unique
class Act(Enum):
    """What becomes of the request."""

    SERVE = "serve"
    FETCH = "fetch"
    REFUSE = "refuse"
    PURGE = "purge"


@dataclass(frozen=True, slots=True)
class AsRead:
    """The request as routed, keyed and forwarded. `refused`: what is wrong with it, where it cannot be read."""

    method: str
    scheme: str
    host: str
    target: str
    body: bool = False
    refused: str | None = None
    step: Step = field(default=Step.REQUEST, init=False)


@dataclass(frozen=True, slots=True)
class Tried:
    """One route that was looked at; `miss` None: it takes the request."""

    route: str
    host: str | None
    path: str
    methods: tuple[str, ...]
    miss: Miss | None


@dataclass(frozen=True, slots=True)
class Routing:
    """The routes that were tried, in their order. `allow`: the methods that would have been taken."""

    tried: tuple[Tried, ...]
    route: str | None
    captures: Mapping[str, str]
    allow: tuple[str, ...]
    step: Step = field(default=Step.ROUTE, init=False)


@dataclass(frozen=True, slots=True)
class Purging:
    """What a PURGE would do, and for clients in which networks. `urls` as they are keyed."""

    urls: tuple[str, ...]
    soft: bool
    allow: tuple[str, ...]
    step: Step = field(default=Step.PURGE, init=False)


@dataclass(frozen=True, slots=True)
class Field:
    """One header field; None where it is absent."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Keying:
    """The key, part by part. `url` is what an invalidation of it names; `tags` are the route's.

    `ignored` are names of query parameters, `headers` the route's keyed request fields.
    """

    url: str
    scheme: str
    host: str
    target: str
    ignored: tuple[str, ...]
    headers: tuple[Field, ...]
    tags: tuple[str, ...]
    step: Step = field(default=Step.KEY, init=False)


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Whether anything stored may answer the request at all; `reason` is why not."""

    may: bool
    reason: Reason | None
    credentials: bool  # the request says who asks
    step: Step = field(default=Step.CACHE, init=False)


@dataclass(frozen=True, slots=True)
class Compared:
    """One header field that a stored variant was selected on, and the request's own; None where it is absent."""

    name: str
    stored: str | None
    asked: str | None
    same: bool


@dataclass(frozen=True, slots=True)
class Lying:
    """One stored variant. `current`: stored under the policy that the route has now. Seconds."""

    status: int
    length: int
    age: float
    left: float
    vary: tuple[Compared, ...]
    current: bool
    standing: Standing
    selected: bool


@dataclass(frozen=True, slots=True)
class Variants:
    """What is stored under the key. `memory_only`: there is a shared store, and it was not asked."""

    stored: tuple[Lying, ...]
    memory_only: bool
    step: Step = field(default=Step.VARIANTS, init=False)


@dataclass(frozen=True, slots=True)
class Touched:
    """A kind of record that came after the entry's fetch began and names it."""

    kind: Kind
    soft: bool


@dataclass(frozen=True, slots=True)
class Invalidation:
    """What has become of the selected variant. While blind an entry is used for `grace` seconds after it came."""

    trust: Trust
    grace: float
    standing: Standing | None
    records: tuple[Touched, ...]
    step: Step = field(default=Step.INVALIDATION, init=False)


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds behind the end of freshness, and how many are left of them."""

    name: Reason
    seconds: float
    left: float
    unreachable: bool = False  # for an upstream that does not answer at all


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Seconds: `lifetime` - `age` = `left`. `stated`: it is the upstream's own word.

    `early_refresh` is the chance that this very request would have it renewed early.
    """

    age: float
    lifetime: float
    left: float
    fresh: bool
    windows: tuple[Window, ...]
    must_validate: bool
    never_stale: bool
    stated: bool
    early_refresh: float
    step: Step = field(default=Step.FRESHNESS, init=False)


@dataclass(frozen=True, slots=True)
class Wish:
    """One directive of the client's. `limit` and what it is `compared` with are in seconds. `alone` is what would
    be decided with this directive and no other, and `changes` says that it is not what would be without any.
    """

    directive: str
    limit: int | None
    compared: float | None
    alone: Reason
    changes: bool


@dataclass(frozen=True, slots=True)
class Client:
    """What the client's Cache-Control does. `without`: what would be decided if it had none."""

    respected: bool
    wishes: tuple[Wish, ...]
    without: Reason
    step: Step = field(default=Step.CLIENT, init=False)


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit, and what is in the bucket that the request pays from. `client` is whose it is: an address, a network
    or a hash, nothing where all share it, None where it is the peer's and nobody said who that is; then it is taken
    for full. `rate` in tokens a second; `wait`: seconds until there are enough.
    """

    name: str
    by: str
    client: str | None
    rate: float
    burst: float
    left: float
    cost: float
    passes: bool
    wait: float
    over_limit: OverLimit


@dataclass(frozen=True, slots=True)
class Doorway:
    """How many may be inside and wait, how many do, and for how many seconds they may. `full`: whoever comes now is
    refused. `by` None: all are counted together; `client` as of a bucket.
    """

    requests: int
    inside: int
    queue: int
    waiting: int
    wait: float
    full: bool
    by: str | None = None
    client: str | None = None


@dataclass(frozen=True, slots=True)
class Limiting:
    """The route's limits. The request `pays` what it does because it would be answered for that `reason`.

    `here_only`: what is told is what this instance knows of buckets that others spend from too.
    """

    pays: Pays
    reason: Reason
    buckets: tuple[Bucket, ...]
    gate: Doorway | None
    here_only: bool
    step: Step = field(default=Step.LIMITS, init=False)


@dataclass(frozen=True, slots=True)
class Lately:
    """What is remembered, and for how many seconds more; none left: the next request finds out."""

    reason: Reason
    left: float


@dataclass(frozen=True, slots=True)
class Remembered:
    """Of the key: whether its answers proved unshareable, and whether a fetch failed a moment ago."""

    unshareable: Lately | None
    failed: Lately | None
    step: Step = field(default=Step.REMEMBERED, init=False)


@dataclass(frozen=True, slots=True)
class InTheAir:
    """A fetch that is under way: sent so many seconds ago, None where it has not been yet."""

    sent: float | None
    answered: bool


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where it would go, and how. `way` None: it does not. `flight` is one that it could join, `gate` bounds how much
    is under way there.
    """

    name: str
    host: str
    breaker_open: bool
    way: Way | None
    flight: InTheAir | None
    gate: Doorway | None = None
    step: Step = field(default=Step.UPSTREAM, init=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client would get. Of a fetch `status` is the upstream's to say, and `cache_status` as much as is
    known before it does; None where the route is not cached.

    `renews`: a stale or ageing answer would be renewed behind the client's back; `validates`: with what is stored;
    `stores`: what the upstream says decides; `bridged`: by a stale answer, where the upstream fails. `retry_after`:
    the seconds that a refusal tells its client to wait.
    """

    act: Act
    status: int | None
    reason: Reason
    fwd: Fwd | None = None
    cache_status: str | None = None
    age: int | None = None
    ttl: int | None = None
    renews: bool = False
    validates: bool = False
    stores: bool = False
    bridged: bool = False
    retry_after: int | None = None


Decision = (
    AsRead
    | Routing
    | Purging
    | Keying
    | Eligibility
    | Variants
    | Invalidation
    | Arithmetic
    | Client
    | Limiting
    | Remembered
    | Upstream
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decisions, in their order, and what comes of them."""

    steps: tuple[Decision, ...]
    answer: Answer
