"""What limits in the file become, and which of them are no mistake however they look."""

from pathlib import Path
from typing import Final

import pytest

from proxy.config.document import ConfigError
from proxy.config.effective import effective
from proxy.config.load import check
from proxy.rules.quota import By, GateRule, Quota
from proxy.rules.routes import Route
from proxy.settings import Settings

BASE: Final = """\
upstreams:
  api: {url: "http://127.0.0.1:9000"}
routes:
  - name: all
    upstream: api
"""


def read(directory: Path, line: str, base: str = BASE) -> Settings:
    file = directory / "readthrough.yaml"
    file.write_text(f"{base}    {line}\n")
    settings, warnings = check(file, {})
    assert warnings == ()
    return settings


def route(directory: Path, line: str) -> Route:
    return read(directory, line).routes[0]


@pytest.mark.parametrize(
    ("written", "quota"),
    [
        ("{rate: 50/s}", Quota("all", 50.0, 50.0)),
        ("[{rate: 50/s}]", Quota("all", 50.0, 50.0)),
        ("{rate: 5000/d}", Quota("all", 5000 / 86400, 5000.0)),
        ("{rate: 2.9/m}", Quota("all", 2.9 / 60, 2.0)),
        ("{rate: 0.1/s}", Quota("all", 0.1, 1.0)),
        ("{rate: 50/s, burst: 7}", Quota("all", 50.0, 7.0)),
        ("{rate: 1/s, by: ip}", Quota("all", 1.0, 1.0, By.IP)),
        ("{rate: 1/s, by: route}", Quota("all", 1.0, 1.0, By.ROUTE)),
        ("{rate: 1/s, by: 'header:X-Api-Key'}", Quota("all", 1.0, 1.0, By.HEADER, "x-api-key")),
        ("{rate: 1/s, name: 'per second, all'}", Quota("per second, all", 1.0, 1.0)),
        ("{rate: 1/s, cost: {hit: 0.1}}", Quota("all", 1.0, 1.0, hit=0.1)),
        ("{rate: 1/s, cost: {miss: 0}}", Quota("all", 1.0, 1.0, miss=0.0)),
        ("{rate: 1/s, over_limit: serve_stale}", Quota("all", 1.0, 1.0, serve_stale=True)),
        ("{rate: 1/s, ipv6_prefix: 128}", Quota("all", 1.0, 1.0, ipv6_prefix=128)),
    ],
)
def test_a_limit_becomes_a_quota(tmp_path: Path, written: str, quota: Quota) -> None:
    assert route(tmp_path, f"rate_limit: {written}").quotas == (quota,)


def test_limits_without_names_are_called_by_their_route_and_place(tmp_path: Path) -> None:
    quotas = route(tmp_path, "rate_limit: [{rate: 10/s}, {rate: 100/m, name: x}, {rate: 1000/d}]").quotas
    assert [quota.name for quota in quotas] == ["all", "x", "all-3"]


@pytest.mark.parametrize(
    ("written", "gate"),
    [
        ("8", GateRule(8, 8, 1.0)),
        ("{requests: 8}", GateRule(8, 8, 1.0)),
        ("{requests: 8, queue: 0}", GateRule(8, 0, 1.0)),
        ("{requests: 8, queue: 3, wait: 50ms}", GateRule(8, 3, 0.05)),
        ("{requests: 8, by: 'header:A', ipv6_prefix: 56}", GateRule(8, 8, 1.0, By.HEADER, "a", 56)),
        ("{requests: 8, by: route}", GateRule(8, 8, 1.0, By.ROUTE)),
    ],
)
def test_how_many_at_once_is_a_number_or_a_mapping(tmp_path: Path, written: str, gate: GateRule) -> None:
    assert route(tmp_path, f"max_concurrent: {written}").gate == gate


def test_an_upstream_has_a_limit_of_its_own(tmp_path: Path) -> None:
    base = BASE.replace('9000"}', '9000", max_concurrent: 5}')
    settings = read(tmp_path, "x_cache: false", base)
    assert settings.upstreams["api"].gate == GateRule(5, 5, 1.0)
    assert settings.routes[0].gate is None


