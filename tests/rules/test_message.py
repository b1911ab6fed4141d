"""The vocabulary: folded fields, and names that can stand in a header."""

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.admit import INLINE, complete
from proxy.rules.message import Entry, Fwd, Head, Headers, Reason, Terms, fold, read_head, shared
from proxy.rules.policy import Policy
from tests.documents import listed
from tests.rules.build import BODY, PLAIN, WALL, bare, brief, date, head, lines, request

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


@pytest.mark.parametrize(("section", "words"), [("Reasons", Reason), ("What fwd says", Fwd)])
def test_every_word_is_explained_once_and_no_other(section: str, words: Iterable[Enum]) -> None:
    assert sorted(listed("reasons.md", section)) == sorted(word.value for word in words)


def test_the_reasons_to_go_forward_are_those_of_rfc_9211() -> None:
    registered = {"bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"}
    assert {fwd.value for fwd in Fwd} <= registered


# -- entries: bytes that are ready to send, and what can be read off them

OURS: Final = lines(f"Date: {date()}", "Via: 1.1 readthrough")
LARGE: Final = (b"a" * INLINE, b"b")


def admitted(response: Head, body: Sequence[bytes] = (BODY,), policy: Policy = PLAIN) -> Entry:
    return complete(bare(), response, body, WALL, policy)


def given_out(response: Head, length: int) -> Headers:
    """What of an upstream's fields a hit has, and what is added to them at admission."""
    kept = tuple(field for field in response.headers if field[0].lower() not in ("age", "surrogate-key", "cache-tag"))
    dated = (*kept, *(OURS[1:] if "date" in response.fields else OURS))
    measured = "content-length" in response.fields or response.status == 204
    return dated if measured else (*dated, ("Content-Length", str(length)))


@pytest.mark.parametrize(
    ("response", "body"),
    [
        pytest.param(head("X: 1"), (BODY,), id="an answer"),
        pytest.param(head("X: 1"), (b"hello, ", b"world"), id="in pieces"),
        pytest.param(head("X: 1"), LARGE, id="and a large one"),
        pytest.param(head("X: 1"), (), id="without a body"),
        pytest.param(head(), (BODY,), id="without fields"),
        pytest.param(head("X: 1", reason=""), (BODY,), id="without a reason phrase"),
        pytest.param(head("X: 1", reason="It: is  fine "), (BODY,), id="with blanks in its reason phrase"),
        pytest.param(head("X: 1", reason="\xe9\xff"), (BODY,), id="in latin-1"),
        pytest.param(head("X:", "Y:", "X:"), (BODY,), id="with empty values"),
        pytest.param(head("X: a: b", "Y: : ", "Z: :c"), (BODY,), id="with colons in its values"),
        pytest.param(head("X: \xe9\x80\xff", "Y: a\x85b"), (BODY,), id="with latin-1 in its values"),
        pytest.param(head("Cache-Status: a; hit"), (BODY,), id="of another cache"),
        pytest.param(head("Cache-Status: a", "X: 1", "cache-status: b", "Y: 2"), (BODY,), id="of two other caches"),
        pytest.param(head("X: 1", "Age: 4", "age: 5"), (BODY,), id="of age"),
        pytest.param(head("Date: x", "Via: 1.0 far", "Content-Length: 12"), (BODY,), id="that lacks nothing"),
        pytest.param(head("X: 1"), (b"\r\n\r\nX: 2\r\n\r\n",), id="whose body looks like the end of a head"),
        pytest.param(head(), (b"\r\n",), id="whose body is an empty line"),
        pytest.param(head("X: 1", status=204, reason="No Content"), (), id="204"),
        pytest.param(head("X: 1", "Location: /b", status=301), (b"",), id="of another status"),
        pytest.param(head("Surrogate-Key: a", "X: 1", "cache-tag: b"), (BODY,), id="with tags, but for those"),
    ],
)
def test_an_entry_reads_back_as_what_was_admitted(response: Head, body: tuple[bytes, ...]) -> None:
    kept, whole = admitted(response, body), b"".join(body)
    headers = given_out(response, len(whole))
    assert kept.head == Head(response.status, response.reason, headers, fold(headers))
    assert (b"".join(kept.body), kept.length) == (whole, len(whole))


