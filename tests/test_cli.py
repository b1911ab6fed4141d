"""The command line, from its arguments to its exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from proxy import cli
from proxy.settings import Address, ConfigError, Settings

ROOT: Final = Path(__file__).resolve().parent.parent
MINIMAL: Final = str(ROOT / "config" / "minimal.yaml")
Reload = Callable[[], Settings]


class Served:
    """Stands in for the server: what it was started with."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.reload: Reload | None = None

    def run(self, settings: Settings, reload: Reload) -> int:
        self.settings, self.reload = settings, reload
        return 7


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    stand_in, app = Served(), ModuleType("proxy.app")
    app.run = stand_in.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "proxy.app", app)
    return stand_in


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        code = cli.main(argv)
    except SystemExit as exit_:
        assert isinstance(exit_.code, int)  # noqa: PT017
        code = exit_.code
    return (code, *capsys.readouterr())


def test_check_says_ok(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", "-c", MINIMAL) == (0, f"{MINIMAL}: ok\n", "")


def test_check_says_warnings_and_ok(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("upstreams: {a: {url: 'http://a'},\n  b: {url: 'http://b'}}\nroutes: [{name: r, upstream: a}]\n")
    code, out, err = run(capsys, "check", "-c", str(file))
    assert (code, out) == (0, f"{file}: ok\n")
    assert err.startswith(f"{file}:2: warning: upstreams.b: no route names it; ")


@pytest.mark.parametrize("command", ["check", "serve"])
def test_six_mistakes_are_six_lines_and_exit_2(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, served: Served
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "listen: here\nlimits:\n  max_heders: 5\nmemory: {max_size: 1}\nadmin: {token: '${NOT_SET_ANYWHERE}'}\n"
        "upstreams: {a: {url: 'gopher://a'}}\nroutes:\n  - {name: r, upstream: b}\n"
    )
    code, out, err = run(capsys, command, "-c", str(file))
    assert (code, out) == (2, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == [f"{file}:{line}" for line in (1, 3, 4, 5, 6, 8)]
    assert served.settings is None


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("none.yaml", None, "none.yaml: the file cannot be read: no such file or directory; "),
        (".", None, ": the file cannot be read: is a directory; "),
        ("c.yaml", b"a: 1\nb: \xff\n", "c.yaml:2: the file is not UTF-8; "),
        ("c.yaml", b"a: 1\nb: [1\n", "c.yaml:3: this is not YAML: "),
    ],
)
def test_a_file_that_cannot_be_read_is_exit_2(
    command: str, name: str, data: bytes | None, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    code, out, err = run(capsys, command, "-c", str(tmp_path / name))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["check"], "-c/--config"),
        (["serve"], "serve needs -c FILE or --upstream URL"),
        (["serve", "-c", MINIMAL, "--upstream", "http://a"], "drop --upstream, which is a whole configuration, or -c"),
        (["serve", "--upstream", ""], "--upstream: the value is empty; write http://host:port/base or https://…"),
        (["serve", "--upstream", "http://a", "--listen", "80"], "--listen: '80' is not an address; write HOST:PORT"),
        (["serve", "--upstream", "http://a", "--admin", "[::]:80"], "--admin: an admin listener beyond loopback needs"),
        (["serve", "--up", "http://a"], "unrecognized arguments: --up"),
        (["version", "x"], "unrecognized arguments: x"),
    ],
)
def test_wrong_arguments_are_exit_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], served: Served
) -> None:
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert served.settings is None


def test_serve_hands_over_the_settings_and_its_exit_code(capsys: pytest.CaptureFixture[str], served: Served) -> None:
    assert run(capsys, "serve", "--upstream", "http://a", "--listen", "127.0.0.1:1", "--admin", "[::1]:2") == (
        7,
        "",
        "",
    )
    assert served.settings is not None
    assert served.settings.listen == Address("127.0.0.1", 1)
    assert served.settings.admin.listen == Address("::1", 2)
    assert served.settings.upstreams["upstream"].url == "http://a"


def test_reload_reads_the_file_again_under_the_same_options(
    capsys: pytest.CaptureFixture[str], served: Served, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("upstreams: {a: {url: 'http://a'}}\nroutes: [{name: r, upstream: a}]\n")
    assert run(capsys, "serve", "-c", str(file), "--listen", "127.0.0.1:1")[0] == 7
    assert served.reload is not None
    assert served.reload() == served.settings
    file.write_text("upstreams: {a: {url: 'http://b'}}\nroutes: [{name: r, upstream: a}]\n")
    fresh = served.reload()
    assert (fresh.listen, fresh.upstreams["a"].url) == (Address("127.0.0.1", 1), "http://b")
    file.write_text("upstreams: {}\n")
    with pytest.raises(ConfigError):
        served.reload()


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "schema")
    assert (code, err) == (0, "")
    assert json.loads(out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cli, "version", lambda _: "1.2.3")
    assert run(capsys, "version") == (0, "readthrough 1.2.3\n", "")
    monkeypatch.setattr(cli, "version", unknown)
    assert run(capsys, "version") == (1, "", "readthrough is not installed here, so that it has no version\n")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_package_is_the_command() -> None:
    done = python("-m", "proxy", "check", "-c", MINIMAL)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{MINIMAL}: ok\n", "")
    assert python("-m", "proxy", "serve").returncode == 2


def test_what_only_reads_does_not_load_the_server() -> None:
    code = "import sys, proxy.cli as c; c.main(['schema']); print(sorted({'aiohttp','uvloop'} & {*sys.modules}))"
    assert python("-c", code).stdout.endswith("[]\n")


def test_the_console_script_is_main() -> None:
    config: Any = (ROOT / "pyproject.toml").read_text()
    assert 'readthrough = "proxy.cli:main"' in config
