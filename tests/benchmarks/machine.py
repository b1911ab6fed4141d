"""The machine: what it must have, who runs where, how busy a core was, and how to describe it."""

import contextlib
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Container
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Self

SYSTEM_BINARIES: Final = "/usr/local/sbin:/usr/sbin:/sbin"  # where nginx is; not in every user's PATH

QUIET: Final = 0.03  # of a core, while nothing of the benchmark runs
PATIENCE: Final = 20.0  # seconds
TICKS: Final = os.sysconf("SC_CLK_TCK")  # a second
FILES: Final = 16384  # nginx keeps 12,000 of its cache open


class Missing(Exception):
    """This machine cannot run the benchmark; the message says what to do about it."""


@dataclass(frozen=True)
class Machine:
    """Paths of the tools, and the two cores: one for the server that is measured, one for all that loads it."""

    wrk: str
    nginx: str
    taskset: str
    server_core: int
    load_core: int

    @classmethod
    def find(cls) -> Self:
        """What is here, or Missing with everything that is not."""
        if sys.platform != "linux":
            raise Missing("The benchmark needs Linux: it pins processes to cores and reads /proc.")
        found = {name: _which(name) for name in ("wrk", "nginx", "taskset")}
        packages = {"wrk": "wrk", "nginx": "nginx-light", "taskset": "util-linux"}
        missing = [name for name, path in found.items() if path is None]
        cores = sorted(os.sched_getaffinity(0))
        problems = []
        if missing:
            names = " ".join(packages[name] for name in missing)
            problems.append(f"{' and '.join(missing)} not found: apt-get install {names}")
        if len(cores) < 2:
            problems.append("two cores are needed, one for the server and one for the load; there is one")
        if (files := resource.getrlimit(resource.RLIMIT_NOFILE)[1]) < FILES:
            problems.append(f"{FILES} open files are needed, {files} are allowed: raise the hard limit (ulimit -Hn)")
        if problems:
            raise Missing("\n".join(problems))
        return cls(
            **{name: path for name, path in found.items() if path is not None}, server_core=cores[0], load_core=cores[1]
        )

    def prepare(self) -> None:
        """Move to the load core, and allow many open files; children inherit both."""
        os.sched_setaffinity(0, {self.load_core})
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def busy(self) -> tuple[float, float]:
        """How busy the two cores are, 0 to 1, over a second in which the benchmark does nothing."""
        cores = (self.server_core, self.load_core)
        before = [Ticks.of(core) for core in cores]
        time.sleep(1)
        server, loading = (Ticks.of(core).share(ticks) for core, ticks in zip(cores, before, strict=True))
        return server, loading

    def wait_until_quiet(self) -> None:
        """Until the cores are idle, but not longer than anybody would wait."""
        deadline = time.monotonic() + PATIENCE
        while max(self.busy()) > QUIET and time.monotonic() < deadline:
            pass

    def describe(self) -> dict[str, str]:
        """For the header of the report."""
        model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        return {
            "machine": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, "
            f"server on core {self.server_core}, load and upstream on core {self.load_core}",
            "kernel": platform.release(),
            "python": platform.python_version(),
            "uvloop": version("uvloop"),
            "nginx": _says(self.nginx, "-v", r"nginx/(\S+)"),
            "wrk": _says(self.wrk, "-v", r"wrk (?:debian/)?(\S+)"),
        }


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_BINARIES}")


def _says(binary: str, argument: str, pattern: str) -> str:
    done = subprocess.run([binary, argument], capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown"


def memory_directory() -> str | None:
    """A file system in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True)
class Ticks:
    """A core's time so far, in clock ticks: of processes, of interrupts, of nobody, and of other guests of the host."""

    processes: int
    interrupts: int
    idle: int
    stolen: int

    @classmethod
    def of(cls, core: int) -> Self:
        """The counters now."""
        for line in Path("/proc/stat").read_text().splitlines():
            name, *numbers = line.split()
            if name == f"cpu{core}":
                user, nice, system, idle, waiting, hard, soft, stolen = map(int, numbers[:8])
                return cls(user + nice + system, hard + soft, idle + waiting, stolen)
        raise LookupError(f"/proc/stat has no cpu{core}")

    @property
    def seconds_of_processes(self) -> float:
        return self.processes / TICKS

    @property
    def _total(self) -> int:
        return self.processes + self.interrupts + self.idle + self.stolen

    def share(self, before: Self) -> float:
        """The part of the time since `before` in which the core worked, 0 to 1."""
        return 1 - (self.idle + self.stolen - before.idle - before.stolen) / max(self._total - before._total, 1)

    def stolen_share(self, before: Self) -> float:
        """The part of the time since `before` that other guests took, 0 to 1."""
        return (self.stolen - before.stolen) / max(self._total - before._total, 1)


def ran(pid: int) -> float:
    """Seconds of CPU that all living threads of a process have had."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # it has ended
            total += int(thread.read_text().split()[0])
    return total / 1e9


def everybody(cores: Container[int]) -> dict[int, float]:
    """Seconds of CPU that each process has had, by process id, of those that ran last on one of these cores."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()  # the name may hold anything
        except OSError:  # it has ended
            continue
        if int(fields[36]) in cores:
            found[int(process.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    return found
