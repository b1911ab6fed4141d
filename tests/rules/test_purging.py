"""Who may send a PURGE: nobody by a header alone."""

from ipaddress import ip_address, ip_network
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.purging import PurgeRule, softly

RULE: Final = PurgeRule(
    (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")), (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
)
XFF: Final = "x-forwarded-for"
FORWARDED: Final = "forwarded"


def asker(peer: str, fields: dict[str, str] | None = None, *, trusted: bool = False) -> str | None:
    found = RULE.asker(peer, fields or {}, trusted=trusted)
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("peer", "who"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        pytest.param("::ffff:192.0.2.1", "192.0.2.1", id="IPv4 on a listener for both"),
        pytest.param("fe80::1%eth0", "fe80::1", id="an address of one link"),
        pytest.param("", None, id="a peer without address"),
    ],
)
def test_who_is_connected_asks(peer: str, who: str | None) -> None:
    assert asker(peer) == who


@pytest.mark.parametrize("name", [XFF, FORWARDED])
@pytest.mark.parametrize("peer", ["203.0.113.9", "192.0.2.1"])
def test_what_somebody_unknown_says_changes_nothing(name: str, peer: str) -> None:
    said = {name: "192.0.2.7" if name == XFF else "for=192.0.2.7"}
    assert asker(peer, said) == peer


@pytest.mark.parametrize(
    ("said", "who"),
    [
        pytest.param({}, "10.0.0.1", id="a proxy that speaks for nobody speaks for itself"),
        pytest.param({XFF: "192.0.2.1"}, "192.0.2.1", id="the only one"),
        pytest.param({XFF: "192.0.2.7, 203.0.113.9"}, "203.0.113.9", id="what its client wrote is left of it"),
        pytest.param({XFF: "203.0.113.9, 192.0.2.1, 10.0.0.2"}, "192.0.2.1", id="behind several proxies"),
        pytest.param({XFF: "10.0.0.3, 10.0.0.2"}, "10.0.0.3", id="where all are proxies, the first"),
        pytest.param({XFF: "192.0.2.1:4711"}, "192.0.2.1", id="with a port"),
        pytest.param({XFF: "[2001:db8::1]:4711"}, "2001:db8::1", id="with brackets and a port"),
        pytest.param({XFF: "::ffff:192.0.2.1"}, "192.0.2.1", id="mapped"),
        pytest.param({XFF: "192.0.2.1, unknown"}, None, id="what cannot be read hides who is left of it"),
        pytest.param({XFF: "192.0.2.1, unknown, 10.0.0.2"}, None, id="behind a proxy too"),
        pytest.param({XFF: "192.0.2.1,"}, None, id="an empty one cannot be read"),
        pytest.param({XFF: ""}, None, id="nor can nothing"),
        pytest.param({XFF: "192.0.2.1 192.0.2.2"}, None, id="nor two in one"),
        pytest.param({XFF: "192.0.2.0/24"}, None, id="nor a network"),
        pytest.param({FORWARDED: "for=192.0.2.1"}, "192.0.2.1", id="Forwarded"),
        pytest.param({FORWARDED: "proto=https ; For=192.0.2.1;by=10.0.0.1"}, "192.0.2.1", id="among others"),
        pytest.param({FORWARDED: 'for="[2001:db8::1]:80"'}, "2001:db8::1", id="in quotes"),
        pytest.param({FORWARDED: "for=192.0.2.7, for=203.0.113.9"}, "203.0.113.9", id="the last"),
        pytest.param({FORWARDED: "for=192.0.2.7, proto=https"}, None, id="an element that names nobody"),
        pytest.param({FORWARDED: "for=192.0.2.7;for=192.0.2.8"}, None, id="or two"),
        pytest.param({FORWARDED: "for=_hidden"}, None, id="a name that is none"),
        pytest.param(
            {FORWARDED: 'for=192.0.2.7;x=", for=203.0.113.9'}, "203.0.113.9", id="behind a quote that is left open"
        ),
        pytest.param({FORWARDED: 'x="a, for=192.0.2.7", for=203.0.113.9'}, "203.0.113.9", id="a comma in quotes"),
        pytest.param({FORWARDED: 'for=203.0.113.9;x=", for=192.0.2.7"'}, "203.0.113.9", id="and what seems to follow"),
        pytest.param({XFF: "192.0.2.1", FORWARDED: "for=192.0.2.1"}, "192.0.2.1", id="both, if they say the same"),
        pytest.param({XFF: "203.0.113.9", FORWARDED: "for=192.0.2.7"}, None, id="a Forwarded that was passed on"),
        pytest.param({XFF: "192.0.2.7", FORWARDED: "for=203.0.113.9"}, None, id="a list that was passed on"),
        pytest.param({XFF: "192.0.2.7", FORWARDED: ""}, None, id="one that says nothing"),
    ],
)
def test_a_trusted_proxy_says_who_asks(said: dict[str, str], who: str | None) -> None:
    assert asker("10.0.0.1", said, trusted=True) == who


@pytest.mark.parametrize(
    ("who", "may"),
    [("192.0.2.1", True), ("2001:db8::1", True), ("192.0.3.1", False), ("10.0.0.1", False), (None, False)],
)
def test_who_is_in_an_allowed_network_may(who: str | None, may: bool) -> None:
    assert RULE.allows(None if who is None else ip_address(who)) is may


PIECES: Final = [
    "192.0.2.7",
    "10.0.0.2",
    "for=",
    "For=",
    ",",
    ";",
    " ",
    '"',
    "\\",
    "[",
    "]",
    ":80",
    "x=",
    "unknown",
    "\t",
]


@given(xff=st.lists(st.sampled_from(PIECES)), forwarded=st.lists(st.sampled_from(PIECES)), both=st.sampled_from("xfb"))
def test_nothing_that_a_client_writes_makes_it_one_that_may(xff: list[str], forwarded: list[str], both: str) -> None:
    """Its proxy adds its address to one of them or to both, and passes on the other, if there is one."""
    said = {XFF: "".join(xff), FORWARDED: "".join(forwarded)}
    if both != "f":
        said[XFF] = ", ".join(filter(None, (said[XFF].strip(" \t"), "203.0.113.9")))
    if both != "x":
        said[FORWARDED] = ", ".join(filter(None, (said[FORWARDED].strip(" \t"), "for=203.0.113.9")))
    who = RULE.asker("10.0.0.1", said, trusted=True)
    assert not RULE.allows(who)


@pytest.mark.parametrize(
    ("fields", "soft"),
    [
        ({}, False),
        ({"soft-purge": "1"}, True),
        ({"soft-purge": "0"}, False),
        ({"fastly-soft-purge": "1"}, True),
        ({"soft-purge": "true"}, None),
        ({"soft-purge": ""}, None),
        ({"soft-purge": "1, 1"}, None),
        ({"soft-purge": "1", "fastly-soft-purge": "x"}, None),
        ({"x-purge-method": "soft"}, False),
    ],
)
def test_softly_is_said_by_a_one(fields: dict[str, str], soft: bool | None) -> None:
    assert softly(fields) is soft
