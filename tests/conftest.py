"""Every async test runs on the loop that serves in production."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import uvloop

LOOPS: Final[Mapping[str, Callable[[], uvloop.Loop]]] = MappingProxyType({"uvloop": uvloop.new_event_loop})


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], uvloop.Loop]]:
    return LOOPS
