"""A Redis of a module's own, and three instances for all tests of it; `CONFIG` in the module is laid over theirs."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.fleet.harness import Fleet, fleet
from tests.redis_servers import Server, single


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[Server]:
    with single() as server:
        yield server


@pytest.fixture
def server() -> Iterator[Server]:
    """One that a test may break."""
    with single() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_redis: Server
) -> AsyncIterator[Fleet]:
    over = getattr(request.module, "CONFIG", {})
    async with fleet(tmp_path_factory.mktemp("fleet"), shared_redis.url, over) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def here(running: Fleet) -> Fleet:
    """All in step and with one store, whatever the test before has left."""
    await running.joined()
    return running
