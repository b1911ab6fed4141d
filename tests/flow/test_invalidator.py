"""What every door to an invalidation has in common."""

import logging
from collections.abc import Sequence

import pytest

from proxy.flow.invalidation import InvalidationLog, Kind, Target
from proxy.flow.invalidator import Denied, Invalidator
from proxy.flow.local_log import LocalLog
from proxy.flow.sharing import LogUnreachable
from proxy.flow.throttle import Throttle
from proxy.rules.message import Reason

TARGETS = [(Kind.TAG, "x"), (Kind.HOST, "h")]


class Clock:
    at = 0.0

    def __call__(self) -> float:
        return self.at


def invalidator(burst: int = 10) -> tuple[InvalidationLog, Invalidator, Clock]:
    log, clock = InvalidationLog(), Clock()
    return log, Invalidator(LocalLog(log, "me", clock), Throttle(clock, rate=2.0, burst=burst)), clock


async def test_it_is_written_applied_and_logged_with_who_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log, doors, _ = invalidator()
    identity = await doors.write(TARGETS, 2, "two things", "somebody", soft=False)
    assert log.position == 2
    assert caplog.messages == [f"invalidation {identity}: two things, asked for by somebody"]
    progress = await doors.progress(identity, 0.0)
    assert progress is not None
    assert (set(progress.applied), progress.pending) == ({"me"}, ())


async def test_beyond_the_throttle_nothing_is_written_until_as_much_has_come_as_is_said() -> None:
    log, doors, clock = invalidator()
    await doors.write(TARGETS, 10, "", "", soft=False)
    with pytest.raises(Denied, match=r"^Nothing was invalidated: .* Ask again in 3 s;") as denied:
        await doors.write(TARGETS, 5, "", "", soft=False)
    assert (denied.value.reason, denied.value.after) == (Reason.TOO_MANY_INVALIDATIONS, 3)
    assert log.position == 2
    clock.at += denied.value.after
    await doors.write(TARGETS, 5, "", "", soft=False)
    assert log.position == 4


@pytest.mark.parametrize(
    ("sent", "detail", "logged"),
    [
        (False, "Nothing was invalidated, here or anywhere else", "invalidation refused, as the log cannot be reached"),
        (True, "It may have been applied, and may still be", "invalidation not confirmed by the log"),
    ],
)
async def test_what_the_log_does_not_take_is_denied_and_logged(
    sent: bool, detail: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Down(LocalLog):
        async def invalidate(self, targets: Sequence[Target], who: str, *, soft: bool) -> str:
            raise LogUnreachable(f"{who}, {len(targets)}, {soft}", sent=sent)

    clock = Clock()
    doors = Invalidator(Down(InvalidationLog(), "me", clock), Throttle(clock))
    with pytest.raises(Denied) as denied:
        await doors.write(TARGETS, 2, "two things", "somebody", soft=True)
    assert (denied.value.reason, denied.value.after) == (Reason.LOG_UNREACHABLE, 1)
    assert denied.value.detail.startswith(detail)
    assert caplog.messages == [f"{logged}: two things, asked for by somebody"]
