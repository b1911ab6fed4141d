"""PURGE from the listener of the clients, between a client, the log, and what is stored."""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, Final

import pytest

from proxy.flow.explain import Explainer
from proxy.flow.explanation import Act, AsRead, Explanation, Purging, Routing
from proxy.flow.invalidation import Kind, Target
from proxy.flow.purge import WAIT
from proxy.flow.sharing import LogUnreachable, Progress
from proxy.rules.message import Reason
from proxy.rules.policy import KeyRule
from proxy.rules.purging import PurgeRule
from proxy.rules.routes import Match
from proxy.rules.wire import Refused
from tests.flow.kit import ETAG, FRESH, HOST, PLAIN, STALEABLE, FakeClient, World, request

HERE: Final = PurgeRule((ip_network("192.0.2.0/24"),), (ip_network("10.0.0.0/8"),))  # the kit's clients are in it
ELSEWHERE: Final = replace(HERE, allow=(ip_network("198.51.100.0/24"),))
BOTH: Final = [(Kind.URL, f"{scheme}://{HOST}/a") for scheme in ("http", "https")]
XFF: Final = "X-Forwarded-For"


class FakeLog:
    """flow.sharing.SharedLog: what it was asked, and a gate before each answer. `down`: it cannot be reached, or has
    been `sent` what it did not confirm.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[list[Target], str, bool]] = []
        self.down: LogUnreachable | None = None
        self.known: LogUnreachable | Progress | None = Progress({"me": 1.0}, ())
        self.waited: list[float] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def announce(self, targets: Sequence[Target], *, soft: bool = False) -> None:
        raise AssertionError(targets, soft)

    async def invalidate(self, targets: Sequence[Target], who: str, *, soft: bool) -> str:
        await self.gate.wait()
        if self.down is not None:
            raise self.down
        self.batches.append((list(targets), who, soft))
        return f"b{len(self.batches)}"

    async def progress(self, batch: str, within: float) -> Progress | None:
        assert batch == f"b{len(self.batches)}"
        self.waited.append(within)
        await self.gate.wait()
        if isinstance(self.known, LogUnreachable):
            raise self.known
        return self.known


async def purge(w: World, *written: str, peer: str = "", trusted: bool = False, **more: Any) -> FakeClient:  # noqa: ANN401 - as `World.plan` takes it
    """One PURGE, to its end unless a gate is closed."""
    client, work = begun(w, *written, peer=peer, trusted=trusted, **more)
    w.run(client, work)
    await w.idle()
    return client


def begun(w: World, *written: str, peer: str = "", trusted: bool = False, **more: Any) -> tuple[FakeClient, Any]:  # noqa: ANN401 - as `World.plan` takes it
    before, FakeClient.peer = FakeClient.peer, peer or FakeClient.peer
    was, FakeClient.trusted = FakeClient.trusted, trusted
    try:
        return w.plan(*written, **{"method": "PURGE", **more})
    finally:
        FakeClient.peer, FakeClient.trusted = before, was


def said(client: FakeClient) -> Any:  # noqa: ANN401 - JSON
    return json.loads(client.got)


async def test_a_purge_is_an_invalidation_of_its_url_by_whoever_asks() -> None:
    log = FakeLog()
    async with World(told=log, purging=HERE) as w:
        client = await purge(w)
        assert (client.status, said(client)) == (200, {"id": "b1"})
        assert client.fields["content-type"] == "application/json"
        assert client.fields["cache-control"] == "no-store"
        assert log.batches == [(BOTH, FakeClient.peer, False)]
        assert (w.calls, w.outcomes[0].account.reason, w.outcomes[0].route) == ([], Reason.PURGED, None)


async def test_it_takes_every_variant_out_of_what_is_stored_and_nothing_else() -> None:
    async with World(purging=HERE) as w:
        for language in ("en", "de"):
            await w.store(FRESH, "Vary: Accept-Language", asking=(f"Accept-Language: {language}",))
        for target in ("/a/", "/a?x", "/b"):
            await w.store(FRESH, target=target)
        assert (await purge(w)).status == 200
        assert w.memory.count == 5, "nothing is searched"
        for language in ("en", "de"):
            assert w.stored(f"Accept-Language: {language}") is None
        for target in ("/a/", "/a?x", "/b"):
            assert w.stored(target=target) is not None


async def test_its_url_is_keyed_by_the_route_of_a_get() -> None:
    log = FakeLog()
    policy = replace(PLAIN, key=KeyRule(ignore_query=("utm_*",)))
    async with World(policy, told=log, purging=HERE, match=Match(methods=("GET",))) as w:
        assert (await purge(w, target="/a?utm_x=1&b=2")).status == 200
        ((targets, _, _),) = log.batches
        assert targets == [(kind, f"{url}?b=2") for kind, url in BOTH]


async def test_where_no_route_takes_it_there_is_nothing_to_lose() -> None:
    async with World(purging=HERE, match=Match(path="/other")) as w:
        assert (await purge(w)).status == 200


async def test_the_default_port_of_the_other_scheme_is_no_part_of_its_url() -> None:
    log = FakeLog()
    async with World(told=log, purging=HERE) as w:
        await purge(w, host=f"{HOST}:443")
        ((targets, _, _),) = log.batches
        assert targets == [(Kind.URL, f"http://{HOST}:443/a"), (Kind.URL, f"https://{HOST}/a")]


async def test_without_a_rule_it_is_refused_as_a_method() -> None:
    async with World() as w:
        await w.store(FRESH)
        client = await purge(w)
        assert (client.status, client.fields["allow"]) == (405, "GET, HEAD")
        assert said(client)["type"] == "urn:readthrough:error:method"
        assert w.stored() is not None


@pytest.mark.parametrize(
    ("written", "peer", "trusted"),
    [
        pytest.param((), "", False, id="another address"),
        pytest.param((f"{XFF}: 198.51.100.1",), "", False, id="which says that it is another"),
        pytest.param((f"{XFF}: 198.51.100.1, 192.0.2.9",), "10.0.0.1", True, id="behind a proxy"),
        pytest.param((), "10.0.0.1", True, id="the proxy itself"),
        pytest.param((f"{XFF}: unknown",), "198.51.100.1", True, id="an allowed proxy's client that nobody knows"),
    ],
)
async def test_whoever_may_not_is_refused_and_nothing_is_done(
    written: tuple[str, ...], peer: str, trusted: bool
) -> None:
    log = FakeLog()
    async with World(told=log, purging=ELSEWHERE) as w:
        client = await purge(w, *written, peer=peer, trusted=trusted)
        assert (client.status, client.fields["content-type"]) == (403, "application/problem+json")
        assert said(client)["type"] == "urn:readthrough:error:not-allowed"
        assert log.batches == []
        assert w.outcomes[0].account.reason is Reason.NOT_ALLOWED


async def test_behind_a_trusted_proxy_it_is_the_client_that_asks() -> None:
    log = FakeLog()
    async with World(told=log, purging=ELSEWHERE) as w:
        client = await purge(w, f"{XFF}: 203.0.113.9, 198.51.100.1", peer="10.0.0.1", trusted=True)
        assert client.status == 200
        assert log.batches == [(BOTH, "198.51.100.1", False)]


async def test_a_soft_one_leaves_what_may_be_validated() -> None:
    async with World(purging=HERE) as w:
        await w.store(STALEABLE, ETAG)
        w.clock.at += 1
        assert (await purge(w, "Soft-Purge: 1")).status == 200
        w.clock.at += 1
        client = w.ask()
        assert (client.got, client.how) == (b"old", "readthrough; hit; ttl=-1")
        await w.idle()
        assert w.last.sent["if-none-match"] == '"1"'
        w.last.reply(FRESH, ETAG, status=304)
        await w.idle()


async def test_a_hard_one_leaves_nothing_to_validate_with() -> None:
    async with World(purging=HERE) as w:
        await w.store(STALEABLE, ETAG)
        assert (await purge(w)).status == 200
        client = w.ask()
        await w.idle()
        assert "if-none-match" not in w.last.sent
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert client.got == b"new"


async def test_softness_that_cannot_be_read_does_nothing() -> None:
    log = FakeLog()
    async with World(told=log, purging=HERE) as w:
        client = await purge(w, "Soft-Purge: yes")
        assert (client.status, said(client)["type"]) == (400, "urn:readthrough:error:bad-request")
        assert said(client)["detail"].startswith("Nothing was invalidated")
        assert log.batches == []


@pytest.mark.parametrize(
    "known", [Progress({"me": 1.0}, ("other",)), None, LogUnreachable()], ids=["one waits", "forgotten", "log lost"]
)
async def test_what_not_everybody_is_known_to_have_applied_is_accepted(
    known: LogUnreachable | Progress | None,
) -> None:
    log = FakeLog()
    log.known = known
    async with World(told=log, purging=HERE) as w:
        client = await purge(w)
        assert (client.status, said(client)) == (202, {"id": "b1"})
        assert log.waited == [WAIT]


@pytest.mark.parametrize(
    ("sent", "begins", "logged"),
    [
        (False, "Nothing was invalidated", "invalidation refused, as the log cannot be reached"),
        (True, "It may have been applied", "invalidation not confirmed by the log"),
    ],
)
async def test_without_the_log_it_is_said_what_is_known(
    sent: bool, begins: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = FakeLog()
    log.down = LogUnreachable(sent=sent)
    async with World(told=log, purging=HERE) as w:
        client = await purge(w)
        assert (client.status, client.fields["retry-after"]) == (503, "1")
        assert said(client)["type"] == "urn:readthrough:error:log-unreachable"
        assert said(client)["detail"].startswith(begins)
        assert f"{logged}: PURGE of 'http://{HOST}/a', asked for by 192.0.2.1" in caplog.messages


async def test_too_many_are_refused_and_told_when_to_come_again() -> None:
    async with World(purging=HERE) as w:
        for _ in range(2000):
            client, work = begun(w)
            w.run(client, work)
        await w.idle()
        assert {client.status for client in w.clients} == {200}
        client = await purge(w)
        assert (client.status, client.fields["retry-after"]) == (429, "1")
        assert said(client)["type"] == "urn:readthrough:error:too-many-invalidations"
        w.clock.at += 1.0
        assert (await purge(w)).status == 200


async def test_who_may_not_uses_nothing_up() -> None:
    async with World(purging=HERE) as w:
        for _ in range(2001):
            assert (await purge(w, peer="198.51.100.1")).status == 403
        assert (await purge(w)).status == 200


async def test_each_is_logged_with_its_id_and_who_asked_and_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with World(told=FakeLog(), purging=HERE) as w:
        await purge(w, "Soft-Purge: 1", target="/a?key=secret")
        await purge(w, target="/" + "x" * 1000)
        first, second = (m for m in caplog.messages if m.startswith("invalidation"))
        assert first == f"invalidation b1: PURGE of 'http://{HOST}/a' (soft), asked for by 192.0.2.1"
        assert second.startswith(f"invalidation b2: PURGE of 'http://{HOST}/xxx")
        assert len(second) < 200


async def test_a_client_that_leaves_does_not_take_back_what_it_has_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = FakeLog()
    log.gate.clear()
    async with World(told=log, purging=HERE) as w:
        client = await purge(w)
        client.leave()
        await w.idle()
        assert (w.outcomes[0].status, w.outcomes[0].account.reason, w.outcomes[0].complete) == (
            499,
            Reason.CLIENT_GONE,
            False,
        )
        log.gate.set()
        await w.idle()
        assert [targets for targets, _, _ in log.batches] == [BOTH]
        assert any(m.startswith("invalidation b1: PURGE of") for m in caplog.messages)


async def test_one_whose_body_turns_out_bad_is_noted_as_that() -> None:
    log = FakeLog()
    log.gate.clear()
    async with World(told=log, purging=HERE) as w:
        client = await purge(w)
        client.refused = Refused(408, Reason.REQUEST_TIMEOUT, "")  # type: ignore[assignment]
        client.leave()
        await w.idle()
        assert (w.outcomes[0].status, w.outcomes[0].account.reason) == (408, Reason.REQUEST_TIMEOUT)
        log.gate.set()
        await w.idle()


async def test_a_reload_changes_who_may() -> None:
    async with World(purging=HERE) as w:
        assert (await purge(w)).status == 200
        w.purging = ELSEWHERE
        w.exchange.site = w.site(PLAIN)
        assert (await purge(w)).status == 403
        w.purging = None
        w.exchange.site = w.site(PLAIN)
        assert (await purge(w)).status == 405


async def test_it_races_a_fetch_as_any_other_invalidation_does() -> None:
    async with World(purging=HERE) as w:
        fetching = w.ask()
        await w.idle()
        w.last.answer(FRESH, length=3)
        await w.idle()
        assert (await purge(w)).status == 200
        w.last.end(b"old")
        await w.idle()
        assert fetching.got == b"old"
        assert w.stored() is None


# -- explained


def explained(w: World, *written: str, target: str = "/a") -> Explanation:
    explainer = Explainer(lambda: w.exchange.site, w.memory, w.log, w.flights, w.clock.now, shared=False)
    return explainer.explain(request(*written, method="PURGE", target=target))


@pytest.mark.parametrize("written", [(), ("Soft-Purge: 1",), ("Soft-Purge: 2",)])
async def test_what_is_explained_of_it_is_what_happens(written: tuple[str, ...]) -> None:
    log = FakeLog()
    async with World(told=log, purging=HERE) as w:
        before = explained(w, *written)
        assert (log.batches, w.calls) == ([], []), "it changed something"
        client = await purge(w, *written)
        answer = before.answer
        assert (answer.status, answer.reason) == (client.status, w.outcomes[0].account.reason)
        assert (answer.act is Act.PURGE) == bool(log.batches)
        purging = [(step.urls, step.soft) for step in before.steps if isinstance(step, Purging)]
        assert purging == [(tuple(url for _, url in targets), soft) for targets, _, soft in log.batches]


async def test_an_explanation_says_what_would_go_and_who_may() -> None:
    async with World(purging=HERE) as w:
        asked, routing, purging = explained(w, "Soft-Purge: 1").steps
        assert isinstance(asked, AsRead)
        assert isinstance(routing, Routing)
        assert (routing.tried, routing.route, routing.allow) == ((), None, ())
        assert purging == Purging(tuple(url for _, url in BOTH), soft=True, allow=("192.0.2.0/24",))


async def test_without_a_rule_it_is_explained_as_refused() -> None:
    async with World() as w:
        answer = explained(w).answer
        assert (answer.act, answer.status, answer.reason) == (Act.REFUSE, 405, Reason.METHOD)
