"""What a 304, a failure and a HEAD make of what is stored (RFC 9111 section 4.3)."""

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.admit import INLINE, Freshen, Pass, Store, UseStale, complete, on_head, on_response
from proxy.rules.freshness import distrust
from proxy.rules.message import Entry, Reason
from proxy.rules.policy import Policy
from tests.rules.build import BODY, NOW, PLAIN, WALL, admitted, brief, date, entry, fetched, head, lines, stored

FRESH: Final = "Cache-Control: max-age=60"
TAGGED: Final = 'ETag: "a"'
LATER: Final = NOW + 100


def old(*fields: str, policy: Policy = PLAIN) -> Entry:
    return entry(FRESH, TAGGED, f"Date: {date()}", *fields, policy=policy)


def renewed(kept: Entry, *fields: str, by: tuple[str, ...] = (), policy: Policy = PLAIN) -> Freshen:
    """What a 304 with those fields makes of an entry a hundred seconds later."""
    got = replace(fetched(head(*fields, status=304, reason="Not Modified"), *by, at=LATER), length=0)
    seen = on_response(got, policy, kept)
    assert isinstance(seen, Freshen)
    return seen


def test_a_304_renews_what_is_stored() -> None:
    """RFC 9111 sections 4.3.3 and 4.3.4."""
    kept = old("X-Old: 1", "X-Both: 1", "Age: 9")
    got = renewed(kept, "Cache-Control: max-age=500", f"Date: {date(100)}", "X-Both: 2", "x-both: 3", "X-New: 4")
    assert got.reason is None
    assert got.entry.head.status == 200
    assert got.entry.head.reason == "OK"
    kept_fields, new = (TAGGED, "X-Old: 1"), ("Cache-Control: max-age=500", f"Date: {date(100)}")
    assert sorted(got.entry.head.headers) == sorted(
        lines(*kept_fields, *new, "X-Both: 2", "x-both: 3", "X-New: 4", "Via: 1.1 readthrough", "Content-Length: 12")
    )
    assert got.entry.head.fields["x-both"] == "2, 3"
    assert (got.entry.stored_at, got.entry.born, got.entry.fresh_until) == (LATER, LATER, LATER + 500)
    assert (got.entry.body, got.entry.length) == ((BODY,), len(BODY))
    assert b"X-New: 4\r\n" in got.entry.rest


@pytest.mark.parametrize(
    "field",
    [
        "Content-Length: 1",
        "Content-Encoding: br",
        "Content-Range: bytes 0-0/1",
        "Content-MD5: x",
        'ETag: W/"a"',
        "Vary: X",
    ],
)
def test_a_304_cannot_change_what_describes_the_body(field: str) -> None:
    """RFC 9111 section 3.2."""
    kept = old("Vary: Accept", "Content-Encoding: gzip", "Content-Length: 12")
    got = renewed(kept, f"Date: {date(100)}", field)
    name = field.partition(":")[0].lower()
    assert got.entry.head.fields.get(name) == kept.head.fields.get(name)
    assert got.entry.vary == kept.vary
    assert got.reason is None


def test_a_304_renews_the_variant_that_was_validated() -> None:
    kept = stored(fetched(head(FRESH, TAGGED, "Vary: X"), "X: 1"))
    assert renewed(kept, FRESH, by=("X: 2",)).entry.vary == (("x", "1"),)


def test_a_304_with_age_is_as_old_as_it_says() -> None:
    got = renewed(old(), f"Date: {date(100)}", "Age: 20")
    assert got.entry.fresh_until == LATER + 40


def test_a_304_without_date_is_as_new_as_it_came() -> None:
    """RFC 9110 section 6.6.1: a recipient dates what has no date. The old date is not its own."""
    got = renewed(old())
    assert got.entry.fresh_until == LATER + 60


def test_the_seconds_a_whole_takes_are_remembered_across_a_304() -> None:
    kept = stored(fetched(head(FRESH, TAGGED), took=3.0))
    assert renewed(kept, FRESH).entry.terms.fetch_seconds == 3.0


@pytest.mark.parametrize(
    ("fields", "by"),
    [
        pytest.param(("Cache-Control: no-store",), (), id="no-store (RFC 9111 5.2.2.5)"),
        pytest.param(("Cache-Control: private",), (), id="private (RFC 9111 5.2.2.7)"),
        pytest.param(("Set-Cookie: a=b",), (), id="Set-Cookie"),
        pytest.param((), ("Authorization: x",), id="an answer to Authorization (RFC 9111 3.5)"),
    ],
)
def test_a_304_can_end_the_storing(fields: tuple[str, ...], by: tuple[str, ...]) -> None:
    got = renewed(old(), f"Date: {date(100)}", *fields, by=by)
    assert got.reason is not None
    assert got.entry.body == (BODY,)


