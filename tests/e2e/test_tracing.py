"""The running program and a real collector: what its traces tell of real requests."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.harness import Site, site
from tests.e2e.process import ROOT, Late, eventually, free_port, in_time, timed
from tests.e2e.upstream import Call, replies
from tests.edges.collector import Collector, Told, collector

FRESH = "Cache-Control: max-age=60"
SERVER, CLIENT = 2, 3  # span kinds, in OTLP
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass(frozen=True, slots=True)
class Traced:
    """A site, and the collector that its traces go to."""

    site: Site
    collector: Collector

    async def told(self, count: int) -> list[Told]:
        """That many spans since this was last asked, and no more."""
        spans = list(await self.collector.until(count))
        self.collector.spans.clear()
        assert len(spans) == count, [span.name for span in spans]
        return spans


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


@pytest_asyncio.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    async with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.endpoint)
        async with site(tmp_path, {"tracing": "on"}) as running:
            yield Traced(running, there)


def named(spans: list[Told]) -> dict[str, Told]:
    found = {span.name: span for span in spans}
    assert len(found) == len(spans), [span.name for span in spans]
    return found


async def test_a_miss_and_a_hit_are_told_of(here: Traced) -> None:
    here.site.upstream.on("/a", replies("x", FRESH))
    await here.site.get("/a?token=s3cret", "Authorization: Bearer s3cret", f"traceparent: 00-{TRACE}-{SPAN}-01")
    spans = named(await here.told(4))
    asked, call = spans["GET all"], spans["GET"]
    assert (asked.trace, asked.parent, asked.kind, call.kind) == (TRACE, SPAN, SERVER, CLIENT)
    assert spans["flight"].parent == asked.span
    assert call.parent == spans["flight"].span
    (sent,) = here.site.upstream.seen("/a")
    assert (sent.head["traceparent"].split("-")[1:3]) == [TRACE, call.span]
    assert asked.resource["service.name"] == "readthrough"
    assert b"s3cret" not in here.collector.raw

    here.site.upstream.on("/b", replies("x", FRESH))
    await here.site.get("/b")
    await here.told(4)
    assert (await here.site.get("/b")).hit
    spans = named(await here.told(2))
    assert spans["GET all"].attributes["readthrough.cache"] == "hit"
    assert spans["GET all"].attributes["http.response.status_code"] == 200


async def test_followers_are_linked_to_the_one_flight(here: Traced) -> None:
    gate = asyncio.Event()

    async def slow(call: Call) -> None:
        await gate.wait()
        call.answer("x", FRESH)

    here.site.upstream.on("/slow", slow)
    asking = [asyncio.ensure_future(here.site.get("/slow")) for _ in range(5)]
    await eventually(lambda: here.site.upstream.count("/slow") == 1, "the flight is in the air")
    # Their look-ups end before they wait: when all are told of, all wait.
    await here.collector.until(5)
    gate.set()
    await asyncio.gather(*asking)
    spans = await here.told(12)
    (flight,) = [span for span in spans if span.name == "flight"]
    asked = [span for span in spans if span.kind == SERVER]
    assert len({span.trace for span in asked}) == 5
    assert sorted(span.links for span in asked) == [()] + [((flight.trace, flight.span),)] * 4


async def test_a_stale_hit_and_its_refresh_are_two_traces(here: Traced) -> None:
    here.site.upstream.on("/stale", replies("x", "Cache-Control: max-age=0, stale-while-revalidate=60"))
    await here.site.get("/stale")
    await here.told(4)
    assert (await here.site.get("/stale")).hit
    spans = await here.told(5)
    (asked,) = [span for span in spans if span.kind == SERVER]
    (refresh,) = [span for span in spans if span.name == "refresh"]
    assert asked.attributes["readthrough.cache"] == "stale"
    assert refresh.trace != asked.trace
    assert refresh.links == ((asked.trace, asked.span),)
    (call,) = [span for span in spans if span.kind == CLIENT]
    assert call.trace == refresh.trace
    assert call.trace in here.site.upstream.seen("/stale")[1].head["traceparent"]


async def test_an_upstream_that_hangs_up_is_an_error(here: Traced) -> None:
    async def cut(call: Call) -> None:
        call.stream.close()

    here.site.upstream.on("/cut", cut)
    assert (await here.site.get("/cut")).status == 502
    spans = named(await here.told(4))
    assert [spans[name].error for name in ("GET all", "flight", "GET", "cache look-up")] == [True, True, True, False]
    assert spans["GET"].attributes["error.type"] == "disconnected"


async def test_the_last_spans_come_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
        async with site(tmp_path, {"tracing": "on"}) as running:
            running.upstream.on("/a", replies("x", FRESH))
            for _ in range(10):
                await running.get("/a")
            assert there.spans == []
        assert sum(span.kind == SERVER for span in there.spans) == 10


async def test_only_what_the_client_samples_is_told_of_where_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.endpoint)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        async with site(tmp_path, {"tracing": "on"}) as running:
            running.upstream.on("/a", replies("x", FRESH))
            await running.get("/a")
            assert running.upstream.seen("/a")[0].head["traceparent"].endswith("-00")
            plain = await running.get("/a")
            traced = await running.get("/a", f"traceparent: 00-{TRACE}-{SPAN}-01")
            await running.get("/a", f"traceparent: 00-{TRACE}-{SPAN}-00")
            assert plain.hit
            assert traced.hit
        assert {span.trace for span in there.spans} == {TRACE}
        assert sum(span.kind == SERVER for span in there.spans) == 1


@pytest.mark.clock(only=Late)
async def test_a_collector_that_is_not_there_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    async with site(tmp_path, {"tracing": "on"}) as running:
        running.upstream.on("/a", replies("x", FRESH))
        for _ in range(50):
            assert (await running.get("/a")).status == 200
        await eventually(lambda: "tracing: " in running.proxy.stderr, "it is said")
        running.proxy.signal(signal.SIGTERM)
        code, took = await timed(running.proxy.exit())
        assert code == 0
        said = [line.partition("tracing: ")[2] for line in running.proxy.stderr.splitlines() if "tracing: " in line]
        assert len(said) == len(set(said)), "each once"
    in_time(took, 10.0)


async def test_it_cannot_change_while_running(here: Traced) -> None:
    here.site.proxy.write({**here.site.config, "tracing": "off"})
    here.site.proxy.signal(signal.SIGHUP)
    await eventually(lambda: "configuration reloaded" in here.site.proxy.stderr, "it is reloaded")
    assert "tracing cannot change while running" in here.site.proxy.stderr


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


OFF = """
import asyncio, sys
from proxy.app import App
from proxy.config.load import from_upstream, override

