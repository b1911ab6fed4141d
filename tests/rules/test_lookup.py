"""May this request be answered from what is stored, and if not, why not?"""

from dataclasses import replace
from math import exp
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.rules.freshness import distrust, soften
from proxy.rules.lookup import SAFE_METHODS, Fetch, Plan, Refuse, Serve, is_plain, on_failure, on_request
from proxy.rules.message import Entry, Fwd, Reason, Request
from proxy.rules.policy import Policy
from tests.rules.build import (
    BINDING,
    NOW,
    PLAIN,
    admitted,
    brief,
    entry,
    fetched,
    head,
    policies,
    request,
    requests,
    stored,
    wishes,
)

HOUR: Final = entry("Cache-Control: max-age=3600", 'ETag: "a"')
GUESS: Final = entry("Last-Modified: Tue, 14 Nov 2023 12:00:00 GMT")  # fresh for about an hour, as nobody said
GRANTED: Final = entry(policy=Policy(default_ttl=3600, jitter=0))
MINUTE: Final = entry("Cache-Control: max-age=60, stale-while-revalidate=30", 'ETag: "a"')
STRICT: Final = entry("Cache-Control: max-age=60, must-revalidate", 'ETag: "a"')
DEAF: Final = replace(PLAIN, respect_request=False)
UNSURE: Final = entry("Cache-Control: no-cache, max-age=60", 'ETag: "a"')


def test_which_methods_are_safe() -> None:
    """RFC 9110 section 9.2.1, and the registered methods of other documents that say so of themselves."""
    unsafe = {"POST", "PUT", "PATCH", "DELETE", "CONNECT", "MKCOL", "MOVE", "get"}
    assert SAFE_METHODS & unsafe == set()
    assert {"GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"} == SAFE_METHODS


def plan(
    asked: Request, found: Entry | None = HOUR, policy: Policy = PLAIN, *, after: float = 0.0, roll: float = 1.0
) -> Plan:
    return on_request(asked, found, policy, NOW + after, held=False, roll=roll)


def wish(value: str, *more: str) -> Request:
    return request(f"Cache-Control: {value}", *more)


@pytest.mark.parametrize(
    ("asked", "policy", "expected"),
    [
        pytest.param(
            request(),
            Policy(enabled=False),
            Fetch(Fwd.BYPASS, Reason.CACHE_OFF, keep=False),
            id="a route without cache",
        ),
        pytest.param(
            request(method="POST"), PLAIN, Fetch(Fwd.METHOD, Reason.METHOD, keep=False), id="a POST (RFC 9111 4)"
        ),
        pytest.param(
            request(method="OPTIONS"),
            PLAIN,
            Fetch(Fwd.METHOD, Reason.METHOD, keep=False),
            id="an OPTIONS (RFC 9110 9.3.7)",
        ),
        pytest.param(
            request(length=3), PLAIN, Fetch(Fwd.BYPASS, Reason.REQUEST_BODY, keep=False), id="a GET with a body"
        ),
        pytest.param(
            request(length=None),
            PLAIN,
            Fetch(Fwd.BYPASS, Reason.REQUEST_BODY, keep=False),
            id="a GET with a chunked body",
        ),
        pytest.param(
            replace(request(), websocket=True), PLAIN, Fetch(Fwd.BYPASS, Reason.UPGRADE, keep=False), id="an upgrade"
        ),
        pytest.param(
            request('If-Match: "a"'),
            PLAIN,
            Fetch(Fwd.BYPASS, Reason.PRECONDITION, keep=False),
            id="If-Match is the origin's to judge (RFC 9111 4.3.2)",
        ),
        pytest.param(
            request("If-Unmodified-Since: x"),
            PLAIN,
            Fetch(Fwd.BYPASS, Reason.PRECONDITION, keep=False),
            id="so is If-Unmodified-Since (RFC 9111 4.3.2)",
        ),
    ],
)
def test_what_no_cache_answers_though_it_is_stored(asked: Request, policy: Policy, expected: Plan) -> None:
    assert plan(asked, HOUR, policy) == expected


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(request(), id="a GET"),
        pytest.param(request(method="HEAD"), id="a HEAD from a stored GET (RFC 9110 9.3.2)"),
        pytest.param(request("Range: bytes=0-1"), id="a range (RFC 9111 4)"),
        pytest.param(request('If-None-Match: "a"'), id="a condition of the client's (RFC 9111 4.3.2)"),
        pytest.param(wish("max-age=0x, no-transform"), id="an unreadable wish for age, of something new"),
        pytest.param(wish("immutable, x=y"), id="unknown wishes"),
        pytest.param(request("Cookie: a=b"), id="a cookie, where the upstream stated freshness"),
        pytest.param(request("Authorization: a"), id="credentials, where the upstream stated freshness"),
        pytest.param(wish("max-age=10", "Pragma: no-cache"), id="Pragma beside Cache-Control (RFC 9111 5.4)"),
    ],
)
def test_what_a_fresh_entry_answers(asked: Request) -> None:
    assert plan(asked) == Serve(HOUR, Reason.HIT)


