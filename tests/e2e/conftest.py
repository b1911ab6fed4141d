"""One upstream and one proxy for all tests of a module; `CONFIG` in the module is laid over the usual one."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.harness import Site, site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    over = getattr(request.module, "CONFIG", {})
    async with site(tmp_path_factory.mktemp("site"), over) as running:
        yield running
