"""Reading header values: what is meant, and that nonsense never makes a response fresher."""

import re
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules import fields
from proxy.rules.fields import (
    MAX_DELTA,
    age_of,
    directives,
    format_date,
    http_date,
    members,
    response_directives,
    response_tags,
    seconds,
    selecting,
    selects,
    targeted,
    vary_names,
)
from tests.rules.build import brief, slowness

tokens = st.from_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,9}", fullmatch=True)
latin = st.text(st.characters(max_codepoint=0xFF))
noise = st.text("""abc-=",\\ \t;*()@0123456789""", max_size=60)
moments = st.integers(0, 253_402_300_799)  # to the end of the year 9999


@pytest.mark.parametrize(
    ("value", "found"),
    [
        pytest.param(None, {}, id="no field has no directives"),
        pytest.param("", {}, id="an empty field has none"),
        pytest.param("max-age=1, no-store", {"max-age": "1", "no-store": None}, id="arguments are optional (5.2)"),
        pytest.param("No-Store,MAX-AGE=1", {"no-store": None, "max-age": "1"}, id="names are case-insensitive (5.2)"),
        pytest.param('max-age="1"', {"max-age": "1"}, id="a quoted argument is the argument (5.2)"),
        pytest.param('a="\\"", no-store', {"a": '\\"', "no-store": None}, id="an escaped quote ends nothing"),
        pytest.param("a=", {"a": ""}, id="an empty argument is not a missing one"),
        pytest.param("max-age=1, max-age=2", {"max-age": "1"}, id="the first of two counts (4.2.1)"),
        pytest.param("max-age=1, max-age", {"max-age": "1"}, id="also where the second has no argument (4.2.1)"),
        pytest.param(
            'private="a, no-store", b', {"private": "a, no-store", "b": None}, id="a quoted comma parts nothing"
        ),
        pytest.param(", ,no-cache ,, ", {"no-cache": None}, id="empty members are no members (RFC 9110 5.6.1)"),
        pytest.param("no store, no-cache", {"no-cache": None}, id="two words are no directive"),
        pytest.param(
            '@"x,no-store,y", no-cache', {"no-cache": None}, id="what is no directive is passed over, quotes and all"
        ),
        pytest.param("max-age =1, b", {"b": None}, id="space before the equals sign makes it none"),
        pytest.param("max-age= 1, b", {"b": None}, id="space behind the equals sign makes it none"),
        pytest.param("max-age=1;x, b", {"max-age": "1;x", "b": None}, id="a semicolon is part of the argument"),
    ],
)
def test_cache_control(value: str | None, found: dict[str, str | None]) -> None:
    assert directives(value) == found


@brief
@given(latin | noise)
def test_any_text_gives_lower_case_tokens(value: str) -> None:
    found = directives(value)
    assert all(re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9a-z]+", name) for name in found)


@brief
@given(st.dictionaries(tokens.map(str.lower), st.none() | tokens), st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_what_is_written_well_is_read_back(written: dict[str, str | None], comma: str) -> None:
    text = comma.join(name if value is None else f"{name}={value}" for name, value in written.items())
    assert directives(text) == written


@brief
@given(noise.filter(lambda text: '"' not in text))
def test_nonsense_in_front_hides_no_directive(before: str) -> None:
    assert "no-store" in directives(f"{before}, no-store")


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        pytest.param("," * 8_000 + ";", "a," * 4_000, id="commas with nothing between"),
        pytest.param(" \t" * 4_000 + ";", "a," * 4_000, id="white space with nothing behind"),
        pytest.param("a" + " " * 8_000 + ";", "a," * 4_000, id="a directive that does not end"),
        pytest.param('a="' + "\\" * 8_000, "a," * 4_000, id="a quote that does not end"),
        pytest.param('a="' * 2_500, "a," * 4_000, id="quotes one after the other"),
    ],
)
def test_no_field_takes_longer_than_its_length_accounts_for(hostile: str, harmless: str) -> None:
    assert slowness(lambda: directives(hostile), lambda: directives(harmless)) < 50


