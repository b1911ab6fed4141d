"""How many may be at something at once: never too many, in the order they came, and no place is ever lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Final, TypeVarTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.flow.gate import Full, Gate, Gates
from proxy.rules.quota import GateRule

Args = TypeVarTuple("Args")

ONE: Final = GateRule(requests=1, queue=2, wait=1.0)


@asynccontextmanager
async def within(gate: Gate) -> AsyncIterator[None]:
    await gate.enter()
    try:
        yield
    finally:
        gate.leave()


@asynccontextmanager
async def at(gates: Gates, client: str) -> AsyncIterator[None]:
    await gates.enter(client)
    try:
        yield
    finally:
        gates.leave(client)


class Turning(asyncio.SelectorEventLoop):
    """A loop whose time stands still until it is told otherwise."""

    now = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._handles: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._handles.append(handle := super().call_at(when, callback, *args, context=context))
        return handle

    @property
    def timers(self) -> int:
        """How many will still go off."""
        return sum(not handle.cancelled() and handle.when() > self.now for handle in self._handles)


async def settle() -> None:
    """Everybody has gone as far as they can."""
    for _ in range(8):
        await asyncio.sleep(0)


async def pass_time(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Turning)
    loop.now += seconds
    await settle()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    with asyncio.Runner(loop_factory=Turning) as runner:
        runner.run(main())


class Crowd:
    """Who goes through a gate, by number in the order they come."""

    def __init__(self, rule: GateRule) -> None:
        self.rule, self.gate = rule, Gate(rule)
        self.inside: list[int] = []
        self.refused: list[int] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._may_leave: dict[int, asyncio.Event] = {}

    def come(self) -> int:
        number = len(self.tasks)
        self._may_leave[number] = asyncio.Event()
        self.tasks[number] = asyncio.create_task(self._go_through(number))
        return number

    async def _go_through(self, number: int) -> None:
        try:
            async with within(self.gate):
                self.inside.append(number)
                self.check()
                try:
                    await self._may_leave[number].wait()
                finally:
                    self.inside.remove(number)
        except Full:
            self.refused.append(number)

    def go(self, number: int) -> None:
        self._may_leave[number].set()

    def change(self, rule: GateRule) -> None:
        self.rule = rule
        self.gate.change(rule)

    @staticmethod
    def timers() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Turning)
        return loop.timers

    def check(self) -> None:
        assert len(self.inside) <= self.gate.inside <= self.rule.requests
        assert self.gate.waiting <= self.rule.queue
        full = self.gate.inside >= self.gate.rule.requests
        assert full or not self.gate.waiting, "somebody waits beside a free place"

    async def end(self) -> None:
        """All leave, and nothing is left of them."""
        for may in self._may_leave.values():
            may.set()
        await pass_time(self.rule.wait * 2)
        await settle()
        assert all(task.done() for task in self.tasks.values())
        assert (self.gate.inside, self.gate.waiting, self.inside) == (0, 0, [])
        assert self.timers() == 0


# -- one gate


def test_who_finds_room_enters_at_once_and_a_place_that_is_left_goes_to_the_first_who_waits() -> None:
    async def test() -> None:
        crowd = Crowd(ONE)
        for _ in range(3):
            crowd.come()
        await settle()
        assert crowd.inside == [0]
        crowd.go(0)
        await settle()
        assert crowd.inside == [1]
        crowd.come()
        crowd.go(1)
        await settle()
        assert crowd.inside == [2]
        await crowd.end()

    run(test)


def test_beyond_the_queue_one_is_refused_at_once_and_told_when_the_queue_will_be_gone() -> None:
    async def test() -> None:
        gate = Gate(GateRule(requests=1, queue=0, wait=2.5))
        async with within(gate):
            with pytest.raises(Full) as refused:
                await gate.enter()
        assert refused.value.after == 3
        await gate.enter()
        assert gate.inside == 1

    run(test)


def test_who_has_waited_for_long_enough_is_refused_and_those_behind_keep_their_own_time() -> None:
    async def test() -> None:
        crowd = Crowd(ONE)
        crowd.come()
        crowd.come()
        await settle()
        await pass_time(0.5)
        crowd.come()
        await settle()
        await pass_time(0.49)
        assert crowd.refused == []
        await pass_time(0.02)
        assert crowd.refused == [1]
        await pass_time(0.48)
        assert crowd.refused == [1]
        await pass_time(0.02)
        assert crowd.refused == [1, 2]
        await crowd.end()

    run(test)


def test_who_gives_up_waiting_makes_room_in_the_queue_and_loses_nobody_a_place() -> None:
    async def test() -> None:
        crowd = Crowd(ONE)
        for _ in range(3):
            crowd.come()
        await settle()
        crowd.tasks[1].cancel()
        await settle()
        assert crowd.gate.waiting == 1
        late = crowd.come()
        crowd.go(0)
        await settle()
        assert (crowd.inside, crowd.refused) == ([2], [])
        crowd.go(2)
        await settle()
        assert crowd.inside == [late]
        await crowd.end()

    run(test)


@pytest.mark.parametrize("first", ["leaves", "gives up"])
def test_a_place_that_comes_in_the_moment_in_which_its_waiter_gives_up_goes_to_the_next(first: str) -> None:
    async def test() -> None:
        crowd = Crowd(ONE)
        await crowd.gate.enter()
        crowd.come()
        crowd.come()
        await settle()
        if first == "gives up":
            crowd.tasks[0].cancel()
        crowd.gate.leave()
        if first == "leaves":
            crowd.tasks[0].cancel()
        await settle()
        assert crowd.inside == [1]
        assert crowd.tasks[0].cancelled()
        await crowd.end()

    run(test)


def test_a_gate_that_grows_lets_in_who_waits() -> None:
    async def test() -> None:
        crowd = Crowd(ONE)
        for _ in range(3):
            crowd.come()
        await settle()
        assert crowd.inside == [0]
        crowd.change(GateRule(requests=2, queue=2, wait=1.0))
        await settle()
        assert crowd.inside == [0, 1]
        crowd.check()
        await crowd.end()

    run(test)


def test_a_gate_that_shrinks_lets_nobody_in_until_enough_have_left() -> None:
    async def test() -> None:
        crowd = Crowd(GateRule(requests=3, queue=2, wait=9.0))
        for _ in range(5):
            crowd.come()
        await settle()
        crowd.change(GateRule(requests=1, queue=1, wait=9.0))
        assert crowd.gate.waiting == 2, "who was promised to wait waits"
        crowd.come()
        await settle()
        assert crowd.refused == [5]
        for leaving in (0, 1):
            crowd.go(leaving)
            await settle()
            assert 3 not in crowd.inside
        crowd.go(2)
        await settle()
        assert crowd.inside == [3]
        await crowd.end()

    run(test)


@pytest.mark.parametrize(("wait", "first", "second"), [(4.0, 2.0, 4.5), (1.0, 1.5, 1.5)])
def test_nobody_waits_for_longer_than_was_the_rule_when_it_came_nor_than_is_the_rule_now(
    wait: float, first: float, second: float
) -> None:
    async def test() -> None:
        crowd, loop = Crowd(GateRule(requests=1, queue=9, wait=2.0)), asyncio.get_running_loop()
        crowd.come()
        crowd.come()
        await settle()
        await pass_time(0.5)
        crowd.change(GateRule(requests=1, queue=9, wait=wait))
        crowd.come()
        await settle()
        assert crowd.timers() == 1
        while loop.time() < second:
            await pass_time(0.25)
            assert crowd.refused == [number for number, end in ((1, first), (2, second)) if end <= loop.time()]
        await crowd.end()

    run(test)


def test_the_gates_of_all_clients_obey_a_new_rule() -> None:
    async def test() -> None:
        gates = Gates(GateRule(requests=1, queue=2))
        async with at(gates, "a"):
            second = asyncio.create_task(gates.enter("a"))
            await settle()
            assert not second.done()
            gates.change(GateRule(requests=2, queue=0))
            await settle()
            assert second.done()
            with pytest.raises(Full):
                await gates.enter("a")
            async with at(gates, "b"), at(gates, "b"):
                gates.leave("a")
        assert len(gates) == 0

    run(test)


async def test_the_time_is_also_kept_on_the_loop_that_serves() -> None:
    gate = Gate(GateRule(requests=1, queue=1, wait=0.005))
    async with within(gate):
        with pytest.raises(Full):
            await gate.enter()
    assert (gate.inside, gate.waiting) == (0, 0)


rules = st.builds(GateRule, st.integers(1, 3), st.integers(0, 3), st.just(1.0))
moves = st.one_of(
    st.just(("come", 0)),
    st.tuples(st.sampled_from(["go", "cancel"]), st.integers(0, 30)),
    st.tuples(st.just("wait"), st.integers(1, 12)),
)


@settings(max_examples=300, deadline=None)
@given(rules, st.lists(moves, max_size=40))
def test_every_schedule_does_what_a_list_would_say(rule: GateRule, schedule: list[tuple[str, int]]) -> None:
    async def test() -> None:
        crowd, loop = Crowd(rule), asyncio.get_running_loop()
        inside: list[int] = []
        queue: dict[int, float] = {}  # who waits until when, in order
        refused: list[int] = []

        def admit() -> None:
            for number in [*queue][: rule.requests - len(inside)]:
                del queue[number]
                inside.append(number)

        for move, number in schedule:
            if move == "come":
                new = crowd.come()
                if len(inside) < rule.requests:
                    inside.append(new)
                elif len(queue) < rule.queue:
                    queue[new] = loop.time() + rule.wait
                else:
                    refused.append(new)
            elif move == "go" and inside:
                leaving = inside.pop(number % len(inside))
                crowd.go(leaving)
                admit()
            elif move == "cancel" and (alive := [*inside, *queue]):
                leaving = alive[number % len(alive)]
                crowd.tasks[leaving].cancel()
                inside = [other for other in inside if other != leaving]
                queue.pop(leaving, None)
                admit()
            elif move == "wait":
                await pass_time(number / 8)  # exact in binary, as time is here
                for late in [other for other, until in queue.items() if until <= loop.time()]:
                    del queue[late]
                    refused.append(late)
            await settle()
            crowd.check()
            assert (crowd.inside, crowd.refused) == (inside, refused)
            assert crowd.gate.waiting == len(queue)
            assert crowd.timers() == bool(queue), "one timer while somebody waits, and none that keeps an idle gate"
        await crowd.end()

    run(test)


@settings(max_examples=300, deadline=None)
@given(rules, st.lists(st.lists(moves, max_size=6), max_size=15))
def test_whatever_happens_in_one_tick_no_place_is_lost_or_given_twice(
    rule: GateRule, ticks: list[list[tuple[str, int]]]
) -> None:
    async def test() -> None:
        crowd, loop = Crowd(rule), asyncio.get_running_loop()
        assert isinstance(loop, Turning)
        for tick in ticks:
            for move, number in tick:
                if move == "come":
                    crowd.come()
                elif move == "wait":
                    loop.now += number / 8
                elif crowd.tasks:
                    who = number % len(crowd.tasks)
                    crowd.go(who) if move == "go" else crowd.tasks[who].cancel()
            await asyncio.sleep(0)
            crowd.check()
        await settle()
        crowd.check()
        assert crowd.gate.inside == len(crowd.inside)
        await crowd.end()

    run(test)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(moves | st.tuples(st.just("change"), st.integers(0, 11)), max_size=6), max_size=15))
def test_nor_is_one_when_the_rule_changes(ticks: list[list[tuple[str, int]]]) -> None:
    async def test() -> None:
        crowd, loop = Crowd(GateRule(3, 3, 2.0)), asyncio.get_running_loop()
        assert isinstance(loop, Turning)
        for tick in ticks:
            for move, number in tick:
                if move == "come":
                    crowd.come()
                elif move == "change":
                    crowd.gate.change(GateRule(1 + number % 3, number // 3, 1.0 + number % 2))
                elif move == "wait":
                    loop.now += number / 8
                elif crowd.tasks:
                    who = number % len(crowd.tasks)
                    crowd.go(who) if move == "go" else crowd.tasks[who].cancel()
            await asyncio.sleep(0)
            crowd.check()
            assert crowd.timers() <= 1
        await settle()
        crowd.check()
        assert crowd.gate.inside == len(crowd.inside)
        await crowd.end()

    run(test)


# -- one for each client


def test_clients_do_not_take_each_other_s_places() -> None:
    async def test() -> None:
        gates = Gates(GateRule(requests=1, queue=0))
        async with at(gates, "a"), at(gates, "b"):
            for client in ("a", "b"):
                with pytest.raises(Full):
                    await gates.enter(client)
            assert len(gates) == 2
            assert (seen := gates.gate("a")) is not None
            assert seen.inside == 1
        assert len(gates) == 0
        assert gates.gate("a") is None

    run(test)


def test_so_many_clients_and_no_more_are_inside() -> None:
    async def test() -> None:
        gates = Gates(GateRule(requests=2, queue=0), room=2)
        await gates.enter("a")
        await gates.enter("b")
        with pytest.raises(Full) as refused:
            await gates.enter("c")
        assert refused.value.after == 1
        await gates.enter("a")
        assert len(gates) == 2
        gates.leave("b")
        await gates.enter("c")

    run(test)


async def test_who_is_refused_is_counted_and_who_gives_up_is_not() -> None:
    gates = Gates(GateRule(1, 1, 60.0), room=1)
    await gates.enter("a")
    gate = gates.gate("a")
    assert gate is not None
    assert (gate.full, gate.waiting) == (False, 0), "one may wait"
    waiter = asyncio.create_task(gates.enter("a"))
    await asyncio.sleep(0)
    assert (gate.full, gate.waiting) == (True, 1)
    for client in ("a", "b"):
        with pytest.raises(Full):
            await gates.enter(client)
    waiter.cancel()
    await asyncio.wait([waiter])
    assert (gate.full, gate.refused, gates.refused) == (False, 1, 2)
    gates.leave("a")


def test_a_client_whose_last_place_came_when_nobody_wanted_it_any_more_is_forgotten() -> None:
    async def test() -> None:
        gates = Gates(ONE)
        await gates.enter("a")
        waiting = asyncio.create_task(gates.enter("a"))
        await settle()
        gates.leave("a")
        waiting.cancel()
        await settle()
        assert len(gates) == 0

    run(test)


def test_who_comes_back_from_a_wait_in_vain_does_not_close_a_gate_that_others_have_opened_since() -> None:
    async def test() -> None:
        gates = Gates(ONE)
        await gates.enter("a")
        waiting = asyncio.create_task(gates.enter("a"))
        await settle()
        waiting.cancel()  # which it does not know before the next tick
        gates.leave("a")
        await gates.enter("a")
        opened = gates.gate("a")
        await settle()
        assert gates.gate("a") is opened
        assert len(gates) == 1
        gates.leave("a")
        assert len(gates) == 0

    run(test)


@settings(max_examples=150, deadline=None)
@given(rules, st.lists(st.tuples(moves, st.sampled_from("abc")), max_size=40))
def test_no_gate_is_left_of_whoever_came(rule: GateRule, schedule: list[tuple[tuple[str, int], str]]) -> None:
    async def test() -> None:
        gates, loop = Gates(rule, room=2), asyncio.get_running_loop()
        assert isinstance(loop, Turning)
        leave = [asyncio.Event() for _ in schedule]
        tasks: list[asyncio.Task[None]] = []
        inside: list[str] = []

        async def visit(client: str, may: asyncio.Event) -> None:
            try:
                async with at(gates, client):
                    inside.append(client)
                    assert inside.count(client) <= rule.requests
                    try:
                        await may.wait()
                    finally:
                        inside.remove(client)
            except Full:
                pass

        for (move, number), client in schedule:
            if move == "come":
                tasks.append(asyncio.create_task(visit(client, leave[len(tasks)])))
            elif move == "wait":
                loop.now += number / 8
                await asyncio.sleep(0)
            elif tasks:
                who = number % len(tasks)
                leave[who].set() if move == "go" else tasks[who].cancel()
            assert len(gates) <= 2
        await settle()
        assert len(gates) == len(set(inside))
        for may in leave:
            may.set()
        await pass_time(2.0)
        await settle()
        assert all(task.done() for task in tasks)
        assert not any(task.exception() for task in tasks if not task.cancelled())
        assert len(gates) == 0

    run(test)
