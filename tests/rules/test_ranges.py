"""Conditions and byte ranges, answered from a stored whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.ranges import Span, Unsatisfiable, asked_span, cut, not_modified, range_applies
from tests.rules.build import brief, date

ETAG = {"etag": '"a"'}
DATED = {"date": date()}


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        pytest.param("bytes=0-3", Span(0, 3, 10), id="from the first byte (RFC 9110 14.1.2)"),
        pytest.param("bytes=9-9", Span(9, 9, 10), id="the last byte alone"),
        pytest.param("bytes=4-", Span(4, 9, 10), id="to the end (RFC 9110 14.1.2)"),
        pytest.param("bytes=4-99", Span(4, 9, 10), id="to the end and farther (RFC 9110 14.1.2)"),
        pytest.param("bytes=-3", Span(7, 9, 10), id="the last bytes (RFC 9110 14.1.2)"),
        pytest.param("bytes=-99", Span(0, 9, 10), id="the last bytes and more (RFC 9110 14.1.2)"),
        pytest.param("Bytes=0-0", Span(0, 0, 10), id="units are case-insensitive (RFC 9110 14.1)"),
        pytest.param("bytes=10-", Unsatisfiable(10), id="behind the end (RFC 9110 15.5.17)"),
        pytest.param("bytes=99-100", Unsatisfiable(10), id="far behind the end (RFC 9110 15.5.17)"),
        pytest.param("bytes=-0", Unsatisfiable(10), id="the last no bytes (RFC 9110 14.1.2)"),
        pytest.param("bytes=3-2", None, id="backwards is malformed (RFC 9110 14.1.2)"),
        pytest.param("bytes=-", None, id="from nowhere to nowhere"),
        pytest.param("bytes=", None, id="nothing"),
        pytest.param("bytes=0-1,3-4", None, id="several may be ignored (RFC 9110 14.2)"),
        pytest.param("bytes=a-b", None, id="words"),
        pytest.param("bytes=0-1x", None, id="something behind"),
        pytest.param("lines=0-1", None, id="another unit (RFC 9110 14.2)"),
        pytest.param("bytes 0-1", None, id="no equals sign"),
        pytest.param(f"bytes={'9' * 18}-", Unsatisfiable(10), id="as many digits as are read, far behind the end"),
        pytest.param(f"bytes=0-{'9' * 18}", Span(0, 9, 10), id="as many digits as are read, to the end"),
        pytest.param(f"bytes=0-{'9' * 19}", None, id="one more"),
        pytest.param(f"bytes={'9' * 19}-", None, id="numbers without end"),
        pytest.param(f"bytes=0-{'9' * 5000}", None, id="more digits than Python converts"),
        pytest.param(f"bytes=-{'9' * 5000}", None, id="also as a suffix"),
    ],
)
def test_ranges(asked: str, span: Span | Unsatisfiable | None) -> None:
    assert asked_span({"range": asked}, {}, 10) == span


def test_no_range_asks_for_all() -> None:
    assert asked_span({}, {}, 10) is None


def test_nothing_has_no_parts() -> None:
    assert asked_span({"range": "bytes=0-"}, {}, 0) == Unsatisfiable(0)


@brief
@given(
    st.text("bytes=-0123456789, ", max_size=20) | st.from_regex(r"bytes=\d{0,3}-\d{0,3}", fullmatch=True),
    st.integers(0, 200),
)
def test_a_span_lies_within_the_whole(asked: str, total: int) -> None:
    span = asked_span({"range": asked}, {}, total)
    if isinstance(span, Span):
        assert 0 <= span.first <= span.last < total == span.total


def test_a_span_says_where_it_lies() -> None:
    """RFC 9110 section 14.4."""
    assert Span(2, 5, 10).content_range == "bytes 2-5/10"


@pytest.mark.parametrize(
    ("condition", "response", "applies"),
    [
        pytest.param(None, {}, True, id="no If-Range is no condition"),
        pytest.param('"a"', ETAG, True, id="the same strong tag (RFC 9110 13.1.5)"),
        pytest.param('"b"', ETAG, False, id="another tag"),
        pytest.param('"a"', {}, False, id="no tag"),
        pytest.param('"a"', {"etag": 'W/"a"'}, False, id="a weak tag of the response (RFC 9110 13.1.5)"),
        pytest.param('W/"a"', {"etag": 'W/"a"'}, False, id="a weak tag in the request (RFC 9110 13.1.5)"),
        pytest.param("a", {"etag": "a"}, False, id="no tag at all"),
        pytest.param(date(-9), {"last-modified": date(-9)}, True, id="the same date (RFC 9110 13.1.5)"),
        pytest.param(date(-8), {"last-modified": date(-9)}, False, id="a later date is not the same (RFC 9110 13.1.5)"),
        pytest.param(date(-9), {}, False, id="no date"),
        pytest.param("x", {"last-modified": "x"}, False, id="dates that are none"),
    ],
)
def test_if_range(condition: str | None, response: dict[str, str], applies: bool) -> None:
    fields = {"range": "bytes=0-1"} | ({} if condition is None else {"if-range": condition})
    assert range_applies(fields, response) is applies
    assert (asked_span(fields, response, 10) is not None) is applies


@pytest.mark.parametrize(
    ("fields", "response", "expected"),
    [
        pytest.param({}, ETAG, False, id="no condition"),
        pytest.param({"if-none-match": '"a"'}, ETAG, True, id="the same tag (RFC 9110 13.1.2)"),
        pytest.param({"if-none-match": '"b"'}, ETAG, False, id="another tag"),
        pytest.param({"if-none-match": '"b", "a"'}, ETAG, True, id="one of several"),
        pytest.param({"if-none-match": '"b","a"'}, ETAG, True, id="without a space"),
        pytest.param({"if-none-match": 'W/"a"'}, ETAG, True, id="compared weakly, weak in the request (13.1.2)"),
        pytest.param({"if-none-match": '"a"'}, {"etag": 'W/"a"'}, True, id="weak in the response (RFC 9110 13.1.2)"),
        pytest.param({"if-none-match": '"A"'}, ETAG, False, id="tags are case-sensitive (RFC 9110 8.8.3)"),
        pytest.param({"if-none-match": '"x, y"'}, {"etag": '"x, y"'}, True, id="a comma in a tag (RFC 9110 8.8.3)"),
        pytest.param({"if-none-match": '"x", "y"'}, {"etag": '", "'}, False, id="what lies between tags is none"),
        pytest.param({"if-none-match": "a"}, {"etag": "a"}, True, id="tags without quotes, as some write them"),
        pytest.param({"if-none-match": "*"}, ETAG, True, id="any tag (RFC 9110 13.1.2)"),
        pytest.param({"if-none-match": '"a"'}, {}, False, id="no tag to compare with"),
        pytest.param(
            {"if-none-match": '"b"', "if-modified-since": date()}, ETAG, False, id="it silences the date (13.1.3)"
        ),
        pytest.param({"if-none-match": "", "if-modified-since": date()}, ETAG, False, id="also when empty (13.1.3)"),
        pytest.param({"if-modified-since": date(-9)}, {"last-modified": date(-9)}, True, id="the same date (13.1.3)"),
        pytest.param({"if-modified-since": date(-8)}, {"last-modified": date(-9)}, True, id="a later one (13.1.3)"),
        pytest.param(
            {"if-modified-since": date(-10)}, {"last-modified": date(-9)}, False, id="an earlier one (13.1.3)"
        ),
        pytest.param(
            {"if-modified-since": "x"}, {"last-modified": date(-9)}, False, id="none that can be read (13.1.3)"
        ),
        pytest.param({"if-modified-since": date()}, DATED, True, id="Date stands in for Last-Modified (9111 4.3.2)"),
        pytest.param({"if-modified-since": date(-1)}, DATED, False, id="and is later (RFC 9111 4.3.2)"),
        pytest.param(
            {"if-modified-since": date()}, {**DATED, "last-modified": "x"}, True, id="also for an unreadable one"
        ),
        pytest.param({"if-modified-since": date()}, {"date": "x"}, False, id="of unknown date nothing is unchanged"),
        pytest.param({"if-modified-since": date()}, {}, False, id="nor of none"),
    ],
)
def test_when_the_clients_copy_will_do(fields: dict[str, str], response: dict[str, str], expected: bool) -> None:
    assert not_modified(fields, response) is expected


def test_any_tag_means_anything_that_is_there() -> None:
    """RFC 9110 section 13.1.2: `*` is about whether there is a representation, not whether it has a tag."""
    assert not_modified({"if-none-match": "*"}, {})


@brief
@given(st.lists(st.binary(max_size=5), max_size=6), st.integers(0, 40), st.integers(0, 40))
def test_a_cut_is_a_slice_however_the_body_is_parted(body: list[bytes], one: int, other: int) -> None:
    whole = b"".join(body)
    first, last = sorted((one, other))
    pieces = cut(tuple(body), Span(first, last, len(whole)))
    assert b"".join(pieces) == whole[first : last + 1]
    assert all(pieces)
