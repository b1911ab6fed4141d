"""The command line, from its arguments to its exit code."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from proxy import cli
from proxy.admin.access import Access
from proxy.admin.metrics import Metrics
from proxy.admin.server import AdminServer
from proxy.config.document import ConfigError
from proxy.config.vocabulary import Address
from proxy.settings import Settings
from tests.admin.kit import Admin, admin
from tests.admin.numbers import sources
from tests.admin.test_client import answering
from tests.admin.test_explain import explaining
from tests.flow.kit import World
from tests.flow.test_limiter import Limited, quota

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
        (["purge"], "purge: error: name what is to go: --url, --prefix, --tag, --host or --all"),
        (["purge", "--soft"], "name what is to go"),
        (["purge", "--url"], "argument --url: expected one argument"),
        (["purge", "--all", "--wait", "2"], "--wait: '2' is not a duration; write 250ms or 2s"),
        (["purge", "--all", "--admin", "gopher://a"], "the admin listener: its URL is written as http://HOST:PORT"),
        (["purge", "--all", "--token", "a b"], "the token has a character that no token has"),
        (["explain"], "the following arguments are required: URL"),
        (["explain", "http://a", "--admin", "gopher://a"], "the admin listener: its URL is written as"),
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


@pytest.mark.parametrize(("given", "token"), [("s3cret", "s3cret"), ("", None)])
def test_without_a_file_the_token_comes_from_the_environment(
    given: str, token: str | None, capsys: pytest.CaptureFixture[str], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READTHROUGH_TOKEN", given)
    code, _, err = run(capsys, "serve", "--upstream", "http://a")
    assert (code, err) == (7, "")
    assert served.settings is not None
    assert served.settings.admin.token == token
    code, _, err = run(capsys, "serve", "--upstream", "http://a", "--admin", "0.0.0.0:8081")
    assert code == (7 if token else 2)
    assert token is not None or "add admin.token or, with --upstream, set READTHROUGH_TOKEN, or listen on" in err


def test_a_token_for_serve_that_is_none_is_not_repeated(
    capsys: pytest.CaptureFixture[str], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READTHROUGH_TOKEN", "s3 cret")
    code, out, err = run(capsys, "serve", "--upstream", "http://a")
    assert (code, out) == (2, "")
    assert err.startswith("READTHROUGH_TOKEN: the value is not a token; write ")
    assert "cret" not in err
    assert served.settings is None


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


def test_several_workers_get_a_supervisor(
    capsys: pytest.CaptureFixture[str], served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, workers = Served(), ModuleType("proxy.workers")
    workers.supervise = supervisor.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "proxy.workers", workers)
    file = tmp_path / "c.yaml"
    file.write_text(
        "workers: 3\nredis: {url: 'redis://r.test'}\nupstreams: {a: {url: 'http://a'}}\n"
        "routes: [{name: r, upstream: a}]\n"
    )
    assert run(capsys, "serve", "-c", str(file)) == (7, "", "")
    assert served.settings is None
    assert supervisor.settings is not None
    assert supervisor.settings.workers == 3
    assert supervisor.reload is not None
    assert supervisor.reload() == supervisor.settings


def test_a_worker_reads_no_configuration(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ModuleType("proxy.worker")
    worker.work = {"2:5:dir": 9}.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "proxy.worker", worker)
    assert run(capsys, "serve", "-c", "gone.yaml", "--worker", "2:5:dir") == (9, "", "")


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


def python(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )


async def purge(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a real process."""
    done = await asyncio.to_thread(python, "-m", "proxy", "purge", *arguments, env=env)
    return done.returncode, done.stdout, done.stderr


def test_the_package_is_the_command() -> None:
    done = python("-m", "proxy", "check", "-c", MINIMAL)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{MINIMAL}: ok\n", "")
    assert python("-m", "proxy", "serve").returncode == 2


def test_what_only_reads_does_not_load_the_server() -> None:
    code = "import sys, proxy.cli as c; c.main(['schema']); print(sorted({'aiohttp','uvloop'} & {*sys.modules}))"
    assert python("-c", code).stdout.endswith("[]\n")


def test_what_talks_to_an_instance_loads_neither_server_nor_configuration() -> None:
    code = (
        "import sys, proxy.cli as c; c.main(['purge', '--all', '--admin', '127.0.0.1:1']);"
        " print(sorted({'aiohttp','asyncio','uvloop','yaml','redis'} & {*sys.modules}))"
    )
    assert python("-c", code).stdout == "[]\n"


