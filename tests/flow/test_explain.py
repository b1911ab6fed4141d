"""Explaining a request and then making it: what it said is what happens, and saying so has changed nothing."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Final

import pytest

from proxy.edges.buckets import LocalBuckets
from proxy.flow.explain import Explainer
from proxy.flow.explanation import (
    Act,
    Answer,
    Explanation,
    InTheAir,
    Lately,
    Remembered,
    Standing,
    Step,
    Touched,
    Trust,
    Way,
)
from proxy.flow.invalidation import Kind
from proxy.flow.limiter import Limit
from proxy.flow.site import Lane, Site
from proxy.rules.message import Reason, Request
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.quota import By, GateRule, Quota
from proxy.rules.routes import Match, Miss
from tests.flow.kit import ETAG, FRESH, HOST, NOW, PLAIN, STALEABLE, FakeClient, World, request

Act_ = Callable[[World], Awaitable[None]]

STALE: Final = "Cache-Control: max-age=0, stale-if-error=60"
PUBLIC: Final = "Cache-Control: public, max-age=60"
ID: Final = "X-Request-Id: mine"
TTL: Final = replace(PLAIN, default_ttl=60.0)
CONDITIONS: Final = ("if-none-match", "if-modified-since")


def stored(*written: str, asking: Sequence[str] = (), target: str = "/a", body: bytes = b"old") -> Act_:
    async def act(w: World) -> None:
        await w.store(*written, asking=asking, target=target, body=body)

    return act


def later(seconds: float) -> Act_:
    async def act(w: World) -> None:
        w.clock.at += seconds

    return act


def purged(kind: Kind = Kind.URL, value: str = "http://example.com/a", *, soft: bool = False) -> Act_:
    async def act(w: World) -> None:
        w.purge(kind, value, soft=soft)

    return act


def gap() -> Act_:
    """What has been invalidated meanwhile nobody knows."""

    async def act(w: World) -> None:
        w.log.restart("epoch", 7)

    return act


def blind(grace: float = 0.0, *, drop: bool = False) -> Act_:
    async def act(w: World) -> None:
        w.log.trusted_until, w.log.grace, w.log.drop = w.clock.at - 1, grace, drop

    return act


def reloaded(policy: Policy) -> Act_:
    async def act(w: World) -> None:
        w.exchange.site = w.site(policy)

    return act


def asked(*asking: str, reply: Sequence[str] = (FRESH,), status: int = 200, body: bytes = b"x") -> Act_:
    """A request before, and what it was answered."""

    async def act(w: World) -> None:
        w.ask(*asking)
        await w.idle()
        if w.calls and w.last.waited_for:
            w.last.reply(*reply, status=status, body=body)
        await w.idle()

    return act


def failed(*asking: str) -> Act_:
    """A request before, to which there was no answer."""

    async def act(w: World) -> None:
        w.ask(*asking)
        await w.idle()
        w.last.fail(Reason.TIMEOUT)
        await w.idle()

    return act


def flying(*asking: str) -> Act_:
    """A request that waits for the upstream's head."""

    async def act(w: World) -> None:
        w.ask(*asking)
        await w.idle()

    return act


def streaming(status: int) -> Act_:
    """A request whose answer is on its way, and for nobody else."""

    async def act(w: World) -> None:
        w.ask()
        await w.idle()
        w.last.answer(status=status, length=3)
        await w.idle()

    return act


@dataclass(frozen=True)
class Row:
    """`acts` come before; `says` is the explanation in short; `reply` what the upstream answers."""

    name: str
    says: str
    acts: tuple[Act_, ...] = ()
    asking: tuple[str, ...] = ()
    method: str = "GET"
    target: str = "/a"
    host: str = HOST
    upload: tuple[bytes, ...] = ()
    policy: Policy = PLAIN
    match: Match = field(default_factory=Match)
    reply: tuple[str, ...] = (FRESH,)
    breaker: int = 1000
    told: Reason | None = None  # where the response has something to say itself
    limits: tuple[Quota, ...] = ()
    gate: GateRule | None = None
    upstream_gate: GateRule | None = None


def hit(name: str, *acts: Act_, **more: Any) -> Row:  # noqa: ANN401 - fields of Row
    return Row(name, "serve 200 hit", acts, **more)


def miss(name: str, *acts: Act_, **more: Any) -> Row:  # noqa: ANN401 - fields of Row
    return Row(name, "fetch uri-miss absent lead", acts, **more)


