"""What goes back to the client for one request."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.admit import INLINE, complete
from proxy.rules.message import Entry, Headers, Request
from proxy.rules.ranges import Span
from proxy.rules.respond import (
    COPIED,
    END,
    Reply,
    age_line,
    from_arrival,
    from_entry,
    only_condition,
    takes_whole,
    unmodified,
)
from proxy.rules.wire import field_lines
from tests.rules.build import BODY, NOW, PLAIN, WALL, brief, date, entry, fetched, head, lines, reading, request, stored

ACCOUNT: Final = lines("Cache-Status: readthrough; hit; ttl=9")
STAMP: Final = f"Last-Modified: {date(-900)}"
GIVEN: Final = (
    *("Cache-Control: max-age=60", 'ETag: "a"', STAMP, f"Date: {date()}"),
    *("Content-Type: text/plain", "X-Case: KEPT"),
)
WHOLE: Final = head(*GIVEN, "Age: 5")
STORED: Final = stored(fetched(WHOLE))
SAYS: Final = lines(*GIVEN, "Via: 1.1 readthrough")


def without(headers: Headers, *names: str) -> Headers:
    return tuple(field for field in headers if field[0].lower() not in names)


def sent(reply: Reply) -> bytes:
    """The body that goes out with an answer; its head is ended on the way."""
    between, end, inline = reply.tail.partition(b"\r\n")
    while between:  # fields behind the account
        between, end, inline = inline.partition(b"\r\n")
    assert end
    assert reply.sent == len(inline)
    assert not (inline and reply.pieces)
    return inline + b"".join(reply.pieces)


def fields_of(reply: Reply) -> tuple[str, Headers]:
    """Status line and fields of an answer."""
    assert reply.head.endswith(b"\r\n"), "the connection's own fields go here"
    return reading((reply.head + reply.tail).partition(b"\r\n\r\n")[0])


def served(*fields: str, found: Entry = STORED, method: str = "GET", after: float = 0.0) -> Reply:
    return from_entry(request(*fields, method=method), found, age_line(found, NOW + after) + field_lines(ACCOUNT))


def test_a_stored_whole_is_sent_as_it_came_with_age_and_account() -> None:
    """RFC 9111 section 4."""
    reply = served(after=7.9)
    start, headers = fields_of(reply)
    assert start == "HTTP/1.1 200 OK"
    assert headers == (*lines("Age: 12"), *ACCOUNT, *SAYS, *lines("Content-Length: 12"))
    assert (reply.status, reply.length, sent(reply), reply.span) == (200, len(BODY), BODY, None)


@pytest.mark.parametrize(
    ("after", "age"),
    [
        pytest.param(0, "5", id="age at storing counts (RFC 9111 4.2.3)"),
        pytest.param(1.99, "6", id="age is whole seconds, cut off (RFC 9111 5.1)"),
        pytest.param(500, "505", id="also when it is stale"),
        pytest.param(-99, "0", id="age is never negative (RFC 9111 5.1)"),
    ],
)
@pytest.mark.parametrize("asked", [(), ("Range: bytes=0-1",), ('If-None-Match: "a"',)])
def test_age(after: float, age: str, asked: tuple[str, ...]) -> None:
    _, headers = reading(served(*asked, after=after).head)
    assert [value for name, value in headers if name == "Age"] == [age]


def test_a_head_gets_the_head_of_a_get() -> None:
    """RFC 9110 section 9.3.2."""
    reply = served(method="HEAD")
    whole = served()
    assert reply == whole._replace(tail=whole.tail.removesuffix(BODY), sent=0)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(('If-None-Match: "a"',), id="the tag matches (RFC 9110 13.1.2)"),
        pytest.param((f"If-Modified-Since: {date(-900)}",), id="the date matches (RFC 9110 13.1.3)"),
        pytest.param(('If-None-Match: "a"', "Range: bytes=0-1"), id="it comes before a range (RFC 9110 13.2.2)"),
    ],
)
def test_a_condition_that_holds_is_answered_without_a_body(asked: tuple[str, ...], method: str) -> None:
    """RFC 9110 section 15.4.5."""
    reply = served(*asked, method=method)
    start, headers = fields_of(reply)
    assert (reply.status, start, reply.length, sent(reply)) == (304, "HTTP/1.1 304 Not Modified", 0, b"")
    assert headers == (*without(SAYS, "content-type"), *lines("Age: 5"), *ACCOUNT)


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        *((name, True) for name in ("Cache-Control", "Content-Location", "ETag", "Expires", "Vary")),
        *((name, False) for name in ("Content-Type", "Content-Encoding", "Content-Language", "Content-Length")),
    ],
)
def test_which_fields_a_304_has(name: str, sent: bool) -> None:
    """RFC 9110 section 15.4.5."""
    found = entry("Cache-Control: max-age=60", STAMP, f"{name}: 1")
    _, headers = reading(served(f"If-Modified-Since: {date()}", found=found).head)
    assert any(field == (name, "1") for field in headers) is sent


def test_a_range_is_cut_from_the_whole() -> None:
    """RFC 9110 section 15.3.7."""
    reply = served("Range: bytes=7-8")
    start, headers = fields_of(reply)
    assert start == "HTTP/1.1 206 Partial Content"
    assert headers == (*SAYS, *lines("Content-Range: bytes 7-8/12", "Content-Length: 2", "Age: 5"), *ACCOUNT)
    assert (reply.status, reply.length, sent(reply)) == (206, 2, b"wo")


def test_a_part_of_what_came_with_its_length_has_its_own_length_and_all_else() -> None:
    found = entry("Content-Length: 12", "Cache-Control: max-age=60", f"Date: {date()}")
    _, headers = reading(served("Range: bytes=7-8", found=found).head)
    kept = lines("Cache-Control: max-age=60", f"Date: {date()}", "Via: 1.1 readthrough")
    assert headers == (*kept, *lines("Content-Range: bytes 7-8/12", "Content-Length: 2", "Age: 0"), *ACCOUNT)


def test_a_range_behind_the_end_is_refused_with_the_length() -> None:
    """RFC 9110 section 15.5.17."""
    reply = served("Range: bytes=12-")
    start, headers = fields_of(reply)
    assert start == "HTTP/1.1 416 Range Not Satisfiable"
    assert headers == (*SAYS, *lines("Content-Range: bytes */12", "Content-Length: 0", "Age: 5"), *ACCOUNT)
    assert (reply.status, reply.length, sent(reply)) == (416, 0, b"")


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        pytest.param(("Range: bytes=0-1",), "HEAD", id="a range is for GET alone (RFC 9110 14.2)"),
        pytest.param(("Range: bytes=0-1", 'If-Range: "b"'), "GET", id="If-Range that does not hold (RFC 9110 13.1.5)"),
        pytest.param(("Range: bytes=0-1,3-4",), "GET", id="several ranges (RFC 9110 14.2)"),
        pytest.param(('If-None-Match: "b"',), "GET", id="If-None-Match that does not hold (RFC 9110 13.1.2)"),
        pytest.param((f"If-Modified-Since: {date(-901)}",), "GET", id="If-Modified-Since that does not hold (13.1.3)"),
        pytest.param(('If-Range: "a"',), "GET", id="If-Range without a range (RFC 9110 13.1.5)"),
    ],
)
def test_what_changes_nothing(asked: tuple[str, ...], method: str) -> None:
    assert served(*asked, method=method) == served(method=method)


@pytest.mark.parametrize("status", [203, 404, 301])
@pytest.mark.parametrize("asked", ['If-None-Match: "a"', "Range: bytes=0-1"])
def test_conditions_and_ranges_are_about_a_200(status: int, asked: str) -> None:
    """RFC 9110 sections 13.2.1 and 14.2."""
    found = stored(fetched(head("Cache-Control: max-age=60", 'ETag: "a"', status=status)))
    assert served(asked, found=found) == served(found=found)
    assert served(asked, found=found).status == status


@brief
@given(st.lists(st.binary(min_size=1, max_size=9), max_size=5), st.integers(0, 40), st.none() | st.integers(0, 40))
def test_every_part_fits_what_it_says_of_itself(body: list[bytes], first: int, last: int | None) -> None:
    whole = b"".join(body)
    found = complete(STORED, WHOLE, body, WALL, PLAIN)
    reply = served(f"Range: bytes={first}-{'' if last is None else last}", found=found)
    fields = dict(fields_of(reply)[1])
    part = sent(reply)
    assert int(fields["Content-Length"]) == reply.length == len(part)
    if reply.status == 206:
        end = min(len(whole), len(whole) if last is None else last + 1)
        assert part == whole[first:end]
        assert fields["Content-Range"] == f"bytes {first}-{end - 1}/{len(whole)}"
    elif reply.status == 416:
        assert first >= len(whole)


def test_ours_stands_behind_the_cache_status_of_caches_that_are_farther_away() -> None:
    """RFC 9211 section 2."""
    found = entry("Cache-Control: max-age=60", 'ETag: "a"', "Cache-Status: far", "X: 1", "cache-status: near")
    theirs_then_ours = ["far", "near", "readthrough; hit; ttl=9"]
    for asked in ((), ('If-None-Match: "a"',), ("Range: bytes=0-1",), ("Range: bytes=99-",)):
        _, headers = fields_of(served(*asked, found=found))
        assert [value for name, value in headers if name.lower() == "cache-status"] == theirs_then_ours


LARGE: Final = (b"a" * INLINE, b"b" * INLINE, b"c")
LARGE_ONE: Final = complete(STORED, WHOLE, LARGE, WALL, PLAIN)
TOTAL: Final = 2 * INLINE + 1


@pytest.mark.parametrize(
    ("asked", "method", "status", "inline", "pieces"),
    [
        pytest.param((), "GET", 200, 0, LARGE, id="the whole, in its pieces"),
        pytest.param((), "HEAD", 200, 0, (), id="nothing of it"),
        pytest.param(('If-None-Match: "a"',), "GET", 304, 0, (), id="nothing, where the client has it"),
        pytest.param((f"Range: bytes={TOTAL}-",), "GET", 416, 0, (), id="nothing, behind its end"),
        pytest.param((f"Range: bytes={INLINE - 1}-{INLINE}",), "GET", 206, 2, (), id="a small part, at once"),
        pytest.param((f"Range: bytes=0-{COPIED - 1}",), "GET", 206, COPIED, (), id="the largest of small parts"),
        pytest.param((f"Range: bytes=1-{COPIED + 1}",), "GET", 206, 0, (b"a" * (COPIED + 1),), id="one byte more"),
        pytest.param((f"Range: bytes=1-{INLINE + 1}",), "GET", 206, 0, (LARGE[0][1:], b"bb"), id="a part larger still"),
        pytest.param(("Range: bytes=0-0",), "HEAD", 200, 0, (), id="nothing of a part"),
    ],
)
def test_what_is_sent_of_a_large_body(
    asked: tuple[str, ...], method: str, status: int, inline: int, pieces: tuple[bytes, ...]
) -> None:
    reply = served(*asked, found=LARGE_ONE, method=method)
    fields = dict(fields_of(reply)[1])
    assert (reply.status, reply.sent, reply.pieces) == (status, inline, pieces)
    assert len(sent(reply)) == inline + sum(map(len, pieces))
    whole_or_part = str({200: TOTAL, 206: len(sent(reply)), 416: 0}.get(status))
    assert fields.get("Content-Length", "None") == whole_or_part


@pytest.mark.parametrize(
    ("asked", "whole", "condition"),
    [
        pytest.param(request(), True, None, id="a GET"),
        pytest.param(request("Accept: x", "Cookie: a"), True, None, id="whatever it accepts"),
        pytest.param(request('If-Range: "a"'), True, None, id="If-Range alone asks for nothing"),
        pytest.param(request(method="HEAD"), False, None, id="a HEAD"),
        pytest.param(request("Range: bytes=0-1"), False, None, id="a range"),
        pytest.param(request(f"If-Modified-Since: {date()}"), False, None, id="a date"),
        pytest.param(request('If-None-Match: "a"'), False, '"a"', id="an entity tag"),
        pytest.param(request('If-None-Match: "a"', method="HEAD"), False, '"a"', id="of a HEAD"),
        pytest.param(request('If-None-Match: "a"', "Range: bytes=0-1"), False, None, id="a tag and a range"),
        pytest.param(request('If-None-Match: "a"', f"If-Modified-Since: {date()}"), False, None, id="a tag and a date"),
        pytest.param(request("If-None-Match: " + "x" * 5000), False, None, id="a tag without end"),
    ],
)
def test_what_is_known_of_a_request_before_its_entry_is(asked: Request, whole: bool, condition: str | None) -> None:
    assert (takes_whole(asked), only_condition(asked)) == (whole, condition)


@brief
@given(
    st.lists(st.sampled_from(['"a"', 'W/"a"', '"b"', "*", "a", '""', "x"]), min_size=1, max_size=3).map(", ".join),
    st.sampled_from(["ETag: x", 'ETag: "a"', 'ETag: W/"a"', "ETag: *", "X: 1", "ETag:"]),
    st.sampled_from([200, 203, 404]),
    st.sampled_from(["GET", "HEAD"]),
)
def test_the_short_way_to_a_304_is_taken_where_the_long_one_leads_there_and_to_the_same(
    tags: str, tagged: str, status: int, method: str
) -> None:
    found = stored(
        fetched(head("Cache-Control: max-age=60", tagged, "Content-Type: a", "Cache-Status: b", status=status))
    )
    reply = served(f"If-None-Match: {tags}", found=found, method=method)
    short = unmodified(found.lead, found.rest, found.head_end, tags)
    own = age_line(found, NOW) + field_lines(ACCOUNT)
    assert (short is None) is (reply.status != 304)
    if short is not None:
        assert (short + own, END) == (reply.head, reply.tail)


# -- while it arrives


def arriving(asked: Request, *fields: str, length: int | None = 12, whole: bool = True, status: int = 200) -> Reply:
    response = head('ETag: "a"', "Content-Type: text/plain", *fields, status=status, reason="Fine")
    return from_arrival(asked, response, length, WALL, PLAIN, field_lines(ACCOUNT), whole=whole)


def test_an_arriving_response_is_relayed_with_via_date_and_account() -> None:
    reply = arriving(request(), "Age: 5", "Content-Length: 12")
    start, headers = fields_of(reply)
    assert start == "HTTP/1.1 200 Fine"
    fields = lines('ETag: "a"', "Content-Type: text/plain", "Age: 5", "Content-Length: 12", f"Date: {date()}")
    assert headers == (*fields, *lines("Via: 1.1 readthrough"), *ACCOUNT)
    assert (reply.status, reply.length, reply.tail, reply.span) == (200, 12, END, None)


def test_tags_of_an_arriving_response_stay_here() -> None:
    assert b"Surrogate-Key" not in arriving(request(), "Surrogate-Key: a").head


@pytest.mark.parametrize(
    ("asked", "status", "length", "span"),
    [
        pytest.param(request('If-None-Match: "a"'), 304, 0, None, id="a condition that holds (RFC 9110 15.4.5)"),
        pytest.param(
            request(f"If-Modified-Since: {date()}"), 304, 0, None, id="by date: when it came, for want of others"
        ),
        pytest.param(request("Range: bytes=2-3"), 206, 2, Span(2, 3, 12), id="a range (RFC 9110 15.3.7)"),
        pytest.param(request("Range: bytes=12-"), 416, 0, None, id="a range behind the end (RFC 9110 15.5.17)"),
        pytest.param(request("Range: bytes=2-3", method="HEAD"), 200, 12, None, id="a range of a HEAD (RFC 9110 14.2)"),
    ],
)
def test_what_a_client_asked_of_a_whole_is_applied_as_it_arrives(
    asked: Request, status: int, length: int, span: Span | None
) -> None:
    reply = arriving(asked)
    assert (reply.status, reply.length, reply.span, reply.tail) == (status, length, span, END)
    assert fields_of(reply)[0].startswith(f"HTTP/1.1 {status} ")


def test_a_range_of_something_of_unknown_length_is_the_whole() -> None:
    """RFC 9110 section 14.2: a server may ignore Range."""
    assert arriving(request("Range: bytes=2-3"), length=None) == arriving(request(), length=None)


@pytest.mark.parametrize("asked", ['If-None-Match: "a"', "Range: bytes=2-3"])
def test_what_the_upstream_has_judged_or_is_no_200_is_relayed(asked: str) -> None:
    assert arriving(request(asked), whole=False) == arriving(request(), whole=False)
    assert arriving(request(asked), status=404) == arriving(request(), status=404)
    assert arriving(request(asked), status=404).status == 404
