"""One browser for all tests of a module, and one proxy with its upstream; `CONFIG` in it is laid over the usual one."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.kit import Watched, chromium, opened
from tests.e2e.harness import Site, site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    over = getattr(request.module, "CONFIG", {})
    async with site(tmp_path_factory.mktemp("site"), over) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, here: Site) -> AsyncIterator[Watched]:
    async with opened(browser, here) as watched:
        yield watched
