"""The admin listener of an instance of several processes: it has no state of its own, and asks them.

What concerns one process's state is asked of all, and given as a list. What any of them can do for all is asked of
one. The access is checked here; a question goes on with the token it came with, under a Host that every process knows.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from aiohttp import hdrs, web

from proxy.admin.access import Access
from proxy.admin.dashboard import Dashboard
from proxy.admin.families import Ledger, with_silent
from proxy.admin.hottest import hot_answer, wanted
from proxy.admin.listener import Door, body_of, json_answer
from proxy.admin.metrics import RAW, exposed, stats_answer
from proxy.admin.problems import Refusal, Trouble
from proxy.flow.hot import COUNTERS

OF_ALL: Final = frozenset({"/entries"})  # GET: what each process knows of itself
_ALIVE_WITHIN: Final = 0.5  # seconds in which a process that is to be asked says that it is alive
# Seconds in which each of those that are all asked answers: who probes, scrapes or looks waits no longer as a rule,
# and is to see what the others say while one hangs.
_WITHIN: Final = 1.0
_SILENCE: Final = b'{"status":"no answer"}'  # what is told of one of which there is nothing
_ASKED_WITH: Final = (hdrs.ACCEPT, hdrs.AUTHORIZATION, hdrs.CONTENT_TYPE)
_ANSWERED_WITH: Final = (hdrs.ALLOW, hdrs.CONTENT_TYPE, hdrs.LOCATION, hdrs.RETRY_AFTER, hdrs.WWW_AUTHENTICATE)


@dataclass(frozen=True, slots=True)
class Member:
    """A process that runs: which of them it is, its id, and the Unix socket where it answers."""

    number: int
    process: int
    socket: Path


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    fields: Mapping[str, str]
    body: bytes


class CrewAdmin:
    """`members` are those that run now; `serving` is false while it starts and stops."""

    def __init__(
        self,
        members: Callable[[], Sequence[Member]],
        *,
        serving: Callable[[], bool],
        access: Callable[[], Access],
    ) -> None:
        self._members, self._serving, self._access = members, serving, access
        self._runner: web.ServerRunner | None = None
        self._turn = 0
        self._ledger = Ledger()
        self._shell = Dashboard().routes

    async def listen(self, host: str, port: int) -> None:
        """Accept connections. Raises OSError where the address is taken."""
        self._runner = web.ServerRunner(Door(self._handle), shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def close(self) -> None:
        """Stop."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self._access().check(request)
        path, reads = request.rel_url.raw_path, request.method in ("GET", "HEAD")
        if path == "/healthz" and reads:  # whoever lives to start the others is alive
            return json_answer({"status": "alive"})
        if path in self._shell and reads:
            return await self._shell[path]["GET"](request)
        question = _Question(request, await body_of(request))
        if path == "/readyz" and reads:
            return await self._readiness(question)
        if path in ("/metrics", "/stats") and reads:
            return await self._numbers(request)
        if path == "/hot" and reads:
            return await self._hottest(request)
        if path == "/instances" and reads:
            return await self._instances(question)
        if path in OF_ALL and reads:
            return await self._all(question)
        return await self._any(question)

    async def _readiness(self, question: "_Question") -> web.Response:
        told = await self._ask_all(question)
        # While one is replaced the others get its connections: to take all of them out would only add to the
        # trouble. One that hangs keeps its connections, and its clients wait.
        said = {answer.status for _, answer in told}
        ready = self._serving() and 200 in said and 504 not in said
        members = {"status": "ready" if ready else "not ready", "workers": _listed(told)}
        return json_answer(members, status=200 if ready else 503)

    async def _all(self, question: "_Question") -> web.Response:
        told = await self._ask_all(question)
        for _, answer in told:
            if answer.status not in (200, 503, 504):  # what is wrong with the question is so for all
                return _passed(answer)
        return json_answer({"workers": _listed(told)})

    async def _numbers(self, request: web.BaseRequest) -> web.Response:
        stats = request.rel_url.raw_path == "/stats"
        about = "/stats" if stats else "/metrics"
        told = await self._ask_all(_Question(request, about=about, accepted=RAW))
        if told and all(answer.status != 200 for _, answer in told):
            return _wrong(told)
        read = {(at.number, at.process): orjson.loads(said.body) for at, said in told if said.status == 200}
        numbers = {at: said["numbers"] for at, said in read.items()} if stats else read
        merged = self._ledger.merged(numbers, [(member.number, member.process) for member in self._members()])
        merged = with_silent(merged, [member.number for member, said in told if said.status != 200])
        if stats:
            return stats_answer(merged, [client for said in read.values() for client in said["refused"]])
        return await exposed(merged, request.headers.get(hdrs.ACCEPT, ""), several=True)

    async def _hottest(self, request: web.BaseRequest) -> web.Response:
        top = wanted(request)
        told = await self._ask_all(_Question(request, about=f"/hot?top={COUNTERS}"))
        if told and all(answer.status != 200 for _, answer in told):
            return _wrong(told)
        keys = [key for _, said in told if said.status == 200 for key in orjson.loads(said.body)["keys"]]
        return hot_answer(keys, top)

    async def _instances(self, question: "_Question") -> web.Response:
        """What any of them says of the log, and of all which they are: each follows it as an instance of its own."""
        told = await self._ask_all(question)
        known = [orjson.loads(answer.body) for _, answer in told if answer.status == 200]
        if not known:
            return _wrong(told)
        return json_answer({**known[0], "here": [name for said in known for name in said["here"]]})

    async def _ask_all(self, question: "_Question") -> list[tuple[Member, _Answer]]:
        async def one(member: Member) -> tuple[Member, _Answer]:
            try:
                return member, await question.ask(member, _WITHIN)
            except TimeoutError:
                return member, _Answer(504, {}, _SILENCE)
            except (aiohttp.ClientError, OSError):
                return member, _Answer(503, {}, _SILENCE)

        return await asyncio.gather(*map(one, self._members()))

    async def _any(self, question: "_Question") -> web.Response:
        members = self._members()
        self._turn += 1
        first = self._turn % len(members) if members else 0
        for member in (*members[first:], *members[:first]):
            try:
                # One that is stuck would keep the question, and nobody could tell whether it was heard.
                await question.is_alive(member, within=_ALIVE_WITHIN)
                return _passed(await question.ask(member))
            except (aiohttp.ClientError, OSError):
                continue
        raise _nobody()


