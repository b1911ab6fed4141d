"""`GET /hot`: the keys that are asked for most."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from proxy.admin.listener import Handler
from proxy.admin.problems import Refusal, Trouble
from proxy.flow.hot import COUNTERS, HotKeys
from proxy.rules.redaction import told_key

_SHOWN: Final = 20


class Hottest:
    """`settle` counts what has still to be, before the keys are read."""

    def __init__(self, hot: HotKeys, settle: Callable[[], None]) -> None:
        self._hot, self._settle = hot, settle

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """What this answers: see `AdminServer`."""
        return {"/hot": {"GET": self._answer}}

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        top = wanted(request)
        self._settle()
        found = self._hot.top(top)
        keys = [{"key": told_key(hot.key), "rate": hot.rate, "excess": hot.excess} for hot in found]
        return hot_answer(keys, top)


def wanted(request: web.BaseRequest) -> int:
    """How many keys are asked for, `?top=`. Raises Refusal."""
    query = list(request.rel_url.query.items())
    if not query:
        return _SHOWN
    (name, value), *more = query
    if name != "top" or more or not (value.isascii() and value.isdigit() and 0 < len(value) < 5 and int(value) > 0):
        raise Refusal(Trouble.BAD_REQUEST, f"The query is not one `top` with a number from 1 to {COUNTERS}.")
    return min(int(value), COUNTERS)


def hot_answer(keys: Iterable[Mapping[str, Any]], top: int) -> web.Response:
    """The hottest of these, those with the same name together."""
    rates: dict[str, list[float]] = {}
    for key in keys:
        rate = rates.setdefault(key["key"], [0.0, 0.0])
        rate[0] += key["rate"]
        rate[1] += key["excess"]
    hottest = sorted(rates.items(), key=lambda item: item[1][0], reverse=True)[:top]
    told = [{"key": name, "rate": round(rate, 3), "excess": round(excess, 3)} for name, (rate, excess) in hottest]
    return web.Response(body=orjson.dumps({"keys": told}), content_type="application/json")
