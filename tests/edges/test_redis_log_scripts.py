"""The shared log, interleaving by interleaving: the real scripts in a real Redis, and a network that does as told."""

import secrets
from collections.abc import Callable
from typing import Final

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.edges import redis_records
from proxy.edges.redis_records import Layout, read_batch
from proxy.flow.follower import Found, Heard
from proxy.flow.invalidation import Kind
from proxy.rules.message import Entry
from tests.edges.redis_log_kit import PROGRESS, WINDOW, Peer, id_of, number_of, tag

Join = Callable[..., Peer]


@pytest.fixture
def join(client: redis.Redis) -> Join:
    prefix = f"p{secrets.token_hex(4)}"

    def joined(name: str, **options: bool) -> Peer:
        peer = Peer(client, prefix, name, **options)
        peer.sync()
        return peer

    return joined


def as_text(value: object) -> str:
    assert isinstance(value, bytes)
    return value.decode()


def is_distrusted(peer: Peer, subject: Entry) -> bool:
    judged = peer.log.judge(subject, subject.seq)
    return judged is not None and judged.terms.distrusted


def test_a_batch_is_numbered_densely_and_read_by_everybody_alike(join: Join) -> None:
    a, b = join("a"), join("b")
    first, second = a.append(tag("x"), tag("y")), b.append(tag("z"))
    assert (number_of(first), number_of(second)) == (2, 3)
    for peer in (a, b):
        held = [peer.entry(name) for name in "xyzw"]
        assert [peer.hear(first), peer.hear(second)] == [Heard.APPLIED] * 2
        assert [peer.serves(subject) for subject in held] == [False, False, False, True]
        assert peer.follower.number == 3


def test_two_that_write_at_once_agree_on_the_order(join: Join) -> None:
    a, b = join("a"), join("b")
    of_a, of_b = a.append(tag("x")), b.append(tag("y"))
    assert b.hear(of_b) is Heard.BEHIND, "its own answer has come before the other's message"
    assert [a.hear(of_a), a.hear(of_b)] == [Heard.APPLIED] * 2
    b.sync()
    assert (a.follower.number, a.follower.mark) == (b.follower.number, b.follower.mark)


def test_a_message_that_was_lost_is_read_when_the_next_one_is_heard(join: Join) -> None:
    a, b = join("a"), join("b")
    held = b.entry("x")
    a.append(tag("x"))
    assert b.hear(a.append(tag("y"))) is Heard.BEHIND
    assert b.follower.behind
    assert b.serves(held), "nothing is applied out of order"
    b.sync()
    assert not b.serves(held)
    assert not b.follower.behind


def test_a_message_that_was_lost_is_read_at_the_next_heartbeat(join: Join) -> None:
    a, b = join("a"), join("b")
    held = b.entry("x")
    a.append(tag("x"))
    b.sync()
    assert not b.serves(held)


def test_a_message_that_comes_twice_is_applied_once(join: Join) -> None:
    a, b = join("a"), join("b")
    message = a.append(tag("x"))
    assert b.hear(message) is Heard.APPLIED
    held = b.entry("x")
    assert b.hear(message) is Heard.KNOWN
    assert b.serves(held), "it was fetched after the record"


def test_messages_out_of_order_are_read_from_the_log(join: Join) -> None:
    a, b = join("a"), join("b")
    held = b.entry("x")
    first, second = a.append(tag("x")), a.append(tag("y"))
    assert b.hear(second) is Heard.BEHIND
    assert b.hear(first) is Heard.APPLIED
    assert b.hear(second) is Heard.APPLIED
    assert not b.serves(held)
    b.sync()
    assert b.follower.number == 2


def test_a_batch_published_while_the_answer_is_on_its_way_is_kept(join: Join) -> None:
    a, b = join("a"), join("b")
    a.append(tag("x"))
    answer = b.ask()
    late = a.append(tag("y"))
    assert b.hear(late) is Heard.BEHIND
    held = b.entry("y")
    assert b.take(answer)
    assert b.follower.behind, "the answer was given before the batch that showed the gap"
    assert b.hear(late) is Heard.APPLIED
    assert not b.serves(held)