class _Question:
    """One request, to be put to any of them; or instead, for whoever asked, one `about` something else."""

    def __init__(
        self, request: web.BaseRequest, body: bytes = b"", *, about: str | None = None, accepted: str | None = None
    ) -> None:
        # A HEAD is put as a GET: what becomes one answer is made from bodies, of which the listener sends none.
        self._method = "GET" if request.method == "HEAD" else request.method
        self._at, self._body = request.rel_url.raw_path_qs, body
        if about is not None:
            self._method, self._at = "GET", about
        self._fields = _some(request.headers, _ASKED_WITH)
        self._fields[hdrs.X_FORWARDED_FOR] = request.remote or "unknown"  # it is asked who wanted an invalidation
        if accepted is not None:
            self._fields[hdrs.ACCEPT] = accepted

    async def ask(self, member: Member, within: float | None = None) -> _Answer:
        """Put it. Raises aiohttp.ClientError or OSError where no whole answer comes, or not `within` that many
        seconds.
        """
        async with (
            _session(member, within) as session,
            session.request(
                self._method,
                f"http://localhost{self._at}",
                headers=self._fields,
                data=self._body or None,
                allow_redirects=False,
            ) as response,
        ):
            return _Answer(response.status, _some(response.headers, _ANSWERED_WITH), await response.read())

    async def is_alive(self, member: Member, within: float) -> None:
        """Raises like `ask` where it is not."""
        async with _session(member, within) as session, session.get("http://localhost/healthz"):
            pass


def _some(fields: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: fields[name] for name in names if name in fields}


def _session(member: Member, within: float | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(member.socket), force_close=True),
        timeout=aiohttp.ClientTimeout(total=within),
        auto_decompress=False,
        trust_env=False,
    )


def _listed(told: Sequence[tuple[Member, _Answer]]) -> list[dict[str, Any]]:
    """Each one's members, behind who it is."""
    listed = []
    for member, answer in told:
        said = orjson.loads(answer.body or b"{}")
        more = said if isinstance(said, dict) else {"answer": said}
        listed.append({"worker": member.number, "process": member.process, **more})
    return listed


def _wrong(told: Sequence[tuple[Member, _Answer]]) -> web.Response:
    """What one that answers says is wrong. Raises Refusal where nobody does."""
    answers = [answer for _, answer in told if answer.body != _SILENCE]
    if not answers:
        raise _nobody()
    return _passed(answers[0])


def _nobody() -> Refusal:
    return Refusal(Trouble.NO_WORKER, "None of the processes answers; what has ended is being started again.")


def _passed(answer: _Answer) -> web.Response:
    return web.Response(status=answer.status, headers=answer.fields, body=answer.body)
