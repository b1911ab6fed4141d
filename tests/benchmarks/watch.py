"""How the machine fared during one measurement, so that a disturbed one is known as such."""

import fcntl
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.machine import Machine, Ticks, everybody, ran
from tests.benchmarks.report import Sample


class Watch:
    """The two cores, the processes of the benchmark among what ran there, and the server (the first of `pids`)."""

    def __init__(self, machine: Machine, pids: Sequence[int]) -> None:
        self._cores = (machine.server_core, machine.load_core)
        self._pids = pids

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around what is measured. Everything that it starts must have ended by then."""
        others, begun = self._others(), time.monotonic()
        ticks, ours, server = self._ticks(), self._ours(), ran(self._pids[0])
        yield
        self._ran = ran(self._pids[0]) - server
        passed, now, ours = time.monotonic() - begun, self._ticks(), self._ours() - ours
        # Of processes that came and went only the cores know. What the cores know is too little where the kernel
        # charges interrupts to whom they interrupt, so whoever stayed is asked as well.
        gone = (
            sum(
                after.seconds_of_processes - before.seconds_of_processes
                for after, before in zip(now, ticks, strict=True)
            )
            - ours
        )
        stayed = sum(seconds - others[pid] for pid, seconds in self._others().items() if pid in others)
        self._foreign = max(gone, stayed, 0.0) / passed
        self._busy, self._load_busy = (after.share(before) for after, before in zip(now, ticks, strict=True))
        self._stolen = max(after.stolen_share(before) for after, before in zip(now, ticks, strict=True))

    def _ticks(self) -> list[Ticks]:
        return [Ticks.of(core) for core in self._cores]

    def _ours(self) -> float:
        """Seconds of CPU: servers, what has been run to its end (wrk), and this process (the open loop)."""
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(map(ran, self._pids)) + sum(used.ru_utime + used.ru_stime for used in own)

    def _others(self) -> dict[int, float]:
        return {
            pid: seconds for pid, seconds in everybody(self._cores).items() if pid not in (*self._pids, os.getpid())
        }

    def sample(self, rate: float, requests: int, latencies: tuple[float, ...] = (), target: float = 0) -> Sample:
        cpu = self._ran / requests
        return Sample(rate, cpu, self._busy, self._load_busy, self._foreign, self._stolen, latencies, target)


@contextmanager
def alone(say: Callable[[str], None]) -> Iterator[None]:
    """While no other benchmark runs on this machine."""
    with (Path(tempfile.gettempdir()) / "readthrough-bench.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another benchmark to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
