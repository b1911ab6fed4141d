"""A whole configuration: what it becomes, every mistake at its line, and never a secret in what is said."""

import json
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import pytest
import trustme
import yaml
from jsonschema import Draft202012Validator

from proxy.config.document import ConfigError
from proxy.config.keys import json_schema
from proxy.config.load import check, from_upstream, load, override
from proxy.config.vocabulary import Address
from proxy.rules.limits import Limits
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.quota import By, GateRule, Quota
from proxy.rules.routes import Match, Route
from proxy.settings import Admin, Breaker, PurgeMethod, ServerTls, Settings, Shutdown, Upstream, UpstreamTls

ROOT: Final = Path(__file__).resolve().parent.parent.parent
EXAMPLES: Final = sorted((ROOT / "config").glob("*.yaml"))
TOKEN: Final = "s3cr3t-t0ken"

BASE: Final = """\
upstreams:
  api: {url: "http://127.0.0.1:9000"}
routes:
  - name: all
    upstream: api
"""

WHOLE: Final = """\
listen: "[::1]:8080"
workers: 1
tls: {certificate: cert.pem, key: key.pem}
trusted_proxies: [10.0.0.0/8, "fd00::/8"]
access_log: off
limits: {max_header_bytes: 16KiB, max_headers: 50, header_timeout: 1s, body_timeout: 2s, write_timeout: 3s,
         idle_timeout: 4s, max_connections: 5, flight_memory: 6MiB}
shutdown: {delay: 0s, timeout: 1m}
admin:
  listen: 0.0.0.0:9090
  token: ${READTHROUGH_TOKEN}
  hosts: [Cache.Internal]
purge_method: {allow: [127.0.0.0/8, "::1"]}
memory: {max_size: 64MiB}
upstreams:
  catalog:
    url: https://catalog.internal:8443/base
    preserve_host: true
    connect_timeout: 250ms
    timeout: 5m
    max_connections: 7
    tls: {ca: cert.pem, certificate: cert.pem, key: key.pem, server_name: catalog}
    breaker: {failures: 2, open: 1d}
    max_concurrent: {requests: 8, queue: 0, wait: 250ms}
defaults: {cache: {jitter: 0, stale_if_error: 1h}}
routes:
  - name: product
    match: {host: "*.Example.com", path: "/products/{id}", methods: [GET, HEAD]}
    upstream: catalog
    x_cache: true
    cache:
      default_ttl: 30s
      override_ttl: 5m
      jitter: 25%
      stale_while_revalidate: 60s
      early_refresh: 1.5
      negative_ttl: {404: 5s, 503: 250ms}
      request_cache_control: ignore
      unsafe_invalidates: false
      set_cookie: store
      credentials: share
      key: {query: {ignore: [utm_*, x]}, headers: [X-Tenant]}
      tags: ["product:{id}", all]
      forward_tags: true
      max_object_size: 5MiB
    rate_limit:
      - {rate: 50/s, burst: 100, by: header:X-Api-Key, name: per key, cost: {hit: 0.1, miss: 2}}
      - {rate: 5000/d, over_limit: serve_stale, ipv6_prefix: 48}
      - {rate: 2.5/s, by: route, over_limit: reject, cost: {hit: 0}}
    max_concurrent: {requests: 4, by: header:X-Api-Key, ipv6_prefix: 56}
  - name: rest
    upstream: catalog
    cache: off
    rate_limit: {rate: 0.5/m}
    max_concurrent: 16
"""


def write(directory: Path, text: str) -> Path:
    file = directory / "readthrough.yaml"
    file.write_text(text)
    return file


def test_the_least_is_served_with_the_documented_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, BASE), {}) == Settings(
        listen=Address("0.0.0.0", 8080),
        tls=None,
        trusted_proxies=(),
        access_log=True,
        limits=Limits(32 << 10, 100, 10.0, 30.0, 30.0, 75.0, 10_000, 128 << 20),
        shutdown=Shutdown(5.0, 30.0),
        admin=Admin(Address("127.0.0.1", 8081), None, ()),
        memory_max_size=256 << 20,
        upstreams={"api": Upstream("api", "http://127.0.0.1:9000", False, 1.0, 30.0, 256, None, Breaker(5, 5.0))},
        routes=(Route("all", Match(None, "/*", ()), "api", Policy(), x_cache=False),),
        workers=1,
    )