async def test_a_purge_that_everybody_has_applied_is_done() -> None:
    async with admin() as here:
        here.log.instances = {"a": 1.25, "b": 17.0}
        given = (
            "--url",
            "/a",
            "--url",
            "https://h/b",
            "--prefix",
            "/p",
            "--tag",
            "t",
            "--host",
            "H",
            "--all",
            "--soft",
        )
        done = await purge(*given, "--admin", f"http://127.0.0.1:{here.port}")
        assert done == (0, "purged: b1, applied by 2 instances within 17 ms\n", "")
        ((targets, who, soft),) = here.log.batches
        assert {kind.value for kind, _ in targets} == {"url", "target", "prefix", "tag", "host", "all"}
        assert (who, soft, here.log.waited) == ("127.0.0.1", True, [2.0])


async def test_a_purge_that_somebody_has_not_applied_is_3() -> None:
    async with admin() as here:
        here.log.instances = {"a": 1.0, "b": None, "c": None}
        done = await purge("--all", "--wait", "250ms", "--admin", f"127.0.0.1:{here.port}")
        assert done == (3, "", "accepted: b1, but not yet applied by b, c\n")
        assert here.log.waited == [0.25]


async def test_a_purge_of_which_no_more_is_known_is_3() -> None:
    async with admin() as here:
        here.log.forgetful = True
        done = await purge("--all", "--admin", f"127.0.0.1:{here.port}")
        assert done == (3, "", "accepted: b1, but it is not known by whom it is applied\n")


async def test_what_the_instance_calls_wrong_is_2_with_every_mistake() -> None:
    async with admin() as here:
        code, out, err = await purge("--url", "a", "--tag", "\n", "--admin", f"127.0.0.1:{here.port}")
        assert (code, out) == (2, "")
        assert err.splitlines()[0].endswith("says 400: Nothing was invalidated: the body has mistakes.")
        assert [line.partition(":")[0] for line in err.splitlines()[1:]] == ["  urls[0]", "  tags[0]"]


@pytest.mark.parametrize("what", ["down", "late", "guarded", "nobody"])
async def test_what_cannot_be_done_is_1(what: str) -> None:
    async with admin() as here:
        match what:
            case "down":
                here.log.down, said = True, "says 503: Nothing was invalidated, here or anywhere else: "
            case "late":
                assert (await here.invalidate({"tags": ["t"] * 1000}))[0] == 202
                assert (await here.invalidate({"tags": ["t"] * 1000}))[0] == 202
                said = "says 429: Nothing was invalidated: too many values for now. Ask again in 1 s"
            case "guarded":
                here.access, said = (
                    Access("127.0.0.1", "right"),
                    "says 401: This asks for `Authorization: Bearer TOKEN`",
                )
            case _:
                await here.server.close()
                said = "cannot be reached: Connection refused"
        code, out, err = await purge("--all", "--admin", f"127.0.0.1:{here.port}", "--token", "wrong-one")
        assert (code, out) == (1, "")
        assert err.startswith("not purged")
        assert said in err
        assert "wrong-one" not in err


async def test_where_it_is_and_its_token_come_from_the_environment_too() -> None:
    async with admin() as here:
        here.access = Access("127.0.0.1", "s3cret")
        env = {"READTHROUGH_ADMIN": f"http://127.0.0.1:{here.port}/", "READTHROUGH_TOKEN": "s3cret"}
        assert (await purge("--all", env=env))[0] == 0
        assert (await purge("--all", "--token", "other", env=env))[0] == 1
        assert (await purge("--all", "--admin", "127.0.0.1:1", env=env))[0] == 1
        assert (await purge("--all", env={**env, "READTHROUGH_TOKEN": ""}))[0] == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("arguments", "closed", "code"),
    [
        (("schema",), "stdout", 0),
        (("check", "-c", MINIMAL), "stdout", 0),
        (("check", "-c", "none.yaml"), "stderr", 2),
        (("explain", "http://a/", "--admin", "127.0.0.1:1"), "stderr", 1),
    ],
)
def test_who_reads_no_further_is_no_error(
    arguments: tuple[str, ...], closed: str, code: int, unbuffered: str, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (tmp_path / "other").open("w+") as other, os.fdopen(writer, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
            stdout=pipe if closed == "stdout" else other,
            stderr=pipe if closed == "stderr" else other,
        )
    assert (done.returncode, (tmp_path / "other").read_text()) == (code, "")


async def test_a_table_that_nobody_reads_any_more_is_not_drawn_again() -> None:
    def served(here: Admin) -> None:
        here.server = AdminServer(lambda: True, access=lambda: here.access, parts=[Metrics(sources())])

    async with admin(change=served) as here:
        command = ("-m", "proxy", "stats", "--watch", "--admin", f"127.0.0.1:{here.port}")
        reader, writer = os.pipe()
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=ROOT, stdout=writer, stderr=asyncio.subprocess.PIPE
        )
        os.close(writer)
        assert await asyncio.to_thread(os.read, reader, 12) == b"readthrough "
        os.close(reader)
        assert (await asyncio.wait_for(process.communicate(), 30))[1] == b""
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("purge", "--all"), "interrupted: it may have been applied, or not\n"),
        (("explain", "http://a/"), "interrupted\n"),
        (("stats",), "interrupted\n"),
        (("stats", "--watch"), "interrupted\n"),
    ],
)
def test_ctrl_c_before_an_answer_is_130_and_one_line(arguments: tuple[str, ...], said: str) -> None:
    # A shell that runs tests in the background has them ignore it.
    code = "import signal, sys; signal.signal(2, signal.default_int_handler); import proxy.cli as c; sys.exit(c.main())"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-c", code, *arguments, "--admin", at]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(1)
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=30) == ("", said)
    assert process.returncode == 130


