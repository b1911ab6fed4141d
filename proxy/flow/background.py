"""Tasks somebody owns: started here, seen when they fail, ended at shutdown."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger(__name__)


class Background:
    """The set of running tasks."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run it. A failure is logged with its traceback; work is expected to handle its own."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        try:
            error = task.exception()
        except asyncio.CancelledError:  # asked for, so that the task does not keep it with the frames it has passed
            return
        if error is not None:
            _log.error("task %s failed", task.get_name(), exc_info=error)

    def __len__(self) -> int:
        return len(self._tasks)

    async def drain(self, within: float) -> int:
        """Wait up to `within` seconds, then cancel what is left; returns how many that were."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)
        cancelled = 0
        while self._tasks:  # the last act of one may be to start another
            cancelled += len(self._tasks)
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        return cancelled
