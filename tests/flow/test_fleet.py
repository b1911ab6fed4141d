"""Other instances, as the flow sees them: a shared store whose every answer is a gate."""

import asyncio
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from proxy.flow.invalidation import Kind, Target
from proxy.flow.sharing import Alone, Apart, Broken, Claim, Found, Lead, Lease, Progress, Rest, Wanted
from proxy.flow.writes import MAX_GROUPS
from proxy.rules.message import Entry, Reason
from proxy.rules.quota import GateRule
from tests.flow.kit import ETAG, FRESH, HOST, PLAIN, STALEABLE, URL, World

PRIVATE = "Cache-Control: private"
GROUPS = 'Cache-Group-Invalidation: "news", "sport"'


class FakeLease:
    def __init__(self) -> None:
        self.free = True

    def take(self) -> bool:
        free, self.free = self.free, False
        return free


class FakeRest:
    """flow.sharing.Rest."""

    def __init__(self, shared: "FakeShared", claim: Claim) -> None:
        self.shared, self.claim = shared, claim

    async def go_on(self, within: float) -> Claim:
        assert within == 30.0, "the upstream's time-out"
        claim, self.claim = self.claim, Apart()
        await asyncio.sleep(0)  # others come as far
        return claim

    def drop(self) -> None:
        self.shared.let_go.append(self.claim)


class FakeShared:
    """flow.sharing.SharedStore, for one test: who waits for the same shares one claim."""

    def __init__(self) -> None:
        self.asked: list[Wanted] = []
        self.kept: list[tuple[Lease | None, Entry]] = []
        self.ended: dict[Lease, Alone | Broken | Apart] = {}
        self.dropped: list[Entry] = []
        self.let_go: list[Claim] = []
        self._claim: asyncio.Future[Claim] | None = None

    def look(self, wanted: Wanted, then: Callable[[Found | Rest], None]) -> None:
        claim = asyncio.ensure_future(self.claim(wanted, 30.0))

        def looked(_: asyncio.Future[Claim]) -> None:
            found = claim.result()
            then(found if isinstance(found, Found) else FakeRest(self, found))

        claim.add_done_callback(looked)

    async def claim(self, wanted: Wanted, within: float) -> Claim:
        assert within == 30.0, "the upstream's time-out"
        self.asked.append(wanted)
        if self._claim is None:
            self._claim = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._claim)

    def say(self, claim: Claim) -> None:
        """The gate."""
        assert self._claim is not None
        self._claim.set_result(claim)
        self._claim = None

    def lead(self, base: Entry | None = None) -> FakeLease:
        lease = FakeLease()
        self.say(Lead(lease, base))
        return lease

    def keep(self, lease: Lease | None, entry: Entry, asked: float) -> None:
        assert asked < float("inf")
        self.kept.append((lease, entry))
        if lease is not None:
            assert lease not in self.ended
            self.ended[lease] = Apart()

    def give_up(self, lease: Lease, outcome: Alone | Broken | Apart) -> None:
        self.ended.setdefault(lease, outcome)

    def drop(self, entry: Entry) -> None:
        self.dropped.append(entry)


class FakeLog:
    """flow.sharing.SharedLog: what it was told, and a gate."""

    def __init__(self) -> None:
        self.told: list[Target] = []
        self.soft = False  # the last of it
        self.batches: list[list[Target]] = []
        self.gate = asyncio.Event()

    async def announce(self, targets: Sequence[Target], *, soft: bool = False) -> None:
        self.told += targets
        self.soft = soft
        self.batches.append(list(targets))
        await self.gate.wait()

    async def invalidate(self, targets: Sequence[Target], who: str, *, soft: bool) -> str:
        raise NotImplementedError

    async def progress(self, batch: str, within: float) -> Progress | None:
        raise NotImplementedError


def fleet() -> tuple[World, FakeShared]:
    shared = FakeShared()
    return World(shared=shared), shared


async def elsewhere(*written: str, body: bytes = b"theirs") -> Entry:
    """What another instance has fetched."""
    async with World() as w:
        return await w.store(*written, body=body)