def cc(value: str) -> tuple[str, ...]:
    return (f"Cache-Control: {value}",)


GZIP: Final = ("Accept-Encoding: gzip",)
VARIED: Final = stored(FRESH, "Vary: Accept-Encoding", asking=GZIP)
SWR: Final = "serve 200 stale-while-revalidate renews"
EXPIRED: Final = "fetch stale expired lead"
OVER: Final = "refuse 429 rate-limited"
FEW: Final = Quota("few", 0.5, 3.0, hit=0.25, miss=2.0)
STANDING_IN: Final = replace(FEW, rate=0.0625, burst=2.0, serve_stale=True)
KEYED: Final = replace(FEW, by=By.HEADER, header="x-key")
KEY_A: Final = ("X-Key: a",)
DAILY: Final = replace(FEW, name="daily", rate=0.0625, burst=100.0)

ROWS: Final = (
    # Fresh, or not there.
    hit("a fresh entry is a hit", stored(FRESH), later(10)),
    hit("in its last second it is one", stored(FRESH), later(59.5)),
    miss("nothing is stored"),
    miss("something else is stored", stored(FRESH, target="/b")),
    miss("another host's is stored", stored(FRESH), host="other.example"),
    miss("another query's is stored", stored(FRESH), target="/a?x=1"),
    hit(
        "a query parameter that is ignored makes no difference",
        stored(FRESH),
        target="/a?utm_x=1",
        policy=replace(PLAIN, key=KeyRule(ignore_query=("utm_*",))),
    ),
    miss(
        "a keyed header makes one",
        stored(FRESH, asking=("X-Tenant: a",)),
        asking=("X-Tenant: b",),
        policy=replace(PLAIN, key=KeyRule(headers=("x-tenant",))),
    ),
    # Stale, in each window.
    Row("stale without a window is expired", EXPIRED, (stored(FRESH), later(61))),
    Row("stale with an entity tag is validated", EXPIRED + " validates", (stored(FRESH, ETAG), later(61))),
    Row("stale-while-revalidate serves it and renews it", SWR, (stored(STALEABLE), later(90))),
    Row("behind that window it is expired", EXPIRED, (stored(STALEABLE), later(121))),
    Row("behind it stale-if-error waits for an error", EXPIRED + " bridged", (stored(STALE), later(30))),
    Row(
        "the route grants a window where the response says nothing",
        SWR,
        (stored(FRESH), later(70)),
        policy=replace(PLAIN, stale_while_revalidate=30.0),
    ),
    Row(
        "must-revalidate forbids every window",
        "fetch stale expired lead validates",
        (stored("Cache-Control: max-age=60, must-revalidate, stale-while-revalidate=60", ETAG), later(70)),
    ),
    Row(
        "no-cache has to be validated",
        "fetch stale must-validate lead validates",
        (stored("Cache-Control: no-cache", ETAG),),
    ),
    Row(
        "stale with a renewal in the air is served without another",
        "serve 200 stale-while-revalidate",
        (stored(STALEABLE), later(90), flying()),
    ),
    # Vary.
    hit("the variant that was asked for", VARIED, asking=GZIP),
    hit("white space and case of codings make no difference", VARIED, asking=("Accept-Encoding:  GZIP",)),
    Row("another variant is stored", "fetch vary-miss variant lead", (VARIED,), ("Accept-Encoding: br",)),
    Row("a variant without the field is another", "fetch vary-miss variant lead", (VARIED,)),
    hit(
        "of two variants the one that fits",
        VARIED,
        stored(FRESH, "Vary: Accept-Encoding", asking=("Accept-Encoding: br",)),
        asking=GZIP,
    ),
    # What the client asks for.
    Row("no-store passes it by", "fetch request request-no-store alone", (stored(FRESH),), cc("no-store")),
    Row("no-cache asks anew", "fetch request request-no-cache lead", (stored(FRESH),), cc("no-cache")),
    Row("so does Pragma", "fetch request request-no-cache lead", (stored(FRESH),), ("Pragma: no-cache",)),
    Row("max-age that is exceeded", "fetch request request-max-age lead", (stored(FRESH), later(20)), cc("max-age=10")),
    hit("max-age that is not", stored(FRESH), later(20), asking=cc("max-age=30")),
    Row(
        "max-age wants nothing stale",
        "fetch stale expired lead bridged",
        (stored(STALEABLE), later(70)),
        cc("max-age=100"),
    ),
    Row(
        "min-fresh that is not met",
        "fetch request request-min-fresh lead",
        (stored(FRESH), later(50)),
        cc("min-fresh=30"),
    ),
    hit("min-fresh that is", stored(FRESH), later(20), asking=cc("min-fresh=30")),
    Row("max-stale allows what is stale", "serve 200 max-stale", (stored(FRESH), later(70)), cc("max-stale=20")),
    Row("max-stale allows all of it", "serve 200 max-stale", (stored(FRESH), later(700)), cc("max-stale")),
    Row("max-stale has a limit", EXPIRED, (stored(FRESH), later(90)), cc("max-stale=20")),
    Row(
        "max-stale cannot overrule must-revalidate",
        EXPIRED,
        (stored("Cache-Control: max-age=60, must-revalidate"), later(70)),
        cc("max-stale=20"),
    ),
    Row("only-if-cached where nothing is", "refuse 504 only-if-cached", (), cc("only-if-cached")),
    hit("only-if-cached where something is", stored(FRESH), asking=cc("only-if-cached")),
    Row(
        "only-if-cached where it is expired",
        "refuse 504 only-if-cached",
        (stored(FRESH), later(61)),
        cc("only-if-cached"),
    ),
    hit(
        "the route does not listen", stored(FRESH), asking=cc("no-cache"), policy=replace(PLAIN, respect_request=False)
    ),
    hit("a directive that nobody knows changes nothing", stored(FRESH), asking=cc("please")),
    # Methods, bodies, conditions.
    Row("a stored GET answers HEAD", "serve 200 hit", (stored(FRESH),), method="HEAD"),
    Row("a HEAD that nothing is stored for goes alone", "fetch uri-miss absent alone", method="HEAD"),
    Row(
        "so does one of what is stale, and nothing is validated by it",
        "fetch stale expired alone",
        (stored(FRESH, ETAG), later(61)),
        method="HEAD",
    ),
    Row("POST goes through", "fetch method method alone", (stored(FRESH),), method="POST", upload=(b"x",)),
    Row("OPTIONS goes through", "fetch method method alone", (stored(FRESH),), method="OPTIONS"),
    Row(
        "a GET with a body is not answered from the cache",
        "fetch bypass request-body alone",
        (stored(FRESH),),
        upload=(b"x",),
    ),
    Row(
        "If-Match is the origin's to judge",
        "fetch bypass precondition alone",
        (stored(FRESH, ETAG),),
        ('If-Match: "1"',),
    ),
    Row("If-None-Match that matches", "serve 304 hit", (stored(FRESH, ETAG),), ('If-None-Match: "1"',)),
    hit("If-None-Match that does not", stored(FRESH, ETAG), asking=('If-None-Match: "2"',)),
    Row(
        "If-Modified-Since",
        "serve 304 hit",
        (stored(FRESH, "Last-Modified: Tue, 14 Nov 2023 00:00:00 GMT"),),
        ("If-Modified-Since: Tue, 14 Nov 2023 00:00:00 GMT",),
    ),
    Row("a range", "serve 206 hit", (stored(FRESH),), ("Range: bytes=0-1",)),
    Row("a range behind the end", "serve 416 hit", (stored(FRESH),), ("Range: bytes=9-",)),
    hit("a range of something else is the whole", stored(FRESH, ETAG), asking=("Range: bytes=0-1", 'If-Range: "2"')),
    Row("a range that is not stored", "fetch uri-miss absent lead", (), ("Range: bytes=0-1",)),
    Row("a stored error is served as such", "serve 404 hit", (asked(status=404),)),
    # Who asks.
    hit("the upstream's own word is for everybody", stored(FRESH), asking=("Cookie: a=1",)),
    Row(
        "under an operator's TTL a cookie bypasses",
        "fetch bypass credentials alone",
        (stored(),),
        ("Cookie: a=1",),
        policy=TTL,
    ),
    Row(
        "under an operator's TTL so does Authorization",
        "fetch bypass credentials alone",
        (stored(),),
        ("Authorization: Bearer x",),
        policy=TTL,
        reply=(PUBLIC,),
    ),
    hit(
        "unless they are shared",
        stored(),
        asking=("Cookie: a=1",),
        policy=replace(TTL, share_credentials=True),
    ),
    Row(
        "Authorization may find out",
        "fetch uri-miss absent lead",
        (),
        ("Authorization: Bearer x",),
        told=Reason.AUTHORIZATION,
    ),
    # What the response says.
    miss("a response with no-store", reply=("Cache-Control: no-store",), told=Reason.NO_STORE),
    miss("a private one", reply=("Cache-Control: private, max-age=60",), told=Reason.PRIVATE),
    miss("one with Set-Cookie", reply=(FRESH, "Set-Cookie: a=1"), told=Reason.SET_COOKIE),
    miss("one without freshness", reply=(), told=Reason.NO_FRESHNESS),
    miss("one that is too large", policy=replace(PLAIN, max_object_size=1), told=Reason.TOO_LARGE),
    # What is remembered.
    Row(
        "no-store is remembered",
        "fetch uri-miss no-store alone",
        (asked(reply=("Cache-Control: no-store",)),),
    ),
    Row("Set-Cookie is", "fetch uri-miss set-cookie alone", (asked(reply=(FRESH, "Set-Cookie: a=1")),)),
    Row(
        "what is too large is",
        "fetch uri-miss too-large alone",
        (asked(body=b"xx"),),
        policy=replace(PLAIN, max_object_size=1),
    ),
    Row(
        "a part of it too, for those who say who they are",
        "fetch bypass too-large alone",
        (asked("Cookie: b=1", body=b"xx"),),
        ("Cookie: a=1", "Range: bytes=0-0"),
        policy=replace(PLAIN, max_object_size=1, default_ttl=60.0),
    ),
    miss("until one finds out", asked(reply=("Cache-Control: no-store",)), later(31)),
    Row(
        "what is unshareable to those who say who they are",
        "fetch uri-miss authorization alone",
        (asked("Authorization: Bearer x"),),
        ("Authorization: Bearer y",),
    ),
    miss("is not so to others", asked("Authorization: Bearer x")),
    Row(
        "after a failed fetch what is stale is given at once",
        "serve 200 stale-if-error",
        (stored(STALE), later(5), failed()),
    ),
    Row(
        "after an error too",
        "serve 200 stale-if-error",
        (stored(STALE), later(5), asked(status=503, reply=())),
    ),
    Row(
        "after an error what may only bridge silence is asked for again",
        "fetch stale expired lead validates",
        (stored(FRESH, ETAG), later(61), asked(status=503, reply=())),
    ),
    Row("after silence it is given", "serve 200 stale-if-error", (stored(FRESH, ETAG), later(61), failed())),
    Row("not for long", EXPIRED + " bridged", (stored(STALE), later(5), failed(), later(4))),
    miss("a failure without anything stale is asked again", failed()),
    Row(
        "after a failure nothing is renewed",
        "serve 200 stale-while-revalidate",
        (stored(STALEABLE), later(70), failed("Cache-Control: no-cache")),
    ),
    # In the air.
    Row("a fetch in the air is joined", "fetch uri-miss absent join", (flying(),)),
    Row(
        "no-cache joins only what begins after it",
        "fetch uri-miss absent lead",
        (flying(), later(1)),
        cc("no-cache"),
    ),
    Row("what a purge has overtaken is not joined", "fetch uri-miss absent lead", (flying(), purged())),
    Row("who says who they are joins nobody else", "fetch uri-miss absent lead", (flying(),), ("Cookie: a=1",)),
    Row("nor what is being answered for somebody alone", "fetch uri-miss absent alone", (streaming(401),)),
    Row("an error is shared once", "fetch uri-miss absent join", (streaming(503),), told=Reason.UPSTREAM_ERROR),
    Row(
        "one of the same variant is joined",
        "fetch vary-miss variant join",
        (VARIED, flying("Accept-Encoding: br")),
        ("Accept-Encoding: br",),
    ),
    Row("one of another variant is not", "fetch vary-miss variant lead", (VARIED, flying("Accept-Encoding: br"))),
    # Invalidated.
    miss("a hard purge makes it gone", stored(FRESH), purged()),
    miss("of a tag", stored(FRESH, "Cache-Tag: t"), purged(Kind.TAG, "t")),
    miss("of a prefix", stored(FRESH), purged(Kind.PREFIX, "/")),
    hit("of another URL", stored(FRESH), purged(Kind.URL, "http://example.com/b")),
    Row("a soft one makes it stale", EXPIRED + " validates", (stored(FRESH, ETAG), purged(soft=True))),
    Row("and its windows begin", SWR, (stored(STALEABLE), purged(soft=True), later(30))),
    miss("one variant is purged with the others", VARIED, purged(), asking=GZIP),
    Row("one that does not fit is found out when it is asked for", "fetch vary-miss variant lead", (VARIED, purged())),
    Row("a gap makes it distrusted", "fetch stale distrusted lead validates", (stored(STALEABLE, ETAG), gap())),
    Row("blind it is validated", "fetch stale distrusted lead", (stored(STALEABLE), later(2), blind())),
    hit("blind for a moment it is not", stored(FRESH), later(2), blind(10.0)),
    Row("blind, and told to drop it", "fetch vary-miss variant lead", (stored(FRESH), later(2), blind(drop=True))),
    # The configuration.
    Row(
        "stored under another policy",
        "fetch vary-miss variant lead",
        (stored(FRESH), reloaded(replace(PLAIN, stale_if_error=5.0))),
        policy=PLAIN,
    ),
    hit("a reload that changed nothing", stored(FRESH), reloaded(PLAIN)),
    Row("a route that is not cached", "fetch bypass cache-off alone", policy=Policy(enabled=False)),
    hit("early refresh that is off", stored(FRESH), later(59), policy=replace(PLAIN, early_refresh=0.0)),
    hit("early refresh that the dice are against", stored(FRESH), later(59), policy=replace(PLAIN, early_refresh=1.0)),
    Row("no route takes its path", "refuse 404 no-route", match=Match(path="/other")),
    Row("no route takes its host", "refuse 404 no-route", match=Match(host="other.example")),
    Row("no route takes its method", "refuse 405 method", match=Match(methods=("POST",))),
    Row("PURGE is no route's", "refuse 405 method", method="PURGE"),
    # An upstream that is left alone.
    Row("with an open breaker there is nothing", "refuse 503 breaker-open", (failed(), later(4)), breaker=1),
    Row(
        "or something stale",
        "serve 200 stale-if-error",
        (stored(STALE), failed("Cache-Control: no-cache", "Cookie: a=1"), later(1)),
        breaker=1,
    ),
    miss("until it is tried again", failed(), later(6), breaker=1),
    # Limits.
    miss("what can be paid passes", limits=(FEW,)),
    Row("what cannot is refused", OVER, (stored(FRESH),), target="/b", limits=(FEW,)),
    Row("a write is too", OVER, (stored(FRESH),), method="POST", limits=(FEW,), upload=(b"x",)),
    miss("tokens come with time", stored(FRESH), later(2), target="/b", limits=(FEW,)),
    Row("not quite in time", OVER, (stored(FRESH), later(1.9)), target="/b", limits=(FEW,)),
    hit("a hit costs what a hit does", stored(FRESH), limits=(FEW,)),
    Row("and is refused where that is too much", OVER, (stored(FRESH),), limits=(replace(FEW, hit=2.0),)),
    hit("or is for free", stored(FRESH), limits=(replace(FEW, hit=0.0, burst=2.0),)),
    Row("a refusal costs a hit", "refuse 504 only-if-cached", asking=cc("only-if-cached"), limits=(FEW,)),
    Row(
        "over the limit it is another",
        OVER,
        (asked(), asked()),
        target="/b",
        asking=cc("only-if-cached"),
        limits=(replace(FEW, hit=1.0),),
    ),
    Row(
        "over the limit a stale answer stands in",
        "serve 200 rate-limited",
        (stored(STALE), later(1)),
        limits=(STANDING_IN,),
    ),
    Row(
        "and one that is fresh",
        "serve 200 rate-limited",
        (stored(FRESH),),
        limits=(replace(STANDING_IN, hit=2.0),),
    ),
    Row("where there is one", OVER, (stored(STALE), later(1)), target="/b", limits=(STANDING_IN,)),
    Row(
        "that may be used",
        OVER,
        (stored("Cache-Control: max-age=10, must-revalidate"), later(11)),
        limits=(STANDING_IN,),
    ),
    Row("each value of a header has its own", OVER, (asked("X-Key: a"),), target="/b", asking=KEY_A, limits=(KEYED,)),
    miss("another value another", asked("X-Key: a"), target="/b", asking=("X-Key: b",), limits=(KEYED,)),
    Row("who sends none is its address", OVER, (asked(),), target="/b", limits=(KEYED,)),
    Row("all may share one", OVER, (asked("X-Key: a"),), target="/b", limits=(replace(FEW, by=By.ROUTE),)),
    miss("of several all pass", limits=(FEW, DAILY)),
    Row("or the one that does not refuses", OVER, (stored(FRESH),), target="/b", limits=(DAILY, FEW)),
    Row(
        "and tells the longest wait",
        OVER,
        (stored(FRESH), later(1)),
        target="/b",
        limits=(FEW, replace(DAILY, burst=3.0)),
    ),
    Row(
        "where all that refuse say that something stale will do it does",
        "serve 200 rate-limited",
        (stored(STALE), later(1)),
        limits=(replace(FEW, burst=30.0), replace(DAILY, burst=3.0, serve_stale=True)),
    ),
    Row(
        "where one does not it does not",
        OVER,
        (stored(STALE), later(1)),
        limits=(replace(DAILY, burst=3.0, serve_stale=True), FEW),
    ),
    Row(
        "whichever is the first",
        OVER,
        (stored(STALE), later(1)),
        limits=(FEW, replace(DAILY, burst=3.0, serve_stale=True)),
    ),
    Row(
        "with too much under way", "refuse 503 concurrency-limited", (flying(),), target="/b", gate=GateRule(1, 0, 1.5)
    ),
    hit("a hit needs no place", stored(FRESH), asked(*cc("no-cache")), gate=GateRule(1, 0)),
    Row("a place that is left is free", "fetch uri-miss absent lead", (asked(),), target="/b", gate=GateRule(1, 0)),
    Row(
        "a busy upstream is spared", "refuse 503 upstream-busy", (flying(),), target="/b", upstream_gate=GateRule(1, 0)
    ),
    Row(
        "where something stale will do it does",
        "serve 200 stale-if-error",
        (stored(STALE), flying("Cookie: a=1", *cc("no-cache")), later(1)),
        upstream_gate=GateRule(1, 0),
    ),
    Row(
        "nobody who joins needs a place there",
        "fetch uri-miss absent join",
        (flying(),),
        upstream_gate=GateRule(1, 0),
    ),
)