@pytest.mark.parametrize(
    ("held", "asked", "expected"),
    [
        pytest.param(False, request(), Fetch(Fwd.URI_MISS, Reason.ABSENT, shared=True), id="nothing under the key"),
        pytest.param(True, request(), Fetch(Fwd.VARY_MISS, Reason.VARIANT, shared=True), id="another variant (4.1)"),
        pytest.param(False, request(method="HEAD"), Fetch(Fwd.URI_MISS, Reason.ABSENT), id="a HEAD leads nobody"),
        pytest.param(
            False,
            wish("no-cache"),
            Fetch(Fwd.URI_MISS, Reason.ABSENT, shared=True, fresh=True),
            id="no-cache joins only what begins after it (RFC 9111 5.2.1.4)",
        ),
        pytest.param(
            False,
            wish("no-store"),
            Fetch(Fwd.REQUEST, Reason.REQUEST_NO_STORE, keep=False),
            id="no-store keeps nothing (RFC 9111 5.2.1.5)",
        ),
        pytest.param(
            False, wish("only-if-cached"), Refuse(504, Reason.ONLY_IF_CACHED), id="only-if-cached (RFC 9111 5.2.1.7)"
        ),
    ],
)
def test_what_happens_when_nothing_is_stored(held: bool, asked: Request, expected: Plan) -> None:
    assert on_request(asked, None, PLAIN, NOW, held=held, roll=1.0) == expected


@pytest.mark.parametrize(
    ("value", "after", "reason"),
    [
        pytest.param("no-cache", 0, Reason.REQUEST_NO_CACHE, id="no-cache asks the upstream (RFC 9111 5.2.1.4)"),
        pytest.param("no-cache, max-stale", 0, Reason.REQUEST_NO_CACHE, id="whatever else it says"),
        pytest.param("max-age=10", 10, None, id="max-age is content with that age (RFC 9111 5.2.1.1)"),
        pytest.param("max-age=10", 10.5, Reason.REQUEST_MAX_AGE, id="max-age refuses what is older (RFC 9111 5.2.1.1)"),
        pytest.param("max-age=x", 0.5, Reason.REQUEST_MAX_AGE, id="an unreadable max-age wants it new"),
        pytest.param("min-fresh=3590", 10, None, id="min-fresh is content with what is left (RFC 9111 5.2.1.3)"),
        pytest.param("min-fresh=3590", 11, Reason.REQUEST_MIN_FRESH, id="min-fresh wants more (RFC 9111 5.2.1.3)"),
        pytest.param("max-stale=10", 3610, "stale", id="max-stale takes what is stale for so long (RFC 9111 5.2.1.2)"),
        pytest.param("max-stale=10", 3611, Reason.EXPIRED, id="and no longer (RFC 9111 5.2.1.2)"),
        pytest.param("max-stale", 99999, "stale", id="max-stale alone takes anything (RFC 9111 5.2.1.2)"),
        pytest.param("max-stale=x", 3601, Reason.EXPIRED, id="an unreadable max-stale takes nothing stale"),
        pytest.param("max-stale, max-age=3700", 3650, "stale", id="max-stale and max-age together, young enough"),
        pytest.param(
            "max-stale, max-age=10", 3601, Reason.REQUEST_MAX_AGE, id="max-stale and max-age together, too old"
        ),
        pytest.param("max-stale, min-fresh=1", 3601, Reason.REQUEST_MIN_FRESH, id="min-fresh wins over max-stale"),
        pytest.param("", 3600, Reason.EXPIRED, id="at the end of its lifetime it is stale (RFC 9111 4.2)"),
    ],
)
def test_wishes_for_something_stored(value: str, after: float, reason: Reason | str | None) -> None:
    got = plan(wish(value), after=after)
    if reason is None:
        assert got == Serve(HOUR, Reason.HIT)
    elif reason == "stale":
        assert got == Serve(HOUR, Reason.MAX_STALE)
    else:
        assert isinstance(got, Fetch)
        fwd = Fwd.STALE if reason is Reason.EXPIRED else Fwd.REQUEST
        assert (got.reason, got.fwd, got.base, got.shared, got.keep) == (reason, fwd, HOUR, True, True)