def test_every_key_arrives(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = trustme.CA().issue_cert("catalog")
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    assert load(write(tmp_path, WHOLE), {"READTHROUGH_TOKEN": TOKEN}) == Settings(
        listen=Address("::1", 8080),
        tls=ServerTls(cert, key),
        trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
        access_log=False,
        limits=Limits(16 << 10, 50, 1.0, 2.0, 3.0, 4.0, 5, 6 << 20),
        shutdown=Shutdown(0.0, 60.0),
        admin=Admin(Address("0.0.0.0", 9090), TOKEN, ("cache.internal",)),
        purge_method=PurgeMethod((ip_network("127.0.0.0/8"), ip_network("::1"))),
        memory_max_size=64 << 20,
        upstreams={
            "catalog": Upstream(
                "catalog",
                "https://catalog.internal:8443/base",
                preserve_host=True,
                connect_timeout=0.25,
                timeout=300.0,
                max_connections=7,
                tls=UpstreamTls(cert, cert, key, "catalog"),
                breaker=Breaker(2, 86400.0),
                gate=GateRule(requests=8, queue=0, wait=0.25),
            )
        },
        routes=(
            Route(
                "product",
                Match("*.example.com", "/products/{id}", ("GET", "HEAD")),
                "catalog",
                Policy(
                    default_ttl=30.0,
                    override_ttl=300.0,
                    jitter=0.25,
                    stale_while_revalidate=60.0,
                    stale_if_error=3600.0,
                    early_refresh=1.5,
                    negative_ttl={404: 5.0, 503: 0.25},
                    respect_request=False,
                    unsafe_invalidates=False,
                    store_set_cookie=True,
                    share_credentials=True,
                    key=KeyRule(("utm_*", "x"), ("x-tenant",)),
                    tags=("product:{id}", "all"),
                    forward_tags=True,
                    max_object_size=5 << 20,
                ),
                x_cache=True,
                quotas=(
                    Quota("per key", 50.0, 100.0, By.HEADER, "x-api-key", hit=0.1, miss=2.0),
                    Quota("product-2", 5000 / 86400, 5000.0, By.IP, ipv6_prefix=48, serve_stale=True),
                    Quota("product-3", 2.5, 2.0, By.ROUTE, hit=0.0),
                ),
                gate=GateRule(4, 4, 1.0, By.HEADER, "x-api-key", 56),
            ),
            Route(
                "rest",
                Match(),
                "catalog",
                Policy(enabled=False),
                quotas=(Quota("rest", 0.5 / 60, 1.0, By.IP, ipv6_prefix=64),),
                gate=GateRule(16, 16, 1.0, By.IP),
            ),
        ),
    )


def test_cache_off_is_a_word_and_yaml_false(tmp_path: Path) -> None:
    for word in ("off", "false", "OFF", "'off'"):
        text = BASE + f"    cache: {word}\naccess_log: {word}\n"
        settings = load(write(tmp_path, text), {})
        assert settings.routes[0].policy == Policy(enabled=False)
        assert settings.access_log is False


def test_tracing_is_a_word_and_what_yaml_makes_of_it(tmp_path: Path) -> None:
    assert load(write(tmp_path, BASE), {}).tracing is False
    for word, meant in (("on", True), ("true", True), ("'on'", True), ("off", False), ("false", False)):
        text = f"{BASE}\ntracing: {word}\n"
        assert load(write(tmp_path, text), {}).tracing is meant
        Draft202012Validator(json_schema()).validate(yaml.safe_load(text))


def test_a_small_memory_needs_no_smaller_object_size(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "memory: {max_size: 1MiB}\n" + BASE), {})
    assert settings.routes[0].policy.max_object_size == settings.memory_max_size == 1 << 20


def test_a_token_is_in_no_representation(tmp_path: Path) -> None:
    settings = load(write(tmp_path, f"admin: {{token: {TOKEN}}}\n{BASE}"), {})
    assert settings.admin.token == TOKEN
    assert TOKEN not in repr(settings)


def test_one_url_is_a_configuration() -> None:
    settings = from_upstream("http://127.0.0.1:9000/base/")
    assert settings == Settings(
        upstreams={"upstream": Upstream("upstream", "http://127.0.0.1:9000/base")},
        routes=(Route("default", Match(), "upstream", Policy()),),
    )
    assert settings.admin.listen == Address("127.0.0.1", 8081)
    with pytest.raises(ConfigError, match=r"^--upstream: the value has a user name in it; leave out") as caught:
        from_upstream(f"http://u:{TOKEN}@a")
    assert TOKEN not in str(caught.value)


def test_listeners_are_overridden() -> None:
    base = from_upstream("http://a")
    assert override(base) == base
    assert override(base, listen="[::1]:1", admin="127.0.0.1:2") == replace(
        base, listen=Address("::1", 1), admin=Admin(Address("127.0.0.1", 2))
    )
    for listen, admin, message in (
        ("80", None, r"^--listen: '80' is not an address; write HOST:PORT"),
        (None, "::1:80", r"^--admin: '::1:80' is not an address; write HOST:PORT"),
        (None, "0.0.0.0:81", r"^--admin: an admin listener beyond loopback needs a token; add admin.token"),
        ("127.0.0.1:8081", None, r"^--listen: the admin listener has the same port as the clients'; give it another"),
    ):
        with pytest.raises(ConfigError, match=message):
            override(base, listen=listen, admin=admin)
    with_token = replace(base, admin=Admin(token=TOKEN))
    assert override(with_token, admin="0.0.0.0:81").admin == Admin(Address("0.0.0.0", 81), TOKEN)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_pass_check_and_fit_the_schema(example: Path) -> None:
    assert check(example, {})[1] == ()
    document = json.loads(json.dumps(yaml.safe_load(example.read_text())))
    Draft202012Validator(json_schema()).validate(document)


def test_the_examples_are_there() -> None:
    assert [example.stem for example in EXAMPLES] == ["fleet", "gateway", "minimal", "sidecar"]


def test_the_schema_is_one_and_takes_the_whole() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    whole = json.loads(json.dumps(yaml.safe_load(WHOLE)))
    validator.validate(whole)
    for wrong in ({**whole, "lisen": "a:1"}, {**whole, "routes": []}, {**whole, "workers": 0}, {**whole, "tls": {}}):
        assert not validator.is_valid(wrong)
