"""Runs the public HTTP cache suite, the npm package http-cache-tests, against this proxy or another cache.

`python tests/conformance/run.py` runs all of it against a proxy of its own; `--id ID` one test, with the
messages on both sides; `--origin-port 8000 --base http://127.0.0.1:8080` tests a cache that is already
there and fronts 127.0.0.1:8000, where the suite's origin then listens.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
SUITE: Final = HERE / "node_modules" / "http-cache-tests"
PASSED: Final = frozenset({"pass", "yes"})
START: Final = 60.0  # seconds for a process to be ready
RUN: Final = 600.0  # seconds for the whole suite
CONFIG: Final = """\
listen: 127.0.0.1:{port}
access_log: off
admin: {{listen: "127.0.0.1:{admin_port}"}}
upstreams:
  origin: {{url: "http://127.0.0.1:{origin_port}"}}
routes:
  - name: all
    match: {{path: "/*"}}
    upstream: origin
    cache: {{set_cookie: store}}
"""


@dataclass(frozen=True, slots=True)
class Result:
    """One test: `kind` is required, optimal or check; `outcome` is named as in the suite's display.mjs."""

    id: str
    suite: str
    name: str
    kind: str
    outcome: str
    detail: str

    @property
    def passed(self) -> bool:
        return self.outcome in PASSED


def tools() -> Mapping[str, str]:
    """An environment where `node` (18 or newer) and `npm` are found: the machine's or those in this venv."""
    environment = dict(os.environ)
    for path in (environment.get("PATH", ""), str(Path(sys.executable).parent)):
        node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
        if node is None or npm is None:
            continue
        version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
        if int(version.lstrip("v").split(".")[0]) >= 18:
            environment["PATH"] = f"{Path(node).parent}{os.pathsep}{environment.get('PATH', '')}"
            return environment
    raise RuntimeError("The conformance suite needs Node 18 or newer with npm: `make test` installs one")


def install() -> Mapping[str, str]:
    """Install the suite as locked, where that is not done yet; gives the environment to run it in."""
    environment = tools()
    lock, installed = HERE / "package-lock.json", HERE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, env=environment, check=True)
    return environment


def free_port() -> int:
    """A loopback port nobody listens on now, and that no client is given meanwhile: outside the ephemeral range."""
    while True:
        port = random.randint(10240, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def answers(url: str) -> bool:
    """Whether something at `url` answers with a 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def process(
    command: Sequence[str], log: Path, ready: Callable[[], bool], environment: Mapping[str, str], cwd: Path
) -> Iterator[None]:
    """A child that is ready when `ready` says so and gone when the block ends; its output is in `log`."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=cwd, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.02)
        yield
    finally:
        # The whole group: Node as a Python package is a script that waits for the real one.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(timeout=START)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@contextmanager
def origin(environment: Mapping[str, str], log: Path, port: int) -> Iterator[None]:
    """The suite's origin server on 127.0.0.1:`port`."""
    settings = {"npm_config_protocol": "http", "npm_config_port": str(port), "npm_config_pidfile": os.devnull}
    with process(
        ["node", str(HERE / "origin.mjs")],
        log,
        lambda: b"Listening on" in log.read_bytes(),
        {**environment, **settings},
        SUITE,
    ):
        yield


@contextmanager
def proxy(directory: Path, origin_port: int) -> Iterator[str]:
    """This proxy before the origin, with nothing configured but `set_cookie: store`; gives its base URL."""
    port, admin_port = free_port(), free_port()
    config = directory / "readthrough.yaml"
    config.write_text(CONFIG.format(port=port, admin_port=admin_port, origin_port=origin_port))
    with process(
        [sys.executable, "-m", "proxy", "serve", "-c", str(config)],
        directory / "proxy.log",
        lambda: answers(f"http://127.0.0.1:{admin_port}/readyz"),
        os.environ,
        ROOT,
    ):
        yield f"http://127.0.0.1:{port}"


def run(environment: Mapping[str, str], base: str, output: Path, test_id: str = "") -> list[Result]:
    """Run the suite, or one test of it, through the cache at `base`, which must front the origin."""
    command = ["node", "--no-warnings", str(HERE / "client.mjs"), base, str(output), test_id]
    subprocess.run(command, env=environment, cwd=SUITE, check=True, timeout=RUN)
    return [Result(**row) for row in json.loads(output.read_text())]


def summary(results: Sequence[Result]) -> str:
    """How many of each kind passed."""
    total = Counter(result.kind for result in results)
    passed = Counter(result.kind for result in results if result.passed)
    return ", ".join(f"{kind} {passed[kind]}/{total[kind]}" for kind in ("required", "optimal", "check"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the HTTP cache suite against this proxy or another cache.")
    parser.add_argument("--id", default="", help="one test, with its messages")
    parser.add_argument("--base", help="the cache to test; without, a proxy is started")
    parser.add_argument("--origin-port", type=int, default=0, help="where the suite's origin listens")
    given = parser.parse_args()
    environment = install()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        port = given.origin_port or free_port()
        with origin(environment, directory / "origin.log", port):
            if given.base:
                results = run(environment, given.base, directory / "results.json", given.id)
            else:
                with proxy(directory, port) as base:
                    results = run(environment, base, directory / "results.json", given.id)
        if given.id:
            print((directory / "origin.log").read_text(errors="replace"))
        for result in results:
            if given.id or (result.kind != "check" and not result.passed):
                print(f"{result.kind:8} {result.outcome:15} {result.id}: {result.name}\n         {result.detail}")
    print(summary(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