def short(explanation: Explanation) -> str:
    answer = explanation.answer
    words = [answer.act.value]
    if answer.act is Act.FETCH:
        assert answer.fwd is not None
        words += [answer.fwd.value, answer.reason.value, way(explanation).value]
    else:
        words += [str(answer.status), answer.reason.value]
    words += [flag for flag in ("renews", "validates") if getattr(answer, flag)]
    return " ".join(words)


def way(explanation: Explanation) -> Way:
    found = next(step.way for step in explanation.steps if hasattr(step, "way"))
    assert isinstance(found, Way)
    return found


def explainer(w: World, *, shared: bool = False) -> Explainer:
    return Explainer(lambda: w.exchange.site, w.memory, w.log, w.flights, w.clock.now, shared=shared)


def state(w: World, key: str) -> tuple[object, ...]:
    """Everything that a request could change."""
    f = w.flights
    return (
        [(id(v.entry), v.checked, v.asked) for v in w.memory.variants(key)],
        (w.memory.count, w.memory.size, w.log.position, len(w.background), len(f), f.memory.used),
        (dict(f.unshareable._until), dict(f.failed._until)),  # noqa: SLF001 - nobody else may see all of them
        (w.breaker._probing, w.breaker.opened, len(w.outcomes), len(w.calls)),  # noqa: SLF001 - likewise
        [list(map(dict, limit.buckets._shards)) for limit in limits_of(w)],  # type: ignore[attr-defined] # noqa: SLF001 - likewise
    )