@pytest.mark.parametrize(
    ("value", "found"),
    [
        pytest.param("max-age=60, no-store", {"max-age": "60", "no-store": None}, id="a dictionary (RFC 9213 2.1)"),
        pytest.param("max-age=60 ,\tno-store", {"max-age": "60", "no-store": None}, id="white space around commas"),
        pytest.param("max-age=60;x=1;y", {"max-age": "60"}, id="parameters are ignored (RFC 9213 2.1)"),
        pytest.param("max-age=1, max-age=2", {"max-age": "2"}, id="the last of two counts (RFC 9651 4.2.2)"),
        pytest.param("no-store=?1", {"no-store": None}, id="a true directive is present (RFC 9651 4.2.2)"),
        pytest.param("no-store=?0, a", {"a": None}, id="a false directive is absent"),
        pytest.param("no-store, no-store=?0, a", {"a": None}, id="also where it was true before"),
        pytest.param('max-age="60", a', {"a": None}, id="a string is no number of seconds (RFC 9213 2.1)"),
        pytest.param("max-age=60.5, a", {"a": None}, id="a decimal is no number of seconds"),
        pytest.param("max-age=-60, a", {"a": None}, id="a negative number is no number of seconds"),
        pytest.param("max-age=soon, a", {"a": None}, id="a token is no number of seconds"),
        pytest.param("max-age=60, max-age=x, a", {"a": None}, id="a bad argument voids an earlier good one"),
        pytest.param("stale-while-revalidate=a, stale-if-error=b, s-maxage=c, a", {"a": None}, id="so in each of them"),
        pytest.param('a="x, y"', {"a": '"x, y"'}, id="a quoted comma parts nothing"),
        pytest.param('max-age="60", a', {"a": None}, id="a string is no number of seconds"),
        pytest.param('max-age="60"', {}, id="with nothing left the field still counts (2.1)"),
        pytest.param("no-store, x=(a b);q=1", {"no-store": None, "x": "(a b)"}, id="an inner list (RFC 9651 3.1.1)"),
        pytest.param('a;b="x, y", c', {"a": None, "c": None}, id="a comma inside a parameter"),
    ],
)
def test_a_targeted_field(value: str, found: dict[str, str | None]) -> None:
    assert targeted({"cdn-cache-control": value}) == found


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="an empty field"),
        pytest.param(" ", id="a blank field"),
        pytest.param("max-age=60,", id="a comma at the end"),
        pytest.param("max-age=60, ,no-store", id="a comma too many"),
        pytest.param(",max-age=60", id="a comma in front"),
        pytest.param("max-age=60 no-store", id="no comma between"),
        pytest.param("Max-Age=60", id="a key in capitals"),
        pytest.param("max-age = 60", id="space around the equals sign"),
        pytest.param("max-age=", id="an equals sign without a value"),
        pytest.param('max-age=60, a="x', id="a string that does not end"),
        pytest.param('max-age=60, a="\\x"', id="an escape of what needs none"),
        pytest.param("max-age=60, a=\x80", id="a byte that is not ASCII"),
        pytest.param("max-age=1234567890123456", id="a number of sixteen digits"),
    ],
)
def test_a_malformed_targeted_field_is_no_field(value: str) -> None:
    """RFC 9213 section 2.1."""
    assert targeted({"cdn-cache-control": value}) is None


def test_without_the_field_nothing_is_targeted() -> None:
    assert targeted({"cache-control": "max-age=60"}) is None


@brief
@given(latin | noise)
def test_any_targeted_field_is_read_or_void(value: str) -> None:
    found = targeted({"cdn-cache-control": value})
    assert found is None or all(re.fullmatch(r"[a-z*][a-z0-9_\-.*]*", name) for name in found)


@pytest.mark.parametrize(
    ("fields", "name", "aimed"),
    [
        pytest.param({}, None, False, id="nothing said"),
        pytest.param({"cache-control": "a"}, "a", False, id="Cache-Control alone"),
        pytest.param({"cdn-cache-control": "b"}, "b", True, id="the targeted field alone"),
        pytest.param({"cache-control": "a", "cdn-cache-control": "b"}, "b", True, id="the targeted field wins (2.2)"),
        pytest.param({"cache-control": "a", "cdn-cache-control": ""}, "a", False, id="an empty one does not (2.1)"),
        pytest.param(
            {"cache-control": "a", "cdn-cache-control": "b,"}, "a", False, id="a malformed one does not (2.1)"
        ),
    ],
)
def test_which_field_governs_a_response(fields: dict[str, str], name: str | None, aimed: bool) -> None:
    """RFC 9213 section 2."""
    assert response_directives(fields) == ({} if name is None else {name: None}, aimed)


