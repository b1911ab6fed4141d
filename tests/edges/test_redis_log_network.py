"""Whatever the network and Redis do, nothing is served that was purged: instances in random interleavings."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.edges import redis_records
from proxy.rules.message import Entry
from tests.edges.redis_log_kit import WINDOW, Peer, Reply, id_of, tag
from tests.redis_servers import HOST, single

TAGS: Final = ["x", "y"]
NAMES: Final = ["a", "b", "c"]


@dataclass(frozen=True, slots=True)
class Purge:
    """`version` is the first that is allowed behind it."""

    tag: str
    version: int
    batch: str
    at: float


@dataclass(slots=True)
class Node:
    peer: Peer
    inbox: list[bytes] = field(default_factory=list)  # published, and not yet delivered
    reply: Reply | None = None
    held: list[tuple[str, int, Entry]] = field(default_factory=list)
    told: set[str] = field(default_factory=set)  # what was written when it last asked


class Network(RuleBasedStateMachine):
    """Versions of two things, what instances hold of them, and what was purged."""

    client: redis.Redis  # set by the fixture

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.prefix = secrets.token_hex(6)
        self.client.flushall()
        self.versions = dict.fromkeys(TAGS, 0)
        self.purges: list[Purge] = []
        self.acknowledged: set[str] = set()
        self.forgotten: set[str] = set()  # a failover lost them
        self.shared: list[tuple[str, int, tuple[str, int], Entry]] = []  # what was stored for all
        self.saved: tuple[dict[str | bytes, bytes | str], set[str]] | None = None  # the replica, where it is behind
        self.lost = False  # the log, and nobody who is left has asked since
        self.eras = 0
        self.nodes: dict[str, Node] = {}
        self.now = 1000.0

    @initialize(most=st.sampled_from([3, 1000]), page=st.sampled_from([2, 1000]))
    def start(self, most: int, page: int) -> None:
        self.patch.setattr(redis_records, "MAX_RECORDS", most)
        self.patch.setattr(redis_records, "PAGE", page)
        for name in NAMES:
            self.join(name)

    def teardown(self) -> None:
        self.patch.undo()

    # -- instances

    @rule(name=st.sampled_from(NAMES))
    def join(self, name: str) -> None:
        """It starts, or starts again, empty. Where the log was lost, others have noticed: who knows nobody cannot
        say who is to be waited for, and for the moment that it takes the others to hear of it nobody is.
        """
        for other in self.nodes if self.lost else ():
            self.deliver_answer(other)
        peer = Peer(self.client, self.prefix, name)
        peer.now = self.now
        self.nodes[name] = Node(peer)
        self.deliver_answer(name)

    @rule(seconds=st.sampled_from([0.5, WINDOW / 2, WINDOW + 1]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        for node in self.nodes.values():
            node.peer.now = self.now

    @rule(names=st.sampled_from([*NAMES, "abc"]))
    def fetch(self, names: str) -> None:
        for node in (self.nodes[name] for name in names):
            for what in TAGS:
                node.held.append((what, self.versions[what], node.peer.entry(what)))

    @rule(name=st.sampled_from(NAMES))
    def share(self, name: str) -> None:
        for what, version, entry in self.nodes[name].held:
            place = self.nodes[name].peer.log.place(entry.seq)
            if place is not None:
                self.shared.append((what, version, place, entry))

    @rule(name=st.sampled_from(NAMES))
    def read_shared(self, name: str) -> None:
        log = self.nodes[name].peer.log
        for what, version, place, entry in self.shared:
            position = log.at(*place)
            if log.judge(entry, position) is entry:
                brought = self.nodes[name].peer.entry(what)
                self.nodes[name].held.append((what, version, replace(brought, seq=position)))

    @rule(
        name=st.sampled_from(NAMES),
        whats=st.lists(st.sampled_from(TAGS), min_size=1, max_size=5),
        answered=st.booleans(),
        replicated=st.booleans(),
    )
    def purge(self, name: str, whats: list[str], answered: bool, replicated: bool) -> None:
        if replicated:
            self.saved = None
        elif self.saved is None:
            self.save()
        for what in whats:
            self.versions[what] += 1
            node = self.nodes[name]
            message = node.peer.append(tag(what))
            self.purges.append(Purge(what, self.versions[what], id_of(message), self.now))
            if answered:
                node.peer.hear(message)
            for other in self.nodes.values():
                other.inbox.append(message)

    @rule(
        name=st.sampled_from(NAMES), whats=st.sampled_from([["x"], ["x", "y", "y", "y", "y"]]), replicated=st.booleans()
    )
    def miss(self, name: str, whats: list[str], replicated: bool) -> None:
        """Everybody holds something, and hears nothing of its purge."""
        self.fetch("abc")
        self.purge(name, whats, answered=True, replicated=replicated)
        for node in self.nodes.values():
            node.inbox.clear()

    # -- the network

    @precondition(lambda self: any(node.inbox for node in self.nodes.values()))
    @rule(
        name=st.sampled_from(NAMES), at=st.integers(0, 3), fate=st.sampled_from(["once", "again", "lost", "rest lost"])
    )
    def deliver(self, name: str, at: int, fate: str) -> None:
        node = self.nodes[name]
        if at >= len(node.inbox):
            return
        message = node.inbox[at]
        if fate != "again":
            del node.inbox[at]
        if fate == "rest lost":
            node.inbox.clear()
        if fate in ("once", "again"):
            node.peer.hear(message)

    @rule(name=st.sampled_from(NAMES))
    def ask(self, name: str) -> None:
        self.nodes[name].reply = self.nodes[name].peer.ask()

    @rule(name=st.sampled_from(NAMES), arrives=st.booleans())
    def answer(self, name: str, arrives: bool) -> None:
        node = self.nodes[name]
        if node.reply is not None and arrives:
            node.peer.take(node.reply)
        node.reply = None

    @rule(names=st.sampled_from([*NAMES, "abc"]))
    def deliver_answer(self, names: str) -> None:
        """Questions and their answers, with nothing between: it knows all that was written."""
        self.lost = False
        for node in (self.nodes[name] for name in names):
            node.reply = None
            node.peer.sync()
            node.told = {purge.batch for purge in self.purges} - self.forgotten

    # -- Redis

    @rule(lost=st.sampled_from(["everything", "log", "meta"]))
    def lose(self, lost: str) -> None:
        """Who is alive was heard of by all a moment ago, by their heartbeats."""
        layout = self.nodes["a"].peer.layout
        names = [name.decode() for name in self.client.hkeys(layout.instances) if isinstance(name, bytes)]
        seconds, _ = self.client.time()
        for node in self.nodes.values() if names else ():
            node.peer.fleet = tuple([word for name in names for word in (name, f"{(seconds + 3600) * 1000}")])
        if lost == "everything":
            self.client.flushall()
        else:
            self.client.delete(getattr(layout, lost))
        self.lost = True
        self.saved = None

    def save(self) -> None:
        """What follows does not reach the replica."""
        keys = {key: self.client.dump(key) for key in self.client.scan_iter()}
        self.saved = {key: value for key, value in keys.items() if value}, {purge.batch for purge in self.purges}

    @precondition(lambda self: self.saved)
    @rule()
    def fail_over(self) -> None:
        """To the replica, which has not got the last writes. What was purged by them is known to those that have
        applied it, and to nobody else.
        """
        assert self.saved is not None
        (keys, written), self.saved = self.saved, None
        self.client.flushall()
        for key, value in keys.items():
            self.client.restore(key, 0, value)
        self.eras += 1
        if self.client.exists(self.nodes["a"].peer.layout.meta):
            self.client.hset(self.nodes["a"].peer.layout.meta, "era", f"another {self.eras}")
        self.forgotten |= {purge.batch for purge in self.purges} - written

    # -- what must hold

    @staticmethod
    def _speaks(purge: Purge, what: str, version: int) -> bool:
        return purge.tag == what and version < purge.version

    @rule()
    def look_at_progress(self) -> None:
        peer = self.nodes["a"].peer
        for purge in self.purges:
            if self.client.hexists(peer.layout.progress(purge.batch)[0], "*") and not peer.pending(purge.batch):
                self.acknowledged.add(purge.batch)

    @invariant()
    def nothing_purged_is_served(self) -> None:
        for node in self.nodes.values():
            served = [(what, version) for what, version, entry in node.held if node.peer.serves(entry)]
            for purge in self.purges:
                must = (
                    purge.batch in node.told
                    or purge.batch in node.peer.applied
                    or (
                        purge.batch not in self.forgotten
                        and (purge.batch in self.acknowledged or self.now >= purge.at + WINDOW + 0.1)
                    )
                )
                if must:
                    assert not any(self._speaks(purge, what, version) for what, version in served), purge


@pytest.fixture(scope="module", autouse=True)
def _redis() -> Iterator[None]:
    with single() as server, redis.Redis(HOST, server.port, protocol=2) as client:
        Network.client = client
        yield


Network.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestNetwork = Network.TestCase
