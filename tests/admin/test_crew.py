"""One admin listener for several processes."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.admin.access import Access
from proxy.admin.crew import CrewAdmin, Member
from proxy.admin.dashboard import PATHS
from proxy.admin.invalidations import Invalidations
from proxy.admin.listener import Handler, json_answer
from proxy.admin.problems import Refusal, Trouble
from proxy.admin.server import AdminServer
from proxy.flow.invalidator import Invalidator
from proxy.flow.throttle import Throttle
from tests.admin.kit import AUTHORIZED, JSON, TOKEN, FakeLog, site
from tests.e2e.process import free_port


@dataclass
class Worker:
    """One process's admin listener at a Unix socket. It counts what it is asked."""

    number: int
    socket: Path
    access: Access
    ready: bool = True
    log: FakeLog = field(default_factory=FakeLog)
    server: AdminServer = field(init=False)
    asked: int = 0

    def __post_init__(self) -> None:
        routes = site()
        invalidations = Invalidations(Invalidator(self.log, Throttle(lambda: 0.0)), lambda: routes)
        self.server = AdminServer(lambda: self.ready, access=lambda: self.access, parts=[self, invalidations])

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        return {
            "/entries": {"GET": self._entries},
            "/explain": {"POST": self._explain},
            "/instances": {"GET": self._instances},
        }

    async def _instances(self, _request: web.BaseRequest) -> web.Response:
        if self.log.down:
            raise Refusal(Trouble.LOG_UNREACHABLE, "It is out of reach.")
        return json_answer({"last": 7, "here": [f"w{self.number}"], "instances": [{"instance": "w1"}]})

    async def _entries(self, request: web.BaseRequest) -> web.Response:
        return json_answer({"hits": self.number * 10, "asked": request.rel_url.raw_path_qs})

    async def _explain(self, request: web.BaseRequest) -> web.Response:
        self.asked += 1
        return json_answer({"echo": await request.json()})


@dataclass
class Crew:
    """`present` are those of the workers that the supervisor knows to serve."""

    workers: list[Worker]
    port: int
    session: aiohttp.ClientSession
    present: list[Worker]
    serving: bool = True

    def members(self) -> list[Member]:
        return [Member(worker.number, 100 + worker.number, worker.socket) for worker in self.present]

    async def ask(self, path: str, method: str = "GET", **more: Any) -> tuple[int, Any, Mapping[str, str]]:  # noqa: ANN401
        async with self.session.request(method, path, **more) as response:
            body = await response.read()
            return response.status, json.loads(body) if body else None, response.headers


@asynccontextmanager
async def crew(directory: Path, token: str | None = None) -> AsyncIterator[Crew]:
    access, port = Access("127.0.0.1", token), free_port()
    workers = [Worker(number, directory / f"{number}.sock", access) for number in (1, 2, 3)]
    for worker in workers:
        await worker.server.listen_at(worker.socket)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        made = Crew(workers, port, session, [*workers])
        server = CrewAdmin(made.members, serving=lambda: made.serving, access=lambda: access)
        await server.listen("127.0.0.1", port)
        try:
            yield made
        finally:
            await server.close()
            for worker in workers:
                await worker.server.close()


async def test_it_is_ready_and_names_every_process(tmp_path: Path) -> None:
    async with crew(tmp_path) as here:
        status, said, _ = await here.ask("/readyz")
        assert (status, said["status"]) == (200, "ready")
        assert [(worker["worker"], worker["process"]) for worker in said["workers"]] == [(1, 101), (2, 102), (3, 103)]
        assert (await here.ask("/readyz", "HEAD"))[:2] == (200, None)


def _one_is_not(here: Crew) -> None:
    here.workers[1].ready = False


def _one_is_missing(here: Crew) -> None:
    del here.present[2]


def _one_has_just_died(here: Crew) -> None:
    here.workers[0].socket.unlink()


@pytest.mark.parametrize("trouble", [_one_is_not, _one_is_missing, _one_has_just_died])
async def test_it_stays_ready_while_one_is_replaced(tmp_path: Path, trouble: Callable[[Crew], None]) -> None:
    async with crew(tmp_path) as here:
        trouble(here)
        status, said, _ = await here.ask("/readyz")
        assert (status, said["status"]) == (200, "ready")


def _none_is(here: Crew) -> None:
    for worker in here.workers:
        worker.ready = False


def _none_is_there(here: Crew) -> None:
    here.present.clear()


def _all_are_stopping(here: Crew) -> None:
    here.serving = False


@pytest.mark.parametrize("trouble", [_none_is, _none_is_there, _all_are_stopping])
async def test_it_is_not_ready_where_nobody_is_but_alive(tmp_path: Path, trouble: Callable[[Crew], None]) -> None:
    async with crew(tmp_path) as here:
        trouble(here)
        status, said, _ = await here.ask("/readyz")
        assert (status, said["status"]) == (503, "not ready")
        assert (await here.ask("/healthz"))[:2] == (200, {"status": "alive"})


