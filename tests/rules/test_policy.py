"""What a policy says of itself: whether it grants freshness, and which policy it is."""

from dataclasses import fields, replace
from typing import Final

import pytest

from proxy.rules.policy import KeyRule, Policy

OTHERWISE: Final = Policy(
    enabled=False,
    default_ttl=1.0,
    override_ttl=1.0,
    jitter=0.2,
    stale_while_revalidate=1.0,
    stale_if_error=1.0,
    early_refresh=1.0,
    negative_ttl={404: 1.0},
    respect_request=False,
    unsafe_invalidates=False,
    store_set_cookie=True,
    share_credentials=True,
    key=KeyRule(headers=("x-tenant",)),
    tags=("a",),
    forward_tags=True,
    max_object_size=1,
)


def test_what_a_route_gets_that_says_nothing() -> None:
    assert Policy() == Policy(
        enabled=True,
        default_ttl=None,
        override_ttl=None,
        jitter=0.1,
        stale_while_revalidate=0,
        stale_if_error=None,
        early_refresh=0,
        negative_ttl={},
        respect_request=True,
        unsafe_invalidates=True,
        store_set_cookie=False,
        share_credentials=False,
        key=KeyRule((), ()),
        tags=(),
        forward_tags=False,
        max_object_size=8 * 1024 * 1024,
    )


def test_how_much_is_stored_changes_nothing_of_what_is_stored() -> None:
    """Where nothing is said it depends on the memory, which is each instance's own."""
    assert Policy(max_object_size=1).fingerprint() == Policy().fingerprint()


@pytest.mark.parametrize("name", [field.name for field in fields(Policy) if field.name != "max_object_size"])
def test_a_policy_that_differs_in_anything_else_has_another_fingerprint(name: str) -> None:
    changed = Policy(**{name: getattr(OTHERWISE, name)})
    assert getattr(changed, name) != getattr(Policy(), name)
    assert changed.fingerprint() != Policy().fingerprint()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(
            KeyRule(headers=("a",)), KeyRule(ignore_query=("a",)), id="a keyed header is no ignored parameter"
        ),
        pytest.param(KeyRule(headers=("a", "b")), KeyRule(headers=("a, b",)), id="two headers are not one"),
    ],
)
def test_key_rules_are_told_apart(one: KeyRule, other: KeyRule) -> None:
    assert Policy(key=one).fingerprint() != Policy(key=other).fingerprint()


def test_negative_ttls_are_told_apart_by_status_and_seconds() -> None:
    prints = {Policy(negative_ttl=ttl).fingerprint() for ttl in ({404: 1.0}, {404: 2.0}, {410: 1.0})}
    assert len(prints) == 3


def test_equal_policies_have_one_fingerprint_however_they_were_written() -> None:
    one, other = Policy(negative_ttl={404: 5.0, 410: 6.0}), Policy(negative_ttl={410: 6.0, 404: 5.0})
    assert one.fingerprint() == other.fingerprint() == replace(one, enabled=True).fingerprint()


@pytest.mark.parametrize(
    ("policy", "grants"),
    [
        pytest.param(Policy(), False, id="headers alone decide by default"),
        pytest.param(Policy(default_ttl=0.0), True, id="a default TTL of nothing is still the operator's word"),
        pytest.param(Policy(override_ttl=1.0), True, id="an override is the operator's word"),
        pytest.param(Policy(negative_ttl={404: 1.0}), False, id="a negative TTL is not of good answers"),
        pytest.param(
            Policy(stale_if_error=60.0, stale_while_revalidate=60.0), False, id="stale windows are not freshness"
        ),
    ],
)
def test_who_grants_freshness(policy: Policy, grants: bool) -> None:
    assert policy.operator_freshness is grants