def test_limits_are_said_as_the_file_would_say_them(tmp_path: Path) -> None:
    base = BASE.replace('9000"}', '9000", max_concurrent: 5}')
    limits = "{rate: 1000/m, by: 'header:X-A', cost: {hit: 0.5}}, {rate: 1/d, name: b, over_limit: serve_stale}"
    said = effective(read(tmp_path, f"rate_limit: [{limits}]", base))
    assert said["upstreams"]["api"]["max_concurrent"] == {"requests": 5, "queue": 5, "wait": "1s"}
    (route,) = said["routes"]
    assert route["max_concurrent"] is None
    assert route["rate_limit"] == [
        {
            "rate": "1000/m",
            "burst": 1000,
            "by": "header:x-a",
            "ipv6_prefix": 64,
            "name": "all",
            "cost": {"hit": 0.5, "miss": 1},
            "over_limit": "reject",
        },
        {
            "rate": "1/d",
            "burst": 1,
            "by": "ip",
            "ipv6_prefix": 64,
            "name": "b",
            "cost": {"hit": 1, "miss": 1},
            "over_limit": "serve_stale",
        },
    ]


@pytest.mark.parametrize(
    "limits",
    [
        "{rate: 10/s}, {rate: 5000/d}",
        "{rate: 10/s}, {rate: 10/s, burst: 5, cost: {hit: 0}}",
        "{rate: 10/s, cost: {hit: 0}}, {rate: 10/s, cost: {miss: 0}}",
        "{rate: 10/s, by: 'header:A'}, {rate: 10/s, by: 'header:B'}",
        "{rate: 10/s, by: 'header:A'}, {rate: 20/s}",
        "{rate: 10/s, by: ip}, {rate: 20/s, by: route}",
        "{rate: 10/s, ipv6_prefix: 64}, {rate: 20/s, ipv6_prefix: 48}",
        "{rate: 10/s, over_limit: serve_stale}, {rate: 20/s}",
        "{rate: 1/d, burst: 400}",
        "{rate: 3/s, cost: {miss: 3}}",
    ],
)
def test_what_can_have_an_effect_is_no_mistake(tmp_path: Path, limits: str) -> None:
    assert route(tmp_path, f"rate_limit: [{limits}]").quotas


@pytest.mark.parametrize(
    "limits",
    [
        "{rate: 10/s, burst: 5}, {rate: 10/s}",
        "{rate: 10/s}, {rate: 20/s, burst: 10, cost: {hit: 0.5}}",
        "{rate: 10/s, by: route}, {rate: 10/s, by: 'header:A'}",
        "{rate: 10/s}, {rate: 20/s, over_limit: serve_stale}",
        "{rate: 10/s, over_limit: serve_stale}, {rate: 20/s, over_limit: serve_stale}",
    ],
)
def test_what_never_has_an_effect_is_a_mistake(tmp_path: Path, limits: str) -> None:
    with pytest.raises(ConfigError, match=r"rate_limit\[1\]: has no effect: .* rate_limit|rate_limit\[0\] refuses"):
        route(tmp_path, f"rate_limit: [{limits}]")


@pytest.mark.parametrize(
    ("limits", "mistake"),
    [
        (
            "{rate: 1/s, name: 'say \"x\"'}",
            'rate_limit[0].name: \'say "x"\' is not a label; write visible ASCII without " and \\, and spaces within',
        ),
        (
            "{rate: 10/s, name: a}, {rate: 100/m, name: a}",
            "rate_limit[1].name: 'a' is the name of routes[0].rate_limit[0] too; write name: with another for each",
        ),
        (
            "{rate: 10/s, name: all-2}, {rate: 100/m}",
            "rate_limit[1]: what its route and its place call it is the name of routes[0].rate_limit[0] too; write",
        ),
    ],
)
def test_limits_have_names_that_can_be_told_apart_in_a_header(tmp_path: Path, limits: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as caught:
        route(tmp_path, f"rate_limit: [{limits}]")
    [problem] = caught.value.errors
    assert problem.line == 6
    assert problem.text.startswith(f"routes[0].{mistake}")


def test_of_three_that_say_the_same_two_are_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        route(tmp_path, "rate_limit: [{rate: 1/s}, {rate: 60/m, burst: 1}, {rate: 3600/h, burst: 1}]")
    assert [problem.where for problem in caught.value.errors] == ["routes[0].rate_limit[1]", "routes[0].rate_limit[2]"]


def test_a_stale_answer_needs_a_cache_by_the_defaults_too(tmp_path: Path) -> None:
    off = "defaults: {cache: off}\n" + BASE
    with pytest.raises(ConfigError, match="this route stores nothing that could be stale"):
        read(tmp_path, "rate_limit: {rate: 1/s, over_limit: serve_stale}", off)
    own = read(tmp_path, "cache: {}\n    rate_limit: {rate: 1/s, over_limit: serve_stale}", off)
    assert own.routes[0].quotas[0].serve_stale
