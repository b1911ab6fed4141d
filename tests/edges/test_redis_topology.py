import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from proxy.edges.redis_link import Link, Unreachable
from proxy.edges.redis_script import Call, Script
from proxy.edges.redis_topology import Kind, RedisUrl, Tls, parse_url
from proxy.flow.background import Background
from tests.e2e.process import eventually
from tests.redis_servers import HOST, Cluster, Sentinels, single

GET = Script("return redis.call('GET', KEYS[1])")
RECOVERY = 60.0  # seconds; a failover takes two or three here


@asynccontextmanager
async def linked(url: str, *, deadline: float = 0.5) -> AsyncIterator[Link]:
    """A link that is up. Its deadline is long: two cores start six servers beside it."""
    background = Background()
    link = Link(url, now=time.monotonic, spawn=background.spawn, deadline=deadline)
    try:
        await eventually(link.probe, f"up: {link.trouble}")
        yield link
    finally:
        await link.close()
        assert await background.drain(5) == 0, "it left tasks behind"


async def keep_probing(link: Link) -> None:
    """What the log does in its heartbeat."""
    while True:
        if not link.up:
            await link.probe()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def heartbeat(link: Link) -> AsyncIterator[None]:
    task = asyncio.create_task(keep_probing(link))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def works(link: Link, key: str, value: bytes) -> bool:
    """Whether a value can be written and read."""
    try:
        await link.command(key, "SET", key, value)
        return bool(await link.run(GET, [key], []) == value)
    except Unreachable:
        return False


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param(
            "redis://localhost:6379/0", RedisUrl(Kind.SINGLE, (("localhost", 6379),)), id="what the example says"
        ),
        pytest.param("redis://cache", RedisUrl(Kind.SINGLE, (("cache", 6379),)), id="port and database left out"),
        pytest.param("redis://[::1]:7000/3", RedisUrl(Kind.SINGLE, (("::1", 7000),), db=3), id="an IPv6 address"),
        pytest.param("redis://[::1]", RedisUrl(Kind.SINGLE, (("::1", 6379),)), id="an IPv6 address alone"),
        pytest.param(
            "redis://us%40er:p%3Aa%2Fss@h:1?db=2",
            RedisUrl(Kind.SINGLE, (("h", 1),), username="us@er", password="p:a/ss", db=2),
            id="user and password are percent-decoded",
        ),
        pytest.param(
            "redis://:pw@h", RedisUrl(Kind.SINGLE, (("h", 6379),), password="pw"), id="a password without a user"
        ),
        pytest.param("rediss://h", RedisUrl(Kind.SINGLE, (("h", 6379),), tls=Tls()), id="TLS"),
        pytest.param(
            "rediss://h?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k&ssl_check_hostname=false",
            RedisUrl(Kind.SINGLE, (("h", 6379),), tls=Tls("/ca", "/c", "/k", check_hostname=False)),
            id="TLS with files",
        ),
        pytest.param(
            "redis+sentinel://u:p@a,b:2,[::3]:3/main/4?sentinel_username=su&sentinel_password=sp&tls=true",
            RedisUrl(
                Kind.SENTINEL,
                (("a", 26379), ("b", 2), ("::3", 3)),
                username="u",
                password="p",
                db=4,
                master="main",
                sentinel_username="su",
                sentinel_password="sp",
                tls=Tls(),
            ),
            id="Sentinels with all that can be said",
        ),
        pytest.param(
            "redis+cluster://a:1,b:2?tls=true&ssl_cert_reqs=none",
            RedisUrl(Kind.CLUSTER, (("a", 1), ("b", 2)), tls=Tls(verify=False)),
            id="a Cluster",
        ),
    ],
)
def test_a_url_is_understood(url: str, expected: RedisUrl) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:6379", "begins with redis://"),
        ("http://h", "begins with redis://"),
        ("redis://", "without a host name"),
        ("redis://h:0", "port of h"),
        ("redis://h:99999", "port of h"),
        ("redis://h:x", "port of h"),
        ("redis://a,b", "takes one server"),
        ("redis://h/x", "database number"),
        ("redis://h/0/1", "more in the path"),
        ("redis://h?ssl_ca_cert=/x", "did you mean ssl_ca_certs?"),
        ("redis://h?quux=1", "known are"),
        ("redis://h?ssl_ca_certs=/x", "need rediss:// or tls=true"),
        ("rediss://h?tls=false", "contrary"),
        ("rediss://h?ssl_check_hostname=maybe", "true or false"),
        ("rediss://h?ssl_cert_reqs=maybe", "required or none"),
        ("redis+sentinel://h:1", "master's name"),
        ("redis+sentinel://h:1/", "master's name"),
        ("redis+cluster://h:1/2", "database 0 only"),
        ("redis+cluster://a,,b", "without a host name"),
    ],
)
def test_a_wrong_url_is_told_in_words_that_hold_no_password(url: str, words: str) -> None:
    scheme, separator, rest = url.partition("://")
    for wrong in (url, f"{scheme}{separator}user:hunter2@{rest}"):
        with pytest.raises(ValueError, match=words.replace("?", r"\?")) as caught:
            parse_url(wrong)
        assert "hunter2" not in str(caught.value)