def test_an_answer_that_is_older_than_what_was_heard_meanwhile_takes_nothing_back(join: Join) -> None:
    a, b = join("a"), join("b")
    answer = b.ask()
    assert b.hear(a.append(tag("x"))) is Heard.APPLIED
    held = b.entry("x")
    assert b.take(answer)
    assert b.follower.number == 1
    assert b.serves(held)


def test_an_answer_repeats_what_was_heard_meanwhile_and_it_is_applied_once(join: Join) -> None:
    a, b = join("a"), join("b")
    message = a.append(tag("x"))
    answer = b.ask()
    assert b.hear(message) is Heard.APPLIED
    held = b.entry("x")
    assert b.take(answer)
    assert b.serves(held)
    assert b.applied == [id_of(message)]


def test_trust_counts_from_when_the_question_was_sent(join: Join) -> None:
    a = join("a")
    answer = a.ask()
    a.now += 20
    a.take(answer)
    held = a.entry("x")
    a.now += WINDOW - 20 - 0.01
    assert a.serves(held)
    a.now += 0.01
    assert not a.serves(held), "nobody vouches for it any more"


def test_who_was_suspended_is_blind_at_once_and_an_old_answer_does_not_change_that(join: Join) -> None:
    a, b = join("a"), join("b")
    held = b.entry("x")
    answer = b.ask()
    a.append(tag("x"))
    b.now += WINDOW + 1
    b.take(answer)
    assert not b.serves(held)


def test_messages_alone_extend_no_trust(join: Join) -> None:
    a, b = join("a"), join("b")
    b.now += WINDOW
    assert b.hear(a.append(tag("x"))) is Heard.APPLIED
    assert not b.serves(b.entry("y"))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_records, "MAX_RECORDS", 5)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("drop", [False, True])
def test_behind_a_gap_by_trimming_everything_is_revalidated_or_dropped(join: Join, drop: bool) -> None:
    a, b = join("a"), join("b", drop=drop)
    held = b.entry("unrelated")
    for number in range(9):
        a.append(tag(f"x{number}"))
    b.sync()
    assert b.found is Found.TRIMMED
    assert (b.follower.number, b.follower.gaps) == (9, 1)
    assert not b.serves(held)
    assert is_distrusted(b, held) is not drop
    assert b.serves(b.entry("unrelated"))


@pytest.mark.usefixtures("short")
def test_who_stands_where_the_log_was_cut_has_no_gap(join: Join) -> None:
    a, b = join("a"), join("b")
    for number in range(4):
        b.hear(a.append(tag(f"x{number}")))
    held = b.entry("unrelated")
    for number in range(5):
        a.append(tag(f"y{number}"))
    b.sync()
    assert b.found is Found.KNOWN
    assert b.serves(held)


@pytest.mark.usefixtures("short")
def test_a_gap_that_messages_have_closed_meanwhile_is_none(join: Join) -> None:
    a, b = join("a"), join("b")
    held = b.entry("unrelated")
    messages = [a.append(tag(f"x{number}")) for number in range(7)]
    answer = b.ask()
    for message in messages:
        b.hear(message)
    b.take(answer)
    assert b.serves(held)


@pytest.mark.usefixtures("short")
def test_a_batch_is_trimmed_as_a_whole(join: Join, client: redis.Redis) -> None:
    a = join("a")
    for _ in range(4):
        a.append(tag("x"), tag("y"), tag("z"))
    assert client.xlen(a.layout.log) == 1, "two would be six records"
    late = join("late")
    assert late.follower.number == 12