BARRED: Final = {"no-store": None, "private": None}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        pytest.param("private; max-age=600", BARRED, id="a semicolon in place of a comma"),
        pytest.param("no-store;", BARRED, id="or at the end"),
        pytest.param("No-Store;", BARRED, id="in any case of letters"),
        pytest.param("no-cache no-store, max-age=60", {"max-age": "60"} | BARRED, id="no comma between two"),
        pytest.param('max-age=60, private = "x"', {"max-age": "60"} | BARRED, id="space around the equals sign"),
        pytest.param("max-age=60;private", {"max-age": "60;private"} | BARRED, id="hidden in an argument"),
        pytest.param("must-understand, private;", {"must-understand": None} | BARRED, id="what nothing overrules"),
        pytest.param("must-revalidate; x", BARRED, id="a limit that would grant something else is no grant"),
        pytest.param("max-age =0", BARRED, id="a lifetime that may be none"),
        pytest.param('x="oops, private', BARRED, id="behind a quote that nobody closed"),
        pytest.param("a b, max-age=60", {"max-age": "60"}, id="words that limit nothing are passed over"),
        pytest.param('x="private;", max-age=60', {"x": "private;", "max-age": "60"}, id="so is what is quoted well"),
        pytest.param("max-age=1;x", {"max-age": "1;x"}, id="an argument without such a word is that argument"),
    ],
)
def test_what_cannot_be_read_of_a_response_never_allows_more(value: str, found: dict[str, str | None]) -> None:
    assert response_directives({"cache-control": value}) == (found, False)


@brief
@given(
    st.sampled_from(["no-store", "private", "no-cache", "s-maxage", "must-revalidate", "proxy-revalidate", "max-age"]),
    st.sampled_from([";", " x", ":1", "=(1)", ' = "x"', "=1;x", "=a/no-store"]),
)
def test_no_nonsense_behind_a_limit_undoes_it(limit: str, nonsense: str) -> None:
    found, _ = response_directives({"cache-control": f"public, {limit}{nonsense}, max-age=600"})
    assert limit in found or found.keys() >= BARRED.keys()


@pytest.mark.parametrize(
    ("given_", "number"),
    [
        pytest.param({}, None, id="an absent directive is no number"),
        pytest.param({"max-age": "60"}, 60, id="digits are seconds (RFC 9111 1.2.2)"),
        pytest.param({"max-age": "0060"}, 60, id="leading zeros count nothing"),
        pytest.param({"max-age": None}, 0, id="a missing argument is none at all (RFC 9111 4.2.1)"),
        pytest.param({"max-age": ""}, 0, id="so is an empty one"),
        pytest.param({"max-age": "1h"}, 0, id="so is a word"),
        pytest.param({"max-age": "-1"}, 0, id="so is a negative number"),
        pytest.param({"max-age": "1.5"}, 0, id="so is a fraction"),
        pytest.param({"max-age": " 1"}, 0, id="so is a number with space"),
        pytest.param({"max-age": "1\n"}, 0, id="so is a number with a line feed"),
        pytest.param({"max-age": "\u0661"}, 0, id="so is a digit of another script"),
        pytest.param({"max-age": "2147483647"}, MAX_DELTA - 1, id="31 bits are read as they are"),
        pytest.param({"max-age": "2147483649"}, MAX_DELTA, id="more are read as the most (RFC 9111 1.2.2)"),
        pytest.param({"max-age": "9" * 19}, MAX_DELTA, id="also in nineteen digits"),
        pytest.param({"max-age": "9" * 5000}, MAX_DELTA, id="also in more digits than Python converts"),
    ],
)
def test_delta_seconds(given_: dict[str, str | None], number: int | None) -> None:
    assert seconds(given_, "max-age") == number