def test_a_password_stands_in_no_repr() -> None:
    url = parse_url("redis+sentinel://u:hunter2@h/main?sentinel_password=hunter3")
    assert "hunter" not in repr(url)
    assert (url.password, url.sentinel_password) == ("hunter2", "hunter3")


async def test_a_certificate_file_that_cannot_be_read_is_found_when_the_link_is_made() -> None:
    for url, words in (
        ("rediss://h?ssl_ca_certs=/nowhere", "ssl_ca_certs /nowhere: No such file"),
        ("rediss://h?ssl_certfile=/nowhere", "ssl_certfile /nowhere: No such file"),
    ):
        with pytest.raises(ValueError, match=words):
            Link(url, now=time.monotonic, spawn=Background().spawn)


async def test_sentinels_lead_to_the_master_and_one_of_them_is_enough(sentinels: Sentinels) -> None:
    async with linked(sentinels.url) as link:
        assert await works(link, "k", b"v")
        assert sentinels.master.ask("GET", "k") == b"v"
        assert await link.alone("k", [Call(("SET", "k", "w")), Call(("WAIT", 1, 1000))], 2.0) >= [b"OK", 1]
    dead = f"{HOST}:1,{HOST}:2,{HOST}:{sentinels.sentinels[2].port}"
    async with linked(f"redis+sentinel://{dead}/main") as link:
        assert await works(link, "k", b"v")


async def test_a_master_s_name_that_sentinels_do_not_know_is_said(sentinels: Sentinels) -> None:
    link = Link(sentinels.url.replace("/main", "/mian"), now=time.monotonic, spawn=Background().spawn, deadline=0.5)
    assert not await link.probe()
    assert "SENTINEL MASTER mian: ERR No such master" in link.trouble
    await link.close()


async def test_a_master_that_is_killed_is_followed_to_the_next(sentinels: Sentinels) -> None:
    async with linked(sentinels.url) as link, heartbeat(link):
        heard: list[bytes] = []
        subscribed: list[None] = []
        link.listen("k", {"ch": heard.append}, lambda hearing: subscribed.append(None) if hearing else None)
        await eventually(lambda: len(subscribed) == 1, "subscribed")
        old = sentinels.master
        assert await works(link, "k", b"before")
        await asyncio.to_thread(old.kill)

        async def written() -> bool:
            """Two Sentinels may each promote a replica; then one of the two is undone, with what was written there."""
            if not await works(link, "k", b"after"):
                return False
            new = await asyncio.to_thread(lambda: sentinels.master)
            return new is not old and bool(await asyncio.to_thread(new.ask, "GET", "k") == b"after")

        await eventually(written, "commands work again, on the master that all agree on", within=RECOVERY)
        await eventually(lambda: len(subscribed) >= 2, "the subscription has moved too", within=RECOVERY)

        async def told() -> bool:
            """It may have to move once more, when the Sentinels agree."""
            try:
                await link.command("k", "PUBLISH", "ch", "news")
            except Unreachable:
                return False
            return b"news" in heard

        await eventually(told, "the message", within=RECOVERY)


async def test_a_master_that_hangs_is_followed_to_the_next(sentinels: Sentinels) -> None:
    async with linked(sentinels.url) as link, heartbeat(link):
        old = sentinels.master
        old.suspend()
        assert not await works(link, "k", b"never")
        await eventually(lambda: works(link, "k", b"after"), "commands work again", within=RECOVERY)


async def test_a_master_that_others_follow_no_more_is_left_before_it_knows_itself(sentinels: Sentinels) -> None:
    async with linked(sentinels.url) as link:
        old = sentinels.master
        assert await works(link, "k", b"before")
        await asyncio.to_thread(sentinels.sentinels[0].ask, "SENTINEL", "FAILOVER", "main")
        await eventually(lambda: link.counters.reconnects == 2, "connected to the new one", within=RECOVERY)
        assert old.ask("ROLE")[0] == b"master", "Sentinels give it four periods of theirs"
        assert await works(link, "k", b"after")
        assert old.ask("GET", "k") == b"before"
        assert link.up


def keys_of(cluster: Cluster) -> dict[int, str]:
    """A key per master, by its port."""
    keys: dict[int, str] = {}
    for number in range(100):
        keys.setdefault(cluster.master_of(f"k{number}").port, f"k{number}")
    return keys


async def test_a_cluster_s_keys_are_asked_of_the_nodes_that_hold_them(cluster: Cluster) -> None:
    keys = await asyncio.to_thread(keys_of, cluster)
    assert len(keys) == 3
    async with linked(cluster.url) as link:
        for port, key in keys.items():
            assert await works(link, key, str(port).encode())
        assert await link.alone(next(iter(keys.values())), [Call(("PING",))], 1.0) == [b"PONG"]
    async with linked(f"redis+cluster://{HOST}:1,{HOST}:{cluster.servers[5].port}") as link:
        for port, key in keys.items():
            assert await link.command(key, "GET", key) == str(port).encode()