def test_age_at_storing_counts_against_max_age() -> None:
    old = entry("Cache-Control: max-age=3600", "Age: 100")
    assert plan(wish("max-age=99"), old) == Fetch(Fwd.REQUEST, Reason.REQUEST_MAX_AGE, shared=True, base=old)
    assert plan(wish("max-age=100"), old) == Serve(old, Reason.HIT)
    assert plan(request(), old, after=3499) == Serve(old, Reason.HIT)
    assert isinstance(plan(request(), old, after=3500), Fetch)


@pytest.mark.parametrize(
    ("value", "fresh"),
    [
        pytest.param("no-cache", True, id="no-cache"),
        pytest.param("max-age=0", True, id="max-age of nothing"),
        pytest.param("max-age=1", False, id="max-age of something"),
        pytest.param("min-fresh=9999", False, id="min-fresh"),
    ],
)
def test_which_wishes_join_only_a_later_flight(value: str, fresh: bool) -> None:
    got = plan(wish(value), after=5)
    assert isinstance(got, Fetch)
    assert got.fresh is fresh


def test_a_head_asks_for_itself_and_names_the_entry_as_base() -> None:
    for value, after in (("no-cache", 0), ("max-age=0", 5), ("min-fresh=9999", 0), ("x", 7200)):
        got = plan(request(f"Cache-Control: {value}", method="HEAD"), after=after)
        assert isinstance(got, Fetch)
        assert (got.shared, got.base) == (False, HOUR)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(
            ("Pragma: no-cache",),
            Fetch(Fwd.REQUEST, Reason.REQUEST_NO_CACHE, shared=True, fresh=True, base=HOUR),
            id="Pragma alone is no-cache (RFC 9111 5.4)",
        ),
        pytest.param(("Pragma: x",), Serve(HOUR, Reason.HIT), id="another Pragma is nothing"),
        pytest.param(
            ("Cache-Control: only-if-cached",), Serve(HOUR, Reason.HIT), id="only-if-cached takes what is there"
        ),
        pytest.param(
            ("Cache-Control: only-if-cached, no-cache",),
            Refuse(504, Reason.ONLY_IF_CACHED),
            id="but not what may not be",
        ),
    ],
)
def test_other_wishes(fields: tuple[str, ...], expected: Plan) -> None:
    assert plan(request(*fields)) == expected


@pytest.mark.parametrize(
    "field", ["Pragma: no-cache", *(f"Cache-Control: {v}" for v in ("no-cache", "no-store", "max-age=0"))]
)
def test_a_route_may_ignore_what_clients_wish(field: str) -> None:
    assert plan(request(field), policy=Policy(respect_request=False), after=9) == Serve(HOUR, Reason.HIT)