@pytest.mark.parametrize(
    ("value", "age"),
    [
        pytest.param(None, 0, id="no Age is no age"),
        pytest.param("60", 60, id="digits are seconds (RFC 9111 5.1)"),
        pytest.param("0", 0, id="zero is a number"),
        pytest.param("2147483649", MAX_DELTA, id="more than 31 bits are the most (RFC 9111 1.2.2)"),
        pytest.param("9" * 19, MAX_DELTA, id="also in nineteen digits"),
        pytest.param("", None, id="an empty Age is unreadable"),
        pytest.param("-1", None, id="a negative Age is unreadable"),
        pytest.param("7.0", None, id="a fraction is unreadable"),
        pytest.param("1, 2", None, id="a list is unreadable"),
        pytest.param("x", None, id="a word is unreadable"),
        pytest.param("9" * 5000, MAX_DELTA, id="more digits than Python converts are the most (RFC 9111 1.2.2)"),
        pytest.param("0" * 25 + "5", 5, id="leading zeros say nothing"),
    ],
)
def test_age(value: str | None, age: int | None) -> None:
    assert age_of({} if value is None else {"age": value}) == age


NOVEMBER = 784_111_777.0


@pytest.mark.parametrize(
    ("value", "at"),
    [
        pytest.param("Sun, 06 Nov 1994 08:49:37 GMT", NOVEMBER, id="IMF-fixdate (RFC 9110 5.6.7)"),
        pytest.param("Sunday, 06-Nov-94 08:49:37 GMT", NOVEMBER, id="RFC 850 form (RFC 9110 5.6.7)"),
        pytest.param("Sun Nov  6 08:49:37 1994", NOVEMBER, id="asctime form, day padded by a space (RFC 9110 5.6.7)"),
        pytest.param("Wed Nov 16 08:49:37 1994", NOVEMBER + 864_000, id="asctime form, day of two digits"),
        pytest.param("sun, 06 nov 1994 08:49:37 gmt", NOVEMBER, id="names in any case"),
        pytest.param("Friday, 01-Jan-70 00:00:00 GMT", 0.0, id="two digits from 70 are of the last century"),
        pytest.param("Tuesday, 01-Jan-69 00:00:00 GMT", 3_124_224_000.0, id="two digits below 70 are of this one"),
        pytest.param(
            "Sun, 06 Nov 1994 23:59:60 GMT", NOVEMBER + 54_623, id="a leap second is a second (RFC 9110 5.6.7)"
        ),
        pytest.param(None, None, id="an absent date"),
        pytest.param("", None, id="an empty date"),
        pytest.param("0", None, id="a number (RFC 9111 5.3)"),
        pytest.param("Sun, 06 Nov 1994 08:49:37", None, id="no zone"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 CET", None, id="another zone"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 +0000", None, id="a numeric zone"),
        pytest.param("Sun, 6 Nov 1994 08:49:37 GMT", None, id="a day of one digit"),
        pytest.param("Sun, 06 Nov 1994 24:00:00 GMT", None, id="an hour too many"),
        pytest.param("Sun, 06 Nov 1994 08:60:00 GMT", None, id="a minute too many"),
        pytest.param("Sun, 06 Nov 1994 08:00:61 GMT", None, id="a second too many"),
        pytest.param("Sun, 32 Nov 1994 08:00:00 GMT", None, id="a day too many"),
        pytest.param("Sun, 00 Nov 1994 08:00:00 GMT", None, id="a day too few"),
        pytest.param("Sun, 06 Nev 1994 08:49:37 GMT", None, id="no such month"),
        pytest.param("Sat, 01 Jan 0000 00:00:00 GMT", None, id="no such year"),
        pytest.param("Sat Jan  1 00:00:00 0000", None, id="nor in the asctime form"),
        pytest.param("Mon, 01 Jan 0001 00:00:00 GMT", -62_135_596_800.0, id="the first year that there is"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 GMT, x", None, id="something behind"),
        pytest.param(" Sun, 06 Nov 1994 08:49:37 GMT", None, id="something in front"),
    ],
)
def test_dates(value: str | None, at: float | None) -> None:
    assert http_date(value) == at


@pytest.mark.parametrize("month", range(1, 13))
def test_every_month_is_known(month: int) -> None:
    moment = datetime(2024, month, 3, 4, 5, 6, tzinfo=UTC)
    assert http_date(moment.strftime("%a, %d %b %Y %H:%M:%S GMT")) == moment.timestamp()
    assert format_date(moment.timestamp()) == moment.strftime("%a, %d %b %Y %H:%M:%S GMT")


@brief
@given(moments, st.floats(0, 0.999))
def test_reading_a_date_undoes_writing_it(at: int, fraction: float) -> None:
    assert http_date(format_date(at)) == float(at)
    assert format_date(int(at) + fraction) == format_date(at) or fraction + at >= at + 1


@brief
@given(st.integers(0, 3_124_223_999))
def test_the_obsolete_forms_say_the_same(at: int) -> None:
    moment = datetime.fromtimestamp(at, UTC)
    assert http_date(moment.strftime("%A, %d-%b-%y %H:%M:%S GMT")) == float(at)
    assert http_date(moment.strftime(f"%a %b {moment.day:2} %H:%M:%S %Y")) == float(at)


@brief
@given(latin | st.text("SunovJa,-: 0123456789GMT", max_size=32))
def test_any_text_is_a_date_or_none(value: str) -> None:
    assert http_date(value) is None or re.search(r"\d\d:\d\d:\d\d", value)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        pytest.param(None, [], id="an absent list"),
        pytest.param(" , ,", [], id="empty members are no members (RFC 9110 5.6.1)"),
        pytest.param("a,b ,\tC", ["a", "b", "C"], id="white space around commas is none of the members'"),
    ],
)
def test_lists(value: str | None, parts: list[str]) -> None:
    assert members(value) == parts


