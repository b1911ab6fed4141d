"""The vocabulary: folded fields, and names that can stand in a header."""

import re
from collections.abc import Iterable
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.message import Fwd, Reason, fold
from tests.rules.build import brief, request

names = st.sampled_from(["A", "a", "B", "Set-Cookie", "set-cookie"])


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        pytest.param([], {}, id="no fields are no fields"),
        pytest.param([("ETag", '"A"')], {"etag": '"A"'}, id="a name is lowered and its value left (RFC 9110 5.1)"),
        pytest.param([("A", "1"), ("B", "2"), ("a", "3")], {"a": "1, 3", "b": "2"}, id="lines combine (RFC 9110 5.3)"),
        pytest.param([("A", ""), ("A", "")], {"a": ", "}, id="an empty line counts as a line (RFC 9110 5.3)"),
    ],
)
def test_fields_are_folded(headers: list[tuple[str, str]], fields: dict[str, str]) -> None:
    assert fold(headers) == fields


@brief
@given(st.lists(st.tuples(names, st.text("xyz", max_size=3))))
def test_folding_keeps_every_value_in_order(headers: list[tuple[str, str]]) -> None:
    expected = {
        name: ", ".join(value for spelled, value in headers if spelled.lower() == name)
        for name in {spelled.lower() for spelled, _ in headers}
    }
    assert fold(headers) == expected


@pytest.mark.parametrize(
    ("target", "path"),
    [
        pytest.param("/a/b", "/a/b", id="a target without a query is its path"),
        pytest.param("/a?b=c?d", "/a", id="the path ends at the first question mark (RFC 3986 3.3)"),
        pytest.param("/a?", "/a", id="an empty query is no part of the path"),
    ],
)
def test_a_path_is_the_target_without_its_query(target: str, path: str) -> None:
    assert request(target=target).path == path


@pytest.mark.parametrize("words", [Fwd, Reason])
def test_every_word_can_stand_as_a_token_and_means_one_thing(words: Iterable[Enum]) -> None:
    values = [word.value for word in words]
    assert len(values) == len(set(values))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", value) for value in values)


def test_every_reason_is_called_by_its_word() -> None:
    assert all(reason.value == reason.name.lower().replace("_", "-") for reason in Reason)


def test_the_reasons_to_go_forward_are_those_of_rfc_9211() -> None:
    registered = {"bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"}
    assert {fwd.value for fwd in Fwd} <= registered
