"""What a request pays: the costs of every way to an answer, refusals, and what a response says."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from proxy.edges.buckets import LocalBuckets
from proxy.flow.limiter import Limit
from proxy.flow.sharing import Apart, Found
from proxy.rules.message import Reason
from proxy.rules.quota import By, GateRule, Quota
from tests.flow.kit import FRESH, PLAIN, STALEABLE, FakeClient, World, request
from tests.flow.test_fleet import FakeShared, elsewhere

BURST = 10.0
ME = FakeClient.peer


def quota(name: str = "all", rate: float = 0.5, burst: float = BURST, **more: object) -> Quota:
    return Quota(name, rate, burst, **{"hit": 0.25, "miss": 2.0, **more})  # type: ignore[arg-type]


def _unasked() -> float:
    raise AssertionError("in memory everything is known at once")


class Limited(World):
    """A route with limits, and buckets that know its clock."""

    def __init__(self, *quotas: Quota, **more: object) -> None:
        limits = [Limit(each, LocalBuckets(each.rate, each.burst, _unasked)) for each in quotas]
        super().__init__(limits=limits, **more)  # type: ignore[arg-type]

    def spent(self, client: str = ME) -> float:
        """Tokens that are missing from the client's first bucket."""
        limit = self.limits[0]
        return limit.quota.burst - limit.buckets.left(client, self.clock.now())


async def fetched(w: World, *written: str, target: str = "/a", status: int = 200, **how: object) -> FakeClient:
    client = w.ask(target=target, **how)  # type: ignore[arg-type]
    await w.idle()
    w.last.reply(*written, body=b"old", status=status)
    await w.idle()
    assert client.done
    return client


async def test_a_miss_costs_a_miss_and_a_hit_a_hit() -> None:
    async with Limited(quota()) as w:
        await fetched(w, FRESH)
        assert w.spent() == 2.0
        assert w.ask().how == "readthrough; hit; ttl=60"
        assert w.spent() == 2.25


async def test_a_hit_that_is_not_plain_costs_a_hit() -> None:
    async with Limited(quota()) as w:
        await fetched(w, FRESH)
        assert w.ask("Cache-Control: max-age=10").how == "readthrough; hit; ttl=60"
        assert w.spent() == 2.25


async def test_a_stale_hit_costs_a_hit_and_the_refresh_behind_it_nothing() -> None:
    async with Limited(quota()) as w:
        await fetched(w, STALEABLE)
        w.clock.at += 61.0
        before = w.spent()
        assert w.ask().how == "readthrough; hit; ttl=-1"
        await w.idle()
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert len(w.calls) == 2
        assert w.spent() == before + 0.25


async def test_a_revalidation_costs_a_miss() -> None:
    async with Limited(quota()) as w:
        await fetched(w, "Cache-Control: max-age=10", 'ETag: "1"')
        w.clock.at += 11.0
        before = w.spent()
        client = w.ask()
        await w.idle()
        w.last.reply(FRESH, status=304)
        await w.idle()
        assert "fwd-status=304" in client.how
        assert w.spent() == before + 2.0


async def test_a_collapsed_follower_is_given_back_what_a_miss_costs_more() -> None:
    async with Limited(quota()) as w:
        clients = [w.ask() for _ in range(3)]
        await w.idle()
        assert w.spent() == 6.0, "each might have had to go itself"
        w.last.reply(FRESH, body=b"one")
        await w.idle()
        assert [client.got for client in clients] == [b"one"] * 3
        assert len(w.calls) == 1
        assert w.spent() == 2.0 + 2 * 0.25


async def test_an_answer_from_the_shared_store_costs_a_hit() -> None:
    entry = await elsewhere(FRESH)
    shared = FakeShared()
    async with Limited(quota(), shared=shared) as w:
        client = w.ask()
        await w.idle()
        shared.say(Found(entry))
        await w.idle()
        assert client.got == b"theirs"
        assert w.spent() == 0.25


async def test_an_answer_from_the_shared_store_is_told_what_is_left_and_takes_no_task() -> None:
    entry = await elsewhere(FRESH)
    shared = FakeShared()
    async with Limited(quota(), shared=shared) as w:
        client, work = w.plan()
        assert work is None
        await w.idle()
        shared.say(Found(entry))
        await w.idle()
        assert (client.done, client.task) == (True, None)
        assert client.fields["ratelimit"].startswith('"all";r=')
        assert client.fields["ratelimit-policy"] == w.ask().fields["ratelimit-policy"]


