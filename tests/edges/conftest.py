"""A Redis of a module's own, what tests of the shared log share, and the worlds of buckets in which time is moved."""

import secrets
from collections.abc import Iterator

import pytest
import redis

from proxy.edges import redis_log
from proxy.flow import follower
from tests.edges.bucket_kit import Keeper, Model, Real, World
from tests.edges.fleet import LONG
from tests.redis_servers import HOST, Server, single


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    with redis.Redis(HOST, server.port, protocol=2) as client:
        client.flushall()
        yield client


@pytest.fixture
def prefix() -> str:
    return f"p{secrets.token_hex(4)}"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the deadline is not the point."""
    monkeypatch.setattr(redis_log, "DEADLINE", 5.0)
    monkeypatch.setattr(follower, "PROMPT", 5.0)
    monkeypatch.setattr(redis_log, "PROMPT", 5.0)


@pytest.fixture
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not given back outlast the test."""
    monkeypatch.setattr("proxy.edges.redis_leases.LEASE", LONG)


@pytest.fixture(params=["Redis", "model"])
def keeper(request: pytest.FixtureRequest, client: redis.Redis) -> Keeper:
    return Real(client) if request.param == "Redis" else Model()


@pytest.fixture
def world(keeper: Keeper) -> World:
    return World(keeper)
