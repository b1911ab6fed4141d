"""The body of an invalidation, and what goes by it."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

import pytest

from proxy.admin.batch import MAX_LENGTH, MAX_VALUES, Batch, Mistaken, read_batch
from proxy.flow.invalidation import InvalidationLog, Kind, Target
from proxy.rules.keys import url_of
from proxy.rules.policy import KeyRule
from proxy.rules.routes import Match, route
from proxy.rules.wire import parse_request
from tests.admin.kit import site

IGNORES: Final = KeyRule(ignore_query=("utm_*",))
SITE: Final = site(
    (Match(host="a.example", path="/p/{id}"), IGNORES),
    (Match(host="b.example", path="/p/*", methods=("POST",)), KeyRule(ignore_query=("x",))),
    (Match(host="b.example", path="/p/*"), KeyRule(ignore_query=("sort",))),
    (Match(), KeyRule()),
)


@dataclass(frozen=True)
class Subject:
    """A stored answer as the log sees it."""

    url: str
    host: str
    tags: tuple[str, ...] = ()


def stored(url: str, *tags: str) -> Subject:
    """What a GET of this URL leaves behind: read, routed and keyed as the data listener does."""
    scheme, _, rest = url.partition("://")
    host, _, target = rest.partition("/")
    request = parse_request(
        f"GET /{target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), scheme, trusted=False, max_headers=9
    )
    found = route(SITE.routes, request.host, request.path, "GET")
    assert hasattr(found, "route")
    return Subject(url_of(scheme, request.host, request.target, found.route.policy.key), request.host, tags)


def read(raw: bytes) -> Batch:
    return asyncio.run(read_batch(raw, SITE))


def goes(body: dict[str, Any], subject: Subject) -> bool:
    log = InvalidationLog()
    log.append(read(json.dumps(body).encode()).targets, 0.0, soft=False)
    return log.overtaken(subject, 0)


def targets(body: dict[str, Any]) -> tuple[Target, ...]:
    return read(json.dumps(body).encode()).targets


URLS: Final = [
    ("https://c.example/a", "https://c.example/a"),
    ("HTTPS://C.Example:443/a", "https://c.example/a"),
    ("http://c.example:80/a?x=1", "http://c.example/a?x=1"),
    ("http://c.example:8080/a", "http://c.example:8080/a"),
    ("https://c.example", "https://c.example/"),
    ("https://c.example?x=1", "https://c.example/?x=1"),
    ("https://[::1]:8443/a", "https://[::1]:8443/a"),
    ("https://c.example/%7euser/%c3%a9", "https://c.example/~user/%C3%A9"),
    ("https://a.example/p/1?utm_source=x&b=2&utm_medium=y", "https://a.example/p/1?b=2"),
    ("https://a.example/p/1", "https://a.example/p/1?utm_source=mail"),
    ("https://a.example/q?utm_source=x", "https://a.example/q?utm_source=x"),
    ("https://b.example/p/1?sort=up", "https://b.example/p/1?sort=down"),
    ("https://b.example/p/1?x=1", "https://b.example/p/1?x=1"),
    ("/a", "https://c.example/a"),
    ("/a", "http://d.example:8080/a"),
    ("/p/1?utm_source=x&b=2", "https://a.example/p/1?b=2"),
    ("/p/1?utm_source=x&sort=up", "https://a.example/p/1?sort=up"),
    ("/p/1?utm_source=x&sort=up", "https://b.example/p/1?utm_source=x"),
    ("/p/1?utm_source=x&sort=up", "https://c.example/p/1?utm_source=x&sort=up"),
    ("/%7Ex", "https://c.example/~x"),
    ("/a?u=https://elsewhere.example/", "https://c.example/a?u=https://elsewhere.example/"),
]


@pytest.mark.parametrize(("given", "url"), URLS)
def test_what_a_url_names_goes(given: str, url: str) -> None:
    assert goes({"urls": [given]}, stored(url))


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://c.example/a", "http://c.example/a"),
        ("https://c.example/a", "https://c.example/a?x=1"),
        ("https://c.example/a", "https://c.example/a/"),
        ("https://c.example/a", "https://c.example/a/b"),
        ("https://c.example/a", "https://c.example:8443/a"),
        ("https://c.example/a", "https://d.example/a"),
        ("https://c.example/a", "https://c.example/A"),
        ("https://a.example/p/1?b=1", "https://a.example/p/1?b=2"),
        ("/a", "https://c.example/a/b"),
        ("/a", "https://c.example/b/a"),
        ("/p/1?utm_source=x", "https://a.example/p/1?b=2"),
    ],
)
def test_what_a_url_does_not_name_stays(given: str, url: str) -> None:
    assert not goes({"urls": [given]}, stored(url))


@pytest.mark.parametrize(
    ("given", "url", "gone"),
    [
        ("/a", "https://c.example/a", True),
        ("/a/", "https://c.example/a", True),
        ("/a", "https://c.example/a/b?x=1", True),
        ("/a", "http://d.example:81/a/", True),
        ("/a", "https://c.example/ab", False),
        ("/a/b", "https://c.example/a", False),
        ("/", "https://c.example/", True),
        ("/", "https://c.example/x/y", True),
        ("/%7Ex", "https://c.example/~x/y", True),
        ("https://c.example", "https://c.example/x", True),
        ("https://c.example/", "https://c.example/", True),
        ("https://C.example:443/a/", "https://c.example/a/b", True),
        ("https://c.example/a", "http://c.example/a/b", False),
        ("https://c.example/a", "https://d.example/a/b", False),
        ("https://c.example/a", "https://c.example:8443/a/b", False),
        ("https://c.example/a", "https://c.example/ab", False),
    ],
)
def test_a_prefix_takes_what_is_below_it_at_segment_bounds(given: str, url: str, gone: bool) -> None:
    assert goes({"prefixes": [given]}, stored(url)) is gone


@pytest.mark.parametrize(
    ("given", "url", "gone"),
    [
        ("c.example", "https://c.example/a", True),
        ("C.Example", "http://c.example/a", True),
        ("c.example:443", "https://c.example/a", True),
        ("c.example:443", "http://c.example:443/a", True),
        ("c.example:80", "http://c.example/a", True),
        ("c.example:80", "https://c.example:80/a", True),
        ("c.example:8443", "https://c.example:8443/a", True),
        ("[::1]:8443", "https://[::1]:8443/a", True),
        ("c.example:8443", "https://c.example/a", False),
        ("c.example", "https://c.example:8443/a", False),
        ("example", "https://c.example/a", False),
    ],
)
def test_a_host_takes_what_is_its_own_on_both_schemes(given: str, url: str, gone: bool) -> None:
    assert goes({"hosts": [given]}, stored(url)) is gone


@pytest.mark.parametrize(
    ("given", "tags", "gone"),
    [
        ("p:1", ("p:1",), True),
        ("p:1", ("x", "p:1"), True),
        ("p:1", ("p:11", "P:1"), False),
        ("https://c.example news", ("https://c.example news",), True),
        ("café", ("cafÃ©",), True),  # UTF-8 in a field, as it is read
        ("café", ("café",), True),
        ("x" * 5000, ("x" * 5000,), True),
    ],
)
def test_a_tag_takes_what_carries_it(given: str, tags: tuple[str, ...], gone: bool) -> None:
    assert goes({"tags": [given]}, stored("https://c.example/a", *tags)) is gone


def test_all_takes_everything() -> None:
    assert goes({"all": True}, stored("https://c.example/a"))


def test_several_kinds_are_one_batch_in_which_each_target_is_once() -> None:
    given = {"all": False, "urls": ["https://c.example/a", "https://C.example/a"], "tags": ["t", "t"], "hosts": ["h"]}
    assert targets(given) == ((Kind.URL, "https://c.example/a"), (Kind.TAG, "t"), (Kind.HOST, "h"))


def test_soft_is_said_by_whoever_wants_it() -> None:
    assert read(b'{"all":true,"soft":true}').soft
    assert not read(b'{"all":true}').soft
    assert not read(b'{"all":true,"soft":false}').soft


def mistakes(raw: bytes | str) -> list[tuple[str, str]]:
    with pytest.raises(Mistaken) as caught:
        read(raw.encode() if isinstance(raw, str) else raw)
    assert all(mistake.instead for mistake in caught.value.mistakes)
    return [(mistake.at, mistake.what) for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("raw", "at", "what"),
    [
        (b"", "body", "is not JSON"),
        (b"{", "body", "is not JSON"),
        (b"\xff", "body", "is not JSON"),
        (b"[" * 100_000, "body", "is not JSON"),
        (b'{"urls":' + b"[" * 100_000, "body", "is not JSON"),
        (b'{"soft":' + b"9" * 5000 + b"}", "body", "is not JSON"),
        (b"[]", "body", "is not an object"),
        (b'"all"', "body", "is not an object"),
        (b"null", "body", "is not an object"),
        (b"{}", "body", "names nothing to invalidate"),
        (b'{"soft":true}', "body", "names nothing to invalidate"),
        (b'{"all":false,"urls":[],"tags":[]}', "body", "names nothing to invalidate"),
        (b'{"urls":["/a"],"urls":["/b"]}', "body", "has a member twice"),
        (b'{"all":true,"x":{"a":1,"a":2}}', "body", "has a member twice"),
        (b'{"url":["/a"]}', "'url'", "is not known here"),
        (b'{"all":true,"All":true}', "'All'", "is not known here"),
        (b'{"all":true,"\\ud800":1}', "'\\ud800'", "is not known here"),
        (b'{"all":1}', "all", "is not true or false"),
        (b'{"all":null}', "all", "is not true or false"),
        (b'{"all":true,"soft":"yes"}', "soft", "is not true or false"),
        (b'{"urls":"/a"}', "urls", "is not a list"),
        (b'{"tags":{"a":1}}', "tags", "is not a list"),
        (b'{"hosts":null}', "hosts", "is not a list"),
        (b'{"urls":[1]}', "urls[0]", "it is not a text"),
        (b'{"urls":["/a",["/b"]]}', "urls[1]", "it is not a text"),
        (b'{"urls":[""]}', "urls[0]", "'' is neither a path nor"),
        (b'{"urls":["a"]}', "urls[0]", "'a' is neither a path nor"),
        (b'{"urls":["c.example/a"]}', "urls[0]", "'c.example/a' is neither a path nor"),
        (b'{"urls":["ftp://c.example/a"]}', "urls[0]", "is neither a path nor an http or https URL"),
        (b'{"urls":["/a#b"]}', "urls[0]", "has a fragment"),
        (b'{"urls":["https://c.example/a#"]}', "urls[0]", "has a fragment"),
        (b'{"urls":["https:///a"]}', "urls[0]", "has a host that no request can name"),
        (b'{"urls":["https://u:p@c.example/a"]}', "urls[0]", "has a host that no request can name"),
        (b'{"urls":["https://c.example:99999/a"]}', "urls[0]", "has a host that no request can name"),
        (b'{"urls":["https://c_\\u00e9.example/a"]}', "urls[0]", "has a host that no request can name"),
        (b'{"urls":["https://[::g]/a"]}', "urls[0]", "has a host that no request can name"),
        (b'{"urls":["/a b"]}', "urls[0]", "is refused in requests: "),
        (b'{"urls":["/\\u00e9"]}', "urls[0]", "is refused in requests: "),
        (b'{"urls":["/a\\n"]}', "urls[0]", "is refused in requests: "),
        (b'{"urls":["/a/../b"]}', "urls[0]", "Dot segments"),
        (b'{"urls":["/a%2Fb"]}', "urls[0]", "An encoded slash"),
        (b'{"prefixes":["/a?b"]}', "prefixes[0]", "has a query"),
        (b'{"prefixes":["https://c.example?b"]}', "prefixes[0]", "has a query"),
        (b'{"prefixes":["/a/*"]}', "prefixes[0]", "ends with a *"),
        (b'{"prefixes":["//"]}', "prefixes[0]", "has only empty segments"),
        (b'{"prefixes":["a"]}', "prefixes[0]", "is neither a path nor"),
        (b'{"prefixes":["/a/./b"]}', "prefixes[0]", "Dot segments"),
        (b'{"hosts":["https://c.example"]}', "hosts[0]", "is more than a host"),
        (b'{"hosts":["c.example/"]}', "hosts[0]", "is more than a host"),
        (b'{"hosts":["*.example"]}', "hosts[0]", "has a host that no request can name"),
        (b'{"hosts":[""]}', "hosts[0]", "has a host that no request can name"),
        (b'{"tags":[""]}', "tags[0]", "is empty"),
        (b'{"tags":[" a"]}', "tags[0]", "outer spaces"),
        (b'{"tags":["a\\nb"]}', "tags[0]", "characters"),
        (b'{"tags":["\\ud800"]}', "tags[0]", "characters"),
    ],
)
def test_a_mistake_is_named_with_its_place(raw: bytes, at: str, what: str) -> None:
    ((where, said),) = mistakes(raw)
    assert where == at
    assert what in said


def test_every_mistake_is_named_at_once() -> None:
    raw = '{"urls":["/a","b","/c#"],"hosts":"h","tags":[1],"soft":0,"tgas":[]}'
    assert [at for at, _ in mistakes(raw)] == ["'tgas'", "soft", "hosts", "urls[1]", "urls[2]", "tags[0]"]


def test_unknown_members_are_named_but_not_by_the_thousand() -> None:
    assert len(mistakes(json.dumps({f"x{i}": 1 for i in range(5000)}))) == 100


def test_a_thousand_values_are_a_batch_and_one_more_is_not() -> None:
    full = {"urls": [f"/{i}" for i in range(MAX_VALUES - 1)], "all": True}
    assert read(json.dumps(full).encode()).values == MAX_VALUES
    assert mistakes(json.dumps({**full, "tags": ["t"]}))[0][1] == "has 1001 values"


def test_a_value_longer_than_a_request_is_a_mistake() -> None:
    assert targets({"tags": ["x" * MAX_LENGTH]})
    assert "is longer than a request can be" in mistakes(json.dumps({"tags": ["x" * (MAX_LENGTH + 1)]}))[0][1]


@pytest.mark.parametrize("value", ["/p/{}/x?utm_a=1&b=2&sort=3", "/" + "%41" * 300 + "{}"])
async def test_others_get_their_turn_while_a_large_batch_is_read(value: str) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    others = asyncio.create_task(other())
    raw = json.dumps({"urls": [value.format(i) for i in range(MAX_VALUES)]}).encode()
    assert (await read_batch(raw, SITE)).values == MAX_VALUES
    others.cancel()
    assert turns >= 25


def test_a_message_does_not_repeat_a_long_value_whole() -> None:
    assert len(mistakes(json.dumps({"urls": ["x" * 50_000]}))[0][1]) < 300


def test_the_log_line_is_one_of_bounded_length_without_queries() -> None:
    given = {"all": True, "urls": [f"/{i}{'x' * 500}?key=secret" for i in range(900)], "tags": ["a", "ü"], "soft": True}
    told = read(json.dumps(given).encode()).told
    assert told.startswith("everything, 900 urls ('/0xxx")
    assert told.endswith(", …), 2 tags ('a', '\\xfc') (soft)")
    assert "secret" not in told
    assert len(told) < 400