async def test_who_leaves_before_the_upstream_is_asked_pays_a_hit() -> None:
    shared = FakeShared()
    async with Limited(quota(), shared=shared) as w:
        client = w.ask()
        await w.idle()
        client.leave()
        shared.say(Apart())
        await w.idle()
        assert w.calls == []
        assert w.spent() == 0.25


async def test_a_pass_through_and_an_error_of_the_upstream_cost_a_miss() -> None:
    async with Limited(quota()) as w:
        await fetched(w, "Cache-Control: no-store")
        await fetched(w, status=500, target="/b")
        await fetched(w, method="POST", target="/c")
        assert w.spent() == 6.0


async def test_who_has_too_little_left_is_refused_with_the_time_to_wait() -> None:
    async with Limited(quota(burst=3.0)) as w:
        await fetched(w, FRESH)
        refused = w.ask(target="/b")
        assert refused.status == 429
        assert refused.fields["retry-after"] == "2"
        assert refused.fields["content-type"] == "application/problem+json"
        assert b'"urn:readthrough:error:rate-limited"' in refused.got
        assert refused.how == "readthrough; detail=rate-limited"
        assert refused.fields["ratelimit-policy"] == '"all";q=3;w=6'
        assert refused.fields["ratelimit"] == '"all";r=1;t=4'
        assert len(w.calls) == 1
        w.clock.at += 2.0
        again = w.ask(target="/b")
        await w.idle()
        w.last.reply(FRESH, body=b"b")
        await w.idle()
        assert again.got == b"b", "waiting as told is enough"
        tally = w.tallies.limits["all"]
        assert (tally.refused, tally.stale) == (1, 0)
        [most] = w.tallies.refused.top(5)
        assert most.key == f"all\nall\n{ME}"


async def test_a_refused_hit_is_refused_with_every_header_and_nothing_is_paid() -> None:
    async with Limited(quota(burst=2.0, rate=0.001)) as w:
        await fetched(w, FRESH)
        for _ in range(3):
            refused = w.ask()
            assert (refused.status, refused.fields["retry-after"]) == (429, "250")
        assert w.spent() == pytest.approx(2.0)


async def test_answers_say_what_is_left() -> None:
    async with Limited(quota(), quota("day", rate=0.1, burst=100.0, hit=1.0)) as w:
        miss = await fetched(w, FRESH)
        assert miss.fields["ratelimit-policy"] == '"all";q=10;w=20, "day";q=100;w=1000'
        assert miss.fields["ratelimit"] == '"all";r=8;t=4, "day";r=98;t=20'
        hit = w.ask()
        assert hit.fields["ratelimit"] == '"all";r=7;t=6, "day";r=97;t=30'
        assert hit.fields["cache-status"] == "readthrough; hit; ttl=60"


@pytest.mark.parametrize("uptime", [12_350.563, 987_654.321, 9_876_543.21])
async def test_what_is_left_is_not_rounded_away(uptime: float) -> None:
    async with Limited(quota(rate=1 / 3600, burst=3.0, hit=1.0, miss=1.0)) as w:
        w.clock.at = uptime
        miss = await fetched(w, FRESH)
        assert miss.fields["ratelimit"] == '"all";r=2;t=3600'
        assert w.ask().fields["ratelimit"] == '"all";r=1;t=7200'
        assert w.ask().fields["ratelimit"] == '"all";r=0;t=10800'
        refused = w.ask()
        assert (refused.status, refused.fields["ratelimit"]) == (429, '"all";r=0;t=10800')


class Told(LocalBuckets):
    """Buckets in which there is always what they were told."""

    now_left = 0.0

    def take(self, client: str, cost: float, now: float) -> float:  # noqa: ARG002 - as its base
        return self.now_left


