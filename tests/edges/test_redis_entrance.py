"""Getting in: TLS, login and database, against real servers."""

import logging
import time

import pytest
import redis
import trustme

from proxy.edges.redis_link import Link, Unreachable
from proxy.edges.redis_script import Call
from proxy.flow.background import Background
from tests.edges.test_redis_topology import GET, linked, works
from tests.redis_servers import HOST, single


async def test_a_server_behind_tls_is_reached_by_those_who_trust_its_authority(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with single(tls=trustme.CA()) as server:
        async with linked(server.url) as link:
            assert await works(link, "k", b"v")
            large = bytes(range(256)) * 4096
            assert await works(link, "large", large)
            assert await link.alone("k", [Call(("GET", "k"))], 1.0) == [b"v"]
        told: list[str] = []
        for url, words in (
            (f"rediss://{HOST}:{server.port}", "certificate that is not accepted"),
            (f"redis://{HOST}:{server.port}", "connection"),
        ):
            link = Link(url, now=time.monotonic, spawn=Background().spawn, deadline=0.5)
            assert not await link.probe()
            assert words in link.trouble
            told.append(link.trouble)
            await link.close()
    assert caplog.messages == told, "nobody else has anything to say"


async def test_a_user_logs_in_and_what_is_not_permitted_is_the_caller_s_error() -> None:
    user = ["reader on >hunter2 ~rt:* &rt:* -@all +get +ping +auth +evalsha +eval", "admin on >boss ~* &* +@all"]
    with single({"user": [*user, "default off"]}, admin=("admin", "boss")) as server:
        server.ask("SET", "rt:k", "v")
        async with linked(f"redis://reader:hunter2@{HOST}:{server.port}") as link:
            assert await link.command("rt:k", "GET", "rt:k") == b"v"
            assert await link.run(GET, ["rt:k"], []) == b"v"
            with pytest.raises(redis.ResponseError, match=r"(?i)no ?perm"):
                await link.command("rt:k", "SET", "rt:k", "w")
            assert link.up


@pytest.mark.parametrize(
    ("userinfo", "words"),
    [
        ("reader:hunter3@", "refused the user or the password"),
        ("nobody:hunter3@", "refused the user or the password"),
        (":hunter3@", "refused the user or the password"),
        ("", "asks for a password"),
    ],
)
async def test_a_wrong_password_is_said_without_it(userinfo: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with single(
        {"requirepass": "hunter2", "user": "reader on >hunter2 ~* &* +@all"}, admin=("reader", "hunter2")
    ) as it:
        link = Link(f"redis://{userinfo}{HOST}:{it.port}", now=time.monotonic, spawn=Background().spawn, deadline=0.5)
        assert not await link.probe()
        assert words in link.trouble
        assert caplog.record_tuples == [("proxy.edges.redis_link", logging.WARNING, link.trouble)]
        assert link.counters.failed_connects == 1
        with pytest.raises(Unreachable) as caught:
            await link.command("k", "GET", "k")
        assert "hunter" not in f"{link.trouble}{caught.value}{link!r}{vars(link)!r}{caplog.text}"
        await link.close()


async def test_a_password_is_not_repeated_after_a_server_that_knows_no_auth() -> None:
    with single({"rename-command": 'AUTH ""'}) as server:
        link = Link(f"redis://u:hunter2@{HOST}:{server.port}", now=time.monotonic, spawn=Background().spawn)
        assert not await link.probe()
        assert "refused to serve: ERR" in link.trouble
        assert "hunter" not in link.trouble
        await link.close()


async def test_the_database_of_the_url_is_the_one_that_is_used() -> None:
    with single() as server:
        async with linked(server.url.replace("/0", "/5")) as five, linked(server.url) as zero:
            assert await works(five, "k", b"v")
            assert await zero.command("k", "GET", "k") is None
