"""Owned tasks."""

import asyncio

import pytest

from proxy.flow.background import Background


async def _fail() -> None:
    raise LookupError("a bug")


async def test_a_task_is_counted_while_it_runs() -> None:
    background, gate = Background(), asyncio.Event()

    async def work() -> None:
        await gate.wait()

    task = background.spawn(work(), "work")
    assert len(background) == 1
    gate.set()
    await task
    await asyncio.sleep(0)
    assert len(background) == 0


async def test_a_failure_is_logged_with_the_tasks_name_and_the_traceback(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    background.spawn(_fail(), "unlucky")
    assert await background.drain(within=1.0) == 0
    await asyncio.sleep(0)
    assert len(background) == 0
    (record,) = caplog.records
    assert "unlucky" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


async def test_a_cancelled_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    background.spawn(asyncio.sleep(3600), "idle").cancel()
    await background.drain(within=1.0)
    assert caplog.records == []


async def test_drain_lets_finish_what_finishes_in_time() -> None:
    background, gate, ends = Background(), asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        ends.append("done")

    background.spawn(work(), "work")
    asyncio.get_running_loop().call_soon(gate.set)
    assert await background.drain(within=3600.0) == 0
    assert ends == ["done"]


async def test_drain_cancels_the_rest_waits_for_its_end_and_counts_it() -> None:
    background, ends = Background(), []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # even what takes a moment to end
            ends.append(number)

    for number in range(3):
        background.spawn(work(number), "work")
    await asyncio.sleep(0)
    assert await background.drain(within=0.0) == 3
    assert sorted(ends) == [0, 1, 2]
    await asyncio.sleep(0)
    assert len(background) == 0


async def test_drain_of_nothing_is_nothing() -> None:
    assert await Background().drain(within=3600.0) == 0


async def test_what_is_started_by_the_last_act_of_another_is_ended_too() -> None:
    background = Background()
    begun = asyncio.Event()

    async def parting() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            background.spawn(forever(), "late")

    async def forever() -> None:
        await asyncio.Event().wait()

    background.spawn(parting(), "parting")
    await begun.wait()
    assert await background.drain(within=0.0) == 2
    assert len(background) == 0