@pytest.mark.parametrize(
    ("found", "after", "expected"),
    [
        pytest.param(MINUTE, 59, Serve(MINUTE, Reason.HIT), id="fresh"),
        pytest.param(
            MINUTE,
            60,
            Serve(MINUTE, Reason.STALE_WHILE_REVALIDATE, refresh=True),
            id="stale-while-revalidate answers and refreshes (RFC 5861 3)",
        ),
        pytest.param(
            MINUTE,
            90,
            Fetch(Fwd.STALE, Reason.EXPIRED, shared=True, base=MINUTE),
            id="until its window ends (RFC 5861 3)",
        ),
        pytest.param(STRICT, 59, Serve(STRICT, Reason.HIT), id="must-revalidate says nothing of the fresh (5.2.2.2)"),
        pytest.param(
            STRICT, 60, Fetch(Fwd.STALE, Reason.EXPIRED, shared=True, base=STRICT), id="must-revalidate ends at once"
        ),
        pytest.param(
            UNSURE,
            0,
            Fetch(Fwd.STALE, Reason.MUST_VALIDATE, shared=True, base=UNSURE),
            id="no-cache is never answered unasked (RFC 9111 5.2.2.4)",
        ),
        pytest.param(
            distrust(HOUR),
            0,
            Fetch(Fwd.STALE, Reason.DISTRUSTED, shared=True, base=distrust(HOUR)),
            id="what is distrusted is asked about first",
        ),
        pytest.param(
            soften(MINUTE, NOW + 5),
            10,
            Serve(soften(MINUTE, NOW + 5), Reason.STALE_WHILE_REVALIDATE, refresh=True),
            id="what was softened is stale from then on",
        ),
    ],
)
def test_fresh_stale_and_gone(found: Entry, after: float, expected: Plan) -> None:
    assert plan(request(), found, after=after) == expected


@pytest.mark.parametrize("found", [STRICT, UNSURE, distrust(HOUR)])
def test_max_stale_does_not_lift_what_forbids_staleness(found: Entry) -> None:
    """RFC 9111 section 4.2.4."""
    assert isinstance(plan(wish("max-stale"), found, after=61), Fetch)


@pytest.mark.parametrize(
    ("beta", "roll", "after", "refresh"),
    [
        pytest.param(0.0, 1e-300, 59.999, False, id="beta 0 is off"),
        pytest.param(1.0, 1.0, 59.999, False, id="the luckiest draw never refreshes early"),
        pytest.param(1.0, exp(-5.01), 50, True, id="an unlucky draw refreshes before the end"),
        pytest.param(1.0, exp(-4.99), 50, False, id="a little luckier does not"),
        pytest.param(2.0, exp(-2.51), 50, True, id="a greater beta refreshes earlier"),
        pytest.param(1.0, exp(-5.01), 49, False, id="more time left, less haste"),
    ],
)
def test_early_refresh(beta: float, roll: float, after: float, refresh: bool) -> None:
    """XFetch: -log(roll) * seconds to fetch * beta against the seconds left; the fetch took 2 s."""
    slow = stored(fetched(head("Cache-Control: max-age=60"), took=2.0))
    got = plan(request(), slow, Policy(early_refresh=beta), after=after, roll=roll)
    assert got == Serve(slow, Reason.HIT, refresh=refresh)


BYPASS: Final = Fetch(Fwd.BYPASS, Reason.CREDENTIALS)


@pytest.mark.parametrize("field", ["Cookie: a=b", "Authorization: Basic x"])
@pytest.mark.parametrize(
    ("found", "policy", "expected"),
    [
        pytest.param(
            GRANTED, Policy(default_ttl=3600), BYPASS, id="an operator's TTL is not for who says who they are"
        ),
        pytest.param(GRANTED, Policy(override_ttl=3600), BYPASS, id="nor an override"),
        pytest.param(GRANTED, Policy(negative_ttl={404: 1}), BYPASS, id="nor a negative TTL"),
        pytest.param(GUESS, Policy(default_ttl=3600), BYPASS, id="nor a guess under one"),
        pytest.param(None, Policy(default_ttl=3600), BYPASS, id="nor do they lead others to one"),
        pytest.param(HOUR, Policy(default_ttl=3600), Serve(HOUR, Reason.HIT), id="what the upstream stated is for all"),
        pytest.param(
            GRANTED, Policy(default_ttl=3600, share_credentials=True), Serve(GRANTED, Reason.HIT), id="unless shared"
        ),
        pytest.param(
            None, PLAIN, Fetch(Fwd.URI_MISS, Reason.ABSENT, shared=True), id="without TTLs they miss as all do"
        ),
    ],
)
def test_credentials(field: str, found: Entry | None, policy: Policy, expected: Plan) -> None:
    assert plan(request(field), found, policy) == expected


