"""What a shared log's messages and answers mean for the log as this instance has applied it. No IO.

Messages may be lost, come twice, late or in another order, and the log itself may be lost or put back.
Each message names the batch before it, so that nothing is applied but what follows on what was; everything
else is settled by an answer, which is read in the log at the place where this instance stands.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, assert_never

from proxy.flow.invalidation import InvalidationLog, Kind, Record, Target

MAX_OUTBOX: Final = 1000  # targets
PROMPT: Final = 0.1  # seconds within which an answer comes that tells the time; later, somebody was suspended
_REMEMBERED: Final = 1000  # batches that are known again when they come twice


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that were written as one, numbered from `first` to `last`; `before` is the last one of the batch ahead
    of it. `at` is in seconds of the log's own clock. `sender` is empty where nobody waits to hear who has applied it.
    """

    epoch: str
    before: int
    before_id: str
    first: int
    last: int
    id: str
    sender: str
    at: float
    targets: Sequence[Target]
    soft: bool = False
    who: str = ""


@unique
class Found(Enum):
    """What the log says of the place where an instance stands."""

    KNOWN = "known"
    TRIMMED = "trimmed"  # what follows on it cannot be read any more
    OTHER = "other"  # it is another log


@dataclass(frozen=True, slots=True)
class Answer:
    """What the log says when asked: at `at` seconds of its clock its last record was `last`, and these are the first
    batches that follow on (`place`, `place_id`).
    """

    at: float
    found: Found
    epoch: str
    place: int
    place_id: str
    last: int
    batches: Sequence[Batch]


@unique
class Heard(Enum):
    """What became of a message."""

    APPLIED = "applied"
    KNOWN = "known"  # it has been applied before
    BEHIND = "behind"  # it does not follow on what was applied: the log has to be asked


class Follower:
    """Where this instance stands in the shared log: `number` of the last record applied in `epoch`, `mark` is its
    batch's id. `window`: seconds for which an answer is trusted, from when it was asked for; `since`: when it began.
    """

    __slots__ = (
        *("_blind_since", "_log", "_missing", "_offset", "_recent"),
        *("epoch", "gaps", "mark", "number", "restarts", "window"),
    )

    def __init__(self, log: InvalidationLog, window: float, since: float = 0.0) -> None:
        self._log, self.window, self._blind_since = log, window, since
        self.epoch, self.number, self.mark = "", 0, "-"
        self.gaps = self.restarts = 0  # how often what came before was not to be read, or was of another log
        self._offset: float | None = None  # seconds from our monotonic clock to the log's
        self._recent: OrderedDict[int, str] = OrderedDict()  # batches by last number
        self._missing: float | None = None  # when a message was heard that shows that another was not

    @property
    def behind(self) -> bool:
        """Whether something is known to be missing."""
        return self._missing is not None

    def missing_for(self, now: float) -> float:
        """Seconds since that was heard of, 0 where nothing is."""
        return 0.0 if self._missing is None else max(0.0, now - self._missing)

    def blind_for(self, now: float) -> float:
        """Seconds for which nobody has vouched for the log, 0 while somebody does."""
        until = self._log.trusted_until
        return 0.0 if now < until else now - (until or self._blind_since)

    def hear(self, batch: Batch, now: float) -> Heard:
        """Take a message, or the answer to an append of our own."""
        heard = self._follow(batch, now)
        if heard is Heard.BEHIND:
            self._missing = now
        return heard

    def take(self, answer: Answer, sent: float, now: float) -> tuple[bool, list[Batch]]:
        """Take the answer to a question of that time; whether there is nothing behind it, and what was applied.

        One question at a time: where this instance stands has changed since by `hear` at most.
        """
        if now - sent < PROMPT or self._offset is None:
            self._offset = answer.at - (sent + now) / 2
        match answer.found:
            case Found.OTHER:
                self.restarts += self.epoch != ""
                self._log.restart(answer.epoch, answer.place)
                self._stand(answer.epoch, answer.place, answer.place_id)
            case Found.TRIMMED:
                if answer.place > self.number:
                    self.gaps += 1
                    self._log.gap(answer.place)
                    self._stand(answer.epoch, answer.place, answer.place_id)
            case Found.KNOWN:
                pass  # messages may have led beyond that place meanwhile
            case _:
                assert_never(answer.found)
        applied = []
        for batch in answer.batches:
            match self._follow(batch, now):
                case Heard.APPLIED:
                    applied.append(batch)
                case Heard.BEHIND:
                    return False, applied
                case Heard.KNOWN:
                    pass
        if self.number < answer.last:
            return False, applied
        if self._missing is not None and self._missing < sent:
            self._missing = None
        # What was written before the question was sent is applied. Later records may be missing.
        self._log.trusted_until = max(self._log.trusted_until, sent + self.window)
        return True, applied

    def lose(self, now: float) -> None:
        """Something is known to be missing, and the log cannot be asked for it: nothing is trusted from now on."""
        if self._log.trusted_until:
            self._blind_since = min(self._log.trusted_until, now)
        self._log.trusted_until = 0.0  # not `now`: a request may go by a time that it took a moment ago

    def _stand(self, epoch: str, number: int, mark: str) -> None:
        self.epoch, self.number, self.mark = epoch, number, mark
        self._recent.clear()

    def _follow(self, batch: Batch, now: float) -> Heard:
        if batch.epoch == self.epoch and self._recent.get(batch.last) == batch.id:
            return Heard.KNOWN
        if (batch.epoch, batch.before, batch.before_id) != (self.epoch, self.number, self.mark):
            return Heard.BEHIND
        at = (
            now if self._offset is None else min(batch.at - self._offset, now)
        )  # what is made stale is stale as soon as it is applied
        for number, (kind, value) in enumerate(batch.targets, batch.first):
            self._log.apply(Record(kind, value, batch.soft, at), number)
        self.number, self.mark = batch.last, batch.id
        self._recent[batch.last] = batch.id
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)
        return Heard.APPLIED