def limits_of(w: World) -> Sequence[Limit]:
    return [limit for lane in w.exchange.site.lanes.values() if lane.limiter for limit in lane.limiter.limits]


async def agrees(w: World, row: Row) -> Explanation:
    """Explain, ask, and compare."""
    asking = (*row.asking, ID)
    length = sum(map(len, row.upload))
    wanted: Request = request(*asking, method=row.method, target=row.target, host=row.host, length=length)
    key = w.exchange.read(wanted).key
    before = state(w, key)
    explanation = explainer(w).explain(wanted, FakeClient.peer)
    assert state(w, key) == before, "it changed something"
    assert explainer(w).explain(wanted, FakeClient.peer) == explanation
    calls = len(w.calls)
    client = w.ask(*asking, method=row.method, target=row.target, host=row.host, upload=row.upload)
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
    (outcome,) = [outcome for outcome in w.outcomes if outcome.request_id == "mine"]
    answer, account = explanation.answer, outcome.account
    assert answer.fwd is account.fwd
    if answer.act is Act.FETCH:
        assert account.collapsed == (way(explanation) is Way.JOIN)
        assert bool(new) == (way(explanation) is not Way.JOIN)
        assert account.reason is (row.told or answer.reason)
        assert answer.stores or not account.stored
        if new and not any(name in wanted.fields for name in CONDITIONS):
            assert answer.validates == any(name in new[0].sent for name in CONDITIONS)
        if row.told is None:
            known = None if client.how == "" else re.sub(r"; (fwd-status=\d+|stored)", "", client.how)
            assert answer.cache_status == known
    else:
        same(answer, client.status, account.reason, client.fields.get("cache-status"))
        assert bool(new) == answer.renews
        assert answer.age == (None if answer.act is Act.REFUSE else int(client.fields["age"]))
        after = client.fields.get("retry-after")
        assert answer.retry_after == (None if after is None else int(after))
    return explanation


