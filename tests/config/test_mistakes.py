"""Every mistake at its line, with what to write instead, and never a secret in what is said."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config.document import ConfigError
from proxy.config.load import check, load

TOKEN: Final = "s3cr3t-t0ken"
BASE: Final = """\
upstreams:
  api: {url: "http://127.0.0.1:9000"}
routes:
  - name: all
    upstream: api
"""


EXAMPLE: Final = (Path(__file__).parents[2] / "config" / "gateway.yaml").read_text()
GATEWAY: Final = EXAMPLE.replace("  hosts:", "  token: ${READTHROUGH_TOKEN}\n  hosts:")


def write(directory: Path, text: str) -> Path:
    file = directory / "readthrough.yaml"
    file.write_text(text)
    return file


def problems(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Every error, without the file's name."""
    file = write(directory, text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ or {})
    assert str(caught.value) == "\n".join(map(str, caught.value.errors))
    return [str(problem).removeprefix(f"{file}:") for problem in caught.value.errors]


def warnings(directory: Path, text: str) -> list[str]:
    file = write(directory, text)
    return [str(problem).removeprefix(f"{file}:") for problem in check(file, {})[1]]


# Each line of text stands before BASE, so that its own line is 1.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lisen: 0.0.0.0:80", "1: unknown key lisen; did you mean listen?"),
        ("port: 80", "1: unknown key port; the keys here are listen, workers, tls, "),
        ("cache: off", "1: unknown key cache; did you mean defaults.cache?"),
        ("memory: {size: 1GiB}", "1: memory: unknown key size; did you mean max_size?"),
        ("listen: 8080", "1: listen: '8080' is not an address; write HOST:PORT, as in "),
        ("listen:", "1: listen: is empty; write HOST:PORT, as in "),
        (
            "workers: 4",
            "1: workers: more than 1 needs redis: without it every process would have purges and copies of its own",
        ),
        ("workers: 0", "1: workers: '0' is too small; write 1 or more"),
        ("redis: {url: 'redis://r', max_blind: 0}", "1: redis.max_blind: '0' is not a duration; write"),
        ("purge_method: {}", "1: purge_method: allow is missing; add `allow:`. Addresses of clients that may."),
        ("purge_method: {allow: []}", "1: purge_method.allow: is an empty list; write at least one"),
        ("purge_method: {allow: [everybody]}", "1: purge_method.allow[0]: 'everybody' is not a network; write an"),
        ("tls: {certificate: cert.pem}", "1: tls: key is missing; add `key:`. Its key, PEM."),
        ("trusted_proxies: [10.0.0.1/8]", "1: trusted_proxies[0]: '10.0.0.1/8' has bits set beyond its prefix; "),
        ("access_log: text", "1: access_log: 'text' is not known here; write json or off"),
        ("limits: {max_headers: many}", "1: limits.max_headers: 'many' is not a whole number; write digits only"),
        (
            "limits: {max_connections: 1000000000000000}",
            "1: limits.max_connections: '1000000000000000' is too large; write 999999999999 or less",
        ),
        ("limits: {body_timeout: 0}", "1: limits.body_timeout: '0' is not a duration; write a number and its unit"),
        ("shutdown: {delay: 5}", "1: shutdown.delay: '5' is not a duration; write a number and its unit, as in 250ms"),
        ("memory: {max_size: 1GB}", "1: memory.max_size: '1GB' is not a size; write a number and its unit, as in"),
        (
            "admin: {listen: '0.0.0.0:8081'}",
            "1: admin.listen: an admin listener beyond loopback needs a token; add admin.token, or listen on 127.0.0.1",
        ),
        (
            "admin: {listen: '127.0.0.1:8080'}",
            "1: admin.listen: the admin listener has the same port as the clients'; give it another port",
        ),
        ("listen: 127.0.0.1:8081", "1: listen: the admin listener has the same port as the clients'; give it"),
        ("admin: {token: ''}", "1: admin.token: the value is empty; write visible ASCII without spaces"),
        ("admin: {token: '${EMPTY}'}", "1: admin.token: the value is empty; write visible ASCII without spaces"),
        (
            "admin: {token: '${NONE}'}",
            "1: admin.token: the variable NONE is not set; set it, or write ${NONE:-default}",
        ),
        ("admin: {hosts: [a/b]}", "1: admin.hosts[0]: 'a/b' is not a host; write a name or address, with or without"),
        ("defaults: {cahce: {}}", "1: defaults: unknown key cahce; did you mean cache?"),
        ("defaults: {cache: {jitter: 120%}}", "1: defaults.cache.jitter: '120%' is more than all; write 0% to 100%"),
        (
            "defaults: {cache: {tags: ['p:{id}']}}",
            "1: defaults.cache.tags[0]: 'p:{id}' names what the path of routes[0] does not capture; write {name} for",
        ),
        (
            "defaults: {cache: {max_object_size: 1GiB}}",
            "1: defaults.cache.max_object_size: '1GiB' is more than memory.max_size; write less, or raise memory.max",
        ),
    ],
)
def test_a_mistake_at_the_top(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "cert.pem").touch()
    [problem] = problems(tmp_path, f"{text}\n{BASE}", {"EMPTY": ""})
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("url: ftp://a", "3: upstreams.b.url: the value is neither http nor https; write http://… or https://…"),
        ("url: 'http://a?q'", "3: upstreams.b.url: the value has a query or fragment; write scheme, host, port and"),
        ("url: 'http://u:p@a'", "3: upstreams.b.url: the value has a user name in it; leave out what stands before"),
        ("timeout: 1s", "3: upstreams.b: url is missing; add `url:`. Scheme, host, port and base path."),
        ("url: 'http://a', timeout: 0s", "3: upstreams.b.timeout: '0s' is too short; write 1ms or more"),
        ("url: 'http://a', timout: 1s", "3: upstreams.b: unknown key timout; did you mean timeout?"),
        ("url: 'http://a', preserve_host: yes", "3: upstreams.b.preserve_host: 'yes' is not a yes or no; write true"),
        ("url: 'http://a', max_concurrent: 0", "3: upstreams.b.max_concurrent: '0' is too small; write 1 or more"),
        (
            "url: 'http://a', max_concurrent: {requests: 1, by: ip}",
            "3: upstreams.b.max_concurrent: unknown key by; the",
        ),
        ("url: 'http://a', breaker: {failures: 0}", "3: upstreams.b.breaker.failures: '0' is too small; write 1 or"),
        ("url: 'http://a', tls: {server_name: b}", "3: upstreams.b.tls: does nothing for an http URL; write https"),
        ("url: 'https://a', tls: {ca: no.pem}", "3: upstreams.b.tls.ca: 'no.pem' is not a file; write a name relative"),
        ("url: 'https://a', tls: {key: k.pem}", "3: upstreams.b.tls: has a certificate without key, or a key without"),
    ],
)
def test_a_mistake_in_an_upstream(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "k.pem").touch()
    [problem] = problems(tmp_path, BASE.replace("routes:", f"  b: {{{text}}}\nroutes:"))
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("upstream: apo", "6: routes[1].upstream: 'apo' is not among the upstreams; write one of api"),
        ("name: all", "6: routes[1].name: 'all' is the name of routes[0] too; give each route a name of its own"),
        ("name: a b", "6: routes[1].name: 'a b' is not a name; write letters, digits, _ and -"),
        ("match: {path: x}", "6: routes[1].match.path: 'x' is not a path; write / and visible ASCII without ? and #"),
        ("match: {path: '/*/x'}", "6: routes[1].match.path: '/*/x' has a * before its end; write {name} for one seg"),
        ("match: {path: '/{a}/{a}'}", "6: routes[1].match.path: '/{a}/{a}' gives two segments one name; write another"),
        ("match: {host: a.*}", "6: routes[1].match.host: 'a.*' is not a host pattern; write a name, or in quotes"),
        ("match: {methods: [get]}", "6: routes[1].match.methods[0]: 'get' is not in capitals; write GET"),
        ("match: {methods: []}", "6: routes[1].match.methods: is an empty list; write at least one item"),
        ("x_cache: 1", "6: routes[1].x_cache: '1' is not a yes or no; write true or false"),
        ("cache: on", "6: routes[1].cache: 'on' is not known here; write off, or `key: value` lines"),
        ("cache: {ttl: 5s}", "6: routes[1].cache: unknown key ttl; did you mean default_ttl or override_ttl or"),
        ("cache: {headers: [X-A]}", "6: routes[1].cache: unknown key headers; did you mean key.headers?"),
        ("ttl: 5s", "6: routes[1]: unknown key ttl; did you mean cache.default_ttl or cache.override_ttl or"),
        ("path: /a", "6: routes[1]: unknown key path; did you mean match.path?"),
        ("hosts: [a]", "6: routes[1]: unknown key hosts; did you mean match.host?"),
        ("backend: api", "6: routes[1]: unknown key backend; the keys here are name, match, upstream, "),
        (
            "cache: {negative_ttl: {302: 5s}}",
            "6: routes[1].cache.negative_ttl.302: '302' is not an error status; write",
        ),
        (
            "cache: {set_cookie: share}",
            "6: routes[1].cache.set_cookie: 'share' is not known here; write bypass or store",
        ),
        ("cache: {key: {headers: X-A}}", "6: routes[1].cache.key.headers: is not a list; write [one, two], or"),
        ("cache: {key: {query: [a]}}", "6: routes[1].cache.key.query: is not a mapping; write `key: value` lines"),
        (
            "match: {path: '/{a}'}, cache: {tags: ['x:{b}']}",
            "6: routes[1].cache.tags[0]: 'x:{b}' names what the path of routes[1] does not capture; write {name} for",
        ),
        (
            "cache: {max_object_size: 257MiB}",
            "6: routes[1].cache.max_object_size: '257MiB' is more than memory.max_size",
        ),
        ("rate_limit: []", "6: routes[1].rate_limit: is an empty list; write at least one item"),
        ("rate_limit: 50/s", "6: routes[1].rate_limit: is not a mapping; write `key: value` lines"),
        ("rate_limit: {burst: 5}", "6: routes[1].rate_limit: rate is missing; add `rate:`. Tokens that come per time"),
        ("rate_limit: {rate: 50}", "6: routes[1].rate_limit.rate: '50' is not a rate; write a number per s, m, h or d"),
        ("rate_limit: {rate: 1/s, ipv6_prefix: 129}", "6: routes[1].rate_limit.ipv6_prefix: '129' is too large; write"),
        ("rate_limit: {rate: 1/s, cost: {hit: -1}}", "6: routes[1].rate_limit.cost.hit: '-1' is not a number; write"),
        (
            "rate_limit: {rate: 1/s, by: 'header:X-Forwarded-For'}",
            "6: routes[1].rate_limit.by: 'header:X-Forwarded-For' can be written by any client as it likes; write ip,",
        ),
        (
            "rate_limit: {rate: 1/s, cost: {hit: 0, miss: 0}}",
            "6: routes[1].rate_limit.cost: is nothing, so nothing is limited; write more than 0 for hit or for miss",
        ),
        (
            "rate_limit: {rate: 50/s, burst: 4, cost: {miss: 4.5}}",
            "6: routes[1].rate_limit.burst: a burst of 4 can never pay for an answer that costs 4.5; write burst: 5 or",
        ),
        (
            "rate_limit: [{rate: 2/s, cost: {hit: 3}}]",
            "6: routes[1].rate_limit[0].rate: a burst of 2 can never pay for an answer that costs 3; write burst: 3 or",
        ),
        (
            "rate_limit: {rate: 1/d, burst: 401}",
            "6: routes[1].rate_limit.burst: it takes more than 400 days to save up the burst; write a smaller burst",
        ),
        (
            "cache: off, rate_limit: {rate: 1/s, over_limit: serve_stale}",
            "6: routes[1].rate_limit.over_limit: this route stores nothing that could be stale; write reject, or give",
        ),
        (
            "rate_limit: [{rate: 1/s}, {rate: 60/m}]",
            "6: routes[1].rate_limit[1]: has no effect: whatever it would refuse, routes[1].rate_limit[0] refuses; l",
        ),
        (
            "rate_limit: [{rate: 1/s}, {rate: 60/m, burst: 1}]",
            "6: routes[1].rate_limit[1]: has no effect: whatever it would refuse, routes[1].rate_limit[0] refuses; l",
        ),
        (
            "rate_limit: [{rate: 100/s}, {rate: 50/s, by: route}]",
            "6: routes[1].rate_limit[0]: has no effect: whatever it would refuse, routes[1].rate_limit[1] refuses; l",
        ),
        ("max_concurrent: none", "6: routes[1].max_concurrent: 'none' is not a whole number; write digits only, 1 or"),
        ("max_concurrent: 0", "6: routes[1].max_concurrent: '0' is too small; write 1 or more"),
        ("max_concurrent: {queue: 5}", "6: routes[1].max_concurrent: requests is missing; add `requests:`. Under way"),
        ("max_concurrent: {requests: 5, wait: 0}", "6: routes[1].max_concurrent.wait: '0' is not a duration; write a"),
        (
            "max_concurrent: {requests: 5, by: cookie}",
            "6: routes[1].max_concurrent.by: 'cookie' is not a client; write",
        ),
    ],
)
def test_a_mistake_in_a_route(tmp_path: Path, text: str, expected: str) -> None:
    rest = "".join(f", {part}" for part in ("name: new", "upstream: api") if part.partition(":")[0] not in text)
    [problem] = problems(tmp_path, f"{BASE}  - {{{text}{rest}}}\n")
    assert problem.startswith(expected)


