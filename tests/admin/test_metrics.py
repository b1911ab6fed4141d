"""`GET /metrics` and `GET /stats`, over HTTP."""

import re
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from proxy.admin.access import Access
from proxy.admin.crew import CrewAdmin, Member
from proxy.admin.families import FAMILIES
from proxy.admin.hottest import Hottest
from proxy.admin.metrics import RAW, Metrics
from proxy.admin.server import AdminServer, Part
from tests.admin.kit import Admin, admin
from tests.admin.numbers import sources
from tests.e2e.process import free_port

ASSETS: Final = Path(__file__).resolve().parents[2] / "proxy" / "admin" / "assets"
PATIENCE: Final = aiohttp.ClientTimeout(total=4.0)  # less than the page has, which asks for three things at once


def test_the_page_is_more_patient_than_that() -> None:
    found = re.search(r"within = (\d+)", (ASSETS / "api.js").read_text("utf-8"))
    assert found is not None
    assert int(found[1]) > (PATIENCE.total or 0)


@asynccontextmanager
async def measured() -> AsyncIterator[Admin]:
    def served(here: Admin) -> None:
        made = sources()
        parts: list[Part] = [Metrics(made), Hottest(made.tallies.hot, made.settle)]
        here.server = AdminServer(lambda: True, access=lambda: here.access, parts=parts)

    async with admin(change=served) as here:
        yield here


def full_names(families: Iterable[Metric]) -> dict[str, Metric]:
    return {f"{family.name}_total" if family.type == "counter" else family.name: family for family in families}


@pytest.mark.parametrize(
    ("accepted", "kind", "parse"),
    [
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8", plain_text),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0", open_metrics),
    ],
)
async def test_prometheus_reads_it(accepted: str, kind: str, parse: type) -> None:
    async with measured() as here:
        status, body, fields = await here.ask("/metrics", headers={"Accept": accepted})
        assert status == 200
        assert fields["Content-Type"].startswith(kind)
        found = full_names(parse(body.decode()))
        assert found.keys() == FAMILIES.keys()
        for name, family in found.items():
            assert family.type == FAMILIES[name].kind.value
            assert family.documentation == FAMILIES[name].help
            assert {label for sample in family.samples for label in sample.labels} - {"le"} == set(
                FAMILIES[name].labels
            )
        buckets = [
            s.value for s in found["readthrough_upstream_duration_seconds"].samples if s.name.endswith("_bucket")
        ]
        assert buckets == sorted(buckets)
        assert buckets[-1] == 1


async def test_stats_are_the_same_numbers() -> None:
    async with measured() as here:
        status, said, _ = await here.ask("/stats")
        assert (status, said["requests"]["total"], said["version"]) == (200, 1007, "1.2.3")
        assert [client["client"] for client in said["limits"]["refused"]] == ["192.0.2.1"]


@pytest.mark.parametrize("accepted", ["text/plain", "application/openmetrics-text", RAW])
async def test_no_client_is_in_the_metrics(accepted: str) -> None:
    async with measured() as here:
        status, body, _ = await here.ask("/metrics", headers={"Accept": accepted})
        assert status == 200
        assert "192.0.2.1" not in str(body)


@asynccontextmanager
async def crew(directory: Path) -> AsyncIterator[tuple[Admin, list[AdminServer]]]:
    """Two processes behind one listener."""
    access, servers, port = Access("127.0.0.1"), [], free_port()
    for number in (1, 2):
        made = sources()
        parts: list[Part] = [Metrics(made), Hottest(made.tallies.hot, made.settle)]
        server = AdminServer(lambda: True, access=lambda: access, parts=parts)
        await server.listen_at(directory / f"{number}.sock")
        servers.append(server)
    members = [Member(number, 100 + number, directory / f"{number}.sock") for number in (1, 2)]
    front = CrewAdmin(lambda: members, serving=lambda: True, access=lambda: access)
    await front.listen("127.0.0.1", port)
    async with admin() as here, here.session.get("/healthz"):
        here.port = port
        try:
            yield here, servers
        finally:
            await front.close()
            for server in servers:
                await server.close()


async def test_of_several_processes_they_are_those_of_all(tmp_path: Path) -> None:
    async with crew(tmp_path) as (here, _):
        at = f"http://127.0.0.1:{here.port}"
        async with here.session.get(f"{at}/metrics") as response:
            found = full_names(plain_text(await response.text()))
        assert found.keys() == FAMILIES.keys()
        assert sum(sample.value for sample in found["readthrough_requests_total"].samples) == 2014
        assert {s.labels["worker"] for s in found["process_resident_memory_bytes"].samples} == {"1", "2"}
        async with here.session.get(f"{at}/stats") as response:
            said = await response.json()
            assert said["requests"]["total"] == 2014
            (refused,) = said["limits"]["refused"]
            assert refused["rate"] == pytest.approx(2 * 3, rel=0.05)
        async with here.session.get(f"{at}/hot?top=1") as response:
            (hot,) = (await response.json())["keys"]
        _, alone, _ = await here.ask("/healthz")
        assert alone
        assert (hot["key"], hot["rate"]) == ("http://a/", pytest.approx(2 * 1000, rel=0.05))


@pytest.mark.clock
async def test_of_a_process_that_does_not_answer_it_is_said_here_that_it_is_not_ready(tmp_path: Path) -> None:
    async with crew(tmp_path) as (here, _):
        at, hung = f"http://127.0.0.1:{here.port}", tmp_path / "2.sock"
        async with here.session.get(f"{at}/stats") as response:
            assert (await response.json())["ready"] is True
        hung.unlink()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(hung))
            listening.listen()  # it takes connections, and says nothing
            async with here.session.get(f"{at}/stats", timeout=PATIENCE) as response:
                said = await response.json()
            assert (said["ready"], said["requests"]["total"]) == (False, 2014)
            async with here.session.get(f"{at}/metrics", timeout=PATIENCE) as response:
                found = full_names(plain_text(await response.text()))
            told = {sample.labels["worker"]: sample.value for sample in found["readthrough_ready"].samples}
            assert told == {"1": 1, "2": 0}
            async with here.session.get(f"{at}/hot", timeout=PATIENCE) as response:
                assert response.status == 200


async def test_a_process_that_is_gone_takes_none_of_what_it_had_counted_along(tmp_path: Path) -> None:
    async with crew(tmp_path) as (here, servers):
        at = f"http://127.0.0.1:{here.port}"
        for entries in (20, 10):
            async with here.session.get(f"{at}/stats") as response:
                said = await response.json()
            assert (said["requests"]["total"], said["memory"]["entries"]) == (2014, entries)
            await servers[0].close()
