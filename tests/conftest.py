"""Every async test runs on the loop that serves in production; Redis servers that cost seconds are started once."""

import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.redis_servers import Cluster, Sentinels, single

LOOPS: Final[Mapping[str, Callable[[], uvloop.Loop]]] = MappingProxyType({"uvloop": uvloop.new_event_loop})

# How long an example takes, and to make one up, is the machine's affair.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], uvloop.Loop]]:
    return LOOPS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is slow fails every time, what the machine held up does not. Only for bounds on time: whether an answer is
    right may not depend on how often it is asked for. So `clock(only=Late)` is for tests of both: whatever else
    they raise is not tried again.
    """
    for item in items:
        if mark := item.get_closest_marker("clock"):
            only = {"only_rerun": [mark.kwargs["only"]]} if mark.kwargs else {}
            item.add_marker(pytest.mark.flaky(reruns=2, **only))


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A server that all tests share and leave unharmed: each keeps to keys of its own."""
    url = os.environ.get("TEST_REDIS_URL")
    if url:
        yield url
    else:
        with single() as server:
            yield server.url


@pytest.fixture(scope="session")
def all_sentinels() -> Iterator[Sentinels]:
    with Sentinels() as servers:
        yield servers


@pytest.fixture(scope="session")
def all_nodes() -> Iterator[Cluster]:
    with Cluster() as nodes:
        yield nodes


@pytest.fixture
def sentinels(all_sentinels: Sentinels) -> Sentinels:
    """Everybody alive and in sync, whatever the test before did to them."""
    all_sentinels.heal()
    return all_sentinels


@pytest.fixture
def cluster(all_nodes: Cluster) -> Cluster:
    """Everybody alive and in sync, whatever the test before did to them."""
    all_nodes.heal()
    return all_nodes
