"""The doors between the rooms are shut, and what says so would notice if one were open."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = ROOT / "proxy"
TOOLS: Final = Path(sys.executable).parent

# Room: what no module in it may import. A room's name stands for its first module.
SHUT: Final = {
    "rules": (
        *("asyncio", "time", "random", "logging", "aiohttp", "opentelemetry", "redis", "orjson", "uvloop", "yaml"),
        *("proxy.app", "proxy.cli", "proxy.config", "proxy.settings", "proxy.sites", "flow", "edges", "admin"),
    ),
    "flow": (
        "aiohttp",
        "opentelemetry",
        "redis",
        "uvloop",
        "yaml",
        "proxy.app",
        "proxy.cli",
        "proxy.config",
        "proxy.settings",
        "proxy.sites",
        "edges",
        "admin",
    ),
    "edges": ("proxy.app", "proxy.cli", "proxy.config", "proxy.settings", "proxy.sites", "admin"),
    "admin": ("redis", "proxy.app", "proxy.cli", "proxy.config", "proxy.sites", "edges"),
}

UNTESTED_BY_NAME: Final = {
    "proxy/__main__.py": "one call of proxy.cli.main",
    "proxy/flow/ports.py": "protocols and the data they pass: nothing runs",
    "proxy/settings.py": "frozen data: nothing runs",
}

# What is true of one machine only, or of how the project was made.
FORBIDDEN: Final = re.compile(
    r"/(?:work|root|home/\w+)/|/tmp/[x]|/opt/(?:pypi|wheels)"
    r"|\b(?:pypi|files\.pythonhosted|pythonhosted)\.org\b|\bregistry\.(?:npmjs\.org|yarnpkg\.com)\b"
    r"|(?i:\bissue #?\d)"
)
SKIPPED: Final = frozenset({".git", ".venv", ".venv-lock", "node_modules", "build", "dist", "__pycache__"})


def modules(room: str) -> list[str]:
    return sorted(f"proxy.{room}.{path.stem}" for path in (PACKAGE / room).glob("*.py") if path.stem != "__init__")


def lint_imports(copy: Path, added: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The verdict on a copy of the package in which modules have an import added."""
    shutil.copytree(PACKAGE, copy / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for module, imported in added.items():
        with (copy / module.replace(".", "/")).with_suffix(".py").open("a") as source:
            source.write(f"\nimport {imported}\n")
    command = [str(TOOLS / "lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, env=_plain_environment())


def _plain_environment() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}


def test_no_door_is_open(tmp_path: Path) -> None:
    done = lint_imports(tmp_path, {})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("room", "imported"), [(room, name) for room, names in SHUT.items() for name in names])
def test_a_forbidden_import_is_noticed_in_every_module_of_a_room(room: str, imported: str, tmp_path: Path) -> None:
    target = modules(imported)[0] if imported in SHUT else imported
    done = lint_imports(tmp_path, dict.fromkeys(modules(room), target))
    assert done.returncode == 1, done.stdout + done.stderr
    for module in modules(room):
        assert f"{module} -> {target}" in done.stdout


def _may_import() -> set[tuple[str, ...]]:
    """The pairs of edges that are one outside thing in several files."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (apart,) = (contract for contract in contracts if contract["id"] == "edges-apart")
    return {tuple(pair.split(" -> ")) for pair in apart["ignore_imports"]}


def test_an_edge_that_imports_a_sibling_is_noticed(tmp_path: Path) -> None:
    edges = modules("edges")
    may = _may_import()
    added = {
        edge: next(e for e in (*edges[at + 1 :], *edges[:at]) if (edge, e) not in may) for at, edge in enumerate(edges)
    }
    done = lint_imports(tmp_path, added)
    assert done.returncode == 1, done.stdout + done.stderr
    for importer, imported in added.items():
        assert f"{importer} -> {imported}" in done.stdout


@pytest.mark.parametrize("room", SHUT)
def test_a_room_that_imports_the_demo_is_noticed(room: str, tmp_path: Path) -> None:
    done = lint_imports(tmp_path, dict.fromkeys(modules(room), "proxy.demo"))
    assert done.returncode == 1, done.stdout + done.stderr
    for module in modules(room):
        assert f"{module} -> proxy.demo" in done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import time\n\ntime.time()\n",
        "from time import monotonic\n\nmonotonic()\n",
        "import time\n\ntime.perf_counter()\n",
        "from datetime import UTC, datetime\n\ndatetime.now(UTC)\n",
        "import asyncio\n\nasyncio.create_task(print)\n",
        "import asyncio\n\nasyncio.ensure_future(print)\n",
    ],
)
@pytest.mark.parametrize("room", [*SHUT, "."])
def test_a_clock_or_a_task_of_ones_own_is_noticed(room: str, code: str) -> None:
    command = [
        str(TOOLS / "ruff"),
        "check",
        "--no-cache",
        "--select=TID251",
        f"--stdin-filename=proxy/{room}/new.py",
        "-",
    ]
    done = subprocess.run(command, cwd=ROOT, input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "TID251" in done.stdout


def test_tasks_are_begun_in_one_place_only() -> None:
    """Loops have a create_task too, which no import rule sees."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future"}
    }
    assert found <= {"proxy/flow/background.py"}


def _has_code(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def test_every_module_has_tests_of_its_name() -> None:
    written = {path.relative_to(ROOT).as_posix(): path.stem for path in PACKAGE.rglob("*.py") if _has_code(path)}
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py")}
    untested = {path for path, stem in written.items() if stem not in tested}
    assert sorted(untested) == sorted(UNTESTED_BY_NAME.keys() & written.keys())


def test_the_checks_run_all_of_this() -> None:
    makefile = (ROOT / "Makefile").read_text()
    check = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    assert all(tool in check for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports"))
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert {"make check", "make test"} <= set(ci.read_text().splitlines())


def _files() -> Iterator[Path]:
    for directory, names, files in os.walk(ROOT):
        names[:] = [n for n in names if n not in SKIPPED and not n.endswith((".egg-info", "_cache", ".hypothesis"))]
        yield from (Path(directory) / name for name in files)


def test_nothing_here_is_true_of_one_machine_only() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in _files()
        for match in FORBIDDEN.finditer(path.read_bytes().decode("latin-1"))
    ]
    assert not found, "\n".join(found)


def test_the_locks_name_no_place_to_get_things_from() -> None:
    locks = [*ROOT.glob("*.lock"), ROOT / "tests" / "conformance" / "package-lock.json"]
    assert len(locks) == 4
    assert [lock.name for lock in locks if re.search(r"://(?!opencollective|github\.com)", lock.read_text())] == []