async def test_what_another_instance_has_fetched_is_a_hit_for_all_who_wait_and_for_all_to_come() -> None:
    entry = await elsewhere(FRESH)
    w, shared = fleet()
    async with w:
        clients = [w.ask() for _ in range(3)]
        await w.idle()
        shared.say(Found(entry))
        await w.idle()
        assert [client.got for client in clients] == [b"theirs"] * 3
        assert clients[0].how == "readthrough; hit; ttl=60; detail=shared-store"
        assert w.ask().how == "readthrough; hit; ttl=60"
        assert w.calls == []
        assert len(shared.asked) == 3


async def test_who_gets_the_lease_fetches_for_all_and_says_so() -> None:
    w, shared = fleet()
    async with w:
        clients = [w.ask() for _ in range(3)]
        await w.idle()
        lease = shared.lead()
        await w.idle()
        w.last.reply(FRESH, body=b"ours")
        await w.idle()
        assert len(w.calls) == 1
        assert [client.got for client in clients] == [b"ours"] * 3
        [(by, entry)] = shared.kept
        assert by is lease
        assert b"".join(entry.body) == b"ours"


async def test_without_the_shared_store_an_instance_still_fetches_once() -> None:
    w, shared = fleet()
    async with w:
        clients = [w.ask() for _ in range(3)]
        await w.idle()
        shared.say(Apart())
        await w.idle()
        w.last.reply(FRESH, body=b"ours")
        await w.idle()
        assert len(w.calls) == 1
        assert [client.got for client in clients] == [b"ours"] * 3


async def test_what_proved_unshareable_elsewhere_is_fetched_by_each_at_once_and_nobody_queues_again() -> None:
    w, shared = fleet()
    async with w:
        clients = [w.ask() for _ in range(3)]
        await w.idle()
        shared.say(Alone(Reason.PRIVATE))
        await w.idle()
        assert len(w.calls) == 3
        clients.append(w.ask())
        await w.idle()
        assert len(w.calls) == 4
        for call in w.calls:
            call.reply(PRIVATE, body=b"mine")
        await w.idle()
        assert all(client.how.endswith("detail=private") for client in clients)
        assert len(shared.asked) == 3


async def test_an_error_elsewhere_reaches_all_who_waited_for_it_once() -> None:
    w, shared = fleet()
    async with w:
        clients = [w.ask() for _ in range(3)]
        await w.idle()
        shared.say(Broken(Reason.UPSTREAM_ERROR, 503))
        await w.idle()
        assert [client.status for client in clients] == [503] * 3
        assert clients[0].how == "readthrough; fwd=uri-miss; fwd-status=503; collapsed; detail=upstream-error"
        assert w.calls == []


async def test_an_error_elsewhere_is_bridged_by_what_is_stored_here() -> None:
    w, shared = fleet()
    async with w:
        first = w.ask()
        await w.idle()
        shared.lead()
        await w.idle()
        w.last.reply("Cache-Control: max-age=60, stale-if-error=60", body=b"old")
        await w.idle()
        w.clock.at += 70
        second = w.ask()
        await w.idle()
        shared.say(Broken(Reason.TIMEOUT, 504))
        await w.idle()
        assert (first.got, second.got) == (b"old", b"old")
        assert second.how == "readthrough; fwd=stale; collapsed; detail=stale-if-error"


async def test_what_is_stale_in_the_shared_store_is_validated() -> None:
    entry = await elsewhere(FRESH, ETAG)
    w, shared = fleet()
    async with w:
        w.clock.at += 70
        client = w.ask()
        await w.idle()
        lease = shared.lead(entry)
        await w.idle()
        assert w.last.sent["if-none-match"] == '"1"'
        w.last.reply(FRESH, status=304)
        await w.idle()
        assert client.got == b"theirs"
        assert client.how == "readthrough; fwd=stale; fwd-status=304"
        assert shared.kept[0][0] is lease


async def test_what_may_be_served_stale_is_and_is_renewed_by_whoever_gets_the_lease() -> None:
    entry = await elsewhere(STALEABLE)
    w, shared = fleet()
    async with w:
        w.clock.at += 70
        client = w.ask()
        await w.idle()
        unused = shared.lead(entry)
        await w.idle()
        assert client.got == b"theirs"
        assert client.how == "readthrough; hit; ttl=-10; detail=shared-store"
        assert unused.free
        lease = shared.lead(entry)
        await w.idle()
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert shared.kept[0][0] is lease
        assert w.ask().got == b"new"