def same(answer: Answer, status: int | None, reason: Reason, cache_status: str | None) -> None:
    assert (answer.status, answer.reason, answer.cache_status) == (status, reason, cache_status)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
async def test_what_is_explained_is_what_happens(row: Row) -> None:
    limits = [Limit(quota, LocalBuckets(quota.rate, quota.burst, lambda: NOW)) for quota in row.limits]
    async with World(
        row.policy,
        match=row.match,
        breaker=row.breaker,
        limits=limits,
        gate=row.gate,
        upstream_gate=row.upstream_gate,
    ) as w:
        for act in row.acts:
            await act(w)
        explanation = await agrees(w, row)
        assert short(explanation) == row.says.removesuffix(" bridged")
        if row.says.endswith(" bridged"):
            assert explanation.answer.bridged


def test_the_table_is_as_large_as_it_was_meant_to_be() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 60


STORED: Final = (FRESH, STALEABLE, STALE, "Cache-Control: no-cache", "Cache-Control: max-age=60, must-revalidate")
AGES: Final = (0.0, 59.5, 60.0, 90.0, 125.0)
ASKING: Final[tuple[tuple[str, ...], ...]] = (
    (),
    cc("no-cache"),
    cc("max-age=70"),
    cc("max-age=100, max-stale"),
    cc("min-fresh=5, only-if-cached"),
    cc("max-stale=40"),
    ("Cookie: a=1",),
    ('If-None-Match: "1"', "Range: bytes=0-0"),
)


