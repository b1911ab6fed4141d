"""What a response says about how it came to be."""

import json
import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.message import Fwd, Reason
from proxy.rules.report import TITLES, Account, XCache, failure_status, problem
from tests.rules.build import brief, lines

MEMBER: Final = re.compile(
    r"readthrough(; hit; ttl=-?\d+|; fwd=[a-z-]+(; fwd-status=\d{3})?(; stored)?(; collapsed)?)?(; detail=[a-z-]+)?"
)


@pytest.mark.parametrize(
    ("account", "status", "word"),
    [
        pytest.param(Account(Reason.HIT, ttl=29), "hit; ttl=29", XCache.HIT, id="a hit (RFC 9211 2.1)"),
        pytest.param(Account(Reason.HIT, ttl=0), "hit; ttl=0", XCache.HIT, id="a hit in its last second"),
        pytest.param(
            Account(Reason.STALE_WHILE_REVALIDATE, ttl=-3), "hit; ttl=-3", XCache.STALE, id="a stale hit (RFC 9211 2.5)"
        ),
        pytest.param(
            Account(Reason.MAX_STALE, ttl=-3),
            "hit; ttl=-3; detail=max-stale",
            XCache.STALE,
            id="stale, as was asked for",
        ),
        pytest.param(
            Account(Reason.ABSENT, None, Fwd.URI_MISS, 200, stored=True),
            "fwd=uri-miss; fwd-status=200; stored",
            XCache.MISS,
            id="a miss (RFC 9211 2.2 to 2.6)",
        ),
        pytest.param(
            Account(Reason.ABSENT, None, Fwd.URI_MISS, 200, stored=True, collapsed=True),
            "fwd=uri-miss; fwd-status=200; stored; collapsed",
            XCache.MISS,
            id="a follower (RFC 9211 2.7)",
        ),
        pytest.param(
            Account(Reason.VARIANT, None, Fwd.VARY_MISS, 200),
            "fwd=vary-miss; fwd-status=200",
            XCache.MISS,
            id="a variant",
        ),
        pytest.param(
            Account(Reason.EXPIRED, None, Fwd.STALE, 304),
            "fwd=stale; fwd-status=304",
            XCache.REVALIDATED,
            id="revalidated",
        ),
        pytest.param(
            Account(Reason.STALE_IF_ERROR, None, Fwd.STALE, 503),
            "fwd=stale; fwd-status=503; detail=stale-if-error",
            XCache.STALE,
            id="stale because the upstream failed",
        ),
        pytest.param(
            Account(Reason.STALE_IF_ERROR, ttl=-3),
            "hit; ttl=-3; detail=stale-if-error",
            XCache.STALE,
            id="stale at once because it failed a moment ago",
        ),
        pytest.param(
            Account(Reason.REQUEST_NO_CACHE, None, Fwd.REQUEST, 200),
            "fwd=request; fwd-status=200; detail=request-no-cache",
            XCache.MISS,
            id="asked for anew",
        ),
        pytest.param(
            Account(Reason.METHOD, None, Fwd.METHOD, 201), "fwd=method; fwd-status=201", XCache.BYPASS, id="a POST"
        ),
        pytest.param(
            Account(Reason.CREDENTIALS, None, Fwd.BYPASS, 200),
            "fwd=bypass; fwd-status=200; detail=credentials",
            XCache.BYPASS,
            id="bypassed, and why",
        ),
        pytest.param(
            Account(Reason.SET_COOKIE, None, Fwd.URI_MISS, 200),
            "fwd=uri-miss; fwd-status=200; detail=set-cookie",
            XCache.MISS,
            id="not stored, and why",
        ),
        pytest.param(
            Account(Reason.CONNECT, fwd=Fwd.URI_MISS),
            "fwd=uri-miss; detail=connect",
            XCache.MISS,
            id="no answer at all",
        ),
    ],
)
def test_how_it_came_to_be(account: Account, status: str, word: XCache) -> None:
    assert account.cache_status() == f"readthrough; {status}"
    assert account.x_cache() is word
    assert account.headers(x_cache=False) == lines(f"Cache-Status: readthrough; {status}")
    assert account.headers(x_cache=True) == lines(f"Cache-Status: readthrough; {status}", f"X-Cache: {word.value}")


