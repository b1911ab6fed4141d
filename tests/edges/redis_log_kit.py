"""An instance's end of the shared log without its IO: who says when what is asked, answered, heard and lost."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from proxy.edges.redis_records import Layout, as_batch, read_answer, read_batch, source, write_body
from proxy.edges.redis_script import Script
from proxy.flow.follower import Batch, Follower, Found, Heard
from proxy.flow.invalidation import InvalidationLog, Kind, Target
from proxy.rules.message import Entry
from tests.rules.build import bare

NOW: Final = 1000.0
WINDOW: Final = 30.0
APPEND, SYNC = source("append"), source("sync")
ACK, PROGRESS = Script.load("ack").source, Script.load("progress").source


def tag(name: str) -> Target:
    return (Kind.TAG, name)


def entry(log: InvalidationLog, name: str, at: float, *, body: bytes = b"") -> Entry:
    """What a fetch brings that begins now; fresh for 60 s, usable for 60 more."""
    return bare(f"http://h/{name}", body, tags=(name,), seq=log.position, at=at, window=60.0)


def served(log: InvalidationLog, subject: Entry, now: float, *, since: int | None = None) -> bool:
    """Whether a fresh request gets it from memory."""
    judged = log.judge(subject, subject.seq if since is None else since)
    if judged is not None and now >= log.trusted_until:
        judged = log.vouched(judged, now)
    return judged is not None and not judged.terms.distrusted and now < judged.fresh_until


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way."""

    sent: float
    raw: Any


class Peer:
    """One instance that speaks to a real Redis when it is told to."""

    def __init__(self, client: redis.Redis, prefix: str, name: str, *, drop: bool = False) -> None:
        self.client = client
        self.log = InvalidationLog(shared=True, drop=drop)
        self.follower = Follower(self.log, WINDOW)
        self.layout = Layout(prefix, name)
        self.fleet: tuple[str, ...] = ()
        self.now = NOW
        self.applied: list[str] = []  # batches by id
        self.found: Found | None = None  # what the last answer said

    def append(self, *targets: Target, soft: bool = False, asked: bool = True) -> bytes:
        """Write a batch, and see no answer; gives the message that everybody else gets."""
        body = write_body(targets, "me", soft=soft)
        keys, args = self.layout.append(
            self.follower, secrets.token_hex(8), len(targets), body, self.fleet, asked=asked
        )
        head, _ = self._eval(APPEND, keys, args)
        message: bytes = head + b"\n" + body
        return message

    def hear(self, message: bytes) -> Heard | None:
        batch = read_batch(message)
        return None if batch is None else self.hear_batch(batch)

    def hear_batch(self, batch: Batch) -> Heard:
        heard = self.follower.hear(batch, self.now)
        if heard is Heard.APPLIED:
            self.acknowledge([batch])
        return heard

    def ask(self) -> Reply:
        """Ask; Redis has answered, and the answer is on its way."""
        self.now += 0.001
        return Reply(self.now, self._eval(SYNC, *self.layout.sync(self.follower, self.fleet)))

    def take(self, reply: Reply) -> bool:
        answer, self.fleet, _ = read_answer(reply.raw)
        self.found = answer.found
        done, applied = self.follower.take(answer, reply.sent, self.now)
        if applied or answer.found is not Found.KNOWN:
            self.acknowledge(applied)
        return done

    def sync(self) -> None:
        """Ask until there is nothing more to say."""
        for _ in range(100):
            if self.take(self.ask()):
                return
        raise AssertionError("it never catches up")

    def acknowledge(self, batches: Sequence[Batch]) -> None:
        self.applied += [batch.id for batch in batches]
        self._eval(ACK, *self.layout.ack(self.follower, batches))

    def pending(self, batch: str) -> list[str]:
        """Who has not applied it, as far as Redis knows."""
        reply = self._eval(PROGRESS, self.layout.progress(batch), [])
        assert reply is not None, "there is no such batch"
        return sorted([name.decode() for name in reply[1]])

    def entry(self, name: str, body: bytes = b"") -> Entry:
        return entry(self.log, name, self.now, body=body)

    def serves(self, subject: Entry) -> bool:
        return served(self.log, subject, self.now)

    def _eval(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:  # noqa: ANN401 - RESP
        return self.client.eval(script, len(keys), *keys, *args)


def id_of(message: bytes) -> str:
    batch = read_batch(message)
    assert batch is not None
    return batch.id


def number_of(message: bytes) -> int:
    return as_batch(message.partition(b"\n")[0], [], "", soft=False).last