@pytest.mark.parametrize("policy", [PLAIN, TTL, replace(PLAIN, respect_request=False)], ids=["plain", "ttl", "deaf"])
@pytest.mark.parametrize("soft", [False, True], ids=["as it is", "softly purged"])
async def test_it_agrees_wherever_ages_directives_and_policies_meet(policy: Policy, soft: bool) -> None:
    told = set()
    for written, age, asking in product(STORED, AGES, ASKING):
        async with World(policy) as w:
            await w.store(written, ETAG)
            if soft:
                w.purge(soft=True)
            w.clock.at += age
            told.add(short(await agrees(w, Row("", "", asking=asking))))
    assert len(told) > 3, told


def step(explanation: Explanation, name: Step) -> Any:  # noqa: ANN401 - whichever it is
    (found,) = [found for found in explanation.steps if found.step is name]
    return found


async def test_the_steps_come_in_their_order() -> None:
    async with World() as w:
        await w.store(FRESH)
        assert [found.step for found in explainer(w).explain(request()).steps] == [
            step for step in Step if step not in (Step.PURGE, Step.LIMITS)
        ]


async def test_an_uncached_route_has_nothing_to_say_of_what_is_stored() -> None:
    async with World(Policy(enabled=False)) as w:
        told = [found.step for found in explainer(w).explain(request()).steps]
        assert told == [Step.REQUEST, Step.ROUTE, Step.KEY, Step.CACHE, Step.REMEMBERED, Step.UPSTREAM]


