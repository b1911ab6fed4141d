"""Several processes on one port: they serve as one, one may die, and they stop, reload and log together."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from tests.e2e.harness import HOST, Response, Site, ask, merge, receive, request, site
from tests.e2e.process import ROOT, Late, Proxy, eventually, free_port, in_time, run, timed
from tests.e2e.stream import Cut, End, Stream
from tests.e2e.upstream import Call, Upstream, head, replies

pytestmark = pytest.mark.asyncio(loop_scope="function")

FRESH: Final = "Cache-Control: max-age=600"
ALONE: Final = "Cache-Control: no-store"
WORKERS: Final = 3
BODY: Final = b"0123456789" * 20_000
MOMENT: Final = 1.0  # seconds for which new connections may fail when a process dies
WHOLE: Final = "20s"  # what a purge waits for everybody


@asynccontextmanager
async def crew(directory: Path, redis_url: str, over: Mapping[str, Any] | None = None) -> AsyncIterator[Site]:
    """A site whose proxy is several processes, with keys of its own in Redis."""
    several = {"workers": WORKERS, "redis": {"url": redis_url, "prefix": f"t{uuid4().hex[:12]}"}}
    async with site(directory, merge(several, over or {})) as here:
        yield here


async def admin(here: Site, path: str, *headers: str, document: Mapping[str, Any] | None = None) -> Response:
    """One request to the admin listener on a connection of its own."""
    stream = await Stream.open(here.admin)
    body = b"" if document is None else json.dumps(document).encode()
    more = (*headers, "Content-Type: application/json", f"Content-Length: {len(body)}") if body else headers
    method = "POST" if body else "GET"
    try:
        return await ask(stream, request(path, *more, method=method, host=f"127.0.0.1:{here.admin}") + body)
    finally:
        stream.close()


async def ready(here: Site) -> dict[int, int]:
    """Process ids by worker, of those that serve. Who gets no processor does not answer in time, and is not named."""
    told = json.loads((await admin(here, "/readyz")).body)
    return {worker["worker"]: worker["process"] for worker in told["workers"] if worker["status"] == "ready"}


async def processes(here: Site) -> dict[int, int]:
    """Likewise, once all of them do."""
    found: dict[int, int] = {}

    async def all_of_them() -> bool:
        nonlocal found
        found = await ready(here)
        return len(found) == WORKERS

    await eventually(all_of_them, "all serve")
    return found


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process: int) -> bool:
    """Whether it runs; one that has ended and is not yet waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208


async def refuses(here: Site) -> bool:
    try:
        stream = await here.connect()
    except ConnectionError:
        return True
    stream.close()
    return False


# -- one port, one admin listener


async def test_connections_are_spread_over_the_processes(tmp_path: Path, redis_url: str) -> None:
    async with crew(tmp_path, redis_url) as here:
        here.upstream.on("/a", replies("a", FRESH))
        running = await processes(here)
        assert sorted(running) == [1, 2, 3]
        assert sorted(running.values()) == sorted(children(here.proxy.process.pid))
        before = {process: files(process) for process in running.values()}
        streams = await here.crowd(90)
        answers = await asyncio.gather(*(ask(stream, request("/a")) for stream in streams))
        assert {answer.text for answer in answers} == {"a"}
        taken = [files(process) - before[process] for process in running.values()]
        assert sum(number > 5 for number in taken) >= 2, taken
        for stream in streams:
            stream.close()


async def test_a_purge_through_the_one_admin_listener_reaches_every_process(tmp_path: Path, redis_url: str) -> None:
    async with crew(tmp_path, redis_url, {"admin": {"token": "open-sesame"}}) as here:
        here.upstream.on("/a", replies("old", FRESH))
        for _ in range(40):
            assert (await here.get("/a")).text == "old"
        here.upstream.on("/a", replies("new", FRESH))
        wanted = {"urls": [f"http://{HOST}/a"]}
        assert (await admin(here, "/invalidate", document=wanted)).status == 401
        assert (await here.get("/a")).text == "old"
        path, token = f"/invalidate?wait={WHOLE}", "Authorization: Bearer open-sesame"
        purged = await admin(here, path, token, document=wanted)
        for _ in range(4):
            if purged.status == 503:  # Redis was late
                purged = await admin(here, path, token, document=wanted)
        assert purged.status == 200, purged.text
        answers = [await here.get("/a") for _ in range(40)]
        assert {answer.text for answer in answers} == {"new"}
        told = await admin(here, f"/invalidations/{json.loads(purged.body)['id']}", "Authorization: Bearer open-sesame")
        assert told.status == 200, told.text