async def test_a_refresh_takes_what_another_instance_has_renewed() -> None:
    newer = await elsewhere(STALEABLE, body=b"new")
    w, shared = fleet()
    async with w:
        w.ask()
        await w.idle()
        shared.lead()
        await w.idle()
        w.last.reply(STALEABLE, body=b"old")
        await w.idle()
        w.clock.at += 70
        assert w.ask().got == b"old"
        await w.idle()
        assert shared.asked[-1].known == w.clock.at - 70
        shared.say(Found(replace(newer, stored_at=w.clock.at, born=w.clock.at, fresh_until=w.clock.at + 60)))
        await w.idle()
        assert w.ask().got == b"new"
        assert len(w.calls) == 1


async def test_a_lease_ends_however_the_fetch_does() -> None:
    for end, outcome in (
        (lambda up: up.fail(Reason.CONNECT), Broken(Reason.CONNECT, 502)),
        (lambda up: up.fail(Reason.TIMEOUT), Broken(Reason.TIMEOUT, 504)),
        (lambda up: up.reply(status=500), Broken(Reason.UPSTREAM_ERROR, 500)),
        (lambda up: up.reply(PRIVATE), Alone(Reason.PRIVATE)),
        (lambda up: up.reply(status=418), Apart()),
        (lambda up: up.answer(status=403), Apart()),
        (lambda up: (up.answer(FRESH), up.send(b"x"), up.cut()), Broken(Reason.ABORTED, 502)),
    ):
        w, shared = fleet()
        async with w:
            w.ask()
            await w.idle()
            lease = shared.lead()
            await w.idle()
            end(w.last)
            await w.idle()
            assert shared.ended == {lease: outcome}
            assert shared.kept == []
            w.last.end()


async def test_a_body_that_turns_out_too_large_is_nobody_elses() -> None:
    shared = FakeShared()
    async with World(replace(PLAIN, max_object_size=3), shared=shared) as w:
        w.ask()
        await w.idle()
        lease = shared.lead()
        await w.idle()
        w.last.reply(FRESH, body=b"four")
        await w.idle()
        assert shared.ended == {lease: Alone(Reason.TOO_LARGE)}


async def test_nobody_elsewhere_waits_for_the_readers_of_what_is_not_kept() -> None:
    shared = FakeShared()
    async with World(replace(PLAIN, max_object_size=1000), shared=shared) as w:
        slow = w.ask()
        slow.refuse_to_read()
        await w.idle()
        lease = shared.lead()
        await w.idle()
        w.last.answer(FRESH)
        w.last.send(b"x" * 1001)
        await w.idle()
        assert shared.ended == {lease: Alone(Reason.TOO_LARGE)}
        slow.read()
        w.last.end()


async def test_where_all_flights_together_hold_too_much_nobody_elsewhere_waits() -> None:
    shared = FakeShared()
    async with World(flight_memory=1000, shared=shared) as w:
        slow = w.ask()
        slow.refuse_to_read()
        await w.idle()
        lease = shared.lead()
        await w.idle()
        w.last.answer(FRESH)
        w.last.send(b"x" * 1001)
        await w.idle()
        assert shared.ended == {lease: Apart()}
        slow.read()
        w.last.end()


async def test_what_was_asked_for_before_this_process_stood_still_is_not_used_after_it() -> None:
    entry = await elsewhere(FRESH, ETAG)
    for claimed in (Found(entry), Lead(FakeLease(), entry)):
        w, shared = fleet()
        async with w:
            client = w.ask()
            await w.idle()
            w.log.trusted_until = w.clock.at
            shared.say(claimed)
            await w.idle()
            assert "if-none-match" not in w.last.sent
            w.last.reply("Cache-Control: no-store", body=b"ours")
            await w.idle()
            assert client.got == b"ours"


async def test_who_hears_that_it_is_unshareable_deletes_nothing_of_the_others() -> None:
    w, shared = fleet()
    async with w:
        w.ask()
        await w.idle()
        shared.lead()
        await w.idle()
        w.last.reply(FRESH, ETAG, body=b"old")
        await w.idle()
        w.clock.at += 70
        w.ask()
        await w.idle()
        shared.say(Alone(Reason.PRIVATE))
        await w.idle()
        assert w.stored() is None
        assert shared.dropped == []
        w.last.reply(PRIVATE)


