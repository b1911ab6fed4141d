"""The access log: one JSON object a line, in batches, from a buffer that drops rather than stalls.

The loop only appends to a list. Every tenth of a second what is there goes to a thread, which is
the one that waits when the pipe behind standard output is full.
"""

import asyncio
import os
import queue
import threading
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from proxy.flow.ports import Outcome
from proxy.rules.message import Reason

CAPACITY: Final = 20_000  # lines waiting to be written; more are dropped and counted
INTERVAL: Final = 0.1  # seconds between batches


class AccessLog:
    """Writes outcomes to a file descriptor. `dropped` counts the lines that found no room, `lost` those
    that could not be written.
    """

    def __init__(self, descriptor: int) -> None:
        self.dropped = self.lost = 0
        self._descriptor = descriptor
        self._lines: list[dict[str, Any]] = []
        self._taken = self._done = 0  # the loop raises the one, the thread the other: no lock
        self._batches: queue.SimpleQueue[list[dict[str, Any]] | None] = queue.SimpleQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._writer = threading.Thread(target=self._write_batches, name="access-log", daemon=True)
        self._writer.start()

    def record(self, outcome: Outcome) -> None:
        """Append one exchange."""
        request, account = outcome.request, outcome.account
        line: dict[str, Any] = {
            "time": outcome.wall,
            "client": outcome.peer,
            "method": request.method,
            "host": request.host,
            "target": request.target,
            "route": outcome.route,
            "status": outcome.status,
            "cache": "hit" if account.ttl is not None else account.fwd.value if account.fwd is not None else "none",
            "reason": account.reason.value,
            "duration_ms": round(outcome.seconds * 1000, 3),
            "bytes": outcome.sent,
            "request_id": outcome.request_id,
        }
        if account.collapsed:
            line["collapsed"] = True
        if account.stored:
            line["stored"] = True
        if not outcome.complete:
            line["complete"] = False
        self._append(line)

    def refused(self, wall: float, peer: str, status: int, reason: Reason) -> None:
        """Append a request that was refused before it could be read."""
        self._append({"time": wall, "client": peer, "status": status, "cache": "none", "reason": reason.value})

    def _append(self, line: dict[str, Any]) -> None:
        if self._taken - self._done >= CAPACITY:
            self.dropped += 1
            return
        self._taken += 1
        self._lines.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._hand_over)

    def _hand_over(self) -> None:
        self._timer = None
        lines, self._lines = self._lines, []
        self._batches.put(lines)

    def _write_batches(self) -> None:
        while (batch := self._batches.get()) is not None:
            data = memoryview(b"".join(map(_format, batch)))
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:  # the reader of the log is gone
                self.lost += len(batch)
            self._done += len(batch)

    def close(self) -> None:
        """Write what is left; waits at most a second for a reader that does not read."""
        if self._timer is not None:
            self._timer.cancel()
        self._hand_over()
        self._batches.put(None)
        self._writer.join(timeout=1.0)


def _format(line: dict[str, Any]) -> bytes:
    line["time"] = datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="milliseconds")
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
