"""Random readers, writers and leavers at once: nobody is ever told what was true before a write that is done."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from tests.e2e.harness import Site, ask, post, receive, request
from tests.e2e.process import eventually
from tests.e2e.stream import Stream
from tests.e2e.upstream import Call, head

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = {"upstreams": {"origin": {"max_connections": 64}}}
PATHS = 5
WORKERS = 30
STEPS = 120
CONTROLS = [
    *["max-age=60"] * 10,
    "max-age=1, stale-while-revalidate=60",
    "max-age=0, stale-while-revalidate=60, stale-if-error=60",
    "no-cache",
    "max-age=60, stale-if-error=60",
    "no-store",
    "private",
]


class World:
    """The truth: one version per path, raised by every PUT before it is answered."""

    def __init__(self, here: Site, seed: int) -> None:
        self.here, self.random = here, Random(seed)
        self.paths = [f"/{seed}/{number}" for number in range(PATHS)]
        self.version = dict.fromkeys(self.paths, 0)
        self.done = dict.fromkeys(self.paths, 0)  # the newest version whose PUT has been answered
        self.reads = self.hits = self.writes = 0
        for path in self.paths:
            here.upstream.on(path, self.handle)

    async def handle(self, call: Call) -> None:
        path, random = call.path, self.random
        await asyncio.sleep(random.random() * 0.01)
        if call.method == "PUT":
            await call.body()
            self.version[path] += 1
            call.answer(str(self.version[path]))
            return
        version = self.version[path]
        await asyncio.sleep(random.random() * 0.01)
        tag = f'"{version}"'
        fields = (f"Cache-Control: {random.choice(CONTROLS)}", f"ETag: {tag}", "Vary: X-Variant")
        if random.random() < 0.05:
            call.answer("no", status="503 Service Unavailable")
        elif call.head.get("if-none-match") == tag:
            call.write(head(*fields, status="304 Not Modified"))
        else:
            body = f"{path} {version} ".encode().ljust(30_000, b".")
            call.write(head(*fields, f"Content-Length: {len(body)}") + body[:10_000])
            await asyncio.sleep(random.random() * 0.01)
            call.write(body[10_000:])

    async def work(self) -> None:
        stream = await self.here.connect()
        for _ in range(STEPS):
            path, lot = self.random.choice(self.paths), self.random.random()
            if lot < 0.03:
                response = await ask(stream, post(path, b"x", method="PUT"))
                assert response.status == 200
                self.done[path] = max(self.done[path], int(response.text))
                self.writes += 1
            elif lot < 0.06:
                stream.write(request(path))
                await asyncio.sleep(self.random.random() * 0.02)
                stream.reset()
                stream = await self.here.connect()
            else:
                await self.read(stream, path)
        stream.close()

    async def read(self, stream: Stream, path: str) -> None:
        least = self.done[path]
        stream.write(request(path, f"X-Variant: {self.random.randrange(2)}"))
        response = await receive(stream)
        self.reads += 1
        if response.status == 503:
            return
        assert response.status == 200
        of, version, _ = response.text.split(" ", 2)
        assert of == path
        assert len(response.body) == 30_000
        assert int(version) >= least, (response.cache, response.head)
        self.hits += response.hit


@pytest.mark.parametrize("seed", range(3))
async def test_nobody_reads_what_a_finished_write_replaced(here: Site, seed: int) -> None:
    world = World(here, seed)
    await asyncio.gather(*(world.work() for _ in range(WORKERS)))
    assert world.reads > 2000
    assert world.hits > 100
    assert world.writes > 50
    await eventually(lambda: here.proxy.fds() - len(here.upstream.streams) < 40, "nothing is left open")


@pytest.mark.parametrize("end", [Stream.reset, Stream.close], ids=["reset", "close"])
@pytest.mark.parametrize(("status", "goes"), [("200 OK", True), ("401 Unauthorized", False)])
async def test_a_write_is_judged_by_its_answer_though_its_client_has_left(
    here: Site, end: Callable[[Stream], None], status: str, *, goes: bool
) -> None:
    path, gate = f"/left/{end.__name__}/{goes}", asyncio.Event()
    version = 1

    async def handle(call: Call) -> None:
        nonlocal version
        if call.method != "POST":
            call.answer(str(version), "Cache-Control: max-age=600")
            return
        assert await call.body() == b"order"
        await gate.wait()
        version += goes
        call.answer("", status=status)

    here.upstream.on(path, handle)
    assert (await here.get(path)).text == "1"
    client = await here.connect()
    client.write(post(path, b"order"))
    await eventually(lambda: here.upstream.count(path) == 2, "the write is under way")
    open_ones = here.proxy.fds()
    end(client)
    if end is Stream.reset:  # behind a FIN it may still want to read
        await eventually(lambda: here.proxy.fds() < open_ones, "its client has left")
    assert (await here.get(path)).hit
    gate.set()

    async def told() -> bool:
        return (await here.get(path)).text == str(version)

    await eventually(lambda: version == 1 + goes, "it is carried out")
    await eventually(told, "what it has changed is seen")
    assert here.upstream.count(path) == 2 + goes