async def test_what_each_knows_of_itself_is_asked_of_all(tmp_path: Path) -> None:
    async with crew(tmp_path) as here:
        here.workers[2].socket.unlink()
        status, said, _ = await here.ask("/entries?url=/a")
        assert status == 200
        assert said["workers"] == [
            {"worker": 1, "process": 101, "hits": 10, "asked": "/entries?url=/a"},
            {"worker": 2, "process": 102, "hits": 20, "asked": "/entries?url=/a"},
            {"worker": 3, "process": 103, "status": "no answer"},
        ]
        status, said, _ = await here.ask("/hot")  # these know of no such thing
        assert (status, said["type"]) == (404, "urn:readthrough:error:not-found")


async def test_what_one_can_do_for_all_is_asked_of_one_at_a_time(tmp_path: Path) -> None:
    async with crew(tmp_path) as here:
        for at in range(6):
            assert (await here.ask("/explain", "POST", json={"at": at}))[:2] == (200, {"echo": {"at": at}})
        assert [worker.asked for worker in here.workers] == [2, 2, 2]


async def test_another_is_asked_where_one_is_gone_and_nobody_twice(tmp_path: Path) -> None:
    async with crew(tmp_path) as here:
        here.workers[0].socket.unlink()
        for _ in range(6):
            assert (await here.ask("/explain", "POST", json={}))[0] == 200
        assert here.workers[0].asked == 0
        assert here.workers[1].asked + here.workers[2].asked == 6
        for worker in here.workers[1:]:
            worker.socket.unlink()
        status, said, _ = await here.ask("/explain", "POST", json={})
        assert (status, said["type"]) == (503, "urn:readthrough:error:no-worker")


async def test_an_invalidation_is_told_who_asked(tmp_path: Path) -> None:
    async with crew(tmp_path) as here:
        forged = {"X-Forwarded-For": "192.0.2.1"}
        assert (await here.ask("/invalidate", "POST", json={"all": True}, headers=forged))[0] == 202
        (batch,) = [batch for worker in here.workers for batch in worker.log.batches]
        assert batch[1] == "127.0.0.1"


async def test_the_token_and_the_name_are_asked_for_here(tmp_path: Path) -> None:
    async with crew(tmp_path, TOKEN) as here:
        for path, method in (("/stats", "GET"), ("/explain", "POST"), ("/nowhere", "GET")):
            status, _, fields = await here.ask(path, method, headers=JSON, data=b"{}")
            assert (status, fields["WWW-Authenticate"]) == (401, "Bearer")
        assert (await here.ask("/readyz"))[0] == 200
        assert (await here.ask("/explain", "POST", headers=JSON | AUTHORIZED, data=b"{}"))[0] == 200
        assert (await here.ask("/readyz", headers={"Host": "evil.test"}))[0] == 421
        assert sum(worker.asked for worker in here.workers) == 1


async def test_what_the_process_says_of_an_error_comes_through(tmp_path: Path) -> None:
    async with crew(tmp_path) as here:
        status, said, fields = await here.ask("/explain", "DELETE", headers=JSON)
        assert (status, said["type"]) == (405, "urn:readthrough:error:method")
        assert fields["Allow"] == "POST"
        assert fields["Content-Type"] == "application/problem+json"


async def test_the_instances_are_those_of_the_log_and_all_of_its_own_are_here(tmp_path: Path) -> None:
    async with crew(tmp_path) as here:
        here.workers[0].log.down = True
        here.workers[2].socket.unlink()
        status, said, _ = await here.ask("/instances")
        assert (status, said) == (200, {"last": 7, "here": ["w2"], "instances": [{"instance": "w1"}]})
        here.workers[0].log.down = False
        assert (await here.ask("/instances"))[1]["here"] == ["w1", "w2"]
        for worker in here.workers:
            worker.log.down = True
        status, said, _ = await here.ask("/instances")
        assert (status, said["type"]) == (503, "urn:readthrough:error:log-unreachable")
        here.workers[0].socket.unlink()
        status, said, _ = await here.ask("/instances")
        assert (status, said["type"]) == (503, "urn:readthrough:error:log-unreachable"), "it is who answers that knows"
        here.present.clear()
        status, said, _ = await here.ask("/instances")
        assert (status, said["type"]) == (503, "urn:readthrough:error:no-worker")


async def test_where_nobody_answers_it_is_said_in_words(tmp_path: Path) -> None:
    async with crew(tmp_path) as here:
        for worker in here.workers:
            worker.socket.unlink()
        for path in ("/instances", "/stats", "/metrics", "/hot"):
            status, said, fields = await here.ask(path)
            assert (status, said["type"]) == (503, "urn:readthrough:error:no-worker"), path
            assert fields["Content-Type"] == "application/problem+json"


async def test_the_head_of_an_answer_is_that_of_a_get(tmp_path: Path) -> None:
    async with crew(tmp_path) as here:
        for path in ("/instances", "/entries", "/readyz", "/nowhere"):
            status, _, fields = await here.ask(path)
            told, body, head = await here.ask(path, "HEAD")
            assert (told, body) == (status, None), path
            assert head["Content-Length"] == fields["Content-Length"], path


async def test_the_dashboard_is_there_whoever_is_not(tmp_path: Path) -> None:
    async with crew(tmp_path, TOKEN) as here:
        here.present.clear()
        for path in PATHS:
            async with here.session.get(path) as response:
                assert response.status == 200
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert (await here.ask("/assets/x.js"))[0] == 401
        assert (await here.ask("/", headers={"Host": "evil.example"}))[0] == 421