_EVERYTHING: Final[Target] = (Kind.ALL, "")


class Outbox:
    """Targets that others have to be told of, each of them once, hard ones first; more than there is room for become
    one soft `all`.

    What is taken stays until it is known whether it was sent; what is put meanwhile goes behind it, since it may
    have happened after that was written.
    """

    __slots__ = ("_flying", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Target, bool] = {}  # whether it is soft; a hard one counts for both
        self._flying: dict[Target, bool] = {}

    def __len__(self) -> int:
        return len(self._flying) + len(self._waiting)

    def put(self, targets: Sequence[Target], *, soft: bool = False) -> None:
        """Let them wait."""
        if _EVERYTHING not in self._waiting:
            for target in targets:
                self._waiting[target] = soft and self._waiting.get(target, True)
            self._limit()

    def take(self) -> tuple[Sequence[Target], bool]:
        """All hard ones that wait, or else all soft ones, and whether it is these: nothing while others are taken."""
        if self._flying or not self._waiting:
            return (), False
        soft, waiting = all(self._waiting.values()), self._waiting
        self._flying = {target: each for target, each in waiting.items() if each is soft}
        self._waiting = {target: each for target, each in waiting.items() if each is not soft}
        return tuple(self._flying), soft

    def sent(self) -> None:
        """What was taken has been written."""
        self._flying = {}

    def failed(self) -> None:
        """It has not, as far as is known."""
        flying, self._flying = self._flying, {}
        if _EVERYTHING in flying:
            self._waiting = flying
        elif _EVERYTHING not in self._waiting:
            waiting, self._waiting = self._waiting, flying
            for target, soft in waiting.items():
                self._waiting[target] = soft and self._waiting.get(target, True)

    def _limit(self) -> None:
        if len(self) > MAX_OUTBOX:
            self._waiting = {_EVERYTHING: True}
