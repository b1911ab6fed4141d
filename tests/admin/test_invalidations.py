"""`POST /invalidate` and `GET /invalidations/{id}`, over HTTP."""

import logging

import pytest

from proxy.admin.invalidations import Invalidations
from proxy.admin.server import AdminServer
from proxy.flow.invalidation import InvalidationLog, Kind
from proxy.flow.invalidator import Invalidator
from proxy.flow.local_log import LocalLog
from proxy.flow.sharing import LogUnreachable
from proxy.flow.site import Site
from proxy.flow.throttle import Throttle
from proxy.rules.policy import KeyRule
from proxy.rules.routes import Match
from tests.admin.kit import Admin, admin, site
from tests.e2e.process import free_port


async def test_one_call_is_one_batch() -> None:
    async with admin() as here:
        given = {"urls": ["/a"], "prefixes": ["/b"], "tags": ["t"], "hosts": ["h"], "all": True, "soft": True}
        status, said, _ = await here.invalidate(given)
        assert (status, said) == (202, {"id": "b1"})
        ((targets, who, soft),) = here.log.batches
        assert set(targets) == {
            (Kind.TARGET, "/a"),
            (Kind.PREFIX, "/b"),
            (Kind.TAG, "t"),
            (Kind.HOST, "h"),
            (Kind.ALL, ""),
        }
        assert (who, soft) == ("127.0.0.1", True)


async def test_it_is_keyed_by_the_routes_there_are_now() -> None:
    async with admin() as here:
        url = "https://h/a?x=1"
        await here.invalidate({"urls": [url]})
        here.site = site((Match(), KeyRule(ignore_query=("x",))))
        await here.invalidate({"urls": [url]})
        assert [targets for targets, _, _ in here.log.batches] == [((Kind.URL, url),), ((Kind.URL, "https://h/a"),)]


async def test_a_reload_while_the_body_is_read_has_it_read_again() -> None:
    async with admin() as here:
        asked = 0

        def reloaded() -> Site:
            nonlocal asked
            asked += 1
            return before if asked == 1 else after

        before, after = site(), site((Match(), KeyRule(ignore_query=("x",))))
        parts = Invalidations(Invalidator(here.log, Throttle(lambda: 0.0)), reloaded)
        server = AdminServer(lambda: True, access=lambda: here.access, parts=[parts])
        port = free_port()
        await server.listen("127.0.0.1", port)
        async with here.session.post(f"http://127.0.0.1:{port}/invalidate", json={"urls": ["https://h/a?x=1"]}) as said:
            assert said.status == 202
        await server.close()
        assert here.log.batches[0][0] == ((Kind.URL, "https://h/a"),)


async def test_who_waits_hears_how_long_it_took_everywhere() -> None:
    async with admin() as here:
        here.log.instances = {"a": 1.23456, "b": 12.0}
        status, said, _ = await here.invalidate({"all": True}, "?wait=2s")
        assert (status, said) == (200, {"id": "b1", "applied": {"a": 1.235, "b": 12.0}, "pending": []})
        assert here.log.waited == [2.0]


async def test_who_waits_in_vain_hears_who_is_missing() -> None:
    async with admin() as here:
        here.log.instances = {"a": 1.0, "b": None}
        status, said, _ = await here.invalidate({"all": True}, "?wait=250ms")
        assert (status, said) == (202, {"id": "b1", "applied": {"a": 1.0}, "pending": ["b"]})


@pytest.mark.parametrize(("wait", "within"), [("0", 0.0), ("0s", 0.0), ("30s", 30.0), ("31s", 30.0), ("1d", 30.0)])
async def test_nobody_waits_for_more_than_half_a_minute(wait: str, within: float) -> None:
    async with admin() as here:
        assert (await here.invalidate({"all": True}, f"?wait={wait}"))[0] == 200
        assert here.log.waited == [within]


@pytest.mark.parametrize(
    "query", ["?wait=", "?wait=2", "?wait=-1s", "?wiat=2s", "?wait=1s&wait=2s", "?wait=1s&x=1", "?x"]
)
async def test_a_query_that_is_not_understood_changes_nothing(query: str) -> None:
    async with admin() as here:
        status, said, _ = await here.invalidate({"all": True}, query)
        assert (status, said["type"]) == (400, "urn:readthrough:error:bad-request")
        assert here.log.batches == []


async def test_a_body_with_mistakes_changes_nothing_and_says_them_all() -> None:
    async with admin() as here:
        status, said, fields = await here.invalidate({"urls": ["/good", "bad", "/also#bad"]})
        assert (status, said["type"], said["title"]) == (400, "urn:readthrough:error:bad-request", "Bad Request")
        assert fields["Content-Type"] == "application/problem+json"
        assert [error["at"] for error in said["errors"]] == ["urls[1]", "urls[2]"]
        assert here.log.batches == []


