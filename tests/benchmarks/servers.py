"""The servers: each started on its core, waited for, and stopped. Everything they write is in a temporary directory."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks import floor, nginx, upstream
from tests.benchmarks.cases import Case, Subject
from tests.benchmarks.load import Failed
from tests.benchmarks.machine import Machine
from tests.benchmarks.wire import HOST, ask
from tests.e2e.process import ROOT, free_port


@dataclass(frozen=True)
class Server:
    """A subject that runs. `pid` is the process that answers; `log` its access log, where it writes one, `errors` what
    else it has to say, `besides` what else must run for it.
    """

    subject: Subject
    port: int
    pid: int
    errors: Path
    log: Path | None = None
    besides: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.subject.name

    def empty_log(self) -> None:
        """Forget what was logged. Both servers append, so both go on at the file's beginning."""
        if self.log is not None and self.log.exists():
            os.truncate(self.log, 0)


def _wait(process: subprocess.Popen[bytes], port: int, errors: Path) -> None:
    """Until something answers there; what it says does not matter."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"{errors.stem} stopped while starting:\n{errors.read_text()[-4000:]}")
        try:
            ask(port, b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Failed(f"{errors.stem} did not answer within 20 s:\n{errors.read_text()[-4000:]}")


@contextmanager
def _running(command: list[str], port: int, directory: Path, name: str) -> Iterator[int]:
    """Run a command with its output in files; the value is its process id."""
    errors = directory / f"{name}.stderr"
    with (directory / f"{name}.stdout").open("ab") as out, errors.open("wb") as err:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    try:
        _wait(process, port, errors)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Api:
    """The upstream that runs."""

    port: int
    pid: int


@contextmanager
def started_upstream(directory: Path) -> Iterator[Api]:
    """The API behind both proxies, on the core of the load."""
    port = free_port()
    with _running([sys.executable, upstream.__file__, str(port)], port, directory, "upstream") as pid:
        yield Api(port, pid)


def asked(port: int) -> int:
    """How many requests the upstream has had."""
    return int(ask(port, b"GET /asked HTTP/1.1\r\nHost: localhost\r\n\r\n").body)


@contextmanager
def started(subject: Subject, case: Case, machine: Machine, directory: Path, api: int) -> Iterator[Server]:
    """A subject on the server's core, in front of the upstream on port `api`, with what it needs beside it."""
    if not subject.redis:
        with _alone(subject, case, machine, directory, api) as server:
            yield server
        return
    with _redis(directory) as (port, pid):
        behind = replace(subject, config={**subject.config, "redis": {"url": f"redis://{HOST}:{port}/0"}})
        with _alone(behind, case, machine, directory, api) as server:
            yield replace(server, subject=subject, besides=(pid,))


@contextmanager
def _redis(directory: Path) -> Iterator[tuple[int, int]]:
    """Its port and process, on the core of the load, as everything that is not moved. It keeps nothing."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        raise Failed("redis-server not found: apt-get install redis-server")
    port = free_port()
    with (directory / "redis.log").open("wb") as log:
        command = [binary, "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(directory)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"redis-server did not start:\n{(directory / 'redis.log').read_text()[-4000:]}")
            time.sleep(0.02)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _alone(subject: Subject, case: Case, machine: Machine, directory: Path, api: int) -> Iterator[Server]:
    place = directory / subject.name
    place.mkdir()
    port = free_port()
    errors = place / f"{subject.name}.stderr"
    log: Path | None = None
    if subject.kind == "floor":
        command = [sys.executable, floor.__file__, *map(str, (port, case.size, case.status, subject.busy))]
    elif subject.kind == "nginx":
        log = place / "access.log" if subject.log else None
        file = place / "nginx.conf"
        file.write_text(nginx.configuration(place, port, api, log=log, max_size="4g"))
        command = [machine.nginx, "-p", str(place), "-c", str(file)]
    else:
        log = place / f"{subject.name}.stdout" if subject.log else None
        file = place / "readthrough.yaml"
        file.write_text(json.dumps(readthrough_configuration(subject, port, api)))  # JSON is YAML
        command = [sys.executable, "-m", "proxy", "serve", "-c", str(file)]
    pinned = [machine.taskset, "--cpu-list", str(machine.server_core), *command]
    with _running(pinned, port, place, subject.name) as pid:
        yield Server(subject, port, _worker(pid) if subject.kind == "nginx" else pid, errors, log)


def readthrough_configuration(subject: Subject, port: int, api: int) -> dict[str, object]:
    """What the subject's own configuration is laid over."""
    return {
        "listen": f"127.0.0.1:{port}",
        "admin": {"listen": f"127.0.0.1:{free_port()}"},
        "access_log": "off",
        "shutdown": {"delay": 0, "timeout": "5s"},
        "upstreams": {"api": {"url": f"http://127.0.0.1:{api}"}},
        "routes": [{"name": "all", "upstream": "api"}],
        **subject.config,
    }


def _worker(master: int) -> int:
    """The process of nginx that answers: the one that is neither master nor keeper of the cache."""
    for child in Path(f"/proc/{master}/task/{master}/children").read_text().split():
        if b"worker process" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise Failed("nginx has no worker")