async def test_the_loss_of_one_master_leaves_the_other_slots_alone_and_is_made_good(cluster: Cluster) -> None:
    keys = await asyncio.to_thread(keys_of, cluster)
    async with linked(cluster.url) as link, heartbeat(link):
        victim = next(server for server in cluster.servers if server.port in keys)
        lost = keys.pop(victim.port)
        for key in keys.values():
            assert await works(link, key, b"before")
        await asyncio.to_thread(victim.kill)
        assert not await works(link, lost, b"never")
        assert not link.up
        for key in keys.values():
            assert await link.command(key, "GET", key) == b"before", "a node that is alive serves on"
        await eventually(lambda: works(link, lost, b"after"), "its slots work again", within=RECOVERY)
        for key in keys.values():  # their nodes may not have heard yet that the slots are held again
            await eventually(partial(works, link, key, b"after"), "the other nodes serve", within=RECOVERY)
        await eventually(lambda: link.up, "up", within=RECOVERY)


async def test_a_slot_that_has_moved_is_found_by_looking_again(cluster: Cluster) -> None:
    async with linked(cluster.url) as link:
        assert await works(link, "wanderer", b"v")
        source = await asyncio.to_thread(cluster.master_of, "wanderer")
        target = next(server for server in await asyncio.to_thread(cluster.masters) if server is not source)
        await asyncio.to_thread(cluster.move, "wanderer", target)
        with pytest.raises(Unreachable, match="MOVED"):
            await link.command("wanderer", "GET", "wanderer")
        assert link.up, "nothing is broken"
        await eventually(lambda: works(link, "wanderer", b"w"), "found without anybody's probe")
        await asyncio.to_thread(cluster.move, "wanderer", source)


async def test_a_subscription_goes_where_its_slot_goes(cluster: Cluster) -> None:
    async with linked(cluster.url) as link:
        hearing: list[bool] = []
        source = await asyncio.to_thread(cluster.master_of, "wanderer")
        target = next(server for server in await asyncio.to_thread(cluster.masters) if server is not source)
        link.listen("wanderer", {"ch": lambda _: None}, hearing.append)
        await eventually(lambda: hearing == [True], "subscribed")
        before = target.calls("subscribe")
        await asyncio.to_thread(cluster.move, "wanderer", target)
        await eventually(lambda: works(link, "wanderer", b"w"), "found")
        await eventually(lambda: hearing == [True, False, True], "left and subscribed again")
        assert target.calls("subscribe") == before + 1
        await asyncio.to_thread(cluster.move, "wanderer", source)


async def test_a_slot_on_its_way_is_unreachable_and_not_an_error(cluster: Cluster) -> None:
    async with linked(cluster.url) as link:
        slot = cluster.slot("wanderer")
        source = await asyncio.to_thread(cluster.master_of, "wanderer")
        target = next(server for server in await asyncio.to_thread(cluster.masters) if server is not source)
        source.ask("DEL", "wanderer")
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))
        with pytest.raises(Unreachable, match="ASK"):
            await link.command("wanderer", "GET", "wanderer")
        source.ask("CLUSTER", "SETSLOT", slot, "STABLE")
        target.ask("CLUSTER", "SETSLOT", slot, "STABLE")
        assert await link.command("wanderer", "GET", "wanderer") is None


async def test_a_replica_in_place_of_a_server_is_unreachable_for_writes() -> None:
    with single() as master, single({"replicaof": f"{HOST} {master.port}"}) as replica:
        async with linked(replica.url) as link:
            with pytest.raises(Unreachable, match="READONLY"):
                await link.command("k", "SET", "k", "v")
            replica.ask("REPLICAOF", "NO", "ONE")
            await eventually(lambda: works(link, "k", b"v"), "it is a master now")


async def test_errors_of_the_topology_make_one_look_in_a_while(cluster: Cluster) -> None:
    async with linked(cluster.url) as link:
        source = await asyncio.to_thread(cluster.master_of, "wanderer")
        target = next(server for server in await asyncio.to_thread(cluster.masters) if server is not source)
        await asyncio.to_thread(cluster.move, "wanderer", target)

        def looks() -> int:
            return sum(server.calls("cluster|slots") for server in cluster.servers)

        before = looks()
        replies = await asyncio.gather(
            *[link.command("wanderer", "GET", "wanderer") for _ in range(500)], return_exceptions=True
        )
        assert all(isinstance(reply, Unreachable) for reply in replies)
        await eventually(lambda: works(link, "wanderer", b"w"), "found")
        assert 1 <= looks() - before <= 6 * 3, "each look asks every node once"
        await asyncio.to_thread(cluster.move, "wanderer", source)
