"""What a response changes: kept, renewed, bridged, or relayed and forgotten."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.admit import (
    Fetched,
    Freshen,
    Pass,
    Store,
    UseStale,
    complete,
    on_response,
    outward,
)
from proxy.rules.fields import selecting
from proxy.rules.message import Entry, Reason, Terms
from proxy.rules.policy import Policy
from tests.rules.build import (
    BODY,
    NOW,
    PLAIN,
    WALL,
    Case,
    brief,
    cases,
    date,
    entry,
    fetched,
    head,
    lines,
    reading,
    request,
)

FRESH: Final = "Cache-Control: max-age=60"
TAGGED: Final = 'ETag: "a"'
OPERATOR: Final = Policy(default_ttl=30, jitter=0)
SHARING: Final = Policy(default_ttl=30, jitter=0, share_credentials=True)


def verdict(
    *fields: str, status: int = 200, policy: Policy = PLAIN, by: tuple[str, ...] = ()
) -> Store | Freshen | UseStale | Pass:
    return on_response(fetched(head(*fields, status=status), *by), policy, None)


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        pytest.param(("Cache-Control: no-store, max-age=60",), 200, Reason.NO_STORE, id="no-store (RFC 9111 5.2.2.5)"),
        pytest.param(("Cache-Control: private, max-age=60",), 200, Reason.PRIVATE, id="private (RFC 9111 5.2.2.7)"),
        pytest.param(
            ('Cache-Control: private="x", max-age=60',), 200, Reason.PRIVATE, id="private, of fields (5.2.2.7)"
        ),
        pytest.param((FRESH, "Set-Cookie: a=b"), 200, Reason.SET_COOKIE, id="Set-Cookie"),
        pytest.param((FRESH, "Vary: *"), 200, Reason.VARY_STAR, id="Vary: * (RFC 9111 4.1)"),
        pytest.param((FRESH, "Vary: a, *"), 200, Reason.VARY_STAR, id="Vary: * among names (RFC 9111 4.1)"),
        pytest.param((FRESH, "Content-Range: bytes 0-1/9"), 206, Reason.PARTIAL, id="a part (RFC 9111 3.3)"),
        pytest.param((FRESH,), 101, Reason.STATUS, id="a status that is not final (RFC 9111 3)"),
        pytest.param((FRESH,), 304, Reason.STATUS, id="304 to a condition that was not ours (RFC 9111 4.3.3)"),
        pytest.param(
            ("Cache-Control: must-understand, max-age=60",), 299, Reason.STATUS, id="must-understand, and we do not"
        ),
        pytest.param(
            ("Cache-Control: must-understand, no-store, max-age=60",), 599, Reason.STATUS, id="with no-store (5.2.2.3)"
        ),
        pytest.param((), 200, Reason.NO_FRESHNESS, id="no freshness and nothing to guess by (RFC 9111 3)"),
        pytest.param((TAGGED,), 200, Reason.NO_FRESHNESS, id="an entity tag alone is no freshness (RFC 9111 3)"),
        pytest.param(("Cache-Control: public",), 200, Reason.NO_FRESHNESS, id="public alone is no freshness"),
        pytest.param(
            ("Cache-Control: max-age=0",), 200, Reason.NO_FRESHNESS, id="stale at once, nothing to validate by"
        ),
        pytest.param((FRESH, "Age: 60"), 200, Reason.NO_FRESHNESS, id="as old as it may get, nothing to validate by"),
        pytest.param((FRESH, "Age: x"), 200, Reason.NO_FRESHNESS, id="of unreadable age, nothing to validate by"),
        pytest.param(
            ("CDN-Cache-Control: no-store", FRESH), 200, Reason.NO_STORE, id="targeted no-store (RFC 9213 2.2)"
        ),
        pytest.param((), 404, Reason.NO_FRESHNESS, id="an error without freshness"),
        pytest.param((), 502, Reason.UPSTREAM_ERROR, id="a failure without freshness"),
    ],
)
def test_what_is_not_kept(fields: tuple[str, ...], status: int, reason: Reason) -> None:
    got = verdict(*fields, status=status)
    assert isinstance(got, Pass)
    assert got.reason is reason


@pytest.mark.parametrize(
    ("fields", "status", "lifetime"),
    [
        pytest.param((FRESH,), 200, 60, id="what is fresh for a while (RFC 9111 3)"),
        pytest.param((FRESH, "Age: 20"), 200, 40, id="for what is left of it (RFC 9111 4.2)"),
        pytest.param((FRESH, f"Date: {date(-20)}"), 200, 40, id="also by Date (RFC 9111 4.2.3)"),
        pytest.param((FRESH,), 404, 60, id="an error that says so"),
        pytest.param((FRESH,), 503, 60, id="a failure that says so"),
        pytest.param((FRESH,), 299, 60, id="a status nobody knows that says so (RFC 9111 3)"),
        pytest.param(("Cache-Control: max-age=0", TAGGED), 200, 0, id="what can be validated"),
        pytest.param(("Cache-Control: max-age=0", f"Last-Modified: {date(-9)}"), 200, 0, id="by date too"),
        pytest.param(("Cache-Control: max-age=0, stale-while-revalidate=9",), 200, 0, id="what may be answered stale"),
        pytest.param(("Cache-Control: max-age=0, stale-if-error=9",), 200, 0, id="or in need"),
        pytest.param(("Cache-Control: no-cache", TAGGED), 200, 0, id="no-cache (RFC 9111 5.2.2.4)"),
        pytest.param((FRESH, TAGGED, "Age: x"), 200, 0, id="what is of unreadable age, as stale"),
        pytest.param(
            ("Cache-Control: must-understand, no-store, max-age=60",), 200, 60, id="must-understand (5.2.2.3)"
        ),
        pytest.param(("CDN-Cache-Control: max-age=9", "Cache-Control: no-store"), 200, 9, id="targeted (RFC 9213 2.2)"),
        pytest.param(
            ("CDN-Cache-Control: max-age=9", "Cache-Control: private"), 200, 9, id="also over private (9213 2.2)"
        ),
    ],
)
def test_what_is_kept_and_for_how_long(fields: tuple[str, ...], status: int, lifetime: float) -> None:
    got = verdict(*fields, status=status)
    assert isinstance(got, Store)
    assert got.entry.fresh_until == NOW + lifetime


UNDERSTOOD: Final = {
    *(200, 203, 204, 300, 301, 302, 303, 307, 308),
    *range(400, 418),
    *(421, 422, 426, 500, 501, 502, 503, 504, 505),
}


@pytest.mark.parametrize("status", range(200, 600))
def test_which_statuses_are_understood(status: int) -> None:
    """RFC 9110 section 15; 201, 202 and 205 say of what they carry nothing that a later GET could use."""
    got = verdict("Cache-Control: must-understand, no-store, max-age=60", status=status)
    assert isinstance(got, Store) is (status in UNDERSTOOD)


@pytest.mark.parametrize(
    ("policy", "fields", "by", "reason"),
    [
        pytest.param(
            Policy(store_set_cookie=True), (FRESH, "Set-Cookie: a=b"), (), None, id="Set-Cookie where allowed"
        ),
        pytest.param(
            Policy(override_ttl=30),
            ("Cache-Control: no-store",),
            (),
            Reason.NO_STORE,
            id="an override is not for no-store",
        ),
        pytest.param(
            Policy(override_ttl=30),
            ("Cache-Control: private",),
            (),
            Reason.PRIVATE,
            id="an override is not for private",
        ),
        pytest.param(PLAIN, (FRESH,), ("Cookie: a=b",), None, id="an answer to a cookie, as the upstream states it is"),
        pytest.param(OPERATOR, (FRESH,), ("Cookie: a=b",), None, id="also where the operator grants some"),
        pytest.param(OPERATOR, (), ("Cookie: a=b",), Reason.CREDENTIALS, id="but not by the operator's grant"),
        pytest.param(SHARING, (), ("Cookie: a=b",), None, id="unless the operator shares"),
        pytest.param(
            Policy(override_ttl=30), (FRESH,), ("Cookie: a=b",), Reason.CREDENTIALS, id="an override is the operator's"
        ),
        pytest.param(PLAIN, (f"Last-Modified: {date(-99)}",), ("Cookie: a",), Reason.CREDENTIALS, id="nor by a guess"),
        pytest.param(
            OPERATOR, ("Cache-Control: public",), ("Authorization: x",), Reason.CREDENTIALS, id="public is no freshness"
        ),
        pytest.param(PLAIN, (FRESH,), ("Authorization: x",), Reason.AUTHORIZATION, id="Authorization (RFC 9111 3.5)"),
        pytest.param(SHARING, (), ("Authorization: x",), None, id="Authorization where the operator shares"),
        pytest.param(
            PLAIN,
            ("Cache-Control: public, max-age=9",),
            ("Authorization: x",),
            None,
            id="public lets it (RFC 9111 3.5)",
        ),
        pytest.param(PLAIN, ("Cache-Control: s-maxage=9",), ("Authorization: x",), None, id="so does s-maxage (3.5)"),
        pytest.param(
            PLAIN,
            ("Cache-Control: must-revalidate, max-age=9",),
            ("Authorization: x",),
            None,
            id="so does must-revalidate (RFC 9111 3.5)",
        ),
        pytest.param(
            PLAIN,
            ("Cache-Control: proxy-revalidate, max-age=9",),
            ("Authorization: x",),
            Reason.AUTHORIZATION,
            id="proxy-revalidate does not (RFC 9111 3.5)",
        ),
        pytest.param(
            PLAIN,
            ("CDN-Cache-Control: max-age=9", "Cache-Control: public"),
            ("Authorization: x",),
            Reason.AUTHORIZATION,
            id="nor does what the targeted field silences (RFC 9213 2.2)",
        ),
    ],
)
def test_what_depends_on_policy_and_request(
    policy: Policy, fields: tuple[str, ...], by: tuple[str, ...], reason: Reason | None
) -> None:
    got = verdict(*fields, policy=policy, by=by)
    assert (got.reason if isinstance(got, Pass) else None) is reason


@pytest.mark.parametrize(
    ("got", "reason"),
    [
        pytest.param(replace(fetched(head(FRESH)), close_delimited=True), Reason.CLOSE_DELIMITED, id="end unseen"),
        pytest.param(replace(fetched(head(FRESH)), length=101), Reason.TOO_LARGE, id="a byte too much"),
        pytest.param(replace(fetched(head(FRESH)), length=100), None, id="as much as may be"),
        pytest.param(replace(fetched(head(FRESH)), length=None), None, id="of length unknown, so far"),
    ],
)
def test_bodies(got: Fetched, reason: Reason | None) -> None:
    seen = on_response(got, Policy(max_object_size=100), None)
    assert (seen.reason if isinstance(seen, Pass) else None) is reason


@pytest.mark.parametrize(
    ("fields", "status", "by", "shared"),
    [
        pytest.param((), 503, (), True, id="a failure reaches all who wait, once"),
        pytest.param(("Vary: Accept",), 503, (), False, id="but not where it varies"),
        pytest.param((), 503, ("Cookie: a=b",), False, id="nor where somebody in particular asked"),
        pytest.param((), 503, ("Authorization: x",), False, id="nor where somebody authorized asked"),
        pytest.param(("Cache-Control: private",), 503, (), False, id="nor where it is private"),
        pytest.param(("Set-Cookie: a=b",), 503, (), False, id="nor where it gives somebody a cookie"),
        pytest.param((), 404, (), False, id="an error that is no failure is its asker's"),
        pytest.param((), 200, (), False, id="as is an answer"),
    ],
)
def test_what_those_who_wait_may_have_once(
    fields: tuple[str, ...], status: int, by: tuple[str, ...], shared: bool
) -> None:
    got = verdict(*fields, status=status, by=by)
    assert isinstance(got, Pass)
    assert got.shared is shared


BANS: Final = st.sampled_from(["no-store", "private", 'private="x"', "no-store, private", "NO-STORE", "Private"])
ANY: Final = st.sampled_from(["max-age=60", "s-maxage=60", "public", "no-cache", "x", "stale-if-error=60", 'y="a, b"'])


@st.composite
def banned(draw: st.DrawFn) -> str:
    """A Cache-Control with something in it that forbids storing."""
    return ", ".join(draw(st.permutations([draw(BANS), *draw(st.lists(ANY, max_size=3))])))


@brief
@given(cases(banned()))
def test_no_policy_lets_no_store_or_private_in(case: Case) -> None:
    assert isinstance(on_response(case.got, case.policy, None), Pass)


@brief
@given(cases(), banned())
def test_no_policy_lets_in_what_the_targeted_field_bans(case: Case, ban: str) -> None:
    response = head(*(f"{n}: {v}" for n, v in case.got.head.headers), f"CDN-Cache-Control: {ban.lower()}")
    assert isinstance(on_response(replace(case.got, head=response), case.policy, None), Pass)


@brief
@given(cases())
def test_what_is_kept_is_in_order(case: Case) -> None:
    got = on_response(case.got, case.policy, None)
    if isinstance(got, Store):
        kept = got.entry
        assert kept.fresh_until <= kept.stale_until <= kept.error_until <= kept.lost_until
        assert kept.born <= kept.stored_at
        assert kept.stored_at == NOW
        if kept.terms.never_stale:
            assert kept.fresh_until == kept.lost_until
        if {"cookie", "authorization"} & case.got.request.fields.keys() and not case.policy.share_credentials:
            assert kept.terms.stated


def test_an_entry_holds_what_a_look_up_compares() -> None:
    got = replace(
        fetched(
            head(
                "Cache-Control: max-age=60, stale-while-revalidate=10, stale-if-error=20",
                "Age: 5",
                f"Date: {date(-3)}",
                "Vary: Accept-Language, X",
                "Surrogate-Key: b",
                'Cache-Groups: "c"',
            ),
            "Accept-Language: EN, de",
            took=2.0,
        ),
        tags=("a",),
    )
    kept = verdict_entry(got)
    terms = Terms(
        vary=(("accept-language", "en,de"), *selecting({}, ("x",))),
        tags=("a", "b", "http://example.com c"),
        aside=(),
        policy="policy",
        stale_window=10.0,
        error_window=20.0,
        lost_window=20.0,
        always_validate=False,
        distrusted=False,
        never_stale=False,
        stated=True,
        fetch_seconds=2.0,
    )
    assert kept == Entry(
        key=got.key,
        terms=terms,
        lead=b"",
        rest=b"",
        head_end=0,
        pieces=(),
        stored_at=NOW,
        born=NOW - 7,
        fresh_until=NOW + 53,
        seq=7,
    )
    assert (kept.stale_until, kept.error_until, kept.lost_until) == (NOW + 63, NOW + 73, NOW + 73)
    assert (kept.vary, kept.tags) == (terms.vary, terms.tags)


def test_a_key_says_what_url_and_host_an_entry_is_of() -> None:
    kept = verdict_entry(replace(fetched(head(FRESH)), key="https://example.com:8443/a?b=//c\nx-tenant=1"))
    assert (kept.url, kept.host) == ("https://example.com:8443/a?b=//c", "example.com:8443")


def test_entries_on_the_same_terms_hold_them_once() -> None:
    one, other = (fetched(head(FRESH, "Vary: X"), "X: 1", took=took) for took in (0.01, 0.0104))
    assert verdict_entry(one).terms is verdict_entry(other).terms, "a fetch is timed to two digits"


def completed(*fields: str, body: Sequence[bytes] = (BODY,), policy: Policy = PLAIN, wall: float = WALL) -> Entry:
    """The stored 200 with those fields, whose head came at `wall`."""
    response = head(*fields)
    return complete(verdict_entry(fetched(response), policy), response, body, wall, policy)


def verdict_entry(got: Fetched, policy: Policy = PLAIN) -> Entry:
    seen = on_response(got, policy, None)
    assert isinstance(seen, Store)
    return seen.entry


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        pytest.param((), (), id="nothing"),
        pytest.param(("Vary: B, A",), ("a", "b"), id="what Vary names, in order (RFC 9111 4.1)"),
        pytest.param(("Content-Encoding: gzip",), ("accept-encoding",), id="the coding, also where Vary forgot it"),
        pytest.param(("Content-Encoding: br", "Vary: X, A"), ("a", "accept-encoding", "x"), id="with what Vary names"),
        pytest.param(("Content-Encoding: br", "Vary: Accept-Encoding"), ("accept-encoding",), id="and not twice"),
    ],
)
def test_what_variants_are_told_apart_by(fields: tuple[str, ...], names: tuple[str, ...]) -> None:
    kept = verdict_entry(fetched(head(FRESH, *fields)))
    assert tuple(name for name, _ in kept.vary) == names


@pytest.mark.parametrize(
    ("fields", "by", "vary"),
    [
        pytest.param(("Vary: X-Id",), (), ("x-id",), id="a request that spells nothing otherwise"),
        pytest.param(("Vary: X-Id",), ("X_Id: b",), ("x-id", "x_id"), id="alone"),
        pytest.param(("Vary: X-Id",), ("X-Id: a", "X_Id: b"), ("x-id", "x_id"), id="and beside it"),
        pytest.param(("Vary: X-Id-A",), ("X-Id_A: b", "X_Id-A: b"), ("x-id-a", "x-id_a", "x_id-a"), id="in every way"),
        pytest.param(
            ("Content-Encoding: gzip",), ("Accept_Encoding: gzip",), ("accept-encoding", "accept_encoding"), id="coding"
        ),
        pytest.param((), ("X_Id: b",), (), id="of what is not varied on"),
    ],
)
def test_what_cgi_reads_as_a_varied_field_is_varied_on(
    fields: tuple[str, ...], by: tuple[str, ...], vary: tuple[str, ...]
) -> None:
    """The upstream may have answered by it: those who do not send it must not get that answer."""
    kept = verdict_entry(fetched(head(FRESH, *fields), *by))
    assert kept.vary == selecting(request(*by).fields, vary)


# -- the head that goes out


@pytest.mark.parametrize(
    ("fields", "policy", "sent"),
    [
        pytest.param(("b: 1", "A: 2"), PLAIN, ("b: 1", "A: 2"), id="order and spelling stay"),
        pytest.param(("CDN-Cache-Control: a",), PLAIN, ("CDN-Cache-Control: a",), id="CDN-Cache-Control is forwarded"),
        pytest.param(("Surrogate-Key: a", "cache-tag: b", "X: 1"), PLAIN, ("X: 1",), id="tags stay here"),
        pytest.param(("Surrogate-Key: a",), Policy(forward_tags=True), ("Surrogate-Key: a",), id="unless forwarded"),
        pytest.param(("Surrogate-Key: a",), Policy(enabled=False), ("Surrogate-Key: a",), id="or nothing is cached"),
        pytest.param(('Cache-Groups: "a"',), PLAIN, ('Cache-Groups: "a"',), id="groups are forwarded (RFC 9875 2)"),
    ],
)
def test_what_the_client_gets(fields: tuple[str, ...], policy: Policy, sent: tuple[str, ...]) -> None:
    dated = f"Date: {date(-5)}"
    assert outward(head(*fields, dated), 0.0, policy) == lines(*sent, dated, "Via: 1.1 readthrough")


def test_what_has_no_date_gets_one() -> None:
    """RFC 9110 section 6.6.1."""
    assert outward(head("A: 1"), fetched(head()).wall, PLAIN) == lines(
        "A: 1", f"Date: {date()}", "Via: 1.1 readthrough"
    )


def test_via_says_which_version_was_received() -> None:
    """RFC 9110 section 7.6.3."""
    response = replace(head("Date: x", "Via: 1.1 far"), http10=True)
    assert outward(response, 0.0, PLAIN) == lines("Date: x", "Via: 1.1 far", "Via: 1.0 readthrough")


def test_age_is_left_to_whoever_answers() -> None:
    kept = completed(FRESH, TAGGED, "Age: 1", "age: 3", "Agent: 4", f"Date: {date(-3)}")
    assert kept.head.headers[:3] == lines(FRESH, TAGGED, "Agent: 4")
    assert "age" not in kept.head.fields


@pytest.mark.parametrize(
    ("fields", "dated"),
    [
        pytest.param((), date(-30), id="what has no date is dated when it came (RFC 9110 6.6.1)"),
        pytest.param((f"Date: {date(-5)}",), date(-5), id="a date stays"),
        pytest.param(("Date: x",), "x", id="also one that cannot be read"),
    ],
)
def test_the_date_of_what_is_kept(fields: tuple[str, ...], dated: str) -> None:
    assert completed(FRESH, *fields, wall=WALL - 30).head.fields["date"] == dated


@pytest.mark.parametrize(
    ("fields", "status", "framing"),
    [
        pytest.param((), 200, ("Content-Length: 12",), id="a body is measured where nobody said"),
        pytest.param(("Content-Length: 12",), 200, ("Content-Length: 12",), id="and not twice where somebody did"),
        pytest.param((), 204, (), id="no content has no length (RFC 9110 8.6)"),
    ],
)
def test_a_complete_entry_is_ready_to_send(fields: tuple[str, ...], status: int, framing: tuple[str, ...]) -> None:
    response = head(FRESH, "Age: 3", "Cache-Tag: t", *fields, status=status, reason="Fine")
    draft, body = verdict_entry(fetched(response)), (BODY,) if status == 200 else ()
    done = complete(draft, response, body, WALL, PLAIN)
    whole, end, sent = (done.lead + done.rest).partition(b"\r\n\r\n")
    start, told = reading(whole)
    assert (start, end, sent) == (f"HTTP/1.1 {status} Fine", b"\r\n\r\n", b"".join(body))
    assert sorted(told) == sorted(lines(FRESH, f"Date: {date()}", "Via: 1.1 readthrough", *framing))
    assert (done.body, done.length) == ((b"".join(body),), len(b"".join(body)))
    aside = replace(draft.terms, aside=lines("Cache-Tag: t"))
    assert done == replace(draft, terms=aside, lead=done.lead, rest=done.rest, head_end=done.head_end)


def test_an_operators_lifetime_begins_when_the_answer_comes() -> None:
    policy = Policy(default_ttl=30, jitter=0)
    kept = entry("Age: 60", f"Date: {date(-100)}", policy=policy)
    assert kept.fresh_until == NOW + 30


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 520, 599])
def test_no_server_error_replaces_a_good_answer_while_it_may_bridge(status: int) -> None:
    """RFC 5861 section 4, and of every 5xx."""
    good = entry("Cache-Control: max-age=60, stale-if-error=600")
    late = fetched(head("Cache-Control: max-age=60", status=status), at=NOW + 100)
    assert on_response(late, PLAIN, good) == UseStale(good)
