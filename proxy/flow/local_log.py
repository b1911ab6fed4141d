"""The invalidation log of the only instance: what is invalidated is applied at once, and everywhere."""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from proxy.flow.invalidation import InvalidationLog, Target
from proxy.flow.sharing import Places, Progress

MAX_BATCHES: Final = 1000  # whose progress can be asked for


class LocalLog:
    """A SharedLog that nobody shares. `now` gives monotonic seconds."""

    __slots__ = ("_applied", "_log", "_now", "instance")

    def __init__(self, log: InvalidationLog, instance: str, now: Callable[[], float]) -> None:
        self._log, self.instance, self._now = log, instance, now
        self._applied: OrderedDict[str, float] = OrderedDict()  # milliseconds that it took, by batch

    async def announce(self, targets: Sequence[Target], *, soft: bool = False) -> None:
        """There is nobody to tell."""

    async def invalidate(self, targets: Sequence[Target], who: str, *, soft: bool) -> str:  # noqa: ARG002 - no one reads it
        """Apply one batch; gives its id. Raises ValueError where there is nothing to apply."""
        if not targets:
            raise ValueError("nothing to invalidate")
        began = self._now()
        self._log.append(targets, began, soft=soft)
        batch = secrets.token_hex(8)
        self._applied[batch] = (self._now() - began) * 1000
        if len(self._applied) > MAX_BATCHES:
            self._applied.popitem(last=False)
        return batch

    async def progress(self, batch: str, within: float) -> Progress | None:  # noqa: ARG002 - there is no waiting
        """It is applied; None: there is no such batch, or a thousand have come since."""
        milliseconds = self._applied.get(batch)
        return None if milliseconds is None else Progress({self.instance: milliseconds}, ())

    async def places(self) -> Places:
        """Where the only one is, all is."""
        return Places(self._log.position, {self.instance: self._log.position})
