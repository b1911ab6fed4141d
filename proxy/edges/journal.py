"""The access log: one JSON object a line, in batches, from a buffer that drops rather than stalls.

docs/reasons.md has the members of a line; `cache` is the word of the metrics and `fwd` that of Cache-Status.

The loop only makes lines and appends them to a list. Every tenth of a second what is there goes to
a thread, which is the one that waits when the pipe behind standard output is full.

Several processes may write to one pipe, which cuts what is longer than 4 KiB into pieces and mixes them. So
each batch is written under the lock of a file that they share. The file is empty, but while a line may be half
written, one byte long: who finds it so knows that the writer before has died, and begins a new line.
"""

import asyncio
import fcntl
import os
import queue
import select
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from proxy.flow.ports import Asked, Outcome
from proxy.flow.tally import Result, result_of
from proxy.rules.message import Reason, Request

CAPACITY: Final = 16 << 20  # bytes waiting to be written; lines beyond are dropped and counted
INTERVAL: Final = 0.1  # seconds between batches


class AccessLog:
    """Writes outcomes to a file descriptor. `dropped` counts the lines that found no room, `lost` those
    that could not be written. `turns` is the file whose lock is held meanwhile, None where nobody else writes.
    """

    def __init__(self, descriptor: int, wall: Callable[[], float], turns: Path | None = None) -> None:
        self.dropped = self.lost = 0
        self._descriptor, self._wall = descriptor, wall
        self._lines: list[bytes] = []
        self._taken = self._done = 0  # bytes; the loop raises the one, the thread the other: no lock
        self._torn = False  # what was written last ends within a line
        self._turns = None if turns is None else os.open(turns, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._batches: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._stamped = -1, b""  # the last millisecond that was written out
        self._writer = threading.Thread(target=self._write_batches, name="access-log", daemon=True)
        self._writer.start()

    def hit(self, asked: Asked, peer: str, route: str, status: int, sent: int, seconds: float) -> None:
        """Append a request that was answered at once from a fresh entry."""
        said = asked.logged
        if not said:
            request = asked.request
            said = _members(_request(request, route, request.fields.get("x-request-id", "")))
            asked.logged = said
        self._append(
            b'{"time":"%b","client":"%b",%b,"status":%d,"cache":"hit","reason":"hit","duration_ms":%.3f,"bytes":%d}\n'
            % (self._stamp(), peer.encode(), said, status, seconds * 1000, sent)
        )

    def record(self, outcome: Outcome) -> None:
        """Append any other exchange."""
        account = outcome.account
        more = {
            "status": outcome.status,
            "cache": result_of(account).value,
            "reason": account.reason.value,
            "duration_ms": round(outcome.seconds * 1000, 3),
            "bytes": outcome.sent,
        }
        if account.fwd is not None:
            more["fwd"] = account.fwd.value
        if account.collapsed:
            more["collapsed"] = True
        if account.stored:
            more["stored"] = True
        if not outcome.complete:
            more["complete"] = False
        self._append(
            b'{"time":"%b","client":"%b",%b,%b}\n'
            % (
                _iso(outcome.wall),
                outcome.peer.encode(),
                _members(_request(outcome.request, outcome.route, outcome.request_id)),
                _members(more),
            )
        )

    def refused(self, peer: str, status: int, reason: Reason) -> None:
        """Append a request that was refused before it could be read."""
        more = {"client": peer, "status": status, "cache": Result.REFUSED.value, "reason": reason.value}
        self._append(b'{"time":"%b",%b}\n' % (self._stamp(), _members(more)))

    def _stamp(self) -> bytes:
        wall = self._wall()
        millisecond = int(wall * 1000)
        if self._stamped[0] != millisecond:
            self._stamped = millisecond, _iso(wall)
        return self._stamped[1]

    def _append(self, line: bytes) -> None:
        if self._taken - self._done >= CAPACITY:
            self.dropped += 1
            return
        self._taken += len(line)
        self._lines.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._hand_over)

    def _hand_over(self) -> None:
        self._timer = None
        lines, self._lines = self._lines, []
        self._batches.put(lines)

    def _write_batches(self) -> None:
        while (batch := self._batches.get()) is not None:
            data = b"".join(batch)
            if self._turns is None:
                self._write(data)
            else:
                self._take_turn(self._turns, data)
            self._done += len(data)

    def _take_turn(self, turns: int, data: bytes) -> None:
        fcntl.flock(turns, fcntl.LOCK_EX)
        try:
            self._torn = os.fstat(turns).st_size > 0
            os.ftruncate(turns, 1)  # a hole, so that a full disk does not matter
            self._write(data)
            if not self._torn:
                os.ftruncate(turns, 0)
        finally:
            fcntl.flock(turns, fcntl.LOCK_UN)

    def _write(self, data: bytes) -> None:
        data = b"\n" + data if self._torn else data
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody else's flag on a pipe that we share
                select.select([], [self._descriptor], [])
            except OSError:  # the reader of the log is gone, or the disk is full
                self.lost += bytes(left).count(b"\n")
                self._torn = self._torn if len(left) == len(data) else data[-len(left) - 1] != ord("\n")
                return
        self._torn = False

    def close(self) -> None:
        """Write what is left; waits at most a second for a reader that does not read."""
        if self._timer is not None:
            self._timer.cancel()
        self._hand_over()
        self._batches.put(None)
        self._writer.join(timeout=1.0)
        if self._turns is not None and not self._writer.is_alive():
            os.close(self._turns)


def _request(request: Request, route: str | None, request_id: str) -> dict[str, str | None]:
    members = {"method": request.method, "host": request.host, "target": request.target, "route": route}
    return members | {"request_id": request_id} if request_id else members


def _members(values: Mapping[str, object]) -> bytes:
    return orjson.dumps(values)[1:-1]


def _iso(wall: float) -> bytes:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").encode()
