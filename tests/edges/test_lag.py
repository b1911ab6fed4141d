"""The sweep that watches over connections sees whether the loop is late."""

from typing import Any, NoReturn

from proxy.edges.listener import Listener
from proxy.edges.shared import SWEEP, Shared
from proxy.flow.heads import Heads
from proxy.flow.tally import BOUNDS
from proxy.rules.limits import Limits
from tests.edges.kit import until


def _never(*_: object, **__: object) -> NoReturn:
    raise AssertionError("nobody asks for anything")


async def test_a_loop_that_was_late_is_seen_by_the_sweep() -> None:
    at = 100.0
    listener: Listener[Any] = Listener(Shared(Heads(_never), _never, _never, _never, lambda: at, Limits()))
    await listener.listen("127.0.0.1", 0)
    lag = listener.shared.lag
    assert sum(lag.counts) == 0, "the first sweep has nothing to be compared with"
    at += SWEEP + 0.2
    await until(lambda: sum(lag.counts) > 0)
    listener.close()
    assert [bound for bound, count in zip(BOUNDS, lag.counts, strict=False) if count] == [0.25]