async def test_the_header_that_made_the_difference_is_named() -> None:
    async with World() as w:
        vary = "Vary: Accept-Encoding, Accept-Language"
        await w.store(FRESH, vary, asking=("Accept-Encoding: gzip", "Accept-Language: de"))
        found = step(explainer(w).explain(request("Accept-Encoding: gzip", "Accept-Language: en")), Step.VARIANTS)
        (variant,) = found.stored
        assert not variant.selected
        assert [(seen.name, seen.same) for seen in variant.vary] == [
            ("accept-encoding", True),
            ("accept-language", False),
        ]
        assert (variant.vary[1].stored, variant.vary[1].asked) == ("de", "en")


async def test_a_cookie_that_a_variant_was_selected_on_is_not_told() -> None:
    async with World() as w:
        await w.store(FRESH, "Vary: Cookie", asking=("Cookie: s3cret=1",))
        explained = repr(explainer(w).explain(request("Cookie: mine=2")))
        assert "s3cret" not in explained
        assert "(hidden " in explained


@pytest.mark.parametrize("shared", [False, True])
async def test_it_says_where_the_shared_store_was_not_asked(shared: bool) -> None:
    async with World() as w:
        found = step(explainer(w, shared=shared).explain(request()), Step.VARIANTS)
        assert found.memory_only == shared