def test_records_that_are_too_old_are_trimmed(join: Join, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    a = join("a")
    a.append(tag("x"))
    monkeypatch.setattr(redis_records, "MAX_AGE", -1.0)
    a.append(tag("y"))
    assert client.xlen(a.layout.log) == 1, "the newest stays: the log is told by it"


def test_more_than_a_page_is_read_in_order(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_records, "PAGE", 10)
    a, b = join("a"), join("b")
    for number in range(35):
        a.append(tag(f"x{number}"))
    assert not b.take(b.ask())
    assert b.follower.number == 10
    b.now += WINDOW + 1
    held = b.entry("unrelated")
    b.take(b.ask())
    assert not b.serves(held), "a page that is not the last one vouches for nothing"
    b.sync()
    assert b.follower.number == 35
    assert b.serves(held)


def test_a_thousand_records_are_one_message_and_one_entry(join: Join, client: redis.Redis) -> None:
    a, b = join("a"), join("b")
    held = [b.entry(f"x{number}") for number in range(0, 1000, 111)]
    message = a.append(*[tag(f"x{number}") for number in range(1000)])
    assert client.xlen(a.layout.log) == 1
    assert b.hear(message) is Heard.APPLIED
    assert not any(b.serves(subject) for subject in held)
    assert b.follower.number == 1000


@pytest.mark.parametrize("first", ["append", "sync"])
def test_a_log_that_was_lost_is_another_one_and_nothing_from_before_counts(
    join: Join, client: redis.Redis, first: str
) -> None:
    a, b = join("a"), join("b")
    a.hear(a.append(tag("x")))
    b.sync()
    held, epoch = b.entry("unrelated"), b.follower.epoch
    client.flushall()
    if first == "append":
        a.append(tag("x"))
    else:
        a.sync()
    b.sync()
    a.sync()
    assert a.follower.epoch == b.follower.epoch != epoch
    assert not b.serves(held)
    assert is_distrusted(b, held)
    assert b.serves(b.entry("unrelated"))


def test_what_was_heard_of_the_log_before_it_was_lost_is_not_applied_to_the_new_one(
    join: Join, client: redis.Redis
) -> None:
    a, b = join("a"), join("b")
    old = a.append(tag("x"))
    client.flushall()
    b.sync()
    assert b.hear(old) is Heard.BEHIND
    b.sync()
    assert b.follower.number == 0


def test_after_a_loss_everybody_known_is_waited_for_until_heard_of_again(join: Join, client: redis.Redis) -> None:
    a, b = join("a"), join("b")
    a.sync()
    held = b.entry("x")
    client.flushall()
    batch = id_of(a.append(tag("x")))
    assert a.pending(batch) == ["a", "b"], "b may still serve it"
    assert b.serves(held)
    b.sync()
    assert not b.serves(held)
    a.sync()
    assert a.pending(batch) == []


@pytest.mark.parametrize("lost", ["log", "meta"])
def test_the_stream_without_what_is_said_of_it_or_the_other_way_round_is_a_loss(
    join: Join, client: redis.Redis, lost: str
) -> None:
    a, b = join("a"), join("b")
    message = a.append(tag("x"))
    b.hear(message)
    held, epoch = b.entry("unrelated"), b.follower.epoch
    client.delete(getattr(b.layout, lost))
    b.sync()
    assert b.follower.epoch != epoch
    assert not b.serves(held)
    b.hear(a.append(tag("y")))
    assert b.follower.number == 1


Saved = dict[str | bytes, str | bytes]


def snapshot(client: redis.Redis) -> Saved:
    found = {key: client.dump(key) for key in client.scan_iter()}
    return {key: value for key, value in found.items() if value is not None}


def put_back(client: redis.Redis, saved: Saved) -> None:
    """As a replica is that has not got the last records."""
    client.flushall()
    for key, value in saved.items():
        client.restore(key, 0, value)


def test_writes_that_a_failover_lost_are_missed_by_who_has_applied_them_and_the_log_is_new_for_all(
    join: Join, client: redis.Redis
) -> None:
    a, b, c = join("a"), join("b"), join("c")
    first = a.append(tag("x"))
    for peer in (a, b, c):
        peer.hear(first)
    held, saved = c.entry("y"), snapshot(client)
    lost = a.append(tag("y"))
    a.hear(lost)
    b.hear(lost)
    put_back(client, saved)
    assert c.serves(held), "nobody has told it"
    b.sync()
    assert b.found is Found.OTHER
    c.sync()
    assert not c.serves(held)
    assert is_distrusted(c, held)
    assert b.follower.epoch == c.follower.epoch


def test_a_number_that_was_given_to_another_record_is_not_taken_for_the_one_that_was_lost(
    join: Join, client: redis.Redis
) -> None:
    a, b = join("a"), join("b")
    saved = snapshot(client)
    b.hear(a.append(tag("x")))
    held = b.entry("y")
    put_back(client, saved)
    again = a.append(tag("y"))
    assert number_of(again) == b.follower.number
    assert b.hear(again) is Heard.BEHIND
    b.sync()
    assert b.found is Found.OTHER
    assert not b.serves(held)


def test_what_follows_on_another_record_of_the_same_number_is_not_applied(join: Join, client: redis.Redis) -> None:
    a, b = join("a"), join("b")
    saved = snapshot(client)
    b.hear(a.append(tag("x")))
    held = b.entry("y")
    put_back(client, saved)
    a.append(tag("y"))
    assert b.hear(a.append(tag("z"))) is Heard.BEHIND
    b.sync()
    assert not b.serves(held)


def test_another_server_gives_no_number_again(join: Join, client: redis.Redis) -> None:
    """What is stored elsewhere may name one that was lost, and nobody may be left who has applied it."""
    a = join("a")
    a.hear(a.append(tag("x")))
    saved = snapshot(client)
    a.hear(a.append(tag("y")))
    epoch, number = a.follower.epoch, a.follower.number
    put_back(client, saved)
    client.hset(a.layout.meta, "era", "another")
    late = join("late")
    assert late.hear(late.append(tag("y"))) is Heard.APPLIED
    assert late.follower.epoch == epoch
    assert late.follower.number > number + 1000
    stored = late.entry("y")
    assert late.log.judge(stored, late.log.at(epoch, number)) is None


def test_a_log_put_back_from_before_it_was_lost_is_new_too(join: Join, client: redis.Redis) -> None:
    a, b = join("a"), join("b")
    saved, epoch = snapshot(client), a.follower.epoch
    client.flushall()
    a.sync()
    a.append(tag("x"))
    put_back(client, saved)
    held = b.entry("x")
    a.sync()
    b.sync()
    assert a.follower.epoch not in ("", epoch), "b has never heard of what was purged meanwhile"
    assert not b.serves(held)


def test_who_is_registered_is_waited_for_until_it_cannot_serve_anything_untrusted(
    join: Join, client: redis.Redis
) -> None:
    a, b = join("a"), join("b")
    held = b.entry("x")
    message = a.append(tag("x"))
    a.hear(message)
    batch = id_of(message)
    assert a.pending(batch) == ["b"]
    place, number, until = as_text(client.hget(b.layout.instances, "b")).split(" ")
    seconds, micros = client.time()
    left = int(until) / 1000 - (seconds + micros / 1e6)
    assert WINDOW + 0.5 < left <= WINDOW + 1.0
    client.hset(b.layout.instances, "b", f"{place} {number} {seconds * 1000 - 1}")
    assert a.pending(batch) == []
    a.sync()
    assert client.hget(b.layout.instances, "b") is None
    b.now += WINDOW
    assert not b.serves(held)
    b.sync()
    assert batch in b.applied


def test_who_starts_during_a_purge_is_waited_for_from_its_registration_on(join: Join, client: redis.Redis) -> None:
    a = join("a")
    message = a.append(tag("x"))
    a.hear(message)
    late = Peer(client, a.layout.records.removesuffix(":records"), "late")
    answer = late.ask()
    assert a.pending(id_of(message)) == ["late"], "it has registered, and may have read what was stored before"
    late.take(answer)
    assert a.pending(id_of(message)) == []


def test_who_starts_can_judge_what_others_have_stored(join: Join) -> None:
    a = join("a")
    a.hear(a.append(tag("w")))
    old = a.log.place(a.log.position)
    a.hear(a.append(tag("x")))
    assert old is not None
    late = join("late")
    assert late.log.judge(late.entry("x"), late.log.at(*old)) is None
    assert late.log.judge(subject := late.entry("y"), late.log.at(*old)) is subject


def test_a_soft_record_makes_stale_from_the_time_it_was_written(join: Join) -> None:
    a, b = join("a"), join("b")
    held = b.entry("x")
    written = b.now
    a.append(tag("x"), soft=True)
    b.now += 5  # on its own clock; Redis's has not moved
    b.take(b.ask())
    judged = b.log.judge(held, held.seq)
    assert judged is not None
    assert written + 4 <= judged.fresh_until <= b.now
    assert not b.serves(held)


def test_a_soft_record_is_effective_at_once_whatever_the_clocks_say(join: Join) -> None:
    a, b = join("a"), join("b")
    message = a.append(tag("x"), soft=True)
    b.now -= 1  # by its measure of the offset, the record lies ahead
    held = b.entry("x")
    assert b.hear(message) is Heard.APPLIED
    assert not b.serves(held)


def test_a_record_of_a_kind_that_is_not_known_yet_takes_everything(join: Join, client: redis.Redis) -> None:
    a, b = join("a"), join("b")
    held = b.entry("y")
    message = a.append(tag("x")).replace(b'"tag"', b'"dns"')
    assert b.hear(message) is Heard.APPLIED
    assert not b.serves(held)
    assert client.xlen(a.layout.log) == 1


@pytest.mark.parametrize("message", [b"", b"\n", b"nonsense", b"E 0 - 1\n{}"])
def test_a_message_without_a_head_says_only_that_there_is_something_to_ask_for(join: Join, message: bytes) -> None:
    assert join("a").hear(message) is None


def test_a_full_redis_still_takes_records_and_answers(join: Join, client: redis.Redis) -> None:
    a, b = join("a"), join("b")
    held = b.entry("x")
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("full", "is it?")
        message = a.append(tag("x"))
        a.hear(message)
        b.sync()
        assert a.pending(id_of(message)) == []
    finally:
        client.config_set("maxmemory", 0)
    assert not b.serves(held)


def test_everything_is_purged_for_everybody(join: Join) -> None:
    a, b = join("a"), join("b")
    held = b.entry("x")
    b.hear(a.append((Kind.ALL, "")))
    assert not b.serves(held)


def test_what_nobody_asks_for_leaves_nothing_but_its_record(join: Join, client: redis.Redis) -> None:
    a, b = join("a"), join("b")
    held = b.entry("x")
    message = a.append(tag("x"), asked=False)
    assert client.keys("*:ack:*") == []
    batch = read_batch(message)
    assert batch is not None
    assert batch.sender == "", "so that nobody acknowledges it"
    b.sync()
    assert not b.serves(held)
    assert client.keys("*:ack:*") == []


Break = Callable[[redis.Redis, Layout, bytes], object]
FIELDS: Final = ("epoch", "n", "id", "floor", "floor_id", "records", "era")
KEYS: Final = ("log", "meta", "instances")


def _in_meta(field: str) -> Break:
    return lambda client, keys, junk: client.hset(keys.meta, field, junk)


def _not_in_meta(field: str) -> Break:
    return lambda client, keys, _: client.hdel(keys.meta, field)


def _text(name: str) -> Break:
    return lambda client, keys, junk: client.set(getattr(keys, name), junk)


def _list(name: str) -> Break:
    def change(client: redis.Redis, keys: Layout, junk: bytes) -> None:
        client.delete(getattr(keys, name))
        client.rpush(getattr(keys, name), junk)

    return change


def _hash(name: str) -> Break:
    def change(client: redis.Redis, keys: Layout, junk: bytes) -> None:
        client.delete(getattr(keys, name))
        client.hset(getattr(keys, name), junk, junk)

    return change


def _in_entries(field: bytes) -> Break:
    """The same stream with other words in it."""

    def change(client: redis.Redis, keys: Layout, junk: bytes) -> None:
        entries = client.execute_command("XRANGE", keys.log, "-", "+")  # type: ignore[no-untyped-call]
        client.delete(keys.log)
        for at, words in entries:
            said = dict(zip(words[::2], words[1::2], strict=True)) if isinstance(words, list) else words
            said[field] = junk
            flat = [word for pair in said.items() for word in pair]
            client.execute_command("XADD", keys.log, at, *flat)  # type: ignore[no-untyped-call]

    return change


def _for_a_moment(client: redis.Redis, keys: Layout, junk: bytes) -> None:
    client.xdel(keys.log, client.execute_command("XADD", keys.log, "*", junk, junk))  # type: ignore[no-untyped-call]


BREAKS: Final[dict[str, Break]] = {
    **{f"{field} of meta": _in_meta(field) for field in FIELDS},
    **{f"{field} of meta gone": _not_in_meta(field) for field in FIELDS},
    "an instance": lambda client, keys, junk: client.hset(keys.instances, "x", junk),
    "an instance's name": lambda client, keys, junk: client.hset(keys.instances, junk, junk),
    "an instance that never ends": lambda client, keys, _: client.hset(keys.instances, "x", "- -1 " + "9" * 14),
    "our own registration": lambda client, keys, junk: client.hset(keys.instances, "a", junk),
    "an entry": lambda client, keys, junk: client.xadd(keys.log, {junk: junk}),
    "an entry that went again": _for_a_moment,
    "an entry among ours": lambda client, keys, _: client.xdel(keys.log, "2-0"),
    **{f"the {field} of entries": _in_entries(field.encode()) for field in ("message", "count", "at", "id")},
    **{f"{name} is text": _text(name) for name in KEYS},
    **{f"{name} is a list": _list(name) for name in KEYS},
    **{f"{name} is a hash": _hash(name) for name in KEYS},
}


JUNK: Final = (
    *(b"", b"garbage", b"\xff\x00\xfe", b"nan", b"-1", b"1e9", b"0x10", b"1.5", b"9" * 400, b"7", b"a b", b"a b c"),
    *(b"- -1 " + b"9" * 400, b"x\xff y 9", b"E 0 - 1 1 b a 0\n{}", b"1-x 5 9", b"%s %d"),
)


@pytest.mark.parametrize("broken", BREAKS)
def test_whatever_stands_in_redis_the_log_is_followed_again(join: Join, client: redis.Redis, broken: str) -> None:
    a, b = join("a"), join("b")
    for junk in JUNK:
        for first in ("append", "sync"):
            for number in range(3):
                a.append(tag(f"{number}"))
            a.sync()
            a.sync()  # who is alive is known
            b.sync()
            BREAKS[broken](client, a.layout, junk)
            late = Peer(client, a.layout.records.removesuffix(":records"), "late")
            if first == "append":
                a.append(tag("w"))
            for peer in (a, late, b, a):
                peer.sync()
            held = b.entry("x")
            assert b.serves(held), (junk, first)
            message = a.append(tag("x"))
            assert id_of(message)
            assert set(a.pending(id_of(message))) <= {"a", "b", "late"}
            for peer in (a, b, late):
                peer.sync()
            assert not b.serves(held), (junk, first)
            assert a.pending(id_of(message)) == [], (junk, first)
            names = {name for name in client.hkeys(a.layout.instances) if isinstance(name, bytes)}
            assert names == {b"a", b"b", b"late"}, (junk, first)


@pytest.mark.parametrize("junk", JUNK)
def test_whatever_stands_where_a_batch_is_watched_it_is_no_batch_or_told_rightly(
    join: Join, client: redis.Redis, junk: bytes
) -> None:
    a, b = join("a"), join("b")
    message = a.append(tag("x"))
    key = a.layout.progress(id_of(message))[0]
    client.hset(key, junk, junk)
    a.hear(message)
    assert a.pending(id_of(message)) == ["b"]
    for change in (lambda: client.hset(key, "*", junk), lambda: client.set(key, junk)):
        change()
        b.hear(message)
        b.sync()
        reply = client.eval(PROGRESS, 2, key, a.layout.instances)
        assert reply is None or len(reply) == 2


@given(junk=st.binary(max_size=40), broken=st.sampled_from(sorted(BREAKS)))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_bytes_in_redis_are_survived(client: redis.Redis, junk: bytes, broken: str) -> None:
    client.flushall()
    a, b = Peer(client, "p", "a"), Peer(client, "p", "b")
    for number in range(3):
        a.append(tag(f"{number}"))
    for peer in (a, b):
        peer.sync()
    BREAKS[broken](client, a.layout, junk)
    for peer in (a, b, a):
        peer.sync()
    held = b.entry("x")
    a.append(tag("x"))
    assert b.serves(held)
    b.sync()
    assert not b.serves(held)


def test_all_keys_lie_in_one_slot(join: Join, client: redis.Redis) -> None:
    a = join("a")
    a.append(tag("x"))
    tags = {as_text(key).partition("}")[0] for key in client.scan_iter()}
    assert len(tags) == 1
