"""The log of the only instance: applied is applied everywhere."""

import pytest

from proxy.flow import local_log
from proxy.flow.invalidation import InvalidationLog, Kind
from proxy.flow.local_log import LocalLog
from proxy.flow.sharing import Places
from tests.edges.redis_log_kit import entry, tag


class Ticking:
    """Every look at it takes a millisecond."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        self.at += 0.001
        return self.at


def local() -> tuple[InvalidationLog, LocalLog]:
    log = InvalidationLog()
    return log, LocalLog(log, "me", Ticking())


async def test_a_batch_is_applied_when_it_is_written() -> None:
    log, told = local()
    held = entry(log, "x", 1000.0)
    batch = await told.invalidate([tag("x"), tag("y")], "somebody", soft=False)
    assert log.judge(held, held.seq) is None
    progress = await told.progress(batch, 0.0)
    assert progress is not None
    assert progress.pending == ()
    assert progress.applied == {"me": pytest.approx(1.0)}


async def test_a_soft_batch_makes_stale() -> None:
    log, told = local()
    held = entry(log, "x", 1000.0)
    await told.invalidate([(Kind.ALL, "")], "somebody", soft=True)
    judged = log.judge(held, held.seq)
    assert judged is not None
    assert judged.fresh_until < held.fresh_until


async def test_there_is_nobody_to_announce_to() -> None:
    log, told = local()
    await told.announce([tag("x")])
    assert log.position == 0, "it was applied by whoever announces it"


async def test_the_last_thousand_batches_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_log, "MAX_BATCHES", 3)
    _, told = local()
    batches = [await told.invalidate([tag("x")], "somebody", soft=False) for _ in range(4)]
    assert len(set(batches)) == 4
    known = [await told.progress(batch, 0.0) is not None for batch in batches]
    assert known == [False, True, True, True]
    assert await told.progress("none", 0.0) is None


async def test_nothing_is_no_batch() -> None:
    _, told = local()
    with pytest.raises(ValueError, match="nothing"):
        await told.invalidate([], "somebody", soft=False)


async def test_the_only_one_is_always_in_step() -> None:
    log, told = local()
    assert await told.places() == Places(0, {"me": 0})
    await told.invalidate([tag("x"), tag("y")], "somebody", soft=False)
    assert await told.places() == Places(log.position, {"me": log.position})
    assert log.position == 2
    assert told.instance == "me"