def test_a_refusal_of_our_own_is_neither_hit_nor_forwarded() -> None:
    account = Account(Reason.ONLY_IF_CACHED)
    assert account.cache_status() == "readthrough; detail=only-if-cached"
    assert account.x_cache() is not XCache.HIT


def stale(account: Account) -> bool:
    return account.reason is Reason.STALE_IF_ERROR


accounts = st.builds(
    Account,
    reason=st.sampled_from(Reason),
    ttl=st.none() | st.integers(-99, 99),
    fwd=st.none() | st.sampled_from(Fwd),
    fwd_status=st.none() | st.integers(100, 599),
    stored=st.booleans(),
    collapsed=st.booleans(),
)


@brief
@given(accounts)
def test_cache_status_is_well_formed_and_never_says_hit_and_fwd(account: Account) -> None:
    """RFC 9211 section 2."""
    assert MEMBER.fullmatch(account.cache_status())
    if account.ttl is None or account.fwd is None:  # an account never says both
        assert (account.x_cache() is XCache.HIT) is (
            account.ttl is not None and account.ttl >= 0 and not stale(account)
        )


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        pytest.param(Reason.TIMEOUT, 504, id="no answer in time (RFC 9110 15.6.5)"),
        pytest.param(Reason.CONNECT_TIMEOUT, 504, id="no connection in time (RFC 9110 15.6.5)"),
        pytest.param(Reason.BREAKER_OPEN, 503, id="left alone for a moment (RFC 9110 15.6.4)"),
        pytest.param(Reason.CONNECT, 502, id="no connection (RFC 9110 15.6.3)"),
        pytest.param(Reason.DISCONNECTED, 502, id="no answer (RFC 9110 15.6.3)"),
        pytest.param(Reason.BAD_RESPONSE, 502, id="no valid answer (RFC 9110 15.6.3)"),
        pytest.param(Reason.ABORTED, 502, id="half an answer (RFC 9110 15.6.3)"),
        pytest.param(Reason.INTERNAL, 502, id="anything else"),
    ],
)
def test_the_status_of_no_answer(reason: Reason, status: int) -> None:
    assert failure_status(reason) == status


@pytest.mark.parametrize("status", [*TITLES, 599])
@pytest.mark.parametrize("detail", ["", "The sender's own `detail`."])
def test_a_problem_is_json_of_the_length_it_says(status: int, detail: str) -> None:
    """RFC 9457 section 3.1."""
    for reason in Reason:
        headers, body = problem(status, reason, detail)
        assert headers == lines("Content-Type: application/problem+json", f"Content-Length: {len(body)}")
        said = json.loads(body)
        assert said.keys() == {"type", "title", "status", "detail"}
        assert said["type"] == f"urn:readthrough:error:{reason.value}"
        assert said["status"] == status
        assert said["title"] == TITLES.get(status, "Error")
        assert said["detail"] == detail or (not detail and said["detail"].endswith("."))


def test_a_problem_that_has_something_to_say_says_it() -> None:
    said = [json.loads(problem(404, reason)[1])["detail"] for reason in (Reason.NO_ROUTE, Reason.HIT)]
    assert said == ["No route matches this host and path.", "Not Found."]


def test_the_words_of_x_cache() -> None:
    assert {word.value for word in XCache} >= {"HIT", "MISS", "STALE", "REVALIDATED", "BYPASS"}
    assert all(word.value == word.name for word in XCache)


@pytest.mark.parametrize("status", [400, 404, 405, 408, 413, 414, 417, 421, 429, 431, 501, 502, 503, 504, 505])
def test_every_error_of_our_own_has_a_title(status: int) -> None:
    assert TITLES[status]
