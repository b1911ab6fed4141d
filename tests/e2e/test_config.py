"""Configuration mistakes, as the person sees them who made them."""

import json
import re
from pathlib import Path

import pytest

from tests.e2e.process import run

pytestmark = pytest.mark.asyncio(loop_scope="function")

SIX = """\
listen: 127.0.0.1:8080
access_log: xml
limits:
  header_timout: 10s
  idle_timeout: 75s
memory: {max_size: plenty}
upstreams:
  catalog:
    url: ftp://catalog.internal
routes:
  - name: products
    match: {path: "/products/{id}"}
    upstream: catalogue
    cache:
      stale_if_error: soon
"""

GOOD = """\
listen: 127.0.0.1:8080
upstreams:
  catalog:
    url: http://127.0.0.1:9
routes:
  - name: products
    match: {path: "/products/{id}"}
    upstream: catalog
"""


def _places(output: str, file: Path) -> list[int]:
    """The lines that errors are reported at, in order; each error is one line of output."""
    return [int(line) for line in re.findall(rf"{re.escape(str(file))}:(\d+)", output)]


@pytest.mark.parametrize("command", ["check", "serve"])
async def test_six_mistakes_are_six_errors_at_their_lines(tmp_path: Path, command: str) -> None:
    file = tmp_path / "six.yaml"
    file.write_text(SIX)
    code, output = await run(command, "-c", str(file))
    assert code == 2
    assert sorted(_places(output, file)) == [2, 4, 6, 9, 13, 15]
    assert "header_timeout" in output  # the nearest known key
    assert re.search(r"\bcatalog\b", output)  # the nearest known upstream
    assert "Traceback" not in output


MISTAKES = {
    "an unknown key": (GOOD + "limit: {max_headers: 50}\n", {9}, "limits"),
    "an unknown key in a route": (GOOD + "    cach: off\n", {9}, "cache"),
    "an unknown key in match": (GOOD.replace("{path:", "{pth:"), {7}, "path"),
    "a missing variable": (GOOD.replace("http://127.0.0.1:9", "${RT_NO_SUCH_NAME}"), {4}, "RT_NO_SUCH_NAME"),
    "a duration without a unit": (GOOD + "    cache: {default_ttl: 30}\n", {9}, "30"),
    "a size without a unit": (GOOD + "    cache: {max_object_size: 8MB!}\n", {9}, "8MB!"),
    "a negative duration": (GOOD + "    cache: {default_ttl: -5s}\n", {9}, "-5s"),
    "a word for a number": (GOOD + "limits: {max_headers: many}\n", {9}, "many"),
    "a word for a yes or no": (GOOD + "    x_cache: perhaps\n", {9}, "perhaps"),
    "an unknown choice": (GOOD + "    cache: {set_cookie: keep}\n", {9}, "bypass"),
    "a missing file of certificates": (
        GOOD + "tls: {certificate: nowhere.pem, key: nowhere.key}\n",
        {9},
        "nowhere.pem",
    ),
    "a key given twice": (GOOD + "listen: 127.0.0.1:8081\n", {9}, "listen"),
    "an address without a port": (GOOD.replace("127.0.0.1:8080", "127.0.0.1"), {1}, "127.0.0.1"),
    "a network that is none": (GOOD + "trusted_proxies: [10.0.0.0/99]\n", {9}, "10.0.0.0/99"),
    "an open admin listener without a token": (GOOD + "admin: {listen: 0.0.0.0:8081}\n", {9}, "token"),
    "two routes of one name": (GOOD + "  - name: products\n    upstream: catalog\n", {9}, "products"),
    "more workers without redis": (GOOD + "workers: 4\n", {9}, "workers"),
    "a limit that nothing fits": (GOOD + "    rate_limit: {rate: 1/s, cost: {miss: 2}}\n", {9}, "burst: 2"),
    "no routes": (GOOD[: GOOD.index("routes:")], set(), "routes"),
    "no YAML": (GOOD + "  - : [\n", set(), ""),
    "a list for a mapping": ("- listen\n", set(), ""),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_one_mistake_is_one_error_in_its_place(tmp_path: Path, name: str) -> None:
    text, lines, says = MISTAKES[name]
    file = tmp_path / "one.yaml"
    file.write_text(text)
    code, output = await run("check", "-c", str(file))
    assert code == 2, output
    assert set(_places(output, file)) == lines or not lines
    assert says in output
    assert "Traceback" not in output


async def test_a_good_file_is_good(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD.replace("127.0.0.1:9", "${RT_HOST:-127.0.0.1}:${RT_PORT}"))
    code, output = await run("check", "-c", str(file), env={"RT_PORT": "9"})
    assert code == 0, output


async def test_a_route_that_can_never_match_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "never.yaml"
    file.write_text(GOOD + '  - {name: never, match: {path: "/products/7"}, upstream: catalog}\n')
    code, output = await run("check", "-c", str(file))
    assert code == 0
    assert "never" in output
    assert _places(output, file) == [9]


async def test_a_secret_is_in_no_error(tmp_path: Path) -> None:
    file = tmp_path / "secret.yaml"
    file.write_text(
        GOOD + "admin: {listen: 0.0.0.0:8081, token: '${RT_SECRET}', tokn: '${RT_SECRET}'}\nmemory: {max_size: x}\n"
    )
    code, output = await run("check", "-c", str(file), env={"RT_SECRET": "hunter22222"})
    assert code == 2
    assert "hunter22222" not in output


@pytest.mark.parametrize(
    "arguments",
    [("serve",), ("check",), ("check", "-c", "/nowhere.yaml"), ("frobnicate",), ("serve", "--upstream", "x:y")],
)
async def test_a_wrong_command_line_is_2_and_no_traceback(arguments: tuple[str, ...]) -> None:
    code, output = await run(*arguments)
    assert code == 2
    assert output
    assert "Traceback" not in output


async def test_the_schema_is_a_json_schema_and_the_version_a_version() -> None:
    code, output = await run("schema")
    assert code == 0
    schema = json.loads(output)
    assert {"listen", "routes", "upstreams", "memory"} <= set(schema["properties"])
    code, output = await run("version")
    assert code == 0
    assert re.search(r"\d+\.\d+", output)