async def test_a_limit_is_one_for_all_processes_and_so_are_its_numbers(tmp_path: Path, redis_url: str) -> None:
    limit = {"rate": "1/h", "burst": 5, "name": "few"}
    routes = [{"name": "hot", "match": {"path": "/hot/*"}, "upstream": "origin", "rate_limit": limit}]
    async with crew(tmp_path, redis_url, {"routes": routes}) as here:
        here.upstream.on("/hot/a", replies("a", FRESH))
        statuses = [(await here.get("/hot/a")).status for _ in range(40)]
        assert statuses == [200] * 5 + [429] * 35
        limits = json.loads((await admin(here, "/stats")).body)["limits"]
        told = limits["routes"]["hot"]
        assert (told["allowed"], told["refused"], told["stale"], told["alone"]) == (5, 35, 0, 0)
        assert 1 < told["buckets"]["few"] <= WORKERS, "each that was asked remembers the client"
        (refused,) = limits["refused"]
        assert (refused["route"], refused["limit"], refused["client"]) == ("hot", "few", "127.0.0.1")
        metrics = (await admin(here, "/metrics")).text
        assert 'readthrough_limiter_decisions_total{route="hot",decision="refused"} 35\n' in metrics
        (trips,) = [line for line in metrics.splitlines() if line.startswith("readthrough_limiter_round_trips_total{")]
        assert 5 <= int(trips.split()[-1]) <= 40
        described = {"url": f"http://{HOST}/hot/a", "client": "127.0.0.1"}
        for _ in range(WORKERS):  # they are asked in turn
            said = json.loads((await admin(here, "/explain", document=described)).body)
            (step,) = [step for step in said["steps"] if step["step"] == "limits"]
            assert step["here_only"]
            assert said["answer"]["status"] == 429


async def test_it_is_not_ready_while_one_does_not_answer(tmp_path: Path, redis_url: str) -> None:
    async with crew(tmp_path, redis_url) as here:
        stopped = (await processes(here))[2]
        os.kill(stopped, signal.SIGSTOP)
        try:
            await eventually(lambda: _tells(here, {1: "ready", 2: "no answer", 3: "ready"}), "it is told who hangs")
            assert await here.proxy.ready("/healthz") == 200
            # What one can do for all is asked of one that answers.
            assert {(await admin(here, "/nowhere")).status for _ in range(WORKERS)} == {404}
        finally:
            os.kill(stopped, signal.SIGCONT)
        await eventually(lambda: _is(here, 200), "ready again")


async def _tells(here: Site, states: Mapping[int, str]) -> bool:
    """Whether it is not ready, and says this of each."""
    answer = await admin(here, "/readyz")
    told = json.loads(answer.body)
    assert (answer.status, told["status"]) == (503, "not ready")
    return {worker["worker"]: worker["status"] for worker in told["workers"]} == states


async def _is_replaced(here: Site, number: int, process: int) -> bool:
    """Whether another process serves as that worker. While one is replaced the whole stays ready."""
    answer = await admin(here, "/readyz")
    assert answer.status == 200 or "no answer" in answer.text, answer
    return (await ready(here)).get(number, process) != process


async def _is(here: Site, status: int) -> bool:
    return await here.proxy.ready() == status


async def _says_close(here: Site, path: str) -> bool:
    """Whether who answers a new connection wants no other request on it."""
    return ((await here.get(path)).head.get("connection") or "").lower() == "close"


# -- one dies


