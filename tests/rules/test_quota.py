"""Who is counted: nobody can pass for another, and nobody for a stranger, by what they write into a header."""

from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import product
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.quota import NOBODY, By, GateRule, Quota, client_of, counted_by, network_of
from tests.rules.build import request

NETWORKS: Final = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
BY_IP: Final = Quota("q", 1.0, 1.0)
BY_KEY: Final = Quota("q", 1.0, 1.0, By.HEADER, "x-api-key")


def behind_a_proxy(*lines: str) -> str | None:
    return client_of(BY_IP, request(*lines), NETWORKS, trusted=True)


@pytest.mark.parametrize("field", ["X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.7", "X-Real-IP: 192.0.2.7"])
def test_what_a_stranger_says_of_itself_changes_nothing(field: str) -> None:
    for limit in (BY_IP, BY_KEY, GateRule(1, 1)):
        assert client_of(limit, request(field), NETWORKS, trusted=False) is None


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:5060", "192.0.2.7"),
        ("198.51.100.9, 192.0.2.7", "192.0.2.7"),
        ("198.51.100.9,192.0.2.7,10.1.1.1", "192.0.2.7"),
        ("10.9.9.9, 192.0.2.7, 10.1.1.1", "192.0.2.7"),
        ("192.0.2.7 ,, ,10.1.1.1,", "192.0.2.7"),
        ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
        ("10.1.1.1", "10.1.1.1"),
        ("rubbish, 10.1.1.1", "10.1.1.1"),
        ("192.0.2.7, rubbish, 10.1.1.1", "10.1.1.1"),
        ("192.0.2.7, unknown", None),
        ("192.0.2.7, 300.1.1.1", None),
        ("192.0.2.7, 010.0.0.1", None),
        ("rubbish", None),
        (",", None),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:3:4:5:6]", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("2001:db8::1, fd00::5", "2001:db8::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, ::ffff:10.0.0.1", "192.0.2.7"),
    ],
)
def test_behind_trusted_proxies_it_is_the_last_that_none_of_them_has(said: str, client: str | None) -> None:
    assert behind_a_proxy(f"X-Forwarded-For: {said}") == client


def test_several_lines_are_one_list() -> None:
    assert behind_a_proxy("X-Forwarded-For: 198.51.100.9", "X-Forwarded-For: 192.0.2.7") == "192.0.2.7"
    assert behind_a_proxy("Forwarded: for=198.51.100.9", "Forwarded: for=192.0.2.7") == "192.0.2.7"


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("for=192.0.2.7", "192.0.2.7"),
        ("For=192.0.2.7;proto=https;by=10.0.0.1", "192.0.2.7"),
        ("proto=https ; for=192.0.2.7", "192.0.2.7"),
        ('for="192.0.2.7:80", for="10.1.1.1"', "192.0.2.7"),
        ('for="[2001:db8:1:2:3:4:5:6]:443"', "2001:db8:1:2::/64"),
        ('for=198.51.100.9, for=192.0.2.7;host="a,b"', "192.0.2.7"),
        ('for="198.51.100.9, for=192.0.2.7', "192.0.2.7"),
        ('x="y, for="[2001:db8::1]"', "2001:db8::/64"),
        ("for=192.0.2.7, for=_hidden", None),
        ("for=192.0.2.7, for=unknown, for=10.1.1.1", "10.1.1.1"),
        ("for=192.0.2.7, proto=https", None),
        ("for=192.0.2.7, for=10.1.1.1;for=10.1.1.2", None),
        ('for=192.0.2.7, "', None),
        ('for=192.0.2.7, host=";for=198.51.100.9;"', "198.51.100.9"),
        ("", None),
    ],
)
def test_forwarded_is_read_likewise(said: str, client: str | None) -> None:
    assert behind_a_proxy(f"Forwarded: {said}") == client


def test_where_both_are_given_the_one_that_more_proxies_write_counts() -> None:
    assert behind_a_proxy("Forwarded: for=198.51.100.9", "X-Forwarded-For: 192.0.2.7") == "192.0.2.7"
    assert behind_a_proxy("Forwarded: for=198.51.100.9", "X-Forwarded-For:") == "198.51.100.9"


junk: Final = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60)
tricks: Final = st.lists(
    st.sampled_from(['"', "\\", ",", ";", "for=", "for=198.51.100.9", '"198.51.100.9"', " ", "10.0.0.1", "[", "]", "="])
).map("".join)


@given(junk | tricks, st.sampled_from(["192.0.2.7", "2001:db8::7"]), st.integers(0, 2))
def test_nothing_that_a_client_sends_hides_what_the_trusted_proxies_add(forged: str, peer: str, hops: int) -> None:
    own = '"[2001:db8::7]"' if ":" in peer else peer
    before, between = (f"{forged}, " if forged else ""), ["10.0.0.1", '"[fd00::1]:80"'][:hops]
    listed = ", ".join([before + peer, *(hop.strip('"') for hop in between)])
    forwarded = ", ".join([f'{before}for={own};host="a.test";proto=https', *(f"for={hop}" for hop in between)])
    expected = network_of(peer, 64)
    assert behind_a_proxy(f"X-Forwarded-For: {listed}") == expected
    assert behind_a_proxy(f"Forwarded: {forwarded}") == expected