async def test_without_the_log_nothing_is_applied_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with admin() as here:
        here.log.down = True
        status, said, fields = await here.invalidate({"all": True}, "?wait=2s")
        assert (status, said["type"]) == (503, "urn:readthrough:error:log-unreachable")
        assert said["detail"].startswith("Nothing was invalidated")
        assert fields["Retry-After"] == "1"
        assert "invalidation refused, as the log cannot be reached: everything, asked for by 127.0.0.1" in caplog.text
        here.log.down = False
        assert (await here.invalidate({"all": True}))[0] == 202


async def test_what_the_log_has_not_confirmed_is_not_said_to_be_undone(caplog: pytest.LogCaptureFixture) -> None:
    async with admin() as here:

        async def unconfirmed(*_: object, **more: object) -> str:
            raise LogUnreachable("no replica", sent=bool(more))

        here.log.invalidate = unconfirmed  # type: ignore[method-assign]
        status, said, fields = await here.invalidate({"all": True}, "?wait=2s")
        assert (status, said["type"]) == (503, "urn:readthrough:error:log-unreachable")
        assert said["detail"].startswith("It may have been applied, and may still be:")
        assert said["detail"].endswith("Asking again does no harm.")
        assert fields["Retry-After"] == "1"
        assert "invalidation not confirmed by the log: everything, asked for by 127.0.0.1" in caplog.text


@pytest.mark.parametrize("lost", ["down", "forgetful"])
async def test_what_was_written_is_accepted_even_if_the_log_is_lost_while_waiting(lost: str) -> None:
    async with admin() as here:
        write = here.log.invalidate

        async def written_and_lost(*args: object, **more: object) -> str:
            try:
                return await write(*args, **more)  # type: ignore[arg-type]
            finally:
                setattr(here.log, lost, True)

        here.log.invalidate = written_and_lost  # type: ignore[method-assign]
        status, said, _ = await here.invalidate({"all": True}, "?wait=2s")
        assert (status, said) == (202, {"id": "b1", "applied": {}, "pending": None})


async def test_progress_is_told_by_instance() -> None:
    async with admin() as here:
        here.log.instances = {"a": 1.0, "b": None}
        await here.invalidate({"all": True})
        assert (await here.ask("/invalidations/b1"))[:2] == (200, {"id": "b1", "applied": {"a": 1.0}, "pending": ["b"]})
        here.log.instances["b"] = 99.5
        said = {"id": "b1", "applied": {"a": 1.0, "b": 99.5}, "pending": []}
        assert (await here.ask("/invalidations/b1"))[:2] == (200, said)
        assert here.log.waited == [0.0, 0.0]


@pytest.mark.parametrize("identity", ["b2", "", "x" * 201, "b1%20", "%00"])
async def test_an_invalidation_that_nobody_knows_is_not_found(identity: str) -> None:
    async with admin() as here:
        await here.invalidate({"all": True})
        status, said, _ = await here.ask(f"/invalidations/{identity}")
        assert (status, said["type"]) == (404, "urn:readthrough:error:not-found")


async def test_progress_without_the_log_is_not_known() -> None:
    async with admin() as here:
        here.log.down = True
        status, said, _ = await here.ask("/invalidations/b1")
        assert (status, said["type"]) == (503, "urn:readthrough:error:log-unreachable")


async def test_every_invalidation_is_logged_with_who_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with admin() as here:
        await here.invalidate({"urls": ["/a?key=secret", "/b"], "tags": ["x\x7fy".replace("\x7f", "")], "soft": True})
        assert "invalidation b1: 2 urls ('/a', '/b'), 1 tags ('xy') (soft), asked for by 127.0.0.1" in caplog.messages


async def test_too_many_values_in_a_while_are_refused_and_told_when_to_come_again() -> None:
    async with admin() as here:
        thousand = {"tags": [str(i) for i in range(1000)]}
        assert [(await here.invalidate(thousand))[0] for _ in range(2)] == [202, 202]
        status, said, fields = await here.invalidate(thousand)
        assert (status, said["type"]) == (429, "urn:readthrough:error:too-many-invalidations")
        assert fields["Retry-After"] == "5"
        assert len(here.log.batches) == 2
        assert (await here.ask("/invalidations/b1"))[0] == 200
        here.at += 5.0
        assert (await here.invalidate(thousand))[0] == 202


async def test_what_has_mistakes_does_not_count() -> None:
    async with admin() as here:
        for _ in range(3):
            assert (await here.invalidate({"tags": [""] * 1000}))[0] == 400
        assert [(await here.invalidate({"tags": ["t"] * 1000}))[0] for _ in range(3)] == [202, 202, 429]


async def test_the_log_of_the_only_instance_applies_it_at_once() -> None:
    applied = InvalidationLog()

    def alone(here: Admin) -> None:
        here.log = LocalLog(applied, instance="me", now=lambda: here.at)  # type: ignore[assignment]
        here.__post_init__()

    async with admin(change=alone) as here:
        status, said, _ = await here.invalidate({"tags": ["t"], "urls": ["/a"]}, "?wait=1s")
        assert (status, said["applied"], said["pending"]) == (200, {"me": 0.0}, [])
        assert applied.position == 2
        assert (await here.ask(f"/invalidations/{said['id']}"))[1] == said