async def main():
    app = App(override(from_upstream("http://127.0.0.1:1"), listen="127.0.0.1:0", admin="127.0.0.1:0"))
    await app.start()
    assert app.shared.hit == app.exchange.hit
    assert app.shared.begin == app.exchange.begin
    await app.close()

asyncio.run(main())
# redis-py loads the library's metrics by itself where they are installed.
ours = ("proxy.edges.tracing", "opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.proto", "requests")
print([name for name in sys.modules if name.startswith(ours)])
"""


@pytest.mark.parametrize("before", ["", "import sys; sys.modules['opentelemetry'] = None"], ids=["installed", "not"])
def test_off_means_that_nothing_of_it_is_loaded_or_called(before: str) -> None:
    done = python(f"{before}\n{OFF}")
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from proxy.cli import main
sys.exit(main(["check", "-c", sys.argv[1]]))
"""


@pytest.mark.parametrize(("word", "code"), [("on", 2), ("off", 0)])
def test_on_without_the_extra_says_what_to_install(tmp_path: Path, word: str, code: int) -> None:
    file = tmp_path / "readthrough.yaml"
    config = {"upstreams": {"u": {"url": "http://127.0.0.1:1"}}, "routes": [{"name": "r", "upstream": "u"}]}
    file.write_text(json.dumps({"tracing": word, **config}))
    done = python(WITHOUT, str(file))
    assert done.returncode == code, done.stderr
    assert ("pip install 'readthrough[otel]'" in done.stdout + done.stderr) == (word == "on")
