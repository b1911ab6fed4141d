"""What is said to the log's scripts, and what is made of their answers; test_redis_log_scripts.py has both ends."""

from collections.abc import Sequence
from typing import Any

import pytest

from proxy.edges.redis_records import Layout, as_batch, read_answer, read_batch, read_places, write_body
from proxy.flow.follower import Follower, Found
from proxy.flow.invalidation import InvalidationLog, Kind, Target
from proxy.flow.sharing import Places

HEAD = b"7-e 4 b4 5 6 b6 me 1500000"
TARGETS: Sequence[Target] = [(Kind.URL, "http://h/a"), (Kind.TAG, "\u00e4")]


def follower() -> Follower:
    return Follower(InvalidationLog(shared=True), 30.0)


@pytest.mark.parametrize("soft", [False, True])
def test_a_batch_is_read_as_it_was_written(soft: bool) -> None:
    batch = read_batch(HEAD + b"\n" + write_body(TARGETS, "somebody", soft=soft))
    assert batch == as_batch(HEAD, TARGETS, "somebody", soft=soft)
    assert (batch.epoch, batch.before, batch.before_id, batch.first, batch.last) == ("7-e", 4, "b4", 5, 6)
    assert (batch.id, batch.sender, batch.at, batch.who, batch.soft) == ("b6", "me", 1.5, "somebody", soft)
    assert list(batch.targets) == TARGETS


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"soft":0,"who":"","targets":[["dns","x"]]}', b'{"soft":0,"who":"","targets":[[]]}']
)
def test_a_body_that_is_not_understood_takes_everything(body: bytes) -> None:
    batch = read_batch(HEAD + b"\n" + body)
    assert batch is not None
    assert (batch.targets, batch.soft) == ([(Kind.ALL, "")], False)


@pytest.mark.parametrize("head", [b"", b"x", HEAD + b" more", HEAD.replace(b"5", b"five"), b"\xff" * 8])
def test_a_head_that_is_not_understood_is_no_batch(head: bytes) -> None:
    assert read_batch(head + b"\n{}") is None


def test_who_is_asked_for_is_watched_and_names_its_sender_and_nobody_else_is() -> None:
    layout = Layout("p", "me")
    keys, args = layout.append(follower(), "b1", 1, b"{}", ())
    assert keys == [layout.log, layout.meta, layout.instances, "{p}:ack:b1"]
    assert "me" in args
    keys, args = layout.append(follower(), "b1", 1, b"{}", (), asked=False)
    assert keys == [layout.log, layout.meta, layout.instances]
    assert "me" not in args
    assert as_batch(HEAD.replace(b" me ", b" - "), TARGETS, "", soft=False).sender == ""


def test_an_answer_is_read_whatever_instances_are_called() -> None:
    message = HEAD + b"\n" + write_body(TARGETS, "", soft=False)
    reply: list[Any] = [b"2500000", b"known", b"7-e", b"4", b"b4", b"6", 1, [b"a\xff", b"99"], [message, b"junk"]]
    answer, fleet, replicas = read_answer(reply)
    assert (answer.at, answer.found, answer.epoch, answer.place, answer.place_id) == (2.5, Found.KNOWN, "7-e", 4, "b4")
    assert (answer.last, [batch.id for batch in answer.batches], replicas) == (6, ["b6"], 1)
    assert fleet == ("a\ufffd", "99")


def test_all_keys_of_one_log_share_a_hash_tag() -> None:
    layout = Layout("p", "me")
    assert all(key.startswith("{p}:") for key in (layout.log, layout.meta, layout.instances, *layout.progress("b")))
    assert layout.to("you") == "p:to:you"


def test_who_has_yet_to_read_the_log_stands_nowhere() -> None:
    assert read_places([b"7"]) == Places(7, {})
    reply = [b"7", b"b\xff", b"-1", b"a", b"5"]
    assert read_places(reply) == Places(7, {"a": 5, "b\ufffd": None})