async def test_who_says_who_asks_shares_nothing_with_those_who_found_out_that_it_is_the_operators() -> None:
    policy = replace(PLAIN, default_ttl=60.0)
    async with World(policy) as w:
        entry = await w.store(body=b"theirs")
    shared = FakeShared()
    async with World(replace(policy, default_ttl=None), shared=shared) as w:
        mine, yours = w.ask("Cookie: a=mine"), w.ask("Cookie: a=yours")
        await w.idle()
        shared.say(Found(entry))
        await w.idle()
        assert [call.sent["cookie"] for call in w.calls] == ["a=mine", "a=yours"]
        for call in w.calls:
            call.reply(FRESH, body=call.sent["cookie"].encode())
        await w.idle()
        assert (mine.got, yours.got) == (b"a=mine", b"a=yours")


async def test_a_lease_survives_its_client_and_is_ended_by_the_flight() -> None:
    w, shared = fleet()
    async with w:
        client = w.ask()
        await w.idle()
        lease = shared.lead()
        await w.idle()
        client.leave()
        await w.idle()
        w.last.reply(FRESH, body=b"ours")
        await w.idle()
        assert shared.kept[0][0] is lease


async def test_who_wants_no_cache_asks_no_other_instance_and_what_it_brings_is_for_all() -> None:
    w, shared = fleet()
    async with w:
        client = w.ask("Cache-Control: no-cache")
        await w.idle()
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert client.got == b"new"
        assert shared.asked == []
        assert [lease for lease, _ in shared.kept] == [None]


async def test_what_is_validated_for_every_request_waits_for_nobody() -> None:
    w, shared = fleet()
    async with w:
        w.ask()
        await w.idle()
        shared.lead()
        await w.idle()
        w.last.reply("Cache-Control: no-cache", ETAG, body=b"x")
        await w.idle()
        w.ask()
        await w.idle()
        w.last.reply("Cache-Control: no-cache", status=304)
        await w.idle()
        assert len(shared.asked) == 1


async def test_blind_to_invalidations_nothing_that_others_have_stored_is_asked_for() -> None:
    w, shared = fleet()
    async with w:
        w.log.trusted_until = w.clock.at
        client = w.ask()
        await w.idle()
        w.last.reply(FRESH, body=b"ours")
        await w.idle()
        assert client.got == b"ours"
        assert shared.asked == []


async def test_what_is_distrusted_is_asked_for_elsewhere_first() -> None:
    w, shared = fleet()
    async with w:
        w.ask()
        await w.idle()
        shared.lead()
        await w.idle()
        w.last.reply(FRESH, ETAG, body=b"x")
        await w.idle()
        w.log.restart("E", 3)
        client = w.ask()
        await w.idle()
        shared.lead()
        await w.idle()
        assert w.last.sent["if-none-match"] == '"1"'
        w.last.reply(FRESH, status=304)
        await w.idle()
        assert client.how == "readthrough; fwd=stale; fwd-status=304; detail=distrusted"
        assert len(shared.asked) == 2


async def test_a_request_that_says_who_asks_does_not_wait_with_those_that_do_not() -> None:
    w, shared = fleet()
    async with w:
        w.ask("Cookie: a=b")
        await w.idle()
        shared.say(Apart())
        await w.idle()
        w.last.reply(FRESH)
        await w.idle()
        assert shared.asked[0].apart


async def test_what_the_upstream_outdates_goes_everywhere() -> None:
    w, shared = fleet()
    async with w:
        w.ask()
        await w.idle()
        shared.lead()
        await w.idle()
        w.last.reply(FRESH, ETAG, body=b"old")
        await w.idle()
        head = w.ask(method="HEAD")
        head = w.ask("Cache-Control: no-cache", method="HEAD")
        await w.idle()
        w.last.reply(FRESH, 'ETag: "2"')
        await w.idle()
        assert head.status == 200
        assert [b"".join(entry.body) for entry in shared.dropped] == [b"old"]