@pytest.mark.parametrize(
    ("vary", "names"),
    [
        pytest.param(None, (), id="a response without Vary varies on nothing"),
        pytest.param("Accept-Language", ("accept-language",), id="names are case-insensitive (RFC 9110 5.1)"),
        pytest.param("B, a", ("a", "b"), id="order says nothing"),
        pytest.param("A, a", ("a",), id="nor does saying it twice"),
        pytest.param("*", None, id="a star varies on more than fields (RFC 9111 4.1)"),
        pytest.param("a, *", None, id="also among names (RFC 9111 4.1)"),
        pytest.param("X-Forwarded-For", None, id="so does what upstreams have from us and not from the client"),
        pytest.param("Accept, forwarded", None, id="the same, as RFC 7239 has it"),
        pytest.param("Via", None, id="or the way that it came"),
        pytest.param("X-Request-Id", None, id="or the name that it got"),
        pytest.param("traceparent, tracestate", None, id="or the trace that it is part of"),
        pytest.param("Host, X-Forwarded-Host, X-Forwarded-Proto, A", ("a",), id="what is keyed tells nothing more"),
        pytest.param("Accept-Encoding Accept-Language", None, id="so does what is no name"),
        pytest.param("a; b", None, id="in whatever way it is none"),
        pytest.param("a, b c", None, id="also beside one"),
    ],
)
def test_what_a_response_varies_on(vary: str | None, names: tuple[str, ...] | None) -> None:
    assert vary_names({} if vary is None else {"vary": vary}) == names


@pytest.mark.parametrize(
    ("name", "one", "other", "same"),
    [
        pytest.param("x", "a, b", "a,b", True, id="white space at commas says nothing (RFC 9111 4.1)"),
        pytest.param("accept", "a,,b", "a, b", True, id="nor do empty members of a list (RFC 9110 5.6.1)"),
        pytest.param("x", "a,,b", "a, b", False, id="of what is not known for a list they may (RFC 9111 4.1)"),
        pytest.param("x", "a,", "a", False, id="also at its end"),
        pytest.param("origin", "https://a.example,", "https://a.example", False, id="an origin is no list (6454 7.1)"),
        pytest.param("origin", "https://a.example , b", "https://a.example,b", False, id="so nothing in it is nothing"),
        pytest.param("user-agent", "a (b, c)", "a (b,c)", False, id="nor is a user agent (RFC 9110 10.1.5)"),
        pytest.param("cookie", "a=b, c", "a=b,c", False, id="nor a cookie"),
        pytest.param("accept", 'a;x="b, c"', 'a;x="b,c"', False, id="a quoted comma parts nothing"),
        pytest.param("accept", "a,\xa0b", "a,b", False, id="other white space is none (RFC 9110 5.6.3)"),
        pytest.param("x", "a b", "a  b", False, id="white space elsewhere may"),
        pytest.param("x", "a, b", "b, a", False, id="order may"),
        pytest.param("x", "A", "a", False, id="case may"),
        pytest.param("accept-language", "EN, de", "en,DE", True, id="in language ranges case says nothing"),
        pytest.param("accept-encoding", "GZip", "gzip", True, id="nor in codings (RFC 9110 8.4.1)"),
        pytest.param("accept-charset", "UTF-8", "utf-8", True, id="nor in charsets (RFC 9110 8.3.2)"),
        pytest.param("cookie", "a=B", "a=b", False, id="in cookies it does"),
        pytest.param("x", None, None, True, id="absent matches absent (RFC 9111 4.1)"),
        pytest.param("x", None, "", False, id="absent is not empty (RFC 9111 4.1)"),
        pytest.param("x", None, "a", False, id="absent is not present (RFC 9111 4.1)"),
    ],
)
def test_which_requests_select_the_same_variant(name: str, one: str | None, other: str | None, same: bool) -> None:
    first, second = ({} if value is None else {name: value} for value in (one, other))
    assert (selecting(first, (name,)) == selecting(second, (name,))) is same


