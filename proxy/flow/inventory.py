"""What is stored in this process, and what the invalidation log makes of it. Looking changes nothing: nothing counts as
asked for, and what is gone is not removed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from proxy.flow.explanation import Field, Standing, Window
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.ports import Shelves, Variant
from proxy.flow.site import Lane, Site, read
from proxy.flow.steps import windows
from proxy.rules.message import Entry, Request
from proxy.rules.redaction import told


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored variant, for whoever asks what there is. Seconds; `arrived` is how long ago it came.

    `policy` marks what it was stored under, `current` says that the route still has that; `asked`: it has been
    asked for since eviction last passed it by.
    """

    url: str
    headers: tuple[Field, ...]
    vary: tuple[Field, ...]
    status: int
    length: int
    age: float
    left: float
    windows: tuple[Window, ...]
    arrived: float
    tags: tuple[str, ...]
    policy: str
    route: str
    current: bool
    standing: Standing
    asked: bool


class Inventory:
    """Lists what is stored. `site` is the configuration as it is now; `now` in monotonic seconds."""

    def __init__(
        self, site: Callable[[], Site], store: Shelves, log: InvalidationLog, now: Callable[[], float]
    ) -> None:
        self._site, self._store, self._log, self._now = site, store, log, now

    def stored(self, request: Request) -> tuple[Stored, ...]:
        """All that is stored where the request would look, the newest first; nothing where no route takes it."""
        asked, now = read(self._site(), request), self._now()
        lane = asked.lane
        found = () if lane is None else self._store.variants(asked.key)
        return tuple([self._shown(variant, lane, now) for variant in found if lane is not None])

    def _shown(self, variant: Variant, lane: Lane, now: float) -> Stored:
        judged, usable, standing = appraised(self._log, variant, now)
        entry = usable or judged or variant.entry
        keyed = [line.partition("=") for line in entry.key.split("\n")[1:]]
        return Stored(
            url=entry.url,
            headers=tuple([Field(name, told(name, value)) for name, _, value in keyed]),
            vary=tuple([Field(name, told(name, value)) for name, value in entry.vary]),
            status=entry.head.status,
            length=entry.length,
            age=now - entry.born,
            left=entry.fresh_until - now,
            windows=windows(entry, now),
            arrived=now - entry.stored_at,
            tags=entry.tags,
            policy=entry.terms.policy,
            route=lane.route.name,
            current=entry.terms.policy == lane.fingerprint,
            standing=standing,
            asked=variant.asked,
        )


def appraised(log: InvalidationLog, variant: Variant, now: float) -> tuple[Entry | None, Entry | None, Standing]:
    """What the log leaves of a stored variant, what of that may be used while nobody vouches for the log, and how it
    stands then. `now` in monotonic seconds.
    """
    judged = log.judge(variant.entry, variant.checked)
    standing = _standing(log, variant.entry, judged)
    usable = judged if judged is None or now < log.trusted_until else log.vouched(judged, now)
    if judged is not None and standing is Standing.VALID:
        standing = _standing(log, judged, usable)
    return judged, usable, standing


def _standing(log: InvalidationLog, stored: Entry, judged: Entry | None) -> Standing:
    """Of an entry as it was stored: `judged` is what the log, or who vouches for it, has made of that."""
    if judged is None:
        return Standing.GONE
    if judged.terms.distrusted:
        return Standing.DISTRUSTED
    # Who was judged before was changed then, so the records are what tells.
    soft = any(soft for _, soft in log.touching(stored, stored.seq))
    return Standing.STALE if soft else Standing.VALID