async def test_a_hit_says_of_what_is_left_what_any_other_answer_says() -> None:
    all_of_them = quota(burst=1e6)
    buckets = Told(all_of_them.rate, all_of_them.burst, _unasked)
    async with World(limits=[Limit(all_of_them, buckets)]) as w:
        await fetched(w, FRESH)
        lefts = [0.0, 0.9, 0.9999995, 1.0, 1.2, 0.2, 41.0, 40.99, 4095.5, 4095.9999999, 4096.0, 4096.9, 4100.0, 4159.9]
        for left in [*lefts, 4160.0, 4095.0, 999_999.9, 999_936.0, 999_935.9, 1.0, *reversed(lefts)]:
            buckets.now_left = left
            client = w.ask()
            limiter = w.exchange.site.lanes["all"].limiter
            assert limiter is not None
            permit = limiter.pay((None,), ME, 0.0, miss=False)
            assert permit is not None
            assert permit.told in client.raw, f"of {left}"


async def test_of_several_limits_all_are_paid_or_none_and_the_longest_wait_is_told() -> None:
    async with Limited(quota(), quota("day", rate=0.01, burst=3.0)) as w:
        await fetched(w, FRESH)
        refused = w.ask(target="/b")
        assert (refused.status, refused.fields["retry-after"]) == (429, "100")
        assert w.spent() == 2.0
        assert w.limits[1].buckets.left(ME, w.clock.now()) == pytest.approx(1.0)


async def test_each_value_of_a_header_has_a_bucket_and_it_is_known_by_a_hash() -> None:
    async with Limited(quota(burst=2.0, by=By.HEADER, header="x-api-key")) as w:
        one = w.ask("X-Api-Key: one", target="/1")
        two = w.ask("X-Api-Key: two", target="/2")
        assert w.ask("X-Api-Key: one", target="/3").status == 429
        await w.idle()
        for call in w.calls:
            call.reply(FRESH, body=b"x")
        await w.idle()
        assert (one.status, two.status) == (200, 200)
        [most] = w.tallies.refused.top(5)
        assert "one" not in most.key


async def test_a_forwarded_address_counts_where_the_peer_is_trusted_and_nowhere_else() -> None:
    forged = "X-Forwarded-For: 203.0.113.9"
    async with Limited(quota(burst=2.0), trusted=(ip_network("192.0.2.0/24"),)) as w:
        for trusted, client, target in ((False, ME, "/1"), (True, "203.0.113.9", "/2")):
            before = w.spent(client)
            caller = FakeClient()
            asked = w.exchange.read(request(forged, target=target), trusted=trusted)
            work = w.exchange.begin(asked, caller)
            w.clients.append(caller)
            w.run(caller, work)
            await w.idle()
            w.last.reply(FRESH, body=b"x")
            await w.idle()
            assert w.spent(client) == before + 2.0


async def test_over_the_limit_a_stale_answer_may_stand_in() -> None:
    async with Limited(quota(burst=2.0, rate=0.01, serve_stale=True), policy=PLAIN) as w:
        await fetched(w, "Cache-Control: max-age=10, stale-if-error=100")
        w.clock.at += 20.0
        stale = w.ask()
        assert (stale.status, stale.got) == (200, b"old")
        assert stale.how == "readthrough; hit; ttl=-10; detail=rate-limited"
        assert len(w.calls) == 1
        w.clock.at += 200.0 - 100.0
        assert w.ask().status == 429, "what nobody may use any more does not"
        tally = w.tallies.limits["all"]
        assert (tally.refused, tally.stale) == (1, 1)


DAILY = quota("daily", 1e-6, 2.0, serve_stale=True)


@pytest.mark.parametrize("limits", [(quota(hit=1.0, burst=4.0), DAILY), (DAILY, quota(hit=1.0, burst=4.0))])
async def test_what_stands_in_for_a_refusal_is_paid_where_nothing_else_refuses(limits: tuple[Quota, ...]) -> None:
    """So a limit that is spent for the day does not switch off the one for the second."""
    async with Limited(*limits) as w:
        await fetched(w, FRESH)
        spent = [w.ask() for _ in range(5)]
        assert [client.how for client in spent] == [
            *["readthrough; hit; ttl=60; detail=rate-limited"] * 2,
            *["readthrough; detail=rate-limited"] * 3,
        ]
        assert [client.status for client in spent] == [200, 200, 429, 429, 429]
        assert int(spent[-1].fields["retry-after"]) > 1_000, "the longest wait of all"
        w.clock.at += 4.0
        assert [w.ask().status for _ in range(3)] == [200, 200, 429], "a refusal costs nothing"