def test_a_304_to_nothing_that_could_be_validated_renews_nothing() -> None:
    got = on_response(fetched(head(status=304), at=LATER), PLAIN, entry(FRESH))
    assert got == Pass(Reason.STATUS)


def test_a_whole_answer_to_a_condition_replaces_what_is_stored() -> None:
    """RFC 9111 section 4.3.3."""
    got = on_response(fetched(head(FRESH, 'ETag: "b"'), at=LATER), PLAIN, old())
    assert isinstance(got, Store)
    assert (got.entry.stored_at, got.entry.lead, got.entry.rest) == (LATER, b"", b""), "its bytes are yet to come"


@pytest.mark.parametrize(
    ("stored_fields", "told", "via"),
    [
        pytest.param((), (), ["1.1 readthrough"], id="ours, once"),
        pytest.param(("Via: 1.0 far",), (), ["1.0 far", "1.1 readthrough"], id="behind what it came through"),
        pytest.param(("Via: 1.0 far",), ("Via: 1.1 near",), ["1.1 near", "1.1 readthrough"], id="or now comes through"),
        pytest.param((), ("Via: 1.1 readthrough",), ["1.1 readthrough"] * 2, id="also through one of our name"),
    ],
)
def test_however_often_it_is_renewed_it_came_through_here_once(
    stored_fields: tuple[str, ...], told: tuple[str, ...], via: list[str]
) -> None:
    got = old(*stored_fields)
    for _ in range(3):
        got = renewed(got, FRESH, *told).entry
        assert [value for name, value in got.head.headers if name == "Via"] == via
        assert [name for name, _ in got.head.headers].count("Content-Length") == 1
        assert [name for name, _ in got.head.headers].count("Date") == 1


FORWARDING: Final = Policy(jitter=0.0, forward_tags=True)


@pytest.mark.parametrize("policy", [PLAIN, FORWARDING], ids=["kept from clients", "sent to clients"])
def test_however_often_it_is_renewed_it_keeps_its_tags(policy: Policy) -> None:
    got = before = old("Surrogate-Key: a b", "Cache-Tag: c", policy=policy)
    for _ in range(3):
        got = renewed(got, FRESH, policy=policy).entry
        assert got.tags == ("a", "b", "c")
        assert got.terms.aside == before.terms.aside
        assert ("surrogate-key" in got.head.fields) is policy.forward_tags


@pytest.mark.parametrize("policy", [PLAIN, FORWARDING], ids=["kept from clients", "sent to clients"])
def test_a_304_replaces_the_tags_that_it_names(policy: Policy) -> None:
    got = renewed(
        old("Surrogate-Key: a", "Cache-Tag: c", policy=policy), FRESH, "surrogate-key: x", policy=policy
    ).entry
    assert sorted(got.tags) == ["c", "x"]
    assert sorted(renewed(got, FRESH, policy=policy).entry.tags) == ["c", "x"]


def test_the_routes_tags_are_not_doubled_by_renewals() -> None:
    kept = stored(replace(fetched(head(FRESH, TAGGED, "Cache-Tag: c")), tags=("route",)))
    for _ in range(3):
        kept_again = on_response(replace(fetched(head(status=304), at=LATER), tags=("route",)), PLAIN, kept)
        assert isinstance(kept_again, Freshen)
        kept = kept_again.entry
        assert kept.tags == ("route", "c")


def test_cookies_that_may_be_stored_outlive_renewals() -> None:
    policy = Policy(jitter=0.0, store_set_cookie=True)
    got = old("Set-Cookie: a=1", "Set-Cookie: b=2", policy=policy)
    for _ in range(2):
        again = renewed(got, FRESH, policy=policy)
        assert again.reason is None
        got = again.entry
        assert [value for name, value in got.head.headers if name == "Set-Cookie"] == ["a=1", "b=2"]


def test_where_cookies_may_not_be_stored_a_304_with_one_is_for_its_asker_alone_each_time() -> None:
    kept = old()
    for _ in range(2):
        got = renewed(kept, FRESH, "Set-Cookie: a=1")
        assert (got.reason is None, got.entry.head.fields["set-cookie"]) == (False, "a=1")
        assert "set-cookie" not in renewed(kept, FRESH).entry.head.fields


def test_a_renewed_entry_has_ours_below_the_cache_status_it_now_came_with() -> None:
    """RFC 9211 section 2."""
    got = renewed(old("Cache-Status: far", "X: 1"), FRESH, "Cache-Status: near").entry
    assert got.lead.endswith(b"Cache-Status: near\r\n")
    assert b"Cache-Status" not in got.rest


def test_a_large_body_is_shared_with_what_it_renews() -> None:
    response, body = head(FRESH, TAGGED), (b"a" * INLINE, b"b")
    kept = complete(stored(fetched(response)), response, body, WALL, PLAIN)
    got = renewed(kept, FRESH).entry
    assert all(new is before for new, before in zip(got.pieces, body, strict=True))
    assert len(got.rest) == got.head_end