def test_a_long_list_is_read_no_slower_than_it_is_long() -> None:
    for said in ('"' * 30_001, "a" * 30_000 + '"', '",' * 15_000 + '"'):
        assert behind_a_proxy(f"Forwarded: {said}") is None


def test_a_header_is_known_by_its_hash() -> None:
    client = client_of(BY_KEY, request("X-Api-Key: s3cret"), NETWORKS, trusted=False)
    assert client == client_of(BY_KEY, request("x-api-key: s3cret"), (), trusted=True)
    assert client != client_of(BY_KEY, request("X-Api-Key: s3creT"), NETWORKS, trusted=False)
    assert client is not None
    assert len(bytes.fromhex(client)) == 12
    assert "s3cret" not in client


def test_who_has_no_such_header_is_counted_by_address() -> None:
    for field in ("X-Other: 1", "X-Api-Key:"):
        assert client_of(BY_KEY, request(field), NETWORKS, trusted=False) is None
        assert client_of(BY_KEY, request(field, "X-Forwarded-For: 192.0.2.7"), NETWORKS, trusted=True) == "192.0.2.7"


@given(junk.filter(str.strip), st.ip_addresses(), st.integers(1, 128))
def test_no_value_of_a_header_passes_for_an_address(
    value: str, address: IPv4Address | IPv6Address, prefix: int
) -> None:
    client = client_of(BY_KEY, request(f"X-Api-Key: {value}"), NETWORKS, trusted=False)
    assert client != network_of(str(address), prefix)
    assert client is not None
    assert not {".", ":"} & set(client)
    assert {".", ":"} & set(network_of(str(address), prefix))
    assert client != NOBODY


def test_all_clients_of_a_route_are_one() -> None:
    limit = Quota("q", 1.0, 1.0, By.ROUTE)
    for trusted in (True, False):
        assert client_of(limit, request("X-Forwarded-For: 192.0.2.7"), NETWORKS, trusted=trusted) == ""


@pytest.mark.parametrize(
    ("peer", "prefix", "network"),
    [
        ("192.0.2.7", 64, "192.0.2.7"),
        ("192.0.2.7", 1, "192.0.2.7"),
        ("::ffff:192.0.2.7", 64, "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::/48"),
        ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6/128"),
        ("2001:db8:1:2:3:4:5:6", 57, "2001:db8:1::/57"),
        ("fe80::1%eth0", 64, "fe80::/64"),
        ("", 64, NOBODY),
        ("/run/peer.sock", 64, NOBODY),
    ],
)
def test_an_address_is_counted_with_its_network(peer: str, prefix: int, network: str) -> None:
    assert network_of(peer, prefix) == network


@given(st.ip_addresses(v=6), st.ip_addresses(v=6), st.integers(1, 128))
def test_addresses_of_one_network_are_one_client_and_others_are_not(
    a: IPv6Address, b: IPv6Address, prefix: int
) -> None:
    same = int(a) >> (128 - prefix) == int(b) >> (128 - prefix)
    if a.ipv4_mapped is None and b.ipv4_mapped is None:
        assert (network_of(str(a), prefix) == network_of(str(b), prefix)) is same
    near = IPv6Address(int(a) ^ (1 << (128 - prefix)))
    assert network_of(str(near), prefix) != network_of(str(a), prefix)


def test_whom_a_limit_counts_is_said_as_it_is_written() -> None:
    assert [counted_by(limit) for limit in (BY_IP, BY_KEY, Quota("q", 1.0, 1.0, By.ROUTE))] == [
        "ip",
        "header:x-api-key",
        "route",
    ]


LIMITS: Final = [
    Quota("q", rate, burst, by, hit=hit, miss=miss)
    for rate, burst, by, hit, miss in product((1.0, 2.0), (2.0, 4.0), (By.IP, By.ROUTE), (0.0, 1.0), (0.5, 2.0))
]
COVERED: Final = [(narrow, wide) for narrow, wide in product(LIMITS, LIMITS) if narrow.covers(wide)]


@pytest.mark.parametrize("seed", range(20))
def test_a_limit_that_covers_another_refuses_whatever_the_other_would(seed: int) -> None:
    chance = Random(seed)
    steps = [(chance.choice((0.0, 0.25, 1.0)), chance.choice("ab"), chance.random() < 0.5) for _ in range(40)]
    for narrow, wide in COVERED:
        tokens: dict[tuple[Quota, str], float] = {}
        for gap, client, hit in steps:
            tokens = {pay: min(pay[0].burst, left + gap * pay[0].rate) for pay, left in tokens.items()}
            pays = [(limit, "" if limit.by is By.ROUTE else client) for limit in (narrow, wide)]
            left = [tokens.get(pay, pay[0].burst) - (pay[0].hit if hit else pay[0].miss) for pay in pays]
            assert left[0] < 0 or left[1] >= 0, (narrow, wide)
            if min(left) >= 0:
                tokens.update(zip(pays, left, strict=True))
