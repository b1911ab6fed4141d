"""What a million stored entries cost: `python -m tests.benchmarks.million [--entries N] [--json FILE]`.

Start and idle size are of the real program. The rest is of the App in a process of ours, which fills its store by the
admission rules when it is told to, and watches its own loop: how late a timer of 1 ms comes. The control is the same
timer in an idle process on the same core. Exit code 1: a limit is missed; 2: it could not be measured.
"""

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final

import uvloop

from proxy.app import App
from proxy.config.load import from_upstream, override
from proxy.rules.admit import Fetched, Store, complete, on_response
from proxy.rules.fields import format_date
from proxy.rules.message import read_head
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.wire import parse_request
from tests.benchmarks import load, upstream
from tests.benchmarks.cases import Traffic
from tests.benchmarks.machine import Machine, Missing, memory_directory, ran
from tests.benchmarks.report import ratio, table
from tests.benchmarks.servers import Api, asked, started_upstream
from tests.benchmarks.watch import alone
from tests.benchmarks.wire import HOST, ask, request
from tests.e2e.process import ROOT, free_port

FIRST: Final = 1_000_000  # the lowest number in a key, so that all are equally long
FEW: Final = 100
PATH: Final = "/1k/items/"
WINDOWS: Final = 8  # in which a stall is looked for
CALM: Final = 0.005  # seconds that the control may be late; the scheduler takes 4 where the server keeps its core busy
STARTS: Final = 7
SECONDS: Final = 4  # of one load
MIB: Final = 1 << 20
COLUMNS: Final = ("what", "limit", "measured", "verdict", "beside")
# As many different heads for every server, and equally long ones, however many keys: "n" is in none of them.
UNIFORM: Final = """
local before, between, after = io.open("{file}", "rb"):read("*a"):match("(.-)%z(.-)%z(.*)")
request = function()
  local drawn = math.random({heads}) - 1
  return before .. {first} + drawn % {keys} .. between .. {first} + drawn .. after
end
{done}"""


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


