"""What is told of the values of clients' header fields."""

import re

import pytest

from proxy.rules.redaction import told, told_key


@pytest.mark.parametrize(
    "name",
    [
        *("authorization", "cookie", "proxy-authorization", "x-api-key", "x-apikey", "x-auth", "x-session-id", "token"),
        *("ocp-apim-subscription-key", "x-functions-key", "x-goog-api-client", "key", "x-user", "x-forwarded-for"),
        *("referer", "from", "sec-websocket-protocol", "accepted", "x-acceptance"),
    ],
)
def test_of_whatever_is_not_known_to_be_harmless_only_a_mark_is_told(name: str) -> None:
    one, other = told(name, "s3cret"), told(name, "s3cret2")
    assert re.fullmatch(r"\(hidden [0-9a-f]{12}\)", one or "")
    assert one != other, "whoever looks can tell them apart"
    assert told(name, "s3cret") == one
    assert (told(name, None), told(name, "\0"), told(name, "")) == (None, None, "")


def test_what_no_text_should_hold_is_hidden_too() -> None:
    assert told("cookie", "\udcff") != told("cookie", "\udcfe")


@pytest.mark.parametrize(
    "name",
    [
        *("accept", "accept-encoding", "accept-language", "content-type", "host", "range", "if-none-match", "pragma"),
        *("cache-control", "user-agent", "origin", "x-forwarded-proto", "x-requested-with", "x-tenant", "save-data"),
        *("dnt", "sec-ch-ua-mobile", "sec-fetch-mode", "sec-gpc"),
    ],
)
def test_what_tells_variants_apart_is_told(name: str) -> None:
    assert told(name, "de") == "de"
    assert (told(name, None), told(name, "\0"), told(name, "")) == (None, None, "")


def test_a_key_is_told_without_what_is_somebodys_own() -> None:
    assert told_key("http://a/?x=1") == "http://a/?x=1"
    line = f"http://a/\nx-tenant=t=1\nx-api-key={told('x-api-key', 's3cret=2')}\nx-empty="
    assert told_key("http://a/\nx-tenant=t=1\nx-api-key=s3cret=2\nx-empty=") == line
    assert "s3cret" not in line