async def test_a_stale_answer_in_place_of_a_fetch_is_paid_as_a_hit_and_none_as_nothing() -> None:
    async with Limited(quota(), DAILY, policy=PLAIN) as w:
        await fetched(w, "Cache-Control: max-age=10, stale-if-error=100")
        w.clock.at += 20.0
        before = w.spent()
        assert w.ask().how == "readthrough; hit; ttl=-10; detail=rate-limited"
        assert w.spent() == before + 0.25
        assert w.ask(target="/b").status == 429
        assert w.spent() == before + 0.25
        assert len(w.calls) == 1


async def test_whoever_is_not_known_to_refuse_is_asked_before_something_stale_stands_in() -> None:
    hard, soft = Asking(0.5, 4.0), LocalBuckets(DAILY.rate, DAILY.burst, _unasked)
    hard.gate.set()
    async with World(limits=[Limit(DAILY, soft), Limit(quota(hit=1.0, burst=4.0), hard)]) as w:
        await fetched(w, FRESH)
        statuses = []
        for _ in range(4):
            client = w.ask()
            await w.idle()
            statuses.append(client.status)
        assert statuses == [200, 200, 429, 429]


@pytest.mark.parametrize(
    ("rate", "burst", "seconds"),
    [(11 / 60, 11.0, 60), (21 / 60, 21.0, 60), (1.0, 1.0, 1), (0.5, 1.0, 2), (9.0, 1.0, 1)],
)
async def test_the_window_is_the_time_in_which_the_burst_comes(rate: float, burst: float, seconds: int) -> None:
    async with Limited(quota(rate=rate, burst=burst, miss=1.0)) as w:
        client = await fetched(w, FRESH)
        assert client.fields["ratelimit-policy"] == f'"all";q={int(burst)};w={seconds}'


async def test_a_stale_answer_is_counted_with_the_request_at_its_end() -> None:
    large = b"x" * 300_000
    async with Limited(quota(burst=2.0, rate=0.01, serve_stale=True)) as w:
        first = w.ask()
        await w.idle()
        w.last.reply("Cache-Control: max-age=10, stale-if-error=100", body=large)
        await w.idle()
        assert first.got == large
        w.clock.at += 20.0
        slow, work = w.plan()
        slow.refuse_to_read()
        w.run(slow, work)
        await w.idle()
        assert w.tallies.limits == {}, (
            "what is counted first makes those that were allowed fewer, which no counter may be"
        )
        slow.read()
        await w.idle()
        assert slow.got == large
        assert w.tallies.limits["all"].stale == 1


async def test_a_refused_post_is_answered_before_its_body_is_read() -> None:
    async with Limited(quota(burst=2.0)) as w:
        await fetched(w, FRESH)
        assert w.ask(method="POST", upload=[b"body"]).status == 429
        assert len(w.calls) == 1


class Asking(LocalBuckets):
    """Buckets of which only somebody else knows, who answers when the gate opens."""

    def __init__(self, rate: float, burst: float) -> None:
        super().__init__(rate, burst, lambda: 0.0)
        self.gate = asyncio.Event()
        self.asked: list[float] = []

    def take(self, *_: object) -> None:  # type: ignore[override]
        return None

    async def ask(self, client: str, cost: float) -> float:
        self.asked.append(cost)
        await self.gate.wait()
        return super().take(client, cost, 0.0)

    def give_back(self, client: str, amount: float, now: float) -> None:
        super().give_back(client, amount, 0.0 * now)


async def test_a_request_waits_for_whoever_keeps_its_bucket_and_is_then_planned_anew() -> None:
    buckets = Asking(0.5, BURST)
    async with World(limits=[Limit(quota(), buckets)]) as w:
        first, second = w.ask(), w.ask()
        await w.idle()
        assert (first.status, w.calls, buckets.asked) == (None, [], [2.0, 2.0])
        buckets.gate.set()
        await w.idle()
        w.last.reply(FRESH, body=b"x")
        await w.idle()
        assert (first.got, second.got, len(w.calls)) == (b"x", b"x", 1)
        buckets.gate.clear()
        hit = w.ask()
        await w.idle()
        w.log.append([], w.clock.now())
        buckets.gate.set()
        await w.idle()
        assert hit.how == "readthrough; hit; ttl=60"
        assert buckets.asked == [2.0, 2.0, 0.25]