@pytest.mark.clock(only=Late)
async def test_a_process_that_is_killed_comes_back_while_the_others_serve(tmp_path: Path, redis_url: str) -> None:
    async with crew(tmp_path, redis_url) as here:
        here.upstream.on("/a", replies("a", FRESH))
        await here.get("/a")
        before = await processes(here)
        loop, failures, done, over = asyncio.get_running_loop(), list[float](), 0, False

        async def clients() -> None:
            nonlocal done
            while not over:
                try:
                    async with asyncio.timeout(30):
                        answer = await here.get("/a")
                except (Cut, ConnectionError):
                    failures.append(loop.time())
                else:
                    assert answer.status == 200
                    done += 1

        tasks = [asyncio.create_task(clients()) for _ in range(8)]
        try:
            await eventually(lambda: done > 200, "requests go on")
            killed = loop.time()
            os.kill(before[2], signal.SIGKILL)
            await eventually(lambda: _is_replaced(here, 2, before[2]), "it is back")
            after = await processes(here)
            enough = done + 200
            await eventually(lambda: done > enough, "requests still go on")
        finally:
            over = True
            await asyncio.gather(*tasks)
        assert after.keys() == before.keys()
        assert after[2] != before[2]
        assert (after[1], after[3]) == (before[1], before[3])
        assert all(at >= killed for at in failures), [at - killed for at in failures]
        assert here.proxy.stderr.count("worker 2 was ended by SIGKILL") == 1
        in_time(max(failures, default=killed) - killed, MOMENT)


# -- how they stop


@pytest.mark.parametrize("how", ["sigterm", "ctrl-c", "sigterm to all of them"])
async def test_a_stop_cuts_nothing_in_any_process(tmp_path: Path, redis_url: str, how: str) -> None:
    async with crew(tmp_path, redis_url, {"shutdown": {"delay": "5s", "timeout": "30s"}}) as here:
        gate = asyncio.Event()

        async def half(call: Call) -> None:
            call.write(head(f"Content-Length: {len(BODY)}", ALONE) + BODY[:50_000])
            await gate.wait()
            call.write(BODY[50_000:])

        here.upstream.on("/half", half)
        here.upstream.on("/hit", replies("hit", FRESH))
        running = await processes(here)
        idle = await here.crowd(30)
        for stream in idle:
            assert (await ask(stream, request("/hit"))).status == 200
        busy = await here.crowd(60)
        for at, stream in enumerate(busy):
            stream.write(request(f"/half?{at}"))
        answers = [asyncio.create_task(receive(stream)) for stream in busy]
        await eventually(lambda: here.upstream.count("/half") == 60, "all in flight")

        here.proxy.signal(signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
        if how == "sigterm to all of them":  # as a service manager does
            for process in running.values():
                os.kill(process, signal.SIGTERM)
        if how != "ctrl-c":
            await eventually(lambda: _is(here, 503), "it is no longer ready")
            await eventually(lambda: _says_close(here, "/hit"), "who is served is sent elsewhere")  # it has been told
        await eventually(lambda: refuses(here), "it no longer listens")
        for stream in idle:
            assert await stream.rest() == (b"", End.FIN)
        assert not any(answer.done() for answer in answers)
        gate.set()
        assert all(response.body == BODY for response in await asyncio.gather(*answers))
        assert await here.proxy.exit() == 0
        assert not any(alive(process) for process in running.values())
        for stream in [*idle, *busy]:
            stream.close()


async def test_connections_made_while_it_stops_are_answered_or_refused(tmp_path: Path, redis_url: str) -> None:
    async with crew(tmp_path, redis_url, {"shutdown": {"delay": "300ms", "timeout": "15s"}}) as here:
        here.upstream.on("/hit", replies("hit", FRESH))
        await here.get("/hit")
        counts = {"answered": 0, "refused": 0, "cut": 0}

        async def client() -> None:
            while True:
                try:
                    stream = await here.connect()
                except ConnectionError:
                    counts["refused"] += 1
                    return
                try:
                    assert (await ask(stream, request("/hit"))).text == "hit"
                except (Cut, ConnectionError):
                    counts["cut"] += 1
                else:
                    counts["answered"] += 1
                finally:
                    stream.close()

        clients = [asyncio.create_task(client()) for _ in range(16)]
        await eventually(lambda: counts["answered"] > 100, "requests go on")
        here.proxy.signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*clients), 60)
        assert counts["refused"] == 16
        # The kernel makes connections until a process has closed, and resets what it did not accept: each client may
        # meet that once with each of them.
        assert counts["cut"] <= 16 * WORKERS < counts["answered"], counts
        assert await here.proxy.exit() == 0
        assert "were cut" not in here.proxy.stderr, "of those that a process had accepted none was"


