"""The invalidation log as it stands in Redis: its keys and channels, what its scripts are called with, and batches.

A batch is a head, which the scripts write, a line feed, and JSON.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.flow.follower import Answer, Batch, Follower, Found
from proxy.flow.invalidation import Kind, Target
from proxy.flow.sharing import Places

MAX_RECORDS: Final = 100_000  # the log has at most
MAX_AGE: Final = 24 * 3600.0  # seconds; what is shared is stored for less
PAGE: Final = 1000  # records in one answer, and those of the batch that completes it

_NOBODY: Final = "-"  # the sender of what nobody acknowledges

Words = list[bytes | str | int]


def source(name: str) -> str:
    """The text of a script that needs log.lua."""
    lua = Path(__file__).with_name("lua")
    return lua.joinpath("log.lua").read_text("utf-8") + lua.joinpath(f"{name}.lua").read_text("utf-8")


class Layout:
    """Names, and the keys and arguments of each script. All keys lie in one slot of a cluster."""

    def __init__(self, prefix: str, instance: str) -> None:
        tag = f"{{{prefix}}}"
        self.log, self.meta, self.instances = f"{tag}:log", f"{tag}:meta", f"{tag}:instances"
        self.records = f"{prefix}:records"
        self._ack, self._to, self._instance = f"{tag}:ack:", f"{prefix}:to:", instance

    def to(self, instance: str) -> str:
        """The channel to one instance."""
        return self._to + instance

    def append(
        self, at: Follower, batch: str, count: int, body: bytes, fleet: Sequence[str], *, asked: bool = True
    ) -> tuple[list[str], Words]:
        """To write so many records. `fleet`: see `read_answer`. `asked`: somebody may ask how far it has come."""
        keys, sender = [self.log, self.meta, self.instances], _NOBODY
        if asked:
            keys, sender = [*keys, self._ack + batch], self._instance
        args: Words = [at.epoch, batch, sender, count, body, int(MAX_AGE * 1000), *fleet]
        return keys, self._common() + args

    def sync(self, at: Follower, fleet: Sequence[str]) -> tuple[list[str], Words]:
        """To ask what was missed."""
        args: Words = [self._instance, at.epoch, at.number, at.mark, int(at.window * 1000), PAGE, *fleet]
        return [self.log, self.meta, self.instances], self._common() + args

    def ack(self, at: Follower, batches: Sequence[Batch]) -> tuple[list[str], Words]:
        """To say how far this instance has come, and to acknowledge batches."""
        args: Words = [self._instance, at.epoch, at.number, self._to]
        for batch in batches:
            args += (batch.id, batch.sender)
        return [self.instances, *[self._ack + batch.id for batch in batches]], args

    def progress(self, batch: str) -> list[str]:
        """To ask how far a batch has come."""
        return [self._ack + batch, self.instances]

    def places(self) -> list[str]:
        """To ask how far everybody has come."""
        return [self.meta, self.instances]

    def _common(self) -> Words:
        return [MAX_RECORDS, self.records, secrets.token_hex(6)]


def write_body(targets: Sequence[Target], who: str, *, soft: bool) -> bytes:
    """What follows on the head."""
    return orjson.dumps({"soft": soft, "who": who, "targets": [(kind.value, value) for kind, value in targets]})


def read_answer(reply: Sequence[Any]) -> tuple[Answer, tuple[str, ...], int]:
    """Of sync.lua: what it says, the instances that are alive with the end of their lives, and replicas in step."""
    at, found, epoch, place, place_id, last, replicas, fleet, messages = reply
    batches = [batch for batch in map(read_batch, messages) if batch is not None]
    answer = Answer(
        int(at) / 1e6, Found(found.decode()), epoch.decode(), int(place), place_id.decode(), int(last), batches
    )
    return answer, tuple([word.decode(errors="replace") for word in fleet]), replicas


def read_places(reply: Sequence[bytes]) -> Places:
    """Of places.lua."""
    last, *rest = reply
    reached = {name.decode(errors="replace"): int(number) for name, number in zip(rest[::2], rest[1::2], strict=True)}
    return Places(int(last), {name: None if number < 0 else number for name, number in sorted(reached.items())})


def read_batch(message: bytes) -> Batch | None:
    """A message of the log; None where it says no more than that there is something to ask for."""
    head, _, body = message.partition(b"\n")
    try:
        targets, who, soft = _read_body(body)
    except (ValueError, KeyError, TypeError):  # of a later version: who cannot say what is gone takes all for gone
        targets, who, soft = [(Kind.ALL, "")], "", False
    try:
        return as_batch(head, targets, who, soft=soft)
    except ValueError:
        return None


def _read_body(body: bytes) -> tuple[list[Target], str, bool]:
    said = orjson.loads(body)
    return [(Kind(kind), str(value)) for kind, value in said["targets"]], str(said["who"]), bool(said["soft"])


def as_batch(head: bytes, targets: Sequence[Target], who: str, *, soft: bool) -> Batch:
    """A batch by its head. Raises ValueError."""
    epoch, before, before_id, first, last, batch, sender, at = head.decode(errors="replace").split(" ")
    return Batch(
        epoch=epoch,
        before=int(before),
        before_id=before_id,
        first=int(first),
        last=int(last),
        id=batch,
        sender="" if sender == _NOBODY else sender,
        at=int(at) / 1e6,
        targets=targets,
        soft=soft,
        who=who,
    )