async def test_a_bucket_that_fails_leaves_nobody_waiting() -> None:
    class Failing(Asking):
        async def ask(self, client: str, cost: float) -> float:
            raise KeyError(client, cost)

    w = World(limits=[Limit(quota(), Failing(0.5, BURST))])
    client, told = FakeClient(), list[str]()

    def resume(step: Callable[[], object]) -> bool:
        with pytest.raises(RuntimeError, match="bucket"):
            step()
        told.append("failed")
        return True

    client.resume = resume  # type: ignore[method-assign]
    assert w.exchange.begin(w.exchange.read(request()), client) is None
    await w.idle()
    assert told == ["failed"]


async def test_a_client_that_leaves_while_its_bucket_is_asked_is_noted_once() -> None:
    buckets = Asking(0.5, BURST)
    async with World(limits=[Limit(quota(), buckets)]) as w:
        client = w.ask()
        await w.idle()
        client.leave()
        buckets.gate.set()
        await w.idle()
        assert w.calls == []
        assert [(seen.status, seen.account.reason) for seen in w.outcomes] == [(499, Reason.CLIENT_GONE)]


async def test_a_client_with_too_much_under_way_waits_its_turn_and_then_is_refused() -> None:
    async with World(gate=GateRule(1, 1, 60.0)) as w:
        first, second, third = w.ask(target="/1"), w.ask(target="/2"), w.ask(target="/3")
        await w.idle()
        assert [call.call.target for call in w.calls] == ["/1"]
        assert (third.status, third.fields["retry-after"]) == (503, "60")
        assert b"concurrency-limited" in third.got
        w.last.reply(FRESH, body=b"1")
        await w.idle()
        assert [call.call.target for call in w.calls] == ["/1", "/2"]
        w.last.reply(FRESH, body=b"2")
        await w.idle()
        assert (first.got, second.got) == (b"1", b"2")
        assert w.ask(target="/1").how == "readthrough; hit; ttl=60", "a hit needs no place"
        assert w.gates is not None
        assert len(w.gates) == 0


async def test_a_place_stays_taken_while_what_it_began_goes_on_without_its_client() -> None:
    async with World(gate=GateRule(1, 0, 60.0)) as w:
        for number in range(5):
            client = w.ask(target=f"/{number}")
            await w.idle()
            if client.status is None:
                client.leave()
        await w.idle()
        assert len(w.calls) == 1, "hanging up is no way around it"
        w.last.reply(FRESH, body=b"x")
        await w.idle()
        assert w.gates is not None
        assert len(w.gates) == 0


async def test_who_waits_for_anothers_fetch_needs_no_place() -> None:
    async with World(gate=GateRule(1, 0, 60.0)) as w:
        clients = [w.ask() for _ in range(5)]
        await w.idle()
        w.last.reply(FRESH, body=b"one")
        await w.idle()
        assert [client.got for client in clients] == [b"one"] * 5
        assert len(w.calls) == 1


async def test_what_others_have_needs_no_place() -> None:
    entry, shared = await elsewhere(FRESH), FakeShared()
    async with World(gate=GateRule(1, 0, 60.0), shared=shared) as w:
        clients = [w.ask() for _ in range(3)]
        await w.idle()
        shared.say(Found(entry))
        await w.idle()
        assert [client.got for client in clients] == [b"theirs"] * 3


async def test_who_had_to_wait_for_a_place_looks_again_before_it_fetches() -> None:
    async with World(gate=GateRule(1, 4, 60.0)) as w:
        first = w.ask(target="/1")
        await w.idle()
        waiting = w.ask(target="/2")
        await w.idle()
        other = FakeClient()
        other.peer = "198.51.100.7"
        other.run = w.run
        w.clients.append(other)
        w.run(other, w.exchange.begin(w.exchange.read(request(target="/2")), other))
        await w.idle()
        assert [call.call.target for call in w.calls] == ["/1", "/2"], "the other has a place of its own"
        w.calls[0].reply(FRESH, body=b"1")
        await w.idle()
        w.calls[1].reply(FRESH, body=b"2")
        await w.idle()
        assert (first.got, waiting.got, other.got) == (b"1", b"2", b"2")
        assert len(w.calls) == 2