CHARACTERS: Final = st.characters(
    codec="latin-1", categories=("L", "N", "P", "S", "Zs"), include_characters=" \t\x80\x85"
)
TEXTS: Final = st.text(CHARACTERS, max_size=12).map(lambda text: text.strip(" \t"))
NAMES: Final = st.sampled_from(
    ["X", "Y-z", "Cache-Status", "cache-status", "Age", "Via", "Date", "ETag", "Surrogate-Key"]
)
BODIES: Final = st.lists(st.sampled_from([b"", b"\r\n", b"\r\n\r\n", b"x", b"HTTP/1.1 200 OK\r\n"]), max_size=4)


@brief
@given(st.lists(st.tuples(NAMES, TEXTS), max_size=6), TEXTS, st.sampled_from([200, 204, 404]), BODIES)
def test_whatever_is_admitted_is_sent_as_it_was_and_can_be_taken_apart_again(
    headers: list[tuple[str, str]], reason: str, status: int, body: list[bytes]
) -> None:
    response, whole = Head(status, reason, tuple(headers), fold(headers)), b"".join(body)
    kept = admitted(response, body)
    out = given_out(response, len(whole))
    assert (kept.head.status, kept.head.reason, kept.head.headers, kept.head.fields) == (status, reason, out, fold(out))
    assert (kept.body, kept.length) == ((whole,), len(whole))
    told = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} {reason}", *(f"{n}: {v}" for n, v in out), ""))
    assert kept.lead + kept.rest == told.encode("latin-1") + whole


@pytest.mark.parametrize(
    ("fields", "above"),
    [
        pytest.param(("X: 1",), 0, id="there is none"),
        pytest.param(("X: 1", "Cache-Status: a", "Y: 2"), 2, id="one, with what stands above it"),
        pytest.param(("cache-status: a", "X: 1", "CACHE-STATUS: b", "Y: 2"), 3, id="the last of several"),
    ],
)
def test_ours_goes_below_the_cache_status_of_caches_that_are_farther_away(fields: tuple[str, ...], above: int) -> None:
    """RFC 9211 section 2: the list is in the order of the caches, ours last."""
    kept = admitted(head(*fields))
    assert kept.lead.decode().splitlines() == ["HTTP/1.1 200 OK", *fields[:above]]
    assert kept.rest.decode().splitlines()[: len(fields) - above] == [*fields[above:]]


def test_a_large_body_stays_in_the_pieces_it_came_in() -> None:
    small, large = admitted(head(), (LARGE[0],)), admitted(head(), LARGE)
    assert (small.pieces, large.pieces) == ((), LARGE)
    assert large.pieces[0] is LARGE[0]
    assert len(large.rest) == large.head_end


def test_equal_beginnings_are_held_once() -> None:
    assert admitted(head("X: 1")).lead is admitted(head("X: 2")).lead


@pytest.mark.parametrize(
    ("policy", "aside"),
    [
        pytest.param(PLAIN, lines("Surrogate-Key: a b", "cache-tag: c"), id="but are not lost"),
        pytest.param(Policy(forward_tags=True), (), id="unless they are sent"),
    ],
)
def test_tags_are_kept_from_clients(policy: Policy, aside: Headers) -> None:
    kept = admitted(head("Surrogate-Key: a b", "X: 1", "cache-tag: c"), policy=policy)
    assert kept.terms.aside == aside
    assert ("surrogate-key" in kept.head.fields) is (not aside)


@pytest.mark.parametrize("length", [10, 300])
def test_only_short_terms_are_held_for_others(length: int) -> None:
    """Long ones hold what one client or one answer brought, and must go with it."""

    def made() -> Terms:
        vary = (("x", "v" * length),)
        return Terms(vary, (), (), "policy", 0.0, 0.0, 0.0, False, False, False, True, 0.1)

    assert (shared(made()) is shared(made())) is (length == 10)
    assert shared(made()) == made()


def test_long_heads_are_taken_apart_each_time() -> None:
    heads = [b"HTTP/1.1 200 OK\r\nX: " + b"v" * length + b"\r\n\r\n" for length in (10, 3000)]
    assert [read_head(head) is read_head(head) for head in heads] == [True, False]
    assert [len(read_head(head).fields["x"]) for head in heads] == [10, 3000]