async def test_what_invalidated_an_entry_is_told_even_after_it_was_looked_at() -> None:
    async with World() as w:
        await w.store(STALEABLE, "Cache-Tag: t")
        w.purge(Kind.TAG, "t", soft=True)
        w.purge(Kind.TAG, "other")
        before = step(explainer(w).explain(request()), Step.INVALIDATION)
        assert (before.standing, before.records) == (Standing.STALE, (Touched(Kind.TAG, soft=True),))
        w.ask()
        assert step(explainer(w).explain(request()), Step.INVALIDATION) == before
        await w.idle()
        w.last.reply(FRESH)


@pytest.mark.parametrize(("grace", "standing"), [(0.0, Standing.DISTRUSTED), (30.0, Standing.VALID)])
async def test_it_says_that_nobody_vouches_for_the_log(grace: float, standing: Standing) -> None:
    async with World() as w:
        await w.store(FRESH)
        w.clock.at += 1
        w.log.trusted_until, w.log.grace = w.clock.at - 0.5, grace
        found = step(explainer(w).explain(request()), Step.INVALIDATION)
        assert (found.trust, found.grace, found.standing) == (Trust.BLIND, grace, standing)


async def test_nobody_vouches_for_the_other_variants_either() -> None:
    async with World() as w:
        for coding in ("gzip", "br"):
            w.clock.at += 1
            await w.store(FRESH, "Vary: Accept-Encoding", asking=(f"Accept-Encoding: {coding}",))
        w.log.trusted_until = w.clock.at - 0.5
        lying = step(explainer(w).explain(request("Accept-Encoding: gzip")), Step.VARIANTS).stored
        assert [(one.selected, one.standing) for one in lying] == [
            (False, Standing.DISTRUSTED),
            (True, Standing.DISTRUSTED),
        ]


async def test_what_is_remembered_is_told_with_its_time() -> None:
    async with World() as w:
        await asked(reply=("Cache-Control: private",))(w)
        w.clock.at += 10
        found = step(explainer(w).explain(request()), Step.REMEMBERED)
        assert found == Remembered(Lately(Reason.PRIVATE, 20.0), None)
        w.clock.at += 25
        assert step(explainer(w).explain(request()), Step.REMEMBERED).unshareable == Lately(Reason.PRIVATE, 0.0)
        await failed("Cookie: a=1")(w)
        w.clock.at += 1
        found = step(explainer(w).explain(request("Cookie: b=2")), Step.REMEMBERED)
        assert found == Remembered(None, Lately(Reason.TIMEOUT, 2.0))


async def test_the_fetch_in_the_air_is_told() -> None:
    async with World() as w:
        w.ask()
        await w.idle()
        w.clock.at += 2
        found = step(explainer(w).explain(request()), Step.UPSTREAM)
        assert (found.way, found.flight) == (Way.JOIN, InTheAir(2.0, answered=False))
        w.last.answer("Cache-Control: private", length=1)
        await w.idle()
        found = step(explainer(w).explain(request()), Step.UPSTREAM)
        assert (found.way, found.flight) == (Way.ALONE, None)  # its answer was told to be unshareable
        w.last.end(b"x")


async def test_a_route_that_was_passed_over_is_told_beside_the_one_that_was_taken() -> None:
    async with World() as w:
        (lane,) = w.exchange.site.lanes.values()
        other = replace(lane.route, name="other", match=Match(path="/x"))
        w.exchange.site = Site((other, lane.route), {"all": lane, "other": Lane(other, lane.upstream, "f")})
        found = step(explainer(w).explain(request()), Step.ROUTE)
        assert [(tried.route, tried.miss) for tried in found.tried] == [("other", Miss.PATH), ("all", None)]