async def test_others_are_told_of_an_unsafe_request_before_its_client_is() -> None:
    told = FakeLog()
    async with World(told=told) as w:
        await w.store(FRESH)
        post = w.ask(method="POST", upload=[b"x"])
        await w.idle()
        w.last.reply(status=204)
        await w.idle()
        assert told.told == [(Kind.URL, URL)]
        assert w.stored() is None, "here it is done already"
        assert post.status is None
        told.gate.set()
        await w.idle()
        assert post.status == 204


@pytest.mark.parametrize("ends", ["its client leaves", "it is not answered", "the process stops"])
async def test_others_are_told_of_a_write_that_its_client_does_not_hear_the_end_of(ends: str) -> None:
    told = FakeLog()
    async with World(told=told) as w:
        post = w.ask(method="POST")
        await w.idle()
        match ends:
            case "its client leaves":
                post.leave()
                await w.idle()
                assert (post.over, told.told) == (True, [])
                w.last.reply(status=204)
            case "the process stops":
                told.gate.set()
                await w.background.drain(0.0)
            case _:
                w.last.fail(Reason.TIMEOUT)
        await w.idle()
        assert (told.told, told.soft) == ([(Kind.URL, URL)], ends != "its client leaves")
        told.gate.set()
        await w.idle()
        assert post.over


async def test_urls_and_groups_are_one_batch_which_others_hear_of_before_the_client_does() -> None:
    told = FakeLog()
    async with World(told=told) as w:
        await w.store(FRESH, 'Cache-Groups: "news"')
        post = w.ask(method="POST", target="/form")
        await w.idle()
        w.last.reply(GROUPS, "Location: /new", status=201)
        await w.idle()
        origin = f"http://{HOST}"
        urls = [(Kind.URL, f"{origin}/form"), (Kind.URL, f"{origin}/new")]
        assert told.batches == [[*urls, (Kind.TAG, f"{origin} news"), (Kind.TAG, f"{origin} sport")]]
        assert (w.stored(), post.status) == (None, None)
        told.gate.set()
        await w.idle()
        assert post.status == 201


async def test_more_groups_than_are_remembered_by_name_are_all_of_their_host() -> None:
    told = FakeLog()
    told.gate.set()
    async with World(told=told) as w:
        for count in (MAX_GROUPS, MAX_GROUPS + 1):
            w.ask(method="POST", target="/form")
            await w.idle()
            w.last.reply("Cache-Group-Invalidation: " + ", ".join(f'"{i}"' for i in range(count)))
            await w.idle()
        first, second = told.batches
        assert [kind for kind, _ in first] == [Kind.URL, *[Kind.TAG] * MAX_GROUPS]
        assert second == [(Kind.URL, f"http://{HOST}/form"), (Kind.HOST, HOST)]


async def test_a_client_that_leaves_meanwhile_leaves_nothing_open() -> None:
    told = FakeLog()
    async with World(told=told) as w:
        post = w.ask(method="POST", upload=[b"x"])
        await w.idle()
        w.last.reply(status=204)
        await w.idle()
        post.leave()
        await w.idle()
        assert post.over
        told.gate.set()
        await w.idle()
        assert w.last.closed == 1


async def test_a_client_that_leaves_before_others_have_said_what_they_have_is_noted_and_leads_nothing() -> None:
    w, shared = fleet()
    async with w:
        client = w.ask()
        await w.idle()
        client.leave()
        lease = shared.lead()
        await w.idle()
        assert w.calls == []
        assert lease.free
        assert [(seen.status, seen.account.reason, seen.complete) for seen in w.outcomes] == [
            (499, Reason.CLIENT_GONE, False)
        ]


async def test_what_others_have_is_answered_without_a_task_where_it_is_small() -> None:
    entry = await elsewhere(FRESH)
    w, shared = fleet()
    async with w:
        client, work = w.plan()
        assert work is None
        await w.idle()
        shared.say(Found(entry))
        await w.idle()
        assert (client.done, client.task) == (True, None)


async def test_what_was_said_before_a_flight_that_was_joined_is_not_believed_behind_it() -> None:
    """A purge may have come between, and been acknowledged by all."""
    base = await elsewhere(STALEABLE)
    w, shared = fleet()
    async with w:
        waiting = w.ask()
        fresh = w.ask("Cache-Control: no-cache")
        await w.idle()
        w.clock.at += 61.0
        lease = shared.lead(base)
        await w.idle()
        assert len(w.calls) == 1, "it waits for the flight"
        assert shared.let_go == [Lead(lease, base)], "and nobody for what it might have fetched"
        w.purge()
        w.last.reply(FRESH, body=b"of before the purge")
        await w.idle()
        assert fresh.got == b"of before the purge"
        assert waiting.status is None
        shared.lead()
        await w.idle()
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert waiting.got == b"new"
        assert len(shared.asked) == 2


