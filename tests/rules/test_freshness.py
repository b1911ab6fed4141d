"""How old a response is, how long it lives, and what softening and distrust leave of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.fields import response_directives
from proxy.rules.freshness import Freshness, Source, distrust, freshness, initial_age, soften
from proxy.rules.message import Entry
from proxy.rules.policy import Policy
from tests.rules.build import BINDING, NOW, PLAIN, WALL, Case, admitted, brief, cases, date, entry, head

DAY: Final = 86400.0


@pytest.mark.parametrize(
    ("fields", "took", "age"),
    [
        pytest.param({}, 0.0, 0.0, id="a response that says nothing of its age is new"),
        pytest.param({}, 3.0, 0.0, id="the time an origin took to think is no age"),
        pytest.param({"age": "10"}, 3.0, 13.0, id="behind a cache the way is added to Age (RFC 9111 4.2.3)"),
        pytest.param({"age": "0"}, 3.0, 3.0, id="also to one of nothing (RFC 9111 4.2.3)"),
        pytest.param({"date": date(-30)}, 0.0, 30.0, id="Date makes apparent age (RFC 9111 4.2.3)"),
        pytest.param({"date": date(-30)}, 3.0, 30.0, id="which already holds the way (RFC 9111 4.2.3)"),
        pytest.param({"date": date(-30), "age": "10"}, 3.0, 30.0, id="the greater of the two counts, here Date's"),
        pytest.param({"date": date(-30), "age": "40"}, 3.0, 43.0, id="the greater of the two counts, here Age's"),
        pytest.param({"date": date(30)}, 0.0, 0.0, id="a Date in the future is no age (RFC 9111 4.2.3)"),
        pytest.param({"date": date(-1)}, 0.0, 0.0, id="a second of Date's is rounding"),
        pytest.param({"date": date(-2)}, 0.0, 2.0, id="two seconds of Date's are age"),
        pytest.param({"date": "yesterday", "age": "1"}, 0.0, 1.0, id="an unreadable Date says nothing"),
        pytest.param({"age": "old"}, 0.0, None, id="an unreadable Age is not taken for youth"),
    ],
)
def test_initial_age(fields: dict[str, str], took: float, age: float | None) -> None:
    assert initial_age(fields, NOW - took, NOW, WALL) == age


def judged(*fields: str, status: int = 200, policy: Policy = PLAIN, roll: float = 0.0) -> Freshness | None:
    response = head(*fields, status=status)
    given_, aimed = response_directives(response.fields)
    return freshness(response, given_, policy, aimed=aimed, wall=WALL, roll=roll)


@pytest.mark.parametrize(
    ("fields", "lifetime"),
    [
        pytest.param(("Cache-Control: max-age=60",), 60, id="max-age (RFC 9111 5.2.2.1)"),
        pytest.param(
            ("Cache-Control: max-age=60, s-maxage=30",), 30, id="s-maxage wins over max-age (RFC 9111 5.2.2.10)"
        ),
        pytest.param(("Cache-Control: s-maxage=0, max-age=60",), 0, id="also where it is nothing"),
        pytest.param(("Cache-Control: max-age=60", f"Expires: {date(5)}"), 60, id="max-age wins over Expires (5.3)"),
        pytest.param(
            ("Cache-Control: max-age=x", f"Expires: {date(5)}"), 0, id="an unreadable max-age is stale (4.2.1)"
        ),
        pytest.param((f"Expires: {date(60)}", f"Date: {date(10)}"), 50, id="Expires counts from Date (RFC 9111 4.2.1)"),
        pytest.param((f"Expires: {date(60)}",), 60, id="or from now where there is no Date (RFC 9110 6.6.1)"),
        pytest.param((f"Expires: {date(60)}", "Date: x"), 60, id="or where Date is unreadable"),
        pytest.param((f"Expires: {date(-60)}",), 0, id="a past Expires is nothing, not less"),
        pytest.param(("Expires: 0",), 0, id="an invalid Expires is past (RFC 9111 5.3)"),
        pytest.param(
            (f"Expires: {date(60)}", f"Expires: {date(60)}"), 0, id="two Expires are invalid (RFC 9111 4.2.1)"
        ),
        pytest.param(("Expires:", f"Last-Modified: {date(-DAY)}"), 0, id="an empty Expires leaves no room to guess"),
        pytest.param(("Cache-Control: no-cache",), 0, id="no-cache alone is storable and stale (RFC 9111 5.2.2.4)"),
        pytest.param(
            ("CDN-Cache-Control: max-age=9", "Cache-Control: max-age=60"), 9, id="the targeted field (9213 2.2)"
        ),
        pytest.param(
            ("CDN-Cache-Control: max-age=9", "Cache-Control: s-maxage=60"), 9, id="also over s-maxage (9213 2.2)"
        ),
        pytest.param(("CDN-Cache-Control: public", f"Expires: {date(60)}"), None, id="it silences Expires (9213 2.2)"),
        pytest.param(
            ("CDN-Cache-Control: max-age=9,", "Cache-Control: max-age=60"), 60, id="malformed it does not (9213 2.1)"
        ),
    ],
)
def test_what_the_upstream_states(fields: tuple[str, ...], lifetime: float | None) -> None:
    life = judged(*fields)
    assert (life and life.lifetime) == lifetime
    assert life is None or life.source is Source.UPSTREAM


@pytest.mark.parametrize(
    ("fields", "status", "lifetime"),
    [
        pytest.param((f"Last-Modified: {date(-1000)}",), 200, 100, id="a tenth of the time unchanged (RFC 9111 4.2.2)"),
        pytest.param(
            (f"Last-Modified: {date(-1000)}", f"Date: {date(-500)}"), 200, 50, id="up to Date (RFC 9111 4.2.2)"
        ),
        pytest.param((f"Last-Modified: {date(-365 * DAY)}",), 200, DAY, id="at most a day"),
        pytest.param((f"Last-Modified: {date(60)}",), 200, 0, id="nothing where it changes in the future"),
        pytest.param(
            (f"Last-Modified: {date(-1000)}",), 404, 100, id="for a status cacheable by default (RFC 9110 15.1)"
        ),
        pytest.param((f"Last-Modified: {date(-1000)}",), 501, 100, id="for 501 too (RFC 9110 15.1)"),
        pytest.param((f"Last-Modified: {date(-1000)}",), 302, None, id="for another status not (RFC 9111 4.2.2)"),
        pytest.param((f"Last-Modified: {date(-1000)}",), 500, None, id="for an error not (RFC 9111 4.2.2)"),
        pytest.param(
            (f"Last-Modified: {date(-1000)}", "Cache-Control: public"),
            302,
            100,
            id="unless it is public (RFC 9111 4.2.2)",
        ),
        pytest.param(("Last-Modified: x",), 200, None, id="not from an unreadable date"),
        pytest.param(('ETag: "a"',), 200, None, id="not from an entity tag"),
    ],
)
def test_what_may_be_guessed(fields: tuple[str, ...], status: int, lifetime: float | None) -> None:
    life = judged(*fields, status=status)
    assert (life and life.lifetime) == lifetime
    assert life is None or life.source is Source.GUESS


@pytest.mark.parametrize("status", range(200, 600))
def test_which_statuses_a_ttl_or_a_guess_is_for(status: int) -> None:
    granted = judged(status=status, policy=Policy(default_ttl=30, jitter=0))
    assert (granted is not None) is (status in {200, 203, 204, 300, 301, 302, 307, 308})
    guessed = judged(f"Last-Modified: {date(-1000)}", status=status)
    cacheable = {200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}  # RFC 9110 section 15.1
    assert (guessed is not None) is (status in cacheable)


def test_no_cache_with_a_guess_must_be_validated_all_the_same() -> None:
    life = judged("Cache-Control: no-cache", f"Last-Modified: {date(-1000)}")
    assert life is not None
    assert life.always_validate


@pytest.mark.parametrize(
    ("policy", "fields", "status", "lifetime"),
    [
        pytest.param(Policy(default_ttl=30), (), 200, 30, id="default_ttl where the upstream says nothing"),
        pytest.param(
            Policy(default_ttl=30), ("Cache-Control: max-age=5",), 200, 5, id="not where it states a lifetime"
        ),
        pytest.param(Policy(default_ttl=30), ("Cache-Control: max-age=0",), 200, 0, id="also one of nothing"),
        pytest.param(Policy(default_ttl=30), ("Expires: 0",), 200, 0, id="also an expired one"),
        pytest.param(
            Policy(default_ttl=30), (f"Last-Modified: {date(-1000)}",), 200, 30, id="it stands before a guess"
        ),
        pytest.param(Policy(default_ttl=30), (), 302, 30, id="for redirects"),
        pytest.param(Policy(default_ttl=30), (), 404, None, id="not for client errors"),
        pytest.param(Policy(default_ttl=30), (), 503, None, id="not for server errors"),
        pytest.param(Policy(override_ttl=30), ("Cache-Control: max-age=5",), 200, 30, id="override_ttl over max-age"),
        pytest.param(Policy(override_ttl=30), ("Cache-Control: s-maxage=5",), 200, 30, id="override_ttl over s-maxage"),
        pytest.param(Policy(override_ttl=30), ("Expires: 0",), 200, 30, id="override_ttl over Expires"),
        pytest.param(Policy(override_ttl=30), ("CDN-Cache-Control: max-age=5",), 200, 30, id="over the targeted field"),
        pytest.param(Policy(override_ttl=30, default_ttl=7), (), 200, 30, id="override_ttl over default_ttl"),
        pytest.param(Policy(override_ttl=30), ("Cache-Control: max-age=5",), 404, 5, id="not for errors"),
        pytest.param(Policy(negative_ttl={404: 9}), (), 404, 9, id="negative_ttl for its status"),
        pytest.param(Policy(negative_ttl={404: 9}), (), 410, None, id="negative_ttl for no other"),
        pytest.param(Policy(negative_ttl={503: 9}), (), 503, 9, id="negative_ttl for a server error too"),
        pytest.param(Policy(negative_ttl={404: 9}), ("Cache-Control: max-age=5",), 404, 5, id="not where it is stated"),
        pytest.param(
            Policy(negative_ttl={404: 9}, override_ttl=30), (), 404, 9, id="override_ttl speaks of answers only"
        ),
        pytest.param(
            Policy(negative_ttl={404: 9}), (f"Last-Modified: {date(-1000)}",), 404, 9, id="negative_ttl before a guess"
        ),
    ],
)
def test_what_the_operator_grants(policy: Policy, fields: tuple[str, ...], status: int, lifetime: float | None) -> None:
    life = judged(*fields, status=status, policy=policy)
    assert (life and life.lifetime) == lifetime
    own = lifetime in {30, 9}
    assert life is None or (life.source is Source.UPSTREAM) is not own


@pytest.mark.parametrize(
    ("policy", "fields", "status"),
    [
        pytest.param(Policy(override_ttl=100), ("Cache-Control: max-age=5",), 200, id="an override"),
        pytest.param(Policy(default_ttl=100), (), 200, id="a default"),
        pytest.param(Policy(negative_ttl={404: 100}), (), 404, id="a negative TTL"),
    ],
)
@pytest.mark.parametrize(
    ("jitter", "roll", "lifetime"), [(0.1, 0.0, 100), (0.1, 0.5, 95), (0.2, 1.0, 80), (0, 1.0, 100)]
)
def test_jitter_shortens(
    policy: Policy, fields: tuple[str, ...], status: int, jitter: float, roll: float, lifetime: float
) -> None:
    life = judged(*fields, status=status, policy=replace(policy, jitter=jitter), roll=roll)
    assert life is not None
    assert life.lifetime == pytest.approx(lifetime)


@pytest.mark.parametrize("fields", [("Cache-Control: max-age=100",), (f"Last-Modified: {date(-1000)}",)])
def test_jitter_leaves_what_is_not_the_operators(fields: tuple[str, ...]) -> None:
    life = judged(*fields, policy=Policy(jitter=0.5), roll=1.0)
    assert life is not None
    assert life.lifetime == 100


WINDOWS = Policy(stale_while_revalidate=7, stale_if_error=8)


@pytest.mark.parametrize(
    ("fields", "while_revalidate", "if_error"),
    [
        pytest.param("max-age=5", 7, 8, id="the operator's windows are the default"),
        pytest.param("max-age=5, stale-while-revalidate=1", 1, 8, id="the response's own wins (RFC 5861 3)"),
        pytest.param("max-age=5, stale-if-error=2", 7, 2, id="each for itself (RFC 5861 4)"),
        pytest.param("max-age=5, stale-while-revalidate=0, stale-if-error=0", 0, 0, id="also where it is nothing"),
        pytest.param("max-age=5, stale-while-revalidate, stale-if-error=x", 0, 0, id="an unreadable one is nothing"),
        pytest.param("max-age=5, must-revalidate", 0, 0, id="must-revalidate forbids (RFC 9111 5.2.2.2)"),
        pytest.param("max-age=5, proxy-revalidate", 0, 0, id="proxy-revalidate forbids (RFC 9111 5.2.2.8)"),
        pytest.param("s-maxage=5", 0, 0, id="s-maxage forbids (RFC 9111 5.2.2.10)"),
        pytest.param("no-cache, max-age=5", 0, 0, id="no-cache forbids (RFC 9111 5.2.2.4)"),
        pytest.param(
            "max-age=5, must-revalidate, stale-while-revalidate=9, stale-if-error=9",
            0,
            0,
            id="also what it grants (4.2.4)",
        ),
    ],
)
def test_stale_windows(fields: str, while_revalidate: float, if_error: float) -> None:
    life = judged(f"Cache-Control: {fields}", policy=WINDOWS)
    assert life is not None
    assert (life.stale_while_revalidate, life.stale_if_error) == (while_revalidate, if_error)
    assert life.never_stale is any(name in fields for name in ("must-revalidate", "proxy", "s-maxage", "no-cache"))


@pytest.mark.parametrize(
    ("granted", "cache_control", "if_error", "if_lost"),
    [
        pytest.param(None, "max-age=5", 0, 600, id="nobody said: only one that is out of reach (RFC 9111 4.2.4)"),
        pytest.param(8, "max-age=5", 8, 8, id="the operator said"),
        pytest.param(0, "max-age=5", 0, 0, id="the operator said no"),
        pytest.param(None, "max-age=5, stale-if-error=3", 3, 3, id="the response said (RFC 5861 4)"),
        pytest.param(None, "max-age=5, stale-if-error=0", 0, 0, id="the response said no (RFC 5861 4)"),
        pytest.param(None, "max-age=5, stale-if-error=900", 900, 900, id="the response may say more"),
        pytest.param(None, "max-age=5, must-revalidate", 0, 0, id="must-revalidate (RFC 9111 5.2.2.2)"),
    ],
)
def test_how_long_an_upstream_out_of_reach_is_bridged(
    granted: float | None, cache_control: str, if_error: float, if_lost: float
) -> None:
    life = judged(f"Cache-Control: {cache_control}", policy=Policy(stale_if_error=granted))
    assert life is not None
    assert (life.stale_if_error, life.stale_if_lost) == (if_error, if_lost)


@pytest.mark.parametrize("binding", BINDING)
@pytest.mark.parametrize("policy", [replace(WINDOWS, override_ttl=30.0), replace(WINDOWS, default_ttl=30.0)])
def test_an_operators_ttl_does_not_lift_what_forbids_staleness(binding: str, policy: Policy) -> None:
    life = judged(f"Cache-Control: {binding}", policy=policy)
    assert life is not None
    assert life.never_stale
    assert life.stale_while_revalidate == life.stale_if_error == life.stale_if_lost == 0


@pytest.mark.parametrize(
    ("policy", "fields", "always"),
    [
        pytest.param(PLAIN, "no-cache, max-age=60", True, id="no-cache is validated every time (RFC 9111 5.2.2.4)"),
        pytest.param(PLAIN, 'no-cache="x", max-age=60', True, id="also where it names fields (RFC 9111 5.2.2.4)"),
        pytest.param(
            PLAIN, "max-age=60, must-revalidate", False, id="must-revalidate only when stale (RFC 9111 5.2.2.2)"
        ),
        pytest.param(Policy(default_ttl=5), "no-cache", True, id="default_ttl does not lift no-cache"),
        pytest.param(Policy(override_ttl=5), "no-cache", False, id="override_ttl stands in the place of no-cache"),
    ],
)
def test_what_must_always_be_validated(policy: Policy, fields: str, always: bool) -> None:
    life = judged(f"Cache-Control: {fields}", policy=policy)
    assert life is not None
    assert life.always_validate is always


@brief
@given(cases())
def test_lifetimes_and_windows_are_never_negative(case: Case) -> None:
    given_, aimed = response_directives(case.got.head.fields)
    life = freshness(case.got.head, given_, case.policy, aimed=aimed, wall=WALL, roll=case.got.roll)
    if life is not None:
        assert min(life.lifetime, life.stale_while_revalidate, life.stale_if_error) >= 0
        assert life.stale_if_lost >= life.stale_if_error
        assert not life.never_stale or life.stale_while_revalidate == life.stale_if_lost == 0


LIVELY = entry("Cache-Control: max-age=60, stale-while-revalidate=10, stale-if-error=20")
LIVELY = replace(LIVELY, terms=replace(LIVELY.terms, lost_window=30.0))


@pytest.mark.parametrize(
    ("at", "fresh", "stale", "error", "lost"),
    [
        pytest.param(15.0, 15.0, 25.0, 35.0, 45.0, id="while fresh it ends there, its windows move up"),
        pytest.param(60.0, 60.0, 70.0, 80.0, 90.0, id="at the end of its freshness nothing moves"),
        pytest.param(65.0, 60.0, 70.0, 80.0, 90.0, id="once stale nothing moves"),
    ],
)
def test_softening(at: float, fresh: float, stale: float, error: float, lost: float) -> None:
    soft = soften(LIVELY, NOW + at)
    assert soft == replace(LIVELY, fresh_until=NOW + fresh)
    assert (soft.stale_until, soft.error_until, soft.lost_until) == (NOW + stale, NOW + error, NOW + lost)


@brief
@given(admitted(), st.floats(0, 1000))
def test_softening_never_lengthens_anything(pair: tuple[Entry, Policy], after: float) -> None:
    before, at = pair[0], NOW + after
    soft = soften(before, at)
    assert soft.fresh_until <= max(at, NOW)
    for name in ("fresh_until", "stale_until", "error_until", "lost_until"):
        assert getattr(soft, name) <= getattr(before, name)
    for name in ("stale_until", "error_until", "lost_until"):
        window = getattr(before, name) - before.fresh_until
        assert getattr(soft, name) - soft.fresh_until == pytest.approx(window)
    assert soften(soft, at + 1) == soft


def test_distrust_leaves_a_source_of_validators_and_nothing_more() -> None:
    doubted = distrust(LIVELY)
    assert doubted.terms.always_validate
    assert doubted.terms.never_stale
    assert doubted.fresh_until == doubted.stale_until == doubted.error_until == doubted.lost_until == NOW
    assert (doubted.head, doubted.body) == (LIVELY.head, LIVELY.body)


@pytest.mark.parametrize("change", [distrust, lambda entry: soften(entry, NOW + 1)], ids=["distrust", "soften"])
def test_what_is_made_stale_shares_every_byte_with_what_it_was(change: Callable[[Entry], Entry]) -> None:
    changed = change(LIVELY)
    assert changed.lead is LIVELY.lead
    assert changed.rest is LIVELY.rest
    assert (changed.key, changed.stored_at, changed.born, changed.seq) == ("http://example.com/a", NOW, NOW, LIVELY.seq)
    assert (changed.vary, changed.tags) == (LIVELY.vary, LIVELY.tags)


def test_what_is_distrusted_shares_its_terms_with_its_like() -> None:
    other = replace(LIVELY, key="http://example.com/b")
    assert distrust(LIVELY).terms is distrust(other).terms
    assert distrust(distrust(LIVELY)) == distrust(LIVELY)
