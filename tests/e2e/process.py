"""The program as a process of its own: started from a file, watched through /proc, stopped by signals."""

import asyncio
import json
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from tests.e2e.stream import Stream

ROOT = Path(__file__).parents[2]
COMPLAINTS = ("Traceback (most recent call last)", "was never awaited", "never retrieved", "Task was destroyed")
TICK: Final = 0.005  # seconds
T = TypeVar("T")


_PORTS: Final = range(10240, 32000)
# In turn, from anywhere: none is given twice, and whoever runs tests beside us is elsewhere.
_ports: Final = count(random.randrange(len(_PORTS)))


def free_port(host: str = "127.0.0.1") -> int:
    """A port outside the ephemeral range, so that no client of the test takes it meanwhile."""
    while True:
        port = _PORTS[next(_ports) % len(_PORTS)]
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            try:
                sock.bind((host, port))
            except OSError:
                continue
            return port


async def eventually(question: Callable[[], bool | Awaitable[bool]], what: str, within: float = 20.0) -> None:
    """Wait until the question, asked again and again, is answered with yes. Patience costs nothing when all is well."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        answer = question()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert asyncio.get_running_loop().time() < deadline, f"not within {within} s: {what}"
        await asyncio.sleep(0.01)


class Late(AssertionError):
    """A bound on time was missed: all else was as it should be."""


def in_time(seconds: float, most: float) -> None:
    """Raise Late where it took as long as that, or longer."""
    if seconds >= most:
        raise Late(f"it took {seconds * 1e3:.0f} ms, and not less than {most * 1e3:.0f} ms")


async def timed(work: Awaitable[T]) -> tuple[T, float]:
    """What it comes to, and how many seconds it took but for those that the loop was late by itself: the control."""
    began = asleep = time.monotonic()
    late = 0.0

    def wake() -> None:
        nonlocal asleep, late
        now = time.monotonic()
        late += max(now - asleep - 2 * TICK, 0.0)
        asleep = now

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK)
            wake()

    ticking = asyncio.create_task(tick())
    try:
        found = await work
        wake()
        return found, asleep - began - late
    finally:
        ticking.cancel()


def allow_many_files() -> None:
    """Raise the open-file limit as far as it goes; the process under test inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command of the program to its end: exit code, and all that it wrote."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "proxy", *arguments),
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


class Proxy:
    """A running `serve`. Standard output and error go to files beside the configuration."""

    def __init__(self, directory: Path, port: int, admin: int, environment: Mapping[str, str] | None = None) -> None:
        self.port, self.admin = port, admin
        self._environment = {**os.environ, **(environment or {})}
        self.file = directory / "readthrough.yaml"
        self._out, self._err = directory / "stdout", directory / "stderr"

    @classmethod
    async def start(cls, directory: Path, config: Mapping[str, Any], port: int, admin: int) -> Self:
        """Write the configuration (JSON is YAML) and start; returns when it says that it is ready."""
        self = cls(directory, port, admin)
        self.write(config)
        await self.spawn("serve", "-c", str(self.file))
        return self

    def write(self, config: Mapping[str, Any]) -> None:
        """Write the configuration file anew."""
        self.file.write_text(json.dumps(config, indent=1))

    async def spawn(self, *arguments: str) -> None:
        """Start with these arguments and wait until /readyz says 200."""
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "proxy", *arguments),
                cwd=ROOT,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        async with asyncio.timeout(60):
            while await self.ready() != 200:
                assert self.process.returncode is None, f"it stopped while starting:\n{self.stderr}\n{self.stdout}"
                await asyncio.sleep(0.02)

    async def ready(self, path: str = "/readyz") -> int | None:
        """Status of the admin listener's readiness, None where nothing listens."""
        try:
            stream = await Stream.open(self.admin)
        except OSError:
            return None
        stream.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.admin}\r\nConnection: close\r\n\r\n".encode())
        raw, _ = await stream.rest()
        stream.close()
        return int(raw.split(b" ", 2)[1]) if raw else None

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def log(self) -> list[dict[str, Any]]:
        """The access-log lines written so far. A line that is not JSON is an error."""
        lines = self.stdout.split("\n")
        return [json.loads(line) for line in lines[:-1] if line.startswith("{")]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit(self, within: float = 25.0) -> int:
        """Wait until it has gone, and say with which code."""
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM, and a look at what it left behind."""
        if self.process.returncode is None:
            self.signal(signal.SIGTERM)
            try:
                code = await self.exit()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
                raise AssertionError(f"SIGTERM did not stop it:\n{self.stderr[-4000:]}") from None
            assert code == 0, f"exit code {code}:\n{self.stderr[-4000:]}"
        output = self.stdout + self.stderr
        for complaint in COMPLAINTS:
            at = output.find(complaint)
            assert at < 0, f"it complained:\n{output[max(at - 500, 0) : at + 4000]}"

    def fds(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208

    def memory(self) -> int:
        """Resident bytes now."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most bytes that were resident since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(name)