async def test_one_goes_to_find_out_whether_it_can_be_shared_by_now() -> None:
    w, shared = fleet()
    async with w:
        for answer in (PRIVATE, FRESH):
            client = w.ask()
            await w.idle()
            shared.lead()
            await w.idle()
            w.last.reply(answer, body=b"x")
            await w.idle()
            assert client.got == b"x"
            w.clock.at += 31.0
        assert w.stored() is not None
        assert w.ask().how == "readthrough; hit; ttl=29"


async def test_the_fleet_does_not_wait_for_a_client_that_waits_for_its_place() -> None:
    shared = FakeShared()
    async with World(gate=GateRule(1, 1, 60.0), shared=shared) as w:
        first = w.ask(target="/1")
        await w.idle()
        shared.lead()
        await w.idle()
        second = w.ask(target="/2")
        await w.idle()
        lease = weakref.ref(shared.lead())
        await w.idle()
        assert len(w.calls) == 1
        assert lease() is None
        w.last.reply(FRESH, body=b"1")
        await w.idle()
        shared.lead()
        await w.idle()
        w.last.reply(FRESH, body=b"2")
        await w.idle()
        assert (first.got, second.got) == (b"1", b"2")


async def test_who_followed_a_flight_that_was_overtaken_asks_again() -> None:
    base = await elsewhere(STALEABLE)
    w, shared = fleet()
    async with w:
        clients = [w.ask() for _ in range(2)]
        await w.idle()
        w.clock.at += 200.0
        shared.lead(base)
        await w.idle()
        assert (len(w.calls), len(shared.asked)) == (1, 2)
        w.purge()
        w.last.reply(FRESH, body=b"of before the purge")
        await w.idle()
        assert len(shared.asked) == 3
        shared.lead()
        await w.idle()
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert [client.got for client in clients] == [b"of before the purge", b"new"]


async def test_who_goes_to_find_out_does_so_though_it_has_to_wait_for_its_place() -> None:
    shared = FakeShared()
    async with World(gate=GateRule(1, 1, 60.0), shared=shared) as w:
        w.ask(target="/k")
        await w.idle()
        shared.lead()
        await w.idle()
        w.last.reply(PRIVATE)
        await w.idle()
        w.clock.at += 31.0
        w.ask(target="/busy")
        await w.idle()
        shared.lead()
        await w.idle()
        busy = w.last
        client = w.ask(target="/k")
        await w.idle()
        shared.lead()
        await w.idle()
        busy.reply(FRESH)
        await w.idle()
        shared.lead()
        await w.idle()
        w.last.reply(FRESH, body=b"shared by now")
        await w.idle()
        assert "stored" in client.how
        assert w.ask(target="/k").got == b"shared by now"


async def test_what_was_selected_by_another_spelling_too_hides_nothing_of_the_usual_from_others() -> None:
    w, shared = fleet()
    async with w:
        client = w.ask("Accept-Language: de", "Accept_Language: fr")
        await w.idle()
        lease = shared.lead()
        await w.idle()
        w.last.reply(FRESH, "Vary: Accept-Language", body=b"de or fr")
        await w.idle()
        assert "stored" in client.how
        assert (shared.kept, shared.ended[lease]) == ([], Apart())


async def test_others_hear_why_what_was_renewed_is_not_kept() -> None:
    w, shared = fleet()
    async with w:
        w.ask()
        await w.idle()
        shared.lead()
        await w.idle()
        w.last.reply(FRESH, ETAG, body=b"old")
        await w.idle()
        w.clock.at += 61.0
        client = w.ask()
        await w.idle()
        lease = shared.lead()
        await w.idle()
        w.last.reply("Cache-Control: no-store", status=304)
        await w.idle()
        assert client.how == "readthrough; fwd=stale; fwd-status=304; detail=no-store"
        assert shared.ended[lease] == Alone(Reason.NO_STORE)
