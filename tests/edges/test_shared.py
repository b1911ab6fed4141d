"""What all connections have in common: one sweep for all, and one opinion on whom to believe."""

import asyncio
from ipaddress import ip_network

from proxy.edges.shared import SWEEP, Shared
from proxy.flow.heads import Heads
from tests.edges.kit import LIMITS, FakeClock, Pending, Read


class Held:
    """A connection that notes what is asked of it."""

    def __init__(self) -> None:
        self.checked: list[float] = []
        self.settled = 0

    def check(self, now: float) -> None:
        self.checked.append(now)

    def settle_trust(self) -> None:
        self.settled += 1

    def close_if_idle(self) -> None:
        raise AssertionError

    def abort(self) -> None:
        raise AssertionError


def _spawn(_work: Pending, _name: str) -> asyncio.Task[None]:
    raise AssertionError


def shared(clock: FakeClock) -> Shared[Read]:
    return Shared(Heads(lambda request, **_: Read(request)), lambda *_: False, lambda *_: None, _spawn, clock, LIMITS)


def test_a_sweep_looks_at_every_connection_at_one_time() -> None:
    clock = FakeClock()
    made = shared(clock)
    held = [Held(), Held()]
    made.connections.update(held)
    clock.time += 3.0
    made.sweep()
    assert [one.checked for one in held] == [[clock.time]] * 2
    assert made.idle_until == clock.time + LIMITS.idle_timeout + SWEEP


def test_a_connection_that_goes_while_it_is_looked_at_does_not_stop_the_sweep() -> None:
    made = shared(FakeClock())

    class Going(Held):
        def check(self, now: float) -> None:
            super().check(now)
            made.connections.discard(self)

    held = [Going(), Going()]
    made.connections.update(held)
    made.sweep()
    assert [len(one.checked) for one in held] == [1, 1]
    assert not made.connections


def test_open_connections_hear_of_other_trusted_networks_and_of_nothing_else() -> None:
    made = shared(FakeClock())
    one = Held()
    made.connections.add(one)
    made.trust(())
    assert one.settled == 0
    made.trust((ip_network("10.0.0.0/8"),))
    assert (one.settled, made.is_trusted("10.1.2.3"), made.is_trusted("11.1.2.3")) == (1, True, False)
    made.trust((ip_network("10.0.0.0/8"),))
    assert one.settled == 1
    made.trust((ip_network("11.0.0.0/8"), ip_network("::1/128")))
    assert (one.settled, made.is_trusted("10.1.2.3"), made.is_trusted("11.1.2.3")) == (2, False, True)
    assert made.is_trusted("::1")
    assert not made.is_trusted("")