def test_sections_that_are_needed_least_are_read_as_closely(tmp_path: Path) -> None:
    text = """\
redis: {url: "http://x", prefix: rt, when_unreachable: panic, max_blind: 30s, after_gap: drop}
purge_method: {allow: [everybody]}
upstreams: {api: {url: "http://a"}}
routes:
  - {name: a, upstream: api, rate_limit: [{rate: 50/s, by: header:X-Api-Key}, {rate: 50, by: cookie}]}
  - {name: b c, upstream: api, rate_limit: [7, {rate: 5/s, cost: {hit: 9, miss: x}}, {rate: 1/s}, {rate: 2/s}]}
"""
    assert [problem.partition(";")[0] for problem in problems(tmp_path, text)] == [
        "1: redis.url: the value is not a Redis URL",
        "1: redis.when_unreachable: 'panic' is not known here",
        "2: purge_method.allow[0]: 'everybody' is not a network",
        "5: routes[0].rate_limit[1].rate: '50' is not a rate",
        "5: routes[0].rate_limit[1].by: 'cookie' is not a client",
        "6: routes[1].name: 'b c' is not a name",
        "6: routes[1].rate_limit[0]: is not a mapping",
        "6: routes[1].rate_limit[1].cost.miss: 'x' is not a number",
        "6: routes[1].rate_limit[3]: has no effect: whatever it would refuse, routes[1].rate_limit[2] refuses",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("upstreams: {}\nroutes: []\n", ["1: upstreams: is empty; write at", "2: routes: is an empty list; write at"]),
        (
            "listen: 0.0.0.0:1\n",
            ["1: upstreams is missing; add `upstreams:`. The", "1: routes is missing; add `routes"],
        ),
        ("- a\n", ["1: is not a mapping; write `key: value` lines"]),
        ("routes\n", ["1: is not a mapping; write `key: value` lines"]),
        ("routes: [a]\nupstreams: [b]\n", ["1: routes[0]: is not a mapping; wr", "2: upstreams: is not a mapping; wr"]),
    ],
)
def test_something_must_be_served(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = problems(tmp_path, text)
    assert len(found) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(found, expected, strict=True))


