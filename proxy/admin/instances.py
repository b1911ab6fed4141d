"""`GET /instances`: who follows the invalidation log, and how far each has come."""

from collections.abc import Mapping

from aiohttp import web

from proxy.admin.listener import Handler, json_answer
from proxy.admin.problems import Refusal, Trouble
from proxy.flow.sharing import Following, LogUnreachable


class Instances:
    """Asks the log whenever it is asked."""

    def __init__(self, log: Following) -> None:
        self._following = log

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """What this answers: see `AdminServer`."""
        return {"/instances": {"GET": self._answer}}

    async def _answer(self, _request: web.BaseRequest) -> web.Response:
        try:
            places = await self._following.places()
        except LogUnreachable:
            raise Refusal(
                Trouble.LOG_UNREACHABLE,
                "Who is alive is not known: the log that all instances share cannot be reached.",
                headers=(("Retry-After", "1"),),
            ) from None
        told = [
            {"instance": name, "position": number, "behind": None if number is None else max(places.last - number, 0)}
            for name, number in places.reached.items()
        ]
        return json_answer({"last": places.last, "here": [self._following.instance], "instances": told})
