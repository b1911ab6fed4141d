"""`POST /invalidate` and `GET /invalidations/{id}`: making things disappear everywhere, and seeing that they did."""

import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web

from proxy.admin.batch import Batch, Mistaken, read_batch
from proxy.admin.durations import seconds
from proxy.admin.listener import Handler, body_of, json_answer, peer_of
from proxy.admin.problems import Refusal, Trouble
from proxy.admin.throttle import Throttle
from proxy.flow.ports import LogUnreachable, Progress, SharedLog
from proxy.flow.site import Site

_log = logging.getLogger("readthrough")

MAX_WAIT: Final = 30.0  # seconds
_NOTHING: Final = (
    "Nothing was invalidated, here or anywhere else: the log that all instances share cannot be reached."
    " Ask again once Redis is back."
)
_MAYBE: Final = (
    "It may have been applied, and may still be: the log that all instances share has not confirmed it in time."
    " Asking again does no harm."
)
_ID: Final = re.compile(r"[!-~]{1,200}")


class Invalidations:
    """Writes to the log what is asked for. `site` is the configuration as it is now."""

    def __init__(self, log: SharedLog, site: Callable[[], Site], throttle: Throttle) -> None:
        self._shared, self._site, self._throttle = log, site, throttle

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """What this answers: see `AdminServer`."""
        return {
            "/invalidate": {"POST": self._invalidate},
            "/invalidations/*": {"GET": self._progress},
        }

    async def _invalidate(self, request: web.BaseRequest) -> web.Response:
        within = _wait(request)
        raw = await body_of(request)
        try:
            batch = await self._read(raw)
        except Mistaken as mistaken:
            raise Refusal(
                Trouble.BAD_REQUEST, "Nothing was invalidated: the body has mistakes.", mistakes=mistaken.mistakes
            ) from None
        after = self._throttle.take(batch.values)
        if after:
            raise Refusal(
                Trouble.TOO_MANY,
                f"Nothing was invalidated: too many values for now. Ask again in {math.ceil(after)} s; a prefix, a tag,"
                " a host or all is one value, whatever it covers.",
                headers=(("Retry-After", str(math.ceil(after))),),
            )
        identity = await self._write(batch, peer_of(request))
        if within is None:
            return json_answer({"id": identity}, status=202)
        try:
            progress = await self._shared.progress(identity, within)
        except LogUnreachable:
            progress = None
        if progress is None:  # it is written all the same: to say otherwise would have it written twice
            return json_answer({"id": identity, "applied": {}, "pending": None}, status=202)
        return json_answer({"id": identity, **_told(progress)}, status=202 if progress.pending else 200)

    async def _read(self, raw: bytes) -> Batch:
        while True:
            site = self._site()
            batch = await read_batch(raw, site)
            if site is self._site():  # else URLs may be keyed in another way now
                return batch

    async def _write(self, batch: Batch, who: str) -> str:
        try:
            identity = await self._shared.invalidate(batch.targets, who, soft=batch.soft)
        except LogUnreachable as error:
            if error.sent:
                _log.warning("invalidation not confirmed by the log: %s, asked for by %s", batch.told, who)
            else:
                _log.warning("invalidation refused, as the log cannot be reached: %s, asked for by %s", batch.told, who)
            raise Refusal(
                Trouble.LOG_UNREACHABLE, _MAYBE if error.sent else _NOTHING, headers=(("Retry-After", "1"),)
            ) from None
        _log.info("invalidation %s: %s, asked for by %s", identity, batch.told, who)
        return identity

    async def _progress(self, request: web.BaseRequest) -> web.Response:
        identity = request.rel_url.raw_path.rpartition("/")[2]
        try:
            progress = await self._shared.progress(identity, 0.0) if _ID.fullmatch(identity) else None
        except LogUnreachable:
            raise Refusal(
                Trouble.LOG_UNREACHABLE,
                "How far it has come is not known: the log that all instances share cannot be reached.",
                headers=(("Retry-After", "1"),),
            ) from None
        if progress is None:
            raise Refusal(Trouble.NOT_FOUND, "There is no such invalidation, or it was too long ago to be remembered.")
        return json_answer({"id": identity, **_told(progress)})


def _told(progress: Progress) -> dict[str, Any]:
    applied = {name: round(milliseconds, 3) for name, milliseconds in progress.applied.items()}
    return {"applied": applied, "pending": list(progress.pending)}


def _wait(request: web.BaseRequest) -> float | None:
    """Seconds to wait for every instance; None where nobody asked to. Raises Refusal."""
    query = list(request.rel_url.query.items())
    if not query:
        return None
    (name, value), *more = query
    within = seconds(value) if name == "wait" and not more else None
    if within is None:
        raise Refusal(
            Trouble.BAD_REQUEST,
            "Nothing was invalidated: the query is not one `wait` with a duration, such as wait=250ms or wait=2s.",
        )
    return min(within, MAX_WAIT)
