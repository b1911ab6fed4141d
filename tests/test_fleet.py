"""What an instance says of the Redis that it shares with others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.edges.clock import Clock
from proxy.fleet import Fleet
from proxy.settings import Redis
from tests.e2e.process import eventually, free_port
from tests.redis_servers import single


@asynccontextmanager
async def started(redis: Redis | None) -> AsyncIterator[Fleet]:
    fleet = Fleet(redis, Clock())
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


async def test_without_redis_there_is_nothing_to_say() -> None:
    async with started(None) as fleet:
        assert fleet.state() == {}
        assert fleet.store is None


async def test_what_cannot_be_reached_is_called_so() -> None:
    port = free_port()
    why = f"Redis at 127.0.0.1:{port} cannot be reached: Connection refused"
    async with started(Redis(f"redis://user:hunter2@127.0.0.1:{port}/0")) as fleet:
        told = {"redis": f"unreachable, and hits are validated: {why}"}
        await eventually(lambda: fleet.state() == told, "it is told")


async def test_a_redis_that_answers_and_does_not_let_the_log_be_read_is_not_called_unreachable() -> None:
    with single() as server:
        async with started(Redis(server.url, max_blind=0.5)) as fleet:
            await eventually(lambda: fleet.state() == {"redis": "ok"}, "all is well")
            server.ask("ACL", "SETUSER", "default", "-eval", "-evalsha")
            told = {"redis": "its log cannot be read, and hits are validated: Redis says NOPERM"}
            await eventually(lambda: fleet.state() == told, "it is noticed")
            server.ask("ACL", "SETUSER", "default", "+eval", "+evalsha")
            await eventually(lambda: fleet.state() == {"redis": "ok"}, "and that it is well again")
