"""Invalidations that somebody asks for, at whichever listener: how many in a while, and what is said of each."""

import logging
import math
from collections.abc import Sequence
from typing import Final

from proxy.flow.invalidation import Target
from proxy.flow.sharing import LogUnreachable, Progress, SharedLog
from proxy.flow.throttle import Throttle
from proxy.rules.message import Reason

_log = logging.getLogger("readthrough")

_NOTHING: Final = (
    "Nothing was invalidated, here or anywhere else: the log that all instances share cannot be reached."
    " Ask again once Redis is back."
)
_MAYBE: Final = (
    "It may have been applied, and may still be: the log that all instances share has not confirmed it in time."
    " Asking again does no harm."
)


class Denied(Exception):
    """It was not done, or nobody knows whether it was: `detail` says which, for whoever asked. `after` so many
    seconds it may be asked for again.
    """

    def __init__(self, reason: Reason, detail: str, after: int) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.after = reason, detail, after


class Invalidator:
    """Writes to the log what somebody asks for. All who may ask share one throttle."""

    def __init__(self, log: SharedLog, throttle: Throttle) -> None:
        self._shared, self._throttle = log, throttle

    async def write(self, targets: Sequence[Target], values: int, told: str, who: str, *, soft: bool) -> str:
        """One atomic batch; gives its id. `values` is what it costs; `told` says it in the log, in one line.
        Raises Denied.
        """
        after = math.ceil(self._throttle.take(values))
        if after:
            raise Denied(
                Reason.TOO_MANY_INVALIDATIONS,
                f"Nothing was invalidated: too many values for now. Ask again in {after} s; a prefix, a tag,"
                " a host or all is one value, whatever it covers.",
                after,
            )
        try:
            identity = await self._shared.invalidate(targets, who, soft=soft)
        except LogUnreachable as error:
            if error.sent:
                _log.warning("invalidation not confirmed by the log: %s, asked for by %s", told, who)
            else:
                _log.warning("invalidation refused, as the log cannot be reached: %s, asked for by %s", told, who)
            raise Denied(Reason.LOG_UNREACHABLE, _MAYBE if error.sent else _NOTHING, 1) from None
        _log.info("invalidation %s: %s, asked for by %s", identity, told, who)
        return identity

    async def progress(self, identity: str, within: float) -> Progress | None:
        """See `SharedLog`. Raises LogUnreachable."""
        return await self._shared.progress(identity, within)