async def test_what_is_held_back_here_costs_a_hit() -> None:
    async with Limited(quota(), breaker=1) as w:
        client = w.ask()
        await w.idle()
        w.last.fail(Reason.CONNECT)
        await w.idle()
        assert client.status == 502
        before = w.spent()
        assert w.ask(target="/b").status is None
        await w.idle()
        assert w.clients[-1].status == 503
        assert w.spent() == before + 0.25


async def test_a_limit_that_is_known_to_refuse_has_no_other_asked() -> None:
    shared_by_all = Asking(0.5, BURST)
    own = LocalBuckets(0.01, 1.0, _unasked)
    limits = [Limit(quota("all", by=By.ROUTE), shared_by_all), Limit(quota("own", hit=1.0, miss=1.0), own)]
    async with World(limits=limits) as w:
        first = w.ask()
        await w.idle()
        shared_by_all.gate.set()
        await w.idle()
        w.last.reply(FRESH, body=b"x")
        await w.idle()
        assert first.got == b"x"
        refused = [w.ask() for _ in range(3)]
        await w.idle()
        assert [(client.status, client.fields["retry-after"]) for client in refused] == [(429, "100")] * 3
        assert shared_by_all.asked == [2.0]
        assert [most.key for most in w.tallies.refused.top(5)] == [f"all\nown\n{ME}"]


async def test_all_limits_are_asked_at_once_and_whoever_refuses_has_the_others_paid_back() -> None:
    one, two = Asking(0.5, BURST), Asking(0.01, 1.0)
    limits = [Limit(quota("one"), one), Limit(quota("two", burst=1.0, rate=0.01, hit=1.0, miss=1.0), two)]
    async with World(limits=limits) as w:
        for _ in range(2):
            w.ask()
            await w.idle()
            assert len(one.asked) == len(two.asked), "neither waits for the other"
        one.gate.set()
        await w.idle()
        two.gate.set()
        await w.idle()
        assert sorted(client.status or 0 for client in w.clients) == [0, 429]
        w.last.reply(FRESH, body=b"x")
        await w.idle()
        assert one.left(ME, 0.0) == BURST - 2.0


async def test_of_a_large_budget_the_last_few_tokens_are_not_told() -> None:
    async with Limited(quota(burst=1_000_000.0, rate=1_000_000.0, hit=1.0)) as w:
        told = [(await fetched(w, FRESH)).fields["ratelimit"], *[w.ask().fields["ratelimit"] for _ in range(100)]]
        assert told[:2] == ['"all";r=999936;t=1'] * 2
        assert told[-1] == '"all";r=999872;t=1'


async def test_what_stands_in_while_the_upstream_is_left_alone_costs_a_hit() -> None:
    async with Limited(quota(), breaker=1, policy=PLAIN) as w:
        await fetched(w, "Cache-Control: max-age=10, stale-if-error=100")
        w.clock.at += 20.0
        before = w.spent()
        client = w.ask()
        await w.idle()
        w.last.fail(Reason.CONNECT)
        await w.idle()
        assert client.how == "readthrough; fwd=stale; detail=stale-if-error"
        assert w.spent() == before + 2.0
        w.clock.at += 4.0  # nobody remembers the key's failure, but the breaker is open
        before = w.spent()
        client = w.ask()
        await w.idle()
        assert client.how == "readthrough; hit; ttl=-14; detail=stale-if-error"
        assert w.spent() == before + 0.25


async def test_a_client_that_leaves_while_its_bucket_is_asked_pays_for_no_answer() -> None:
    hard, soft = Asking(0.0001, 4.0), LocalBuckets(DAILY.rate, DAILY.burst, _unasked)
    soft.take(ME, DAILY.burst, 0.0)
    async with World(limits=[Limit(DAILY, soft), Limit(quota(rate=0.0001, hit=1.0, burst=4.0), hard)]) as w:
        client = w.ask()
        await w.idle()
        client.leave()
        hard.gate.set()
        await w.idle()
        assert hard.left(ME, 0.0) == 4.0
