"""Whose address it is, as trusted proxies say it: what each has added stands on the right."""

from ipaddress import ip_address, ip_network
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.client import address_of, forwarded, forwarded_for, spoken_for

PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8:ffff::/48"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[fe80::1%eth0]", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unknown", None),
        ("_hidden", None),
        ("", None),
        ("192.0.2.1:123456", None),
        ("192.0.2.256", None),
    ],
)
def test_an_address_is_read_without_what_is_around_it(text: str, address: str | None) -> None:
    assert address_of(text) == (None if address is None else ip_address(address))


@pytest.mark.parametrize(
    ("said", "client", "whole"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.9, 192.0.2.1, 10.0.0.1", "192.0.2.1", True),
        ("10.0.0.2, 10.0.0.1", "10.0.0.2", True),
        ("192.0.2.9, nonsense, 10.0.0.1", "10.0.0.1", False),
        ("nonsense", None, False),
        ("192.0.2.1, ", None, False),
    ],
)
def test_the_nearest_that_is_no_proxy_is_the_client(said: str, client: str | None, *, whole: bool) -> None:
    assert spoken_for(forwarded_for(said), PROXIES) == (None if client is None else ip_address(client), whole)


@pytest.mark.parametrize(
    ("said", "nodes"),
    [
        ('for=192.0.2.1;proto=https, For="[2001:db8::1]:80"', ["[2001:db8::1]:80", "192.0.2.1"]),
        ('for=192.0.2.1;by="a, b"', ["192.0.2.1"]),
        ("for=192.0.2.1, proto=https", [""]),
        ("proto=https, for=192.0.2.1", ["192.0.2.1", ""]),
        ("for=a;for=b", [""]),
        ('x=", for=192.0.2.1', ["192.0.2.1", ""]),
        ("", []),
    ],
)
def test_forwarded_is_read_from_its_end(said: str, nodes: list[str]) -> None:
    assert list(forwarded(said)) == nodes


NODE = st.sampled_from(["192.0.2.1", '"[2001:db8::1]"', "10.0.0.1:80"])


@given(st.text(alphabet='for=;,"\\ \t1.[]:x', max_size=40), NODE)
def test_whatever_a_client_writes_what_a_proxy_adds_behind_it_comes_first(written: str, added: str) -> None:
    assert next(forwarded(f"{written}, for={added}")) == added.strip('"')
    assert next(forwarded_for(f"{written}, {added}")) == added


@given(st.text(max_size=60))
def test_reading_it_comes_to_an_end(said: str) -> None:
    numbers = count()
    assert all(next(numbers) <= len(said) for _ in forwarded(said))