def test_only_the_named_fields_select() -> None:
    assert selecting({"a": "1", "b": "2"}, ("b",)) == (("b", "2"),)
    assert selecting({"a": "1"}, ()) == ()


def test_what_clients_make_long_is_not_kept_in_memory() -> None:
    def held() -> int:
        return fields._normal.cache_info().currsize  # noqa: SLF001 - nothing else tells

    before = held()
    for number in range(10):
        selecting({"x": f"{number}" * 1000}, ("x",))
        assert not selects((("x", ""),), {"x": f"{number}" * 1000})
    assert held() == before


VARIED: Final = st.dictionaries(
    st.sampled_from(["accept", "accept-language", "accept-encoding", "origin", "x"]),
    st.text('aA, \t"', max_size=4) | st.sampled_from(["gzip,br", "GZIP, br", "", "a" * 300, "a," * 200, "A" * 300]),
)


@brief
@given(VARIED, VARIED, st.lists(st.sampled_from(["accept", "accept-language", "origin", "x"]), unique=True))
def test_a_variant_is_selected_by_whoever_has_its_values(
    first: dict[str, str], second: dict[str, str], names: list[str]
) -> None:
    vary = selecting(first, tuple(names))
    assert selects(vary, first)
    assert selects(vary, second) is (selecting(second, tuple(names)) == vary)


@pytest.mark.parametrize(
    ("fields", "tags"),
    [
        pytest.param({}, (), id="no fields, no tags"),
        pytest.param({"surrogate-key": "a  b c"}, ("a", "b", "c"), id="Surrogate-Key is parted by spaces"),
        pytest.param({"surrogate-key": "a b, c"}, ("a", "b", "c"), id="and by lines"),
        pytest.param({"cache-tag": "a b, c,"}, ("a b", "c"), id="Cache-Tag is parted by commas"),
        pytest.param(
            {"cache-groups": '"a", "b c"'}, ("http://h a", "http://h b c"), id="a group has its origin (9875 2)"
        ),
        pytest.param({"cache-groups": "a"}, (), id="a group is a string (RFC 9875 2)"),
        pytest.param({"cache-groups": '"a", b'}, (), id="a list with anything else in it is none (RFC 9651 4.2)"),
        pytest.param({"cache-groups": '"a",'}, (), id="nor is one that goes on with nothing"),
        pytest.param({"cache-groups": '"a" "b"'}, (), id="nor strings without a comma"),
        pytest.param({"cache-groups": '"a'}, (), id="nor one that does not end"),
        pytest.param({"cache-groups": '"\u00e4"'}, (), id="nor one beyond ASCII"),
        pytest.param({"cache-groups": "  "}, (), id="an empty list has no groups"),
        pytest.param(
            {"cache-groups": '"a";p="b" ,\t"c";q'}, ("http://h a", "http://h c"), id="parameters are no groups"
        ),
        pytest.param({"cache-groups": r'"a\"b\\"'}, ('http://h a"b\\',), id="a group is what the string stands for"),
        pytest.param({"cache-groups": '"A", "a"'}, ("http://h A", "http://h a"), id="case matters (RFC 9875 2.1)"),
        pytest.param(
            {"cache-tag": "b", "cache-groups": '"c"', "surrogate-key": "a"}, ("a", "b", "http://h c"), id="all together"
        ),
    ],
)
def test_tags_of_a_response(fields: dict[str, str], tags: tuple[str, ...]) -> None:
    assert response_tags(fields, "http://h") == tags


def test_what_an_open_quote_hides_may_forbid() -> None:
    assert "no-store" in directives('max-age=60, x="oops, no-store')