SIX: Final = """\
listen: 0.0.0.0:8080
limits:
  idle_timeot: 75s
  header_timeout: 10 seconds
admin:
  token: ${READTHROUGH_TOKEN}
upstreams:
  api:
    url: http://127.0.0.1:9000
  api:
    url: http://127.0.0.1:9001
routes:
  - name: product
    match: {path: "/products/{id}"}
    upstream: catalog
    cache:
      tags: ["product:{sku}"]
"""


def test_six_mistakes_are_six_errors_at_their_lines(tmp_path: Path) -> None:
    found = problems(tmp_path, SIX)
    assert [problem.partition("; ")[0] for problem in found] == [
        "3: limits: unknown key idle_timeot",
        "4: limits.header_timeout: '10 seconds' is not a duration",
        "6: admin.token: the variable READTHROUGH_TOKEN is not set",
        "10: upstreams.api: is given twice, first in line 8",
        "15: routes[0].upstream: 'catalog' is not among the upstreams",
        "17: routes[0].cache.tags[0]: 'product:{sku}' names what the path of routes[0] does not capture",
    ]
    assert all(problem.partition("; ")[2] for problem in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BASE, []),
        (
            BASE.replace("routes:", "  other: {url: 'http://b'}\nroutes:"),
            ["3: upstreams.other: no route names it; remove it, or name it as a route's upstream"],
        ),
        (
            BASE + "  - {name: late, upstream: api, match: {path: /x}}\n",
            ["6: routes[1]: can never match: routes[0] takes all of its requests; put it first, or narrow"],
        ),
        (
            "limits: {flight_memory: 1MiB}\n" + BASE,
            ["5: routes[0]: max_object_size is more than limits.flight_memory, beyond which nothing is stored; write"],
        ),
        ("limits: {flight_memory: 1MiB}\n" + BASE + "    cache: off\n", []),
        (
            "purge_method: {allow: ['::1', '::/0', 0.0.0.0/0]}\n" + BASE,
            [
                "1: purge_method.allow[1]: lets every client purge; name the networks that may",
                "1: purge_method.allow[2]: lets every client purge; name the networks that may",
            ],
        ),
    ],
)
def test_what_is_allowed_but_hardly_meant_is_a_warning(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = warnings(tmp_path, text)
    assert len(found) == len(expected)
    assert all(warning.startswith(start) for warning, start in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "admin: {token: '${SECRET} '}",
        "admin: {token: s3cr3t-t0ken x}",
        "admin: {token: [s3cr3t-t0ken]}",
        "admin: {token: {s3cr3t-t0ken: 1}}",
        "admin: {token: abc, s3cr3t-t0ken}",
        "admin: {token:s3cr3t-t0ken}",
        "admin: token:s3cr3t-t0ken",
        "admin: {token: *s3cr3t-t0ken}",
        "admin: {token: !s3cr3t-t0ken x}",
        "admin: {token: '${s3cr3t-t0ken}'}",
        "admin: {token: &s3cr3t-t0ken a, listen: &s3cr3t-t0ken b}",
        "admin: {tokn: s3cr3t-t0ken}",
        "admin: {token: a, token: s3cr3t-t0ken}",
        "listen: ${SECRET}",
        "workers: ${SECRET}",
        "trusted_proxies: ['${SECRET}']",
        "access_log: ${SECRET}",
        "tls: {certificate: '${SECRET}', key: '${SECRET}'}",
        "memory: {max_size: 'x${SECRET}y'}",
        "limits: {body_timeout: '${NONE:-s3cr3t-t0ken}'}",
        "redis: {url: 'redis://:s3cr3t-t0ken@r/x'}",
        "redis: {url: 'http://:s3cr3t-t0ken@r/0'}",
        "redis: redis://:s3cr3t-t0ken@r/0",
        "defaults: {cache: {tags: ['{${SECRET}}']}}",
        "upstreams: {a: {url: 'ftp://u:s3cr3t-t0ken@a'}, b: 'http://u:s3cr3t-t0ken@a'}",
        "upstreams: {'${SECRET} ': {url: 'http://a'}}",
        "routes: [{name: '${SECRET}', upstream: '${SECRET}'}, {name: '${SECRET}', upstream: '${SECRET}'}]",
        "routes: [{name: a, upstream: b, rate_limit: [{rate: 1/s, name: '${SECRET}'},{rate: 1/d, name: '${SECRET}'}]}]",
        "routes: [{name: '${SECRET}', upstream: b, rate_limit: [{rate: 1/s, name: '${SECRET}-2'}, {rate: 2/d}]}]",
    ],
)
def test_a_secret_is_in_no_error(tmp_path: Path, text: str) -> None:
    base = "".join(f"{key}: {value}\n" for key, value in (("upstreams", "{}"), ("routes", "[]")) if key not in text)
    found = problems(tmp_path, f"{text}\n{base}", {"SECRET": TOKEN})
    assert found
    assert TOKEN not in "\n".join(found)


def lines_of(text: str) -> st.SearchStrategy[str]:
    """The text with pieces cut out, doubled, put in."""
    pieces = st.sampled_from(
        ["${", "}", "[", "{", "*", "&a ", "<<: ", "!x ", "\n", "- ", '"', "~", "0", ": ", "\0", "é"]
    )
    places = st.integers(0, len(text))

    def change(edits: list[tuple[int, int, str]]) -> str:
        changed = text
        for at, length, piece in edits:
            changed = changed[:at] + piece + changed[at + length % 12 :]
        return changed

    return st.lists(st.tuples(places, places, pieces), min_size=1, max_size=4).map(change)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(lines_of(GATEWAY) | st.text())
def test_no_file_makes_it_fail_in_another_way(tmp_path: Path, text: str) -> None:
    file = tmp_path / "readthrough.yaml"
    file.write_bytes(text.encode())
    try:
        check(file, {"READTHROUGH_TOKEN": TOKEN})
    except ConfigError as error:
        assert error.errors  # noqa: PT017 -- that it may also load is the point
        assert TOKEN not in str(error)  # noqa: PT017