@brief
@given(
    admitted(),
    st.lists(st.sampled_from(["Via: 1.0 x", "X: 1", "Cache-Status: b", "Age: 3", "Cache-Tag: t", "Date: x", "Via:"])),
)
def test_renewing_twice_with_the_same_changes_nothing_more(pair: tuple[Entry, Policy], told: list[str]) -> None:
    kept, policy = pair
    answer = fetched(head(*told, f"ETag: {kept.head.fields.get('etag')}", status=304), at=LATER)
    once = on_response(answer, policy, kept)
    if isinstance(once, Freshen):
        twice = on_response(answer, policy, once.entry)
        assert isinstance(twice, Freshen)
        assert sorted(twice.entry.head.headers) == sorted(once.entry.head.headers)
        assert (twice.reason, twice.entry.body, twice.entry.tags) == (
            once.reason,
            once.entry.body,
            once.entry.tags,
        )


@brief
@given(admitted(), st.sampled_from(["", "Cache-Control: max-age=9", "Cache-Control: no-store", "Vary: *", "Age: 9"]))
def test_a_304_never_changes_the_body_or_its_variant(pair: tuple[Entry, Policy], field: str) -> None:
    kept, policy = pair
    got = on_response(fetched(head(*filter(None, [field]), status=304), at=LATER), policy, kept)
    assert isinstance(got, Freshen) is not {"etag", "last-modified"}.isdisjoint(kept.head.fields)
    if isinstance(got, Freshen):
        same = (got.entry.body, got.entry.length, got.entry.vary, got.entry.head.status)
        assert same == (kept.body, kept.length, kept.vary, kept.head.status)


BRIDGED: Final = entry("Cache-Control: max-age=60, stale-if-error=100", TAGGED)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_failure_within_the_window_leaves_the_good_answer(status: int) -> None:
    """RFC 5861 section 4."""
    got = on_response(fetched(head(FRESH, status=status), at=LATER), PLAIN, BRIDGED)
    assert got == UseStale(BRIDGED)


@pytest.mark.parametrize(
    ("status", "at", "kept"),
    [
        pytest.param(404, 100, BRIDGED, id="an error that is no failure"),
        pytest.param(200, 100, BRIDGED, id="no error at all"),
        pytest.param(503, 160, BRIDGED, id="behind the window"),
        pytest.param(503, 100, old(), id="no window: only silence is bridged unasked"),
        pytest.param(503, 100, distrust(BRIDGED), id="what is distrusted"),
        pytest.param(503, 100, None, id="nothing stored"),
    ],
)
def test_what_is_not_bridged(status: int, at: float, kept: Entry | None) -> None:
    got = on_response(fetched(head(FRESH, status=status), at=NOW + at), PLAIN, kept)
    assert isinstance(got, Store)
    assert got.entry.stored_at == NOW + at


# -- HEAD


def headed(kept: Entry, *fields: str, status: int = 200) -> Freshen | None:
    got = replace(fetched(head(*fields, f"Date: {date(100)}", status=status), at=LATER), length=0)
    return on_head(got, PLAIN, kept)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((TAGGED, "Content-Length: 12", "X: 2"), id="the same validator and length (RFC 9111 4.3.5)"),
        pytest.param(("X: 2",), id="neither, and nothing against it (RFC 9111 4.3.5)"),
        pytest.param((f"Last-Modified: {date(-9)}", "X: 2"), id="the same date"),
    ],
)
def test_a_head_renews_a_stored_get(fields: tuple[str, ...]) -> None:
    got = headed(old(f"Last-Modified: {date(-9)}", "X: 1"), FRESH, *fields)
    assert got is not None
    assert got.reason is None
    assert got.entry.head.fields["x"] == "2"
    assert (got.entry.fresh_until, got.entry.body, got.entry.length) == (LATER + 60, (BODY,), len(BODY))


@pytest.mark.parametrize(
    "field",
    [
        pytest.param('ETag: "b"', id="another entity tag (RFC 9111 4.3.5)"),
        pytest.param(f"Last-Modified: {date(-8)}", id="another date (RFC 9111 4.3.5)"),
        pytest.param("Content-Length: 13", id="another length (RFC 9111 4.3.5)"),
    ],
)
def test_a_head_that_differs_shows_a_stored_get_outdated(field: str) -> None:
    assert headed(old(f"Last-Modified: {date(-9)}"), FRESH, field) is None


def test_a_head_of_another_status_does_not_renew() -> None:
    assert headed(old(), FRESH, status=404) is None


def test_a_head_can_end_the_storing() -> None:
    got = headed(old(), "Cache-Control: no-store")
    assert got is not None
    assert got.reason is not None