@pytest.mark.parametrize(
    ("cache_control", "after", "lost", "bridges"),
    [
        pytest.param("max-age=60, stale-if-error=30", 89, False, True, id="an error within the window (RFC 5861 4)"),
        pytest.param("max-age=60, stale-if-error=30", 89, True, True, id="silence within the window (RFC 5861 4)"),
        pytest.param("max-age=60, stale-if-error=30", 90, False, False, id="no error behind it (RFC 5861 4)"),
        pytest.param("max-age=60, stale-if-error=30", 90, True, False, id="no silence behind it (RFC 5861 4)"),
        pytest.param(
            "max-age=60, stale-while-revalidate=30", 89, False, True, id="what may be stale anyway may in need"
        ),
        pytest.param(
            "max-age=60, stale-while-revalidate=700", 759, True, True, id="the longer of two windows, in silence"
        ),
        pytest.param("max-age=60, stale-while-revalidate=30, stale-if-error=5", 89, False, True, id="or with an error"),
        pytest.param("max-age=60", 61, False, False, id="no error without a window"),
        pytest.param("max-age=60", 659, True, True, id="silence for a while without one (RFC 9111 4.2.4)"),
        pytest.param("max-age=60", 660, True, False, id="but not for ever"),
        pytest.param("max-age=60, stale-if-error=30, must-revalidate", 61, True, False, id="must-revalidate (5.2.2.2)"),
        pytest.param("max-age=60, stale-if-error=30, no-cache", 1, True, False, id="no-cache (RFC 9111 5.2.2.4)"),
    ],
)
def test_what_bridges_a_failure(cache_control: str, after: float, lost: bool, bridges: bool) -> None:
    found = entry(f"Cache-Control: {cache_control}", 'ETag: "a"')
    expected = Serve(found, Reason.STALE_IF_ERROR) if bridges else None
    assert on_failure(found, NOW + after, lost=lost) == expected


@pytest.mark.parametrize("lost", [False, True])
def test_nothing_and_what_is_distrusted_bridge_no_failure(lost: bool) -> None:
    assert on_failure(None, NOW, lost=lost) is None
    assert on_failure(distrust(HOUR), NOW, lost=lost) is None
    assert on_failure(replace(HOUR, terms=replace(HOUR.terms, always_validate=True)), NOW, lost=lost) is None


moments = st.floats(0, 500)
rolls = st.floats(1e-9, 1)


@brief
@given(admitted(), wishes(), moments, rolls)
def test_what_forbids_staleness_is_never_served_stale(
    pair: tuple[Entry, Policy], asked: Request, t: float, roll: float
) -> None:
    found, policy = pair
    bound = replace(found, terms=replace(found.terms, never_stale=True, stale_window=0.0, error_window=0.0))
    for one in (found, bound):
        got = on_request(asked, one, policy, NOW + t, held=True, roll=roll)
        if isinstance(got, Serve) and one.terms.never_stale:
            assert NOW + t < one.fresh_until
            assert got.reason is Reason.HIT


@brief
@given(
    admitted(st.sampled_from([f"max-age=50, stale-while-revalidate=99, stale-if-error=99, {b}" for b in BINDING])),
    wishes(),
    moments,
)
def test_no_policy_and_no_wish_makes_a_bound_response_stale(
    pair: tuple[Entry, Policy], asked: Request, t: float
) -> None:
    found, policy = pair
    got = on_request(asked, found, policy, NOW + t, held=True, roll=1.0)
    assert not isinstance(got, Serve) or NOW + t < found.fresh_until
    assert on_failure(found, NOW + t, lost=True) is None or NOW + t < found.fresh_until


@settings(brief, max_examples=400)
@given(admitted(), requests(), policies, st.booleans(), st.floats(0, 1, exclude_max=True), rolls, st.booleans())
def test_a_plain_request_is_a_hit_wherever_the_entry_is_fresh_and_may_be_used_unvalidated(
    pair: tuple[Entry, Policy], asked: Request, other: Policy, same: bool, part: float, roll: float, held: bool
) -> None:
    found, policy = pair[0], replace(pair[1] if same else other, early_refresh=0.0)
    now = NOW + part * (found.fresh_until - NOW)
    shared = policy.share_credentials or asked.fields.keys().isdisjoint(("cookie", "authorization"))
    fresh = now < found.fresh_until and not found.terms.always_validate
    if is_plain(asked, policy) and fresh and (shared or found.terms.stated):
        got = on_request(asked, found, policy, now, held=held, roll=roll)
        assert got == Serve(found, Reason.HIT, refresh=False)
        assert got.entry is found