async def test_a_second_signal_does_not_wait(tmp_path: Path, redis_url: str) -> None:
    async with crew(tmp_path, redis_url, {"shutdown": {"delay": "30s", "timeout": "30s"}}) as here:
        here.proxy.signal(signal.SIGTERM)
        await eventually(lambda: _is(here, 503), "it is no longer ready")
        here.proxy.signal(signal.SIGTERM)
        assert await here.proxy.exit() == 0


async def test_what_one_process_had_to_cut_is_the_exit_code_of_all(tmp_path: Path, redis_url: str) -> None:
    async with crew(tmp_path, redis_url, {"shutdown": {"delay": "0s", "timeout": "500ms"}}) as here:

        async def endless(call: Call) -> None:
            call.write(head("Content-Length: 1000000", ALONE) + b"x" * 1000)
            await call.stream.rest()

        here.upstream.on("/endless", endless)
        stream = await here.connect()
        stream.write(request("/endless"))
        await stream.head()
        here.proxy.signal(signal.SIGTERM)
        assert await here.proxy.exit() == 1
        stream.close()


@pytest.mark.clock(only=Late)
async def test_nobody_is_left_when_the_supervisor_is_killed(tmp_path: Path, redis_url: str) -> None:
    async with crew(tmp_path, redis_url, {"shutdown": {"delay": "30s", "timeout": "30s"}}) as here:

        async def never(call: Call) -> None:
            await call.stream.rest()

        here.upstream.on("/never", never)
        idle, busy = await here.crowd(20), await here.crowd(20)
        for stream in busy:
            stream.write(request("/never?alone", ALONE))
        await eventually(lambda: here.upstream.count("/never") > 0, "in flight")
        running = await processes(here)
        directory = Path(_argument(running[1]).split(":", 2)[2])
        assert await asyncio.to_thread(directory.is_dir)
        here.proxy.process.kill()
        await here.proxy.exit()
        ended = eventually(lambda: not any(alive(process) for process in running.values()), "all are gone")
        _, gone = await timed(ended)
        assert await refuses(here)
        tidied = eventually(lambda: asyncio.to_thread(lambda: not directory.exists()), "nothing is left behind")
        _, tidy = await timed(tidied)
        for stream in [*idle, *busy]:
            stream.close()
        here.proxy.process = await asyncio.create_subprocess_exec("true")  # so that the one to stop has stopped well
        await here.proxy.process.wait()
        in_time(gone, 2.0)
        in_time(tidy, 1.0)


def _argument(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_bytes().rstrip(b"\0").rpartition(b"\0")[2].decode()


# -- reloading


def _routes(*paths: str) -> list[dict[str, object]]:
    return [{"name": f"r{at}", "match": {"path": path}, "upstream": "origin"} for at, path in enumerate(paths)]


async def _statuses(here: Site, path: str) -> set[int]:
    return {(await here.get(path)).status for _ in range(30)}


async def test_sighup_reaches_every_process_and_whoever_is_started_later(tmp_path: Path, redis_url: str) -> None:
    async with crew(tmp_path, redis_url) as here:
        here.upstream.on("/a", replies("a", FRESH))
        here.upstream.on("/b", replies("b", FRESH))
        here.proxy.write(merge(here.config, {"routes": _routes("/b"), "listen": f"127.0.0.1:{free_port()}"}))
        here.proxy.signal(signal.SIGHUP)
        await eventually(lambda: here.proxy.stderr.count("configuration reloaded") == WORKERS, "all have reloaded")
        assert await _statuses(here, "/a") == {404}
        assert await _statuses(here, "/b") == {200}
        assert here.proxy.stderr.count("listen cannot change while running") == 1

        killed = (await processes(here))[1]
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: _is_replaced(here, 1, killed), "it is back")
        assert await _statuses(here, "/a") == {404}


