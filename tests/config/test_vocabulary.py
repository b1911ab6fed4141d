"""Single values: what they mean, and what is none of them."""

from contextlib import suppress
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import vocabulary as v
from proxy.config.kinds import Leaf, Wrong

LEAVES = [leaf for leaf in vars(v).values() if isinstance(leaf, Leaf)] + [v.duration(), v.integer(1)]


@given(st.integers(0, v.MAX_SECONDS * 1000))
def test_a_duration_is_read_as_it_is_shown(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert v.duration().parse(v.show_duration(seconds)) == seconds


@given(st.integers(1, 10**12 - 1) | st.integers(1, 1000).map(lambda size: size << 40))
def test_a_size_is_read_as_it_is_shown(size: int) -> None:
    assert v.SIZE.parse(v.show_size(size)) == size


@given(st.sampled_from(LEAVES), st.text() | st.text("0123456789.:/%[]{}*smhdKiBa", max_size=20))
def test_no_text_makes_a_value_fail_in_another_way(leaf: Leaf, text: str) -> None:
    with suppress(Wrong):
        leaf.parse(text)


@pytest.mark.parametrize(
    ("leaf", "text", "value"),
    [
        (v.duration(), "250ms", 0.25),
        (v.duration(), "1.5h", 5400.0),
        (v.duration(), "1.1s", 1.1),
        (v.duration(), "1d", 86400.0),
        (v.duration(), "0", 0.0),
        (v.duration(), "0s", 0.0),
        (v.duration(positive=True), "1ms", 0.001),
        (v.SIZE, "64KiB", 65536),
        (v.SIZE, "8MiB", 8 << 20),
        (v.SIZE, "1.5GiB", 3 << 29),
        (v.SIZE, "512B", 512),
        (v.SIZE, "1TiB", 1 << 40),
        (v.integer(1), "999999999999", 10**12 - 1),
        (v.RATE, "50/s", v.Rate(50.0, "s")),
        (v.RATE, "0.5/m", v.Rate(0.5, "m")),
        (v.integer(1, 128), "128", 128),
        (v.LIMIT_BY, "ip", "ip"),
        (v.LIMIT_BY, "header:X-Api-Key", "header:x-api-key"),
        (v.LABEL, "per day, all", "per day, all"),
        (v.PERCENTAGE, "10%", 0.1),
        (v.PERCENTAGE, "0%", 0.0),
        (v.PERCENTAGE, "0", 0.0),
        (v.PERCENTAGE, "100%", 1.0),
        (v.NUMBER, "1.5", 1.5),
        (v.BOOLEAN, "true", True),
        (v.BOOLEAN, "false", False),
        (v.ADDRESS, "0.0.0.0:8080", v.Address("0.0.0.0", 8080)),
        (v.ADDRESS, "[::1]:8080", v.Address("::1", 8080)),
        (v.ADDRESS, "localhost:0", v.Address("localhost", 0)),
        (v.NETWORK, "10.0.0.0/8", ip_network("10.0.0.0/8")),
        (v.NETWORK, "127.0.0.1", ip_network("127.0.0.1/32")),
        (v.NETWORK, "FD00::/8", ip_network("fd00::/8")),
        (v.STATUS, "404", 404),
        (v.HOST, "Cache.Internal:8081", "cache.internal:8081"),
        (v.HOST_PATTERN, "*.Example.COM", "*.example.com"),
        (v.HOST_PATTERN, "*", "*"),
        (v.HOST_PATTERN, "[::1]", "[::1]"),
        (v.HOST_PATTERN, "example.com:8443", "example.com:8443"),
        (v.PATH_PATTERN, "/a/{b}/c*", "/a/{b}/c*"),
        (v.PATH_PATTERN, "/%C3%A9/..x", "/%C3%A9/..x"),
        (v.METHOD, "M-SEARCH", "M-SEARCH"),
        (v.HEADER, "X-Tenant", "x-tenant"),
        (v.PARAMETER, "utm_*", "utm_*"),
        (v.TAG, "product:{id}", "product:{id}"),
        (v.URL, "https://Catalog.internal:8443/base/", "https://catalog.internal:8443/base"),
        (v.URL, "http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_what_a_text_means(leaf: Leaf, text: str, value: object) -> None:
    got = leaf.parse(text)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("written", "per_second"),
    [("50/s", 50.0), ("1000/m", 1000 / 60), ("1/h", 1 / 3600), ("5000/d", 5000 / 86400), ("0.000001/d", 1e-6 / 86400)],
)
def test_a_rate_is_so_many_a_second(written: str, per_second: float) -> None:
    assert v.RATE.parse(written).per_second == per_second
    assert str(v.Rate.of(per_second)) == written


@given(st.integers(1, 10**15), st.sampled_from("smhd"))
def test_a_rate_is_known_again_by_what_it_is_in_a_second(millionths: int, unit: str) -> None:
    rate = v.RATE.parse(f"{millionths // 10**6}.{millionths % 10**6:06}/{unit}").per_second
    assert v.RATE.parse(str(v.Rate.of(rate))).per_second == rate


def test_a_rate_that_nobody_can_have_written_is_said_nearly() -> None:
    assert str(v.Rate.of(1 / 86400 + 1e-9)) == "1.000086/d"


@pytest.mark.parametrize(
    ("leaf", "texts"),
    [
        (v.duration(), ["", "5", "5 s", "-5s", "5S", "1e3s", "30000d", "1m30s", "٣s", "5s\n", "9" * 99 + "s"]),
        (v.duration(positive=True), ["0", "0s", "0.1ms"]),
        (v.SIZE, ["8MB", "8M", "8", "0", "0B", "-1KiB", "8 MiB"]),
        (v.RATE, ["50", "50/w", "0/s", "0.000000/s", "/s", "50/ s", "1000000001/d"]),
        (v.integer(1, 128), ["0", "129"]),
        (v.LABEL, ["", " a", "a ", 'a"b', "a\\b", "é", "a\tb", "a" * 81]),
        (v.PERCENTAGE, ["10", "0.1", "101%", "-1%", "ten%"]),
        (v.NUMBER, ["nan", "inf", "-1", "1e9"]),
        (v.integer(1), ["0", "-1", "010", "1.0", "1_000", "0x10", "one"]),
        (v.BOOLEAN, ["yes", "on", "1", "TRUE"]),
        (v.ADDRESS, ["8080", ":8080", "::1:8080", "[::g]:80", "[dead]:80", "256.0.0.1:80", "a:65536", "a b:1", "a:-1"]),
        (v.NETWORK, ["10.0.0.1/8", "10.0.0.0/33", "10.0.0", "localhost", "::/129"]),
        (v.STATUS, ["200", "399", "600", "40", "4xx"]),
        (v.HOST, ["*.a", "a/b", "", "a b", "[::"]),
        (v.HOST_PATTERN, ["a.*", "*a", "*.a:80", "é.example", "example.com:443", "a:99999", "[1::2::3]", "300.1.1.1"]),
        (v.PATH_PATTERN, ["a", "/a/*/b", "/{a}/{a}", "/{1}", "/{a", "/a}", "/{}", "/a?b", "/a#b", "/a b", "/é", "/\\"]),
        (v.PATH_PATTERN, ["/%41", "/%c3", "/%2F", "/%", "/%zz", "/a/../b", "/.", "/**", "/%00"]),
        (v.METHOD, ["get", "CONNECT", "TRACE", "G T", ""]),
        (v.HEADER, ["X Tenant", "", "x:", "é", "X-Forwarded-For", "forwarded", "Via", "X-Request-Id"]),
        (v.PARAMETER, ["u*m", "", "a=b", "a&b", "a b"]),
        (v.TAG, ["", "a b", "{", "a}", "{a-b}", "{}"]),
        (v.LIMIT_BY, ["header", "header:", "header:a b", "IP", "token", "header:X-Forwarded-For", "header:forwarded"]),
        (v.BEARER, ["", "a b", "a\n", "é"]),
        (v.URL, ["ftp://a", "a", "http://", "http:///x", "http://a:0", "http://a:99999", "http://a:b", "http://[::1"]),
        (
            v.URL,
            ["http://a?b", "http://a?", "http://a#b", "http://u@a", "http://u:p@a", "http://a/../b", "http://a/%2F"],
        ),
        (v.URL, ["http://a/\\b", "http://a b", "http://é", "http://1.2.3.400", "http://[1::2::3]", "HTTP//a"]),
        (v.REDIS_URL, ["http://a", "redis:", "redis://", "redis+other://a"]),
    ],
)
def test_what_is_none(leaf: Leaf, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(Wrong):
            print(f"{text!r} is {leaf.parse(text)!r}")  # noqa: T201


@pytest.mark.parametrize(
    ("leaf", "text", "hint"),
    [
        (v.NETWORK, "10.1.2.3/8", "write 10.0.0.0/8"),
        (v.METHOD, "get", "write GET"),
        (v.HOST_PATTERN, "a.example:443", "write a.example"),
        (v.PATH_PATTERN, "/%41%c3%a9", "write /A%C3%A9"),
    ],
)
def test_what_is_meant_is_guessed(leaf: Leaf, text: str, hint: str) -> None:
    with pytest.raises(Wrong) as caught:
        leaf.parse(text)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback(host: str, *, loopback: bool) -> None:
    assert v.Address(host, 1).loopback is loopback


@given(st.sampled_from(["10.0.0.1", "::1", "a.example"]), st.integers(0, 65535))
def test_an_address_is_read_as_it_is_shown(host: str, port: int) -> None:
    address = v.Address(host, port)
    assert v.ADDRESS.parse(str(address)) == address
