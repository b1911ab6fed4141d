"""`POST /invalidate` and `GET /invalidations/{id}`: making things disappear everywhere, and seeing that they did."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web

from proxy.admin.batch import Batch, Mistaken, read_batch
from proxy.admin.durations import seconds
from proxy.admin.listener import Handler, body_of, json_answer, peer_of
from proxy.admin.problems import Refusal, Trouble
from proxy.flow.invalidator import Denied, Invalidator
from proxy.flow.sharing import LogUnreachable, Progress
from proxy.flow.site import Site
from proxy.rules.message import Reason

MAX_WAIT: Final = 30.0  # seconds
_ID: Final = re.compile(r"[!-~]{1,200}")


class Invalidations:
    """Writes to the log what is asked for. `site` is the configuration as it is now."""

    def __init__(self, invalidator: Invalidator, site: Callable[[], Site]) -> None:
        self._invalidator, self._site = invalidator, site

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
        try:
            identity = await self._invalidator.write(
                batch.targets, batch.values, batch.told, peer_of(request), soft=batch.soft
            )
        except Denied as denied:
            trouble = Trouble.TOO_MANY if denied.reason is Reason.TOO_MANY_INVALIDATIONS else Trouble.LOG_UNREACHABLE
            raise Refusal(trouble, denied.detail, headers=(("Retry-After", str(denied.after)),)) from None
        if within is None:
            return json_answer({"id": identity}, status=202)
        try:
            progress = await self._invalidator.progress(identity, within)
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

    async def _progress(self, request: web.BaseRequest) -> web.Response:
        identity = request.rel_url.raw_path.rpartition("/")[2]
        try:
            progress = await self._invalidator.progress(identity, 0.0) if _ID.fullmatch(identity) else None
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
