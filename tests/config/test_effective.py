"""The configuration said in its own words: all of it, and none of its secrets."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from proxy.config.effective import effective
from proxy.config.keys import json_schema
from proxy.config.load import from_upstream, load
from proxy.settings import Settings

ROOT: Final = Path(__file__).resolve().parent.parent.parent
EXAMPLES: Final = sorted((ROOT / "config").glob("*.yaml"))
NOT_SAID: Final = {"defaults"}  # they are said with each route

SECRETS: Final = {
    "TOKEN": "s3cret-token",
    "REDIS": "redis://s3cret-user:s3cret%2Fp%40ss@redis.internal:6379/3",
    "KEY": "s3cret-key",
    "WHOLE": "https://whole.internal/s3cret-path",
}
GUARDED: Final = """\
admin: {listen: 0.0.0.0:9090, token: "${TOKEN}", hosts: [cache.internal]}
redis: {url: "${REDIS}"}
upstreams:
  keyed: {url: "https://API.internal:8443/v1/${KEY}/"}
  whole: {url: "${WHOLE}"}
  plain: {url: "http://plain.internal/base", timeout: 1500ms}
routes: [{name: all, upstream: plain}]
"""


def read(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return load(file, environ or {})


def given(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can say
    """What a file would have to say: without what is not configured."""
    if isinstance(value, dict):
        return {name: given(item) for name, item in value.items() if item not in (None, [])}
    return [given(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_what_is_said_can_be_read_as_a_configuration_that_does_the_same(example: Path, tmp_path: Path) -> None:
    settings = load(example, {})
    said = json.loads(json.dumps(effective(settings)))
    again = read(tmp_path, yaml.safe_dump(given(said)))
    for name in ("listen", "limits", "shutdown", "memory_max_size", "upstreams", "routes", "workers", "access_log"):
        assert getattr(again, name) == getattr(settings, name)
    assert effective(again) == effective(settings)


def names(schema: dict[str, Any], said: Any) -> None:  # noqa: ANN401 - whatever JSON can say
    """Every key is said, wherever there is anything to say it of."""
    properties = {name: child for name, child in schema.get("properties", {}).items() if name not in NOT_SAID}
    if properties and isinstance(said, dict):
        assert said.keys() == properties.keys()
        for name, child in properties.items():
            names(child, said[name])
    for child in schema.get("patternProperties", {}).values():
        for item in said.values() if isinstance(said, dict) else ():
            names(child, item)
    for child in schema.get("anyOf", ()):
        names(child, said)
    for item in said if isinstance(said, list) else ():
        names(schema.get("items", {}), item)


def test_every_key_is_said_with_its_default() -> None:
    said = effective(from_upstream("http://a/base"))
    names(json_schema(), said)
    assert said["limits"]["header_timeout"] == "10s"
    assert said["memory"] == {"max_size": "256MiB"}
    assert (said["tls"], said["redis"], said["admin"]["token"]) == (None, None, None)
    assert said["upstreams"]["upstream"]["url"] == "http://a/base"
    (route,) = said["routes"]
    assert route["cache"]["jitter"] == "10%"
    assert route["cache"]["max_object_size"] == "8MiB"
    assert route["cache"]["default_ttl"] is None


def test_what_lies_under_every_route_is_said_with_each(tmp_path: Path) -> None:
    text = """\
upstreams: {a: {url: "http://a"}}
defaults: {cache: {negative_ttl: {404: 5s}, key: {query: {ignore: [utm_*]}}}}
routes:
  - {name: one, upstream: a, match: {host: "*.example"}, cache: {default_ttl: 90s, key: {headers: [X-T]}}}
  - {name: two, upstream: a, cache: off}
"""
    one, two = effective(read(tmp_path, text))["routes"]
    assert one["match"] == {"host": "*.example", "path": "/*", "methods": []}
    assert one["cache"]["negative_ttl"] == {"404": "5s"}
    assert one["cache"]["key"] == {"query": {"ignore": ["utm_*"]}, "headers": ["x-t"]}
    assert one["cache"]["default_ttl"] == "90s"
    assert two["cache"] == "off"


def test_no_secret_is_said(tmp_path: Path) -> None:
    settings = read(tmp_path, GUARDED, SECRETS)
    said = effective(settings)
    written = json.dumps(said)
    assert "s3cret" not in written
    assert SECRETS["TOKEN"] not in repr(settings)
    assert "s3cret-user" not in repr(settings)
    assert said["admin"] == {"listen": "0.0.0.0:9090", "token": "(hidden)", "hosts": ["cache.internal"]}
    assert said["redis"]["url"] == "redis://(hidden)@redis.internal:6379/3"
    assert {name: upstream["url"] for name, upstream in said["upstreams"].items()} == {
        "keyed": "https://api.internal:8443/(hidden)",
        "whole": "https://whole.internal/(hidden)",
        "plain": "http://plain.internal/base",
    }
    assert said["upstreams"]["plain"]["timeout"] == "1500ms"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("rediss://:s3cret@h", "rediss://(hidden)@h"),
        ("redis://h/0?password=s3cret", "redis://h/0?(hidden)"),
        ("redis+sentinel://u:s3cret@a:1,b:2/master", "redis+sentinel://(hidden)@a:1,b:2/master"),
        ("redis+cluster://u:s3/cr@et@a:1,b:2", "redis+cluster://(hidden)@a:1,b:2"),
        ("redis+sentinel://h:26379/m?sentinel_password=pa@s3cret", "redis+sentinel://h:26379/m?(hidden)"),
        (
            "redis+sentinel://u:p@h:26379/m?sentinel_password=p?a@/s3@cret",
            "redis+sentinel://(hidden)@h:26379/m?(hidden)",
        ),
    ],
)
def test_of_redis_it_is_said_where_it_is(url: str, shown: str, tmp_path: Path) -> None:
    assert effective(read(tmp_path, GUARDED, {**SECRETS, "REDIS": "redis://h:6379/0"}))["redis"]["url"].endswith("/0")
    written = read(tmp_path, GUARDED.replace("${REDIS}", "redis://h"), SECRETS)
    assert written.redis is not None
    object.__setattr__(written.redis, "url", url)
    assert effective(written)["redis"]["url"] == shown
