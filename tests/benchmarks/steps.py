"""What an answer costs within the process: `python -m tests.benchmarks.steps`.

The App fronts the API, and a connection without a socket gets the bytes of one request after another, each time anew,
as a socket would give them. Nanoseconds, the least of many rounds, without the making of those bytes.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final, cast

import uvloop

from proxy.app import App
from proxy.config.load import from_upstream, override
from proxy.edges.connection import Connection
from tests.benchmarks.machine import memory_directory
from tests.benchmarks.report import table
from tests.benchmarks.servers import started_upstream
from tests.benchmarks.upstream import ETAG
from tests.benchmarks.watch import alone
from tests.benchmarks.wire import HOST, ask, request
from tests.e2e.process import free_port

ROUNDS: Final = 20
AT_ONCE: Final = 5_000
SHAPES: Final = {"hit, 1 KiB": "/1k/products/1", "hit, Vary: Accept-Encoding": "/vary-encoding/products/1"}


class Sink:
    """What a connection needs of a transport. What is written is gone."""

    written = 0

    def get_extra_info(self, _: str) -> tuple[str, int]:
        return HOST, 1

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.written += len(data)


def least(take: Callable[[bytes], object], heads: Callable[[], Iterable[bytearray]]) -> float:
    """Nanoseconds for one of them."""
    best = made = float("inf")
    for _ in range(ROUNDS):
        raws = list(heads())
        times = [time.perf_counter()]
        for raw in raws:
            bytes(raw)
        times.append(time.perf_counter())
        for raw in raws:
            take(bytes(raw))
        times.append(time.perf_counter())
        made, best = min(made, times[1] - times[0]), min(best, times[2] - times[1])
    return (best - made) / AT_ONCE * 1e9


async def measured(api: int) -> list[tuple[str, str]]:
    base = override(
        from_upstream(f"http://{HOST}:{api}"),
        listen=f"{HOST}:{free_port()}",
        admin=f"{HOST}:{free_port()}",
    )
    app = App(replace(base, access_log=False))
    await app.start()
    for path in SHAPES.values():
        await asyncio.to_thread(ask, base.listen.port, request(path))
    sink = Sink()
    connection = Connection(app.shared, "http")
    connection.connection_made(cast("asyncio.Transport", sink))
    path, numbers = SHAPES["hit, 1 KiB"], count()

    def same(path: str, *extra: tuple[str, str]) -> Callable[[], Iterable[bytearray]]:
        return lambda: [bytearray(request(path, extra))] * AT_ONCE

    def unseen() -> Iterable[bytearray]:
        return [bytearray(request(path, (("X-Request-Id", f"{next(numbers):032d}"),))) for _ in range(AT_ONCE)]

    kinds = {name: same(path) for name, path in SHAPES.items()}
    kinds["hit, If-None-Match, 304"] = same(path, ("If-None-Match", ETAG))
    kinds["hit, each with an X-Request-Id"] = unseen
    found = [(name, f"{least(connection.data_received, heads):,.0f}") for name, heads in kinds.items()]
    known = app.shared.heads.known("http", trusted=False).recent
    found.append(("of a hit: the head, by its bytes", f"{least(known.get, kinds['hit, 1 KiB']):,.0f}"))
    asked, now = known[request(path)], app.clock.now()
    look = lambda _: app.memory.fresh(asked.key, asked.fields, now)  # noqa: E731 - one of the things to be timed
    found.append(("of a hit: look-up", f"{least(look, kinds['hit, 1 KiB']):,.0f}"))
    hit = lambda _: app.exchange.hit(asked, connection)  # noqa: E731 - likewise
    found.append(("of a hit: from the look-up to the transport", f"{least(hit, kinds['hit, 1 KiB']):,.0f}"))
    app.shared.connections.discard(connection)  # there is no socket behind it
    await app.close()
    return found


def main() -> None:
    """Print them."""
    with (
        alone(print),
        tempfile.TemporaryDirectory(dir=memory_directory()) as name,
        started_upstream(Path(name)) as api,
    ):
        rows = uvloop.run(measured(api.port))
    sys.stdout.write(f"{table(('within the process', 'ns'), rows)}\n")


if __name__ == "__main__":
    main()