class Server:
    """The App, and what it can be told to do. Without an App it is the control."""

    def __init__(self, app: App | None) -> None:
        self._app, self._loop = app, asyncio.get_running_loop()
        self._ticks, self._collection, self._timer = 0, 0.0, self._loop.call_later(0, int)
        self._most = {"late": 0.0, "cpu": 0.0, "collector": 0.0}  # the most at a time, in seconds
        self._each, self._fullest = 0, 0.0  # bytes of a head and its body; part of the budget ever seen in use
        gc.callbacks.append(self._collecting)

    async def obey(self, orders: Connection) -> None:
        readable = asyncio.Event()
        self._loop.add_reader(orders.fileno(), readable.set)
        while await readable.wait():
            readable.clear()
            match orders.recv(), self._app:
                case "watch", _:
                    self._most = dict.fromkeys(self._most, 0.0)
                    self._now, self._ran = time.perf_counter(), time.thread_time()
                    self._timer = self._loop.call_later(0.001, self._tick)
                case "watched", _:
                    self._timer.cancel()
                case "tighten", App() as app:
                    app.memory.resize(app.memory.size)
                case int(entries), App() as app:
                    await self._fill(app, entries)
            found = {"resident": resident(os.getpid()), "each": self._each, "fullest": self._fullest, **self._most}
            if self._app is not None:
                found |= {name: getattr(self._app.memory, name) for name in ("size", "count", "evictions")}
            orders.send(found)

    def _tick(self) -> None:
        now, ran = time.perf_counter(), time.thread_time()
        self._most["late"] = max(self._most["late"], now - self._now - 0.001)
        self._most["cpu"] = max(self._most["cpu"], ran - self._ran)
        self._now, self._ran, self._ticks = now, ran, self._ticks + 1
        if (app := self._app) is not None:
            self._fullest = max(self._fullest, app.memory.size / app.memory.budget)
            if not self._ticks % 100:  # all that a scrape would read
                json.dumps((app.memory.count, app.memory.evictions, len(app.flights), asdict(app.shared.counters)))
        self._timer = self._loop.call_later(0.001, self._tick)

    def _collecting(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collection = time.perf_counter()
        else:
            self._most["collector"] = max(self._most["collector"], time.perf_counter() - self._collection)

    async def _fill(self, app: App, entries: int) -> None:
        """Store so many as if the upstream had sent them."""
        lane = app.exchange.site.lanes["default"]
        before, after = upstream.answer(*upstream.ANSWERS[b"1k"])
        fields, end, body = after.partition(b"\r\n\r\n")
        asking = parse_request(request(f"{PATH}{FIRST}"), "http", trusted=False, max_headers=100)
        for number in range(app.memory.count, app.memory.count + entries):
            asked = app.exchange.read(replace(asking, target=f"{PATH}{FIRST + number}"))
            sent, wall = app.clock.now(), app.clock.wall()
            head = read_head(before + format_date(wall).encode() + fields + end)
            got = Fetched(
                *(asked.request, asked.key, head, len(body), False, sent, app.clock.now(), wall),
                *(app.log.position, lane.fingerprint, asked.tags, app.clock.roll()),
            )
            verdict = on_response(got, lane.policy, None)
            assert isinstance(verdict, Store)
            entry = complete(verdict.entry, head, (body,), wall, lane.policy)
            assert app.memory.put(entry)
            self._each = len(entry.lead) + len(entry.rest)
            if not number % 20:  # the loop turns every millisecond
                await asyncio.sleep(0)


async def serve(orders: Connection, port: int, api: int, budget: int) -> None:
    app = None
    if budget:
        base = from_upstream(f"http://{HOST}:{api}")
        base = override(base, listen=f"{HOST}:{port}", admin=f"{HOST}:{free_port()}")
        route = replace(base.routes[0], policy=Policy(key=KeyRule(ignore_query=("n",))))
        app = App(replace(base, routes=(route,), memory_max_size=budget, access_log=False))
        await app.start()
    with suppress(EOFError):
        await Server(app).obey(orders)


def child(core: int, *rest: Any) -> None:  # noqa: ANN401
    os.sched_setaffinity(0, {core})
    uvloop.run(serve(*rest))


class Child:
    """Such a process, on the server's core. Without a budget it is the control. It ends with this one."""

    def __init__(self, core: int, api: int, budget: int) -> None:
        self.port, (self._orders, theirs) = free_port(), multiprocessing.Pipe()
        spawn, arguments = multiprocessing.get_context("spawn"), (core, theirs, self.port, api, budget)
        process = spawn.Process(target=child, args=arguments, daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is noticed
        self.pid = process.pid or 0

    def tell(self, order: str | int) -> dict[str, float]:
        self._orders.send(order)
        return dict(self._orders.recv())


@dataclass(frozen=True)
class Bench:
    machine: Machine
    directory: Path
    api: Api
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def row(self, what: str, measured: str, limit: str, *, held: bool, beside: str = "") -> None:
        self.rows.append((what, limit, measured, "held" if held else "MISSED", beside))
        sys.stderr.write(f"{' | '.join(self.rows[-1])}\n")

    def starts(self) -> None:
        port, seconds, size = free_port(), [], 0
        command = [self.machine.taskset, "--cpu-list", str(self.machine.server_core), sys.executable, "-m", "proxy"]
        command += ["serve", "--upstream", f"http://{HOST}:{self.api.port}", "--listen", f"{HOST}:{port}"]
        command += ["--admin", f"{HOST}:{free_port()}"]
        for number in range(STARTS):
            began = time.perf_counter()
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    with suppress(OSError):
                        ask(port, request(PATH))
                        break
                    time.sleep(0.002)
                else:
                    raise load.Failed("it stopped while starting")
                seconds.append(time.perf_counter() - began)
                if number == STARTS - 1:
                    time.sleep(3)
                    size = resident(process.pid)
                process.kill()
        found, beside = median(seconds), f"{min(seconds):.2f} to {max(seconds):.2f} s"
        self.row(f"{STARTS} starts to the first answer", f"{found:.2f} s", "< 0.6 s", held=found < 0.6, beside=beside)
        self.row("resident when idle", f"{size / MIB:.1f} MiB", "< 70 MiB", held=size < 70 * MIB)

    def grown(self, how: str, before: dict[str, float], after: dict[str, float]) -> None:
        count, size, taken = (after[name] - before[name] for name in ("count", "size", "resident"))
        beyond, charged = taken / count - after["each"], size / taken
        beside = f"{count:,.0f} entries: {taken / count:,.0f} bytes each, {size / count:,.0f} charged"
        self.row(f"{how}: beyond head and body", f"{beyond:.0f} B", "<= 600 B", held=beyond <= 600, beside=beside)
        self.row(f"{how}: charged / grown", f"{charged:.2f}", "0.85 to 1.15", held=abs(charged - 1) <= 0.15)

    def stalls(self, what: str, server: Child, control: Child, work: Callable[[], object]) -> dict[str, float]:
        """The longest stall of the server's loop in those of many windows in which the control had none."""
        windows: list[tuple[dict[str, float], float]] = []
        for _ in range(WINDOWS):
            server.tell("watch"), control.tell("watch")
            work()
            windows.append((server.tell("watched"), control.tell("watched")["late"]))
        calm = [found for found, other in windows if other <= CALM] or [found for found, _ in windows]
        late, cpu, pause = (1e3 * max(found[name] for found in calm) for name in ("late", "cpu", "collector"))
        beside = f"cpu {cpu:.1f} ms, collector {pause:.1f} ms, in {len(calm)} of {WINDOWS} windows; in all "
        most, other = (1e3 * max(each) for each in zip(*((found["late"], o) for found, o in windows), strict=True))
        beside += f"{most:.1f} ms, control {other:.1f} ms, excess {most - other:.1f} ms"
        self.row(f"longest stall, {what}", f"{late:.1f} ms", "<= 20 ms", held=late <= 20, beside=beside)
        return windows[-1][0]

    def hits(self, server: Child, heads: int, keys: int) -> tuple[float, float]:
        """Answers a second and a second of CPU to so many different heads, for so many of the stored keys."""
        fetched, before = asked(self.api.port), ran(server.pid)
        file, script = self.directory / "request", self.directory / "uniform.lua"
        file.write_bytes(request(f"{PATH}\x00?n=\x00"))
        script.write_text(UNIFORM.format(file=file, heads=heads, first=FIRST, keys=keys, done=load.DONE))
        options = f"-t1 -c64 --timeout 10s -d{SECONDS}s -s"
        command = [self.machine.wrk, *options.split(), str(script), f"http://{HOST}:{server.port}"]
        done = load.parse(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
        if asked(self.api.port) != fetched:
            raise load.Failed("what should be a hit went to the upstream")
        return done.rate, done.requests / (ran(server.pid) - before)

    def misses(self, server: Child) -> None:
        load.run(self.machine, server.port, Traffic(PATH, "unique-url"), SECONDS, str(time.time_ns()), self.directory)

    def compare(self, many: Child, few: Child, heads: int) -> None:
        found: tuple[list[tuple[float, float]], list[tuple[float, float]]] = [], []
        for number in range(6):  # the first to warm up
            for server, keys, mine in ((many, heads, found[0]), (few, FEW, found[1])):
                mine[max(number - 1, 0) :] = [self.hits(server, heads, keys)]
        by_rate, by_cpu = map(ratio, zip(*found[0], strict=True), zip(*found[1], strict=True))
        typical = [f"{median(rate for rate, _ in mine):,.0f}" for mine in found]
        beside = f"{' and '.join(typical)} req/s, {by_rate.spread}; by CPU {by_cpu}, {by_cpu.spread}"
        self.row(f"hits of {heads:,} / 100", str(by_rate), ">= 0.85", held=by_rate.median >= 0.85, beside=beside)

    def run(self, entries: int) -> None:
        self.starts()
        core, api, entries = self.machine.server_core, self.api.port, entries - entries % WINDOWS
        control, many, few = (Child(core, api, room * 2000) for room in (0, entries + 200_000, 200_000))
        empty, _ = many.tell("look"), few.tell(FEW)
        full = self.stalls("stored directly", many, control, lambda: many.tell(entries // WINDOWS))
        size, limit = full["resident"], (1.7 * 1024 - 70) * MIB * entries / 1e6 + 70 * MIB
        self.row("resident in all", f"{size / MIB:,.0f} MiB", f"<= {limit / MIB:,.0f} MiB", held=size <= limit)
        self.grown("stored directly", empty, full)
        for heads in (min(10_000, entries), entries):
            self.compare(many, few, heads)
        before = self.stalls("hits", many, control, lambda: self.hits(many, entries, entries))
        after = self.stalls("filled by misses", many, control, lambda: self.misses(many))
        self.grown("fetched", before, after)
        before = many.tell("tighten")
        after = self.stalls("evicting", many, control, lambda: self.misses(many))
        fullest, more = after["fullest"], (after["resident"] - before["resident"]) / MIB
        beside = f"{more:+.0f} MiB resident after {after['evictions']:,.0f} evictions"
        self.row("most of the budget in use", f"{fullest:.4%}", "<= 100 %", held=fullest <= 1, beside=beside)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.million", description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    arguments = parser.parse_args()
    try:
        machine = Machine.find()
        machine.prepare()
        with tempfile.TemporaryDirectory(dir=memory_directory()) as name, started_upstream(Path(name)) as api:
            bench = Bench(machine, Path(name), api)
            with alone(print):
                bench.run(arguments.entries)
    except (Missing, load.Failed, EOFError) as error:
        sys.stderr.write(f"{error!r}\n")
        return 2
    facts = "".join(f"- {name}: {fact}\n" for name, fact in machine.describe().items())
    sys.stdout.write(f"{facts}\n{table(COLUMNS, bench.rows)}\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in bench.rows], indent=1))
    return int(any(row[COLUMNS.index("verdict")] == "MISSED" for row in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