async def test_sighup_with_mistakes_is_said_once_and_changes_nothing(tmp_path: Path, redis_url: str) -> None:
    async with crew(tmp_path, redis_url) as here:
        here.upstream.on("/a", replies("a", FRESH))
        here.proxy.file.write_text("listen: nowhere\nroots: []\n")
        here.proxy.signal(signal.SIGHUP)
        await eventually(lambda: "the old one stays" in here.proxy.stderr, "it is said")
        assert await _statuses(here, "/a") == {200}

        # Nor does it keep a process from being started again.
        killed = (await processes(here))[1]
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: _is_replaced(here, 1, killed), "it is back")
        assert await _statuses(here, "/a") == {200}
        assert here.proxy.stderr.count("the old one stays") == 1
        for mistake in (":1: listen: 'nowhere'", ":2: unknown key roots"):
            assert here.proxy.stderr.count(here.proxy.file.name + mistake) == 1


# -- starting


async def test_more_than_one_needs_redis_and_check_says_where(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("workers: 2\nupstreams: {a: {url: 'http://a.test'}}\nroutes: [{name: r, upstream: a}]\n")
    for command in ("check", "serve"):
        code, said = await run(command, "-c", str(file))
        assert code == 2
        assert f"{file}:1: workers: more than 1 needs redis" in said
        assert "add redis.url, or write 1" in said


@pytest.mark.parametrize("which", ["listen", "admin"])
async def test_an_address_in_use_is_one_error(tmp_path: Path, redis_url: str, which: str) -> None:
    taken = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, reuse_port=True)
    port = taken.sockets[0].getsockname()[1]
    proxy = Proxy(tmp_path, free_port(), free_port())
    listen, admins = (port, proxy.admin) if which == "listen" else (proxy.port, port)
    proxy.write(
        {
            "listen": f"127.0.0.1:{listen}",
            "workers": WORKERS,
            "admin": {"listen": f"127.0.0.1:{admins}"},
            "redis": {"url": redis_url},
            "upstreams": {"a": {"url": "http://127.0.0.1:9"}},
            "routes": [{"name": "r", "upstream": "a"}],
        }
    )
    async with taken:
        code, said = await run("serve", "-c", str(proxy.file))
    assert code == 1
    (line,) = said.splitlines()
    assert "cannot start" in line
    assert str(port) in line


# -- the access log


async def test_lines_of_all_processes_stay_whole_behind_a_slow_reader(tmp_path: Path, redis_url: str) -> None:
    """Lines of up to 20 KB, five times what a pipe takes in one piece."""
    upstream = await Upstream.start()
    upstream.on("/a", replies("a", ALONE))
    here = Site(upstream, tmp_path, "127.0.0.1")
    config = {
        "workers": WORKERS,
        "redis": {"url": redis_url, "prefix": f"t{uuid4().hex[:12]}"},
        "access_log": "json",
        "routes": [{"name": "all", "match": {"path": "/*"}, "upstream": "origin", "cache": "off"}],
    }
    here.proxy = Proxy(tmp_path, here.port, here.admin)
    here.proxy.write(merge(here.config, config))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "-c", str(here.proxy.file)),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=4096,
    )
    assert process.stdout is not None
    try:
        await eventually(lambda: _is(here, 200), "ready")
        sent = await _talk(here)
        log = bytearray()
        async with asyncio.timeout(60):
            while log.count(b"\n") < len(sent):
                log += await process.stdout.read(4096)
                await asyncio.sleep(0.0005)
        lines = [json.loads(line) for line in log.decode().splitlines()]
        assert sorted(line["target"] for line in lines) == sorted(sent)
    finally:
        process.terminate()
        await process.communicate()
        await upstream.kill()
    assert process.returncode == 0


async def _talk(here: Site) -> Sequence[str]:
    """Requests with long targets, over many connections; what their targets were."""
    targets = [f"/a?{at}-{'x' * (200 + 997 * at % 20_000)}" for at in range(400)]
    streams = await here.crowd(40)

    async def client(stream: Stream, some: Sequence[str]) -> None:
        for target in some:
            assert (await ask(stream, request(target))).status == 200
        stream.close()

    await asyncio.gather(*(client(stream, targets[at::40]) for at, stream in enumerate(streams)))
    return targets
