"""What one process holds of one client's bucket: a lease, and what else it knows, and what it decides by that.

A holder asks nobody and waits for nothing. What it says to lua/bucket.lua is a Statement, what it hears a Balance;
redis_buckets.py carries both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

TERM: Final = 1.0  # seconds from when Redis grants a lease until it counts as spent
SHARE: Final = 4  # all leases together may hold a burst divided by this
NEVER: Final = float("-inf")
_OURS: Final = 0.8  # of the term: a holder ends it first, counting from when it asked
_HORIZON: Final = 0.1  # seconds for which a lease should last
_WORTH: Final = 4  # requests; a lease for fewer is not worth its name, and each is asked for
_CLOSE: Final = 1e-9  # tokens that arithmetic may be wrong by


@dataclass(frozen=True, slots=True)
class Allowance:
    """What every client of a limit may have: `rate` in tokens a second, `burst` in tokens. `instances` says how many
    processes go by it, as far as is known.
    """

    rate: float
    burst: float
    instances: Callable[[], int]

    def count(self) -> int:
        """How many processes share it, this one at least."""
        return max(1, self.instances())

    def share(self) -> float:
        """Of the rate, what falls to this process, in tokens a second."""
        return self.rate / self.count()


class Statement(NamedTuple):
    """What a holder says of itself in the call of that number, made `at` so many monotonic seconds; all else in tokens.

    Of its lease it holds on to `kept` and returns `returned`. `debit` is what it let pass on its own account, or, if
    negative, what was paid and not used; `told` is how much of it Redis is told, since an outage costs a client no more
    than that. It would like `batch` more on lease; fewer than `least` are worth none.
    """

    serial: int
    at: float
    kept: float
    returned: float
    debit: float
    told: float
    batch: float
    least: float


class Balance(NamedTuple):
    """What Redis says of a bucket: it is full at `full_us` by Redis' clock, in `full_in` seconds. In tokens, `left` are
    in it, `kept` is what counts of the lease that there was, and `lease` comes to that.
    """

    full_us: int
    full_in: float
    left: float
    kept: float
    lease: float


class Holder:
    """What is known here of one client. Times are monotonic seconds of this process.

    A lease: `tokens` of it are unspent, `size` is what Redis counts as out, `ends` for us. Below `low` another one is
    asked for. `name` is nobody else's, not even for the same client: whoever is forgotten has simply gone.

    `RedisBuckets.take` spends from the lease, and goes by the denial, without a call: most hits are nothing else.
    """

    __slots__ = (
        "allowance",
        "calling",
        "cost",
        "debit",
        "due",
        "ends",
        "full_at",
        "full_us",
        "gift",
        "heard",
        "key",
        "known",
        "left",
        "level",
        "level_at",
        "lost",
        "low",
        "name",
        "pace",
        "refused",
        "shard",
        "since",
        "size",
        "spent",
        "tokens",
        "until",
    )

    def __init__(self, key: str, shard: int, name: str, allowance: Allowance, now: float) -> None:
        self.key, self.shard, self.name, self.allowance = key, shard, name, allowance
        self.tokens = self.size = self.low = 0.0
        self.ends = NEVER
        self.known = self.lost = 0  # calls: the last one answered, and the last one that never will be
        self.calling = False  # one is under way, says whoever makes them
        self.left, self.heard = allowance.burst, now  # in Redis, when it was last heard of
        self.full_us, self.full_at = 0, now  # when it is full, by Redis' clock and by ours
        self.refused = 0.0  # whatever costs that
        self.until = self.due = NEVER  # without a question until the first, which may bring a better second
        self.pace, self.spent, self.since, self.cost = 0.0, 0.0, now, 0.0  # tokens a second, and what tells
        self.level, self.level_at = 0.0, NEVER  # of the bucket that stands in for one out of reach
        self.gift = self.debit = 0.0

    @property
    def cut_off(self) -> bool:
        """Whether it had to `decide` since Redis answered last."""
        return self.level_at != NEVER

    def is_idle(self, now: float) -> bool:
        """Whether Redis knows as much of it."""
        return (
            not self.calling
            and self.debit == 0
            and self.level_at == NEVER
            and now >= self.until
            and (self.tokens <= 0 or now >= self.ends)
        )

    def available(self, now: float) -> float:
        """Tokens that may be spent by now, if nobody else has spent any."""
        allowance = self.allowance
        lease = self.tokens if now < self.ends else 0.0
        if self.level_at != NEVER:
            return lease + min(allowance.burst, self.level + (now - self.level_at) * allowance.share())
        return min(allowance.burst, lease + min(allowance.burst, self.left + (now - self.heard) * allowance.rate))

    def give_back(self, amount: float, now: float) -> bool:
        """Take back what was paid and not used; whether Redis is to be told."""
        if self.level_at != NEVER:  # it was let pass here: there is less to tell
            self.level += min(amount, max(0.0, self.debit))
        elif now < self.ends:
            room = min(amount, self.size - self.tokens)
            self.tokens += room
            amount -= room
        self.debit = max(self.debit - amount, -self.allowance.burst)
        self.until = NEVER  # it may be enough for what was refused
        return self.debit != 0

    def decide(self, cost: float, now: float, since: float, *, crowded: bool) -> float:
        """Decide without Redis: from our share of the rate since it could not be asked, or was asked in vain.

        Gives what is left, or minus the seconds to wait. `crowded`: it may be somebody about whom that was decided
        before, and who was forgotten.
        """
        share = self.allowance.share()
        if self.level_at == NEVER:
            known_against = crowded or self.left + (now - self.heard) * share < cost
            # the others do not know, and may do the same
            for_all = cost * self.allowance.count() <= self.allowance.burst + _CLOSE
            self.level = self.gift = cost if for_all and not known_against else 0.0
            self.level_at = since
        self.level = min(self.allowance.burst, self.level + (now - self.level_at) * share)
        self.level_at = now
        if self.level < cost - _CLOSE:
            return -(cost - self.level) / share - _CLOSE
        self.level -= cost
        self.debit += cost
        return max(0.0, self.level)

    def batch(self, now: float) -> float:
        """How many tokens a lease should have, or 0 where each request had better ask."""
        elapsed = now - self.since
        if elapsed >= _HORIZON:
            self.pace, self.spent, self.since = self.spent / elapsed, 0.0, now
        batch = min(self.pace * _HORIZON, self.allowance.burst / (SHARE * self.allowance.count()))
        return batch if batch >= _WORTH * self.cost else 0.0

    def settle(self, serial: int, now: float, *, back: bool) -> Statement:
        """What to say in the call of that number. `back`: the lease is returned, and none wanted."""
        kept, returned = self.tokens, 0.0
        if back:
            kept, returned, self.tokens = 0.0, self.tokens, 0.0
        self.size = kept
        batch = 0.0 if back else self.batch(now)
        told = min(self.debit, self.allowance.burst / self.allowance.count() + self.gift)
        return Statement(serial, now, kept, returned, self.debit, told, max(0.0, batch - kept), _WORTH * self.cost)

    def learn(self, said: Statement, balance: Balance, now: float) -> None:
        """Go by the answer to a statement; what was spent or given back meanwhile is for the next."""
        self.known, self.heard, self.left = said.serial, now, max(0.0, balance.left)
        self.full_us, self.full_at = balance.full_us, now + balance.full_in
        self.debit, self.gift, self.level_at = self.debit - said.debit, 0.0, NEVER
        kept, lease = balance.kept, balance.lease
        self.tokens = max(0.0, self.tokens - (said.kept - kept)) + lease
        self.size, self.ends = kept + lease, said.at + _OURS * TERM if kept + lease > 0 else NEVER
        self.low = (self.size if lease > 0 else self.tokens) / 2

    def refuse(self, cost: float, wait: float, now: float) -> None:
        """Redis has not enough for whatever costs that, for so many seconds."""
        self.refused = cost
        self.until, self.due = now + min(wait, TERM), now + wait  # others may return a lease meanwhile

    def lose(self, said: Statement) -> None:
        """There was no answer. What was asked may have been done all the same; then it is lost."""
        self.lost = said.serial
        if said.debit < 0:
            self.debit -= said.debit