@pytest.mark.parametrize(
    ("asked", "policy", "plain"),
    [
        pytest.param(request(), PLAIN, True, id="a GET"),
        pytest.param(request(method="HEAD"), PLAIN, True, id="a HEAD"),
        pytest.param(request('If-None-Match: "a"', "Range: bytes=0-1", "Cookie: a"), PLAIN, True, id="whatever else"),
        pytest.param(wish("x"), PLAIN, False, id="a wish that is listened to"),
        pytest.param(request("Pragma: x"), PLAIN, False, id="or an old one"),
        pytest.param(wish("no-cache", "Pragma: no-cache"), DEAF, True, id="a wish that is not"),
        pytest.param(request(), replace(PLAIN, early_refresh=1.0), False, id="where chance may refresh early"),
        pytest.param(request(), replace(PLAIN, enabled=False), False, id="where nothing is cached"),
        pytest.param(request(method="POST"), PLAIN, False, id="another method"),
        pytest.param(request(length=1), PLAIN, False, id="with a body"),
        pytest.param(request(length=None), PLAIN, False, id="with one of unknown length"),
        pytest.param(replace(request(), websocket=True), PLAIN, False, id="to another protocol"),
        pytest.param(request('If-Match: "a"'), PLAIN, False, id="with a precondition of the origin's"),
        pytest.param(request("If-Unmodified-Since: x"), PLAIN, False, id="or another"),
    ],
)
def test_which_requests_leave_nothing_to_decide(asked: Request, policy: Policy, plain: bool) -> None:
    assert is_plain(asked, policy) is plain


@brief
@given(admitted(), wishes(), moments, rolls)
def test_an_operators_ttl_never_answers_credentials(
    pair: tuple[Entry, Policy], asked: Request, t: float, roll: float
) -> None:
    found, policy = pair
    got = on_request(asked, found, policy, NOW + t, held=True, roll=roll)
    shy = not asked.fields.keys().isdisjoint(("cookie", "authorization")) and not policy.share_credentials
    if isinstance(got, Serve) and shy and policy.operator_freshness:
        assert found.terms.stated


@brief
@given(admitted(), wishes(), moments, rolls)
def test_a_plan_agrees_with_itself(pair: tuple[Entry, Policy], asked: Request, t: float, roll: float) -> None:
    found, policy = pair
    got = on_request(asked, found, policy, NOW + t, held=True, roll=roll)
    left = found.fresh_until - NOW - t
    if isinstance(got, Serve):
        assert (got.reason is Reason.HIT) is (left > 0)
        assert not found.terms.always_validate
        assert got.refresh or got.reason is not Reason.STALE_WHILE_REVALIDATE
    elif isinstance(got, Fetch):
        assert got.keep or got.base is None
        assert not (got.shared and asked.method == "HEAD")


@pytest.mark.parametrize(
    ("found", "policy"),
    [
        pytest.param(GUESS, PLAIN, id="a guess of ours is nobody's word"),
        pytest.param(GRANTED, Policy(default_ttl=60), id="an operator's TTL is not the upstream's word"),
        pytest.param(None, Policy(default_ttl=60), id="nor is what would be fetched under one"),
    ],
)
def test_who_says_who_asks_shares_only_what_the_upstream_stated(found: Entry | None, policy: Policy) -> None:
    assert plan(request("Cookie: a=b"), found, policy) == Fetch(Fwd.BYPASS, Reason.CREDENTIALS)
    assert plan(wish("only-if-cached", "Cookie: a=b"), found, policy) == Refuse(504, Reason.ONLY_IF_CACHED)


def test_who_gives_a_greatest_age_wants_nothing_stale() -> None:
    """RFC 9111 section 5.2.1.1."""
    assert isinstance(plan(request(), MINUTE, after=65), Serve)
    assert plan(wish("max-age=1000"), MINUTE, after=65) == Fetch(Fwd.STALE, Reason.EXPIRED, shared=True, base=MINUTE)