@pytest.mark.parametrize("status", [200, 202])
async def test_an_ok_of_something_else_is_no_purge(status: int) -> None:
    async with answering(b"HTTP/1.1 %d OK\r\nContent-Length: 2\r\n\r\nok" % status) as (instance, _):
        code, out, err = await purge("--all", "--admin", str(instance))
        assert (code, out) == (1, "")
        assert "does not answer as an admin listener does" in err


async def test_a_token_that_is_none_is_not_repeated() -> None:
    code, out, err = await purge("--all", env={"READTHROUGH_TOKEN": "s3 cret"})
    assert (code, out) == (2, "")
    assert "the token has a character that no token has" in err
    assert "cret" not in err


async def test_what_an_instance_says_cannot_drive_the_terminal() -> None:
    async with admin() as here:
        here.log.instances = {"\x1b[31mred\n": None}
        assert (await purge("--all", "--admin", f"127.0.0.1:{here.port}"))[2].endswith(" applied by ?[31mred?\n")


def test_the_console_script_is_main() -> None:
    config: Any = (ROOT / "pyproject.toml").read_text()
    assert 'readthrough = "proxy.cli:main"' in config


async def explain(*arguments: str) -> tuple[int, str, str]:
    done = await asyncio.to_thread(python, "-m", "proxy", "explain", *arguments)
    return done.returncode, done.stdout, done.stderr


async def test_an_explanation_is_a_page_without_colours_where_no_terminal_is() -> None:
    async with World() as w, explaining(w) as here:
        given = ("http://example.com/a", "-X", "HEAD", "-H", "Cache-Control: no-store", "-H", "X:y")
        code, out, err = await explain(*given, "--admin", f"127.0.0.1:{here.port}")
        assert (code, err) == (0, "")
        assert out.startswith(
            "HEAD http://example.com/a\n  would be      fetched from the upstream: request-no-store\n"
        )
        assert "\x1b" not in out


async def test_whose_request_is_explained_may_be_said() -> None:
    async with Limited(quota()) as w, explaining(w) as here:
        at = ("http://example.com/a", "--admin", f"127.0.0.1:{here.port}", "--client")
        code, out, err = await explain(*at, "192.0.2.7")
        assert (code, err) == (0, "")
        assert " of 192.0.2.7, by ip\n" in out
        code, out, err = await explain(*at, "me")
        assert (code, out) == (2, "")
        assert "  client: is not an IP address; write" in err


async def test_an_explanation_is_data_for_scripts() -> None:
    async with World() as w, explaining(w) as here:
        code, out, err = await explain("http://example.com/a", "--json", "--admin", f"127.0.0.1:{here.port}")
        assert (code, err) == (0, "")
        assert json.loads(out)["answer"]["reason"] == "absent"


async def test_what_cannot_be_explained_is_2_and_says_why() -> None:
    async with World() as w, explaining(w) as here:
        code, out, err = await explain("/a", "-H", "X Y: z", "--admin", f"127.0.0.1:{here.port}")
        assert (code, out) == (2, "")
        assert [line.partition(":")[0] for line in err.splitlines()[1:]] == ["  url", "  headers[0]"]


@pytest.mark.parametrize("what", ["guarded", "nobody", "other"])
async def test_an_instance_that_does_not_explain_is_1(what: str) -> None:
    async with (
        World() as w,
        explaining(w) as here,
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as (it, _),
    ):
        place = str(it) if what == "other" else f"127.0.0.1:{here.port}"
        if what == "guarded":
            here.access = Access("127.0.0.1", "right")
        elif what == "nobody":
            await here.server.close()
        code, out, err = await explain("http://example.com/a", "--admin", place, "--token", "wrong-one")
        assert (code, out) == (1, "")
        assert err.startswith("not explained: ")
        assert "wrong-one" not in err


def test_a_header_without_a_colon_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "explain", "http://a", "-H", "X-Y")
    assert code == 2
    assert "-H: 'X-Y' is no header; write 'Name: value'" in err
