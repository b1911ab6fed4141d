"""Instances whose clocks are a minute wrong agree on what is fresh."""

import asyncio
import shutil
import subprocess
import time
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import pytest

from tests.e2e.upstream import Call
from tests.fleet.harness import Fleet, Instance, fleet, tell
from tests.redis_servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="function")

OFFSETS = (-60, 0, 60)  # seconds
LIFETIME = 3
WITHIN = 1.0  # seconds
NO_FAKETIME = "this test needs faketime: on Debian, apt-get install faketime"


def wrong_clock(seconds: int) -> dict[str, str]:
    """What makes a process believe in another time of day, and leaves its monotonic clock alone."""
    faketime = shutil.which("faketime")
    assert faketime, NO_FAKETIME
    command = [faketime, "--exclude-monotonic", "-f", f"{seconds:+d}s", "env"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {"LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC"}
    found = {name: value for name, _, value in (line.partition("=") for line in printed.splitlines()) if name in names}
    assert found.keys() == names, found
    return found


def _as_max_age() -> list[str]:
    return [f"Date: {formatdate(usegmt=True)}", f"Cache-Control: max-age={LIFETIME}"]


def _as_expires() -> list[str]:
    now = int(time.time())
    return [f"Date: {formatdate(now, usegmt=True)}", f"Expires: {formatdate(now + LIFETIME, usegmt=True)}"]


@pytest.mark.clock
@pytest.mark.parametrize("fields", [_as_max_age, _as_expires], ids=["max-age", "Expires"])
async def test_they_agree_on_freshness_within_a_second(tmp_path: Path, server: Server, fields: object) -> None:
    assert callable(fields)
    async with fleet(tmp_path, server.url, environment=lambda at: wrong_clock(OFFSETS[at])) as here:
        is_wrong(here)

        async def handler(call: Call) -> None:
            call.answer(call.path, *fields())

        loop = asyncio.get_running_loop()
        pairs = [(filler, reader) for filler in range(3) for reader in range(3)]
        for filler, reader in pairs:
            here.upstream.on(f"/{filler}-{reader}", handler)
        # A Date has whole seconds: begin with one, so that what it leaves out is little.
        await asyncio.sleep(1.02 - time.time() % 1)
        asked = loop.time()
        for filler, reader in pairs:
            assert (await here[filler].get(f"/{filler}-{reader}")).status == 200
        took = loop.time() - asked
        ages = [(await here[reader].get(f"/{filler}-{reader}")).age for filler, reader in pairs]
        assert 0 <= min(ages) <= max(ages) <= 1 + int(loop.time() - asked), ages
        lives = await asyncio.gather(
            *(_life(here, here[reader], f"/{filler}-{reader}", asked) for filler, reader in pairs)
        )
        tell(f"fresh for {LIFETIME} s, where it was: {', '.join(f'{life:.2f}' for life in lives)}")
        assert all(abs(life - LIFETIME) < WITHIN + took for life in lives), lives
        assert max(lives) - min(lives) < WITHIN + took


async def _life(here: Fleet, reader: Instance, path: str, since: float) -> float:
    """Seconds until this one asks the upstream for it again."""
    stream = await reader.connect()
    asked = here.upstream.count(path)
    assert asked == 1
    while here.upstream.count(path) == asked:
        await reader.get(path)
        await asyncio.sleep(0.02)
    stream.close()
    return asyncio.get_running_loop().time() - since


def is_wrong(here: Fleet) -> None:
    """The fault is there, in each of the processes: it stamps its log lines by a wrong clock."""
    for offset, one in zip(OFFSETS, here.instances, strict=True):
        assert "libfaketime" in Path(f"/proc/{one.proxy.process.pid}/maps").read_text()
        logged = one.proxy.stderr.split(",", 1)[0]
        wrong = time.mktime(time.strptime(logged, "%Y-%m-%d %H:%M:%S")) - time.time()
        assert abs(wrong - offset) < 29, logged


async def test_a_date_that_is_added_is_that_of_redis(tmp_path: Path, server: Server) -> None:
    async with fleet(tmp_path, server.url, environment=lambda at: wrong_clock(OFFSETS[at])) as here:

        async def no_date(call: Call) -> None:
            call.answer("x", "Cache-Control: no-store")

        here.upstream.on("/date", no_date)
        asked = time.time()
        for response in await here.in_turn("/date"):
            assert asked - 2 < parsedate_to_datetime(response.head["date"]).timestamp() < time.time() + 2
