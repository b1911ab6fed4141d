"""Who may send a PURGE, and what it asks for.

Whoever is wrongly refused asks again by another way; whoever is wrongly let in empties the cache. So what cannot be
read, or says two things, lets nobody in.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from proxy.rules.client import Address, Networks, address_of, forwarded, forwarded_for, spoken_for, within
from proxy.rules.message import Fields

_SOFT: Final = ("soft-purge", "fastly-soft-purge")


@dataclass(frozen=True, slots=True)
class PurgeRule:
    """`allow`: the networks whose clients may. `proxies`: those whose word is believed about who their client is."""

    allow: Networks
    proxies: Networks = ()

    def asker(self, peer: str, fields: Fields, *, trusted: bool) -> Address | None:
        """Who asks; None where that cannot be known for certain. `trusted`: the peer is one of the proxies.

        A proxy may add to one of X-Forwarded-For and Forwarded, and pass on the other as its client wrote it. So both
        must say the same, where there are both. Where a proxy says neither it asks for itself.
        """
        askers = [address_of(peer)] if peer else [None]
        if trusted:
            said = []
            if "x-forwarded-for" in fields:
                said.append(self._nearest(forwarded_for(fields["x-forwarded-for"])))
            if "forwarded" in fields:
                said.append(self._nearest(forwarded(fields["forwarded"])))
            askers = said or askers
        return askers[0] if len(set(askers)) == 1 else None

    def allows(self, asker: Address | None) -> bool:
        """Whether whoever asks may."""
        return asker is not None and within(asker, self.allow)

    def _nearest(self, nodes: Iterable[str]) -> Address | None:
        client, whole = spoken_for(nodes, self.proxies)
        return client if whole else None


def softly(fields: Fields) -> bool | None:
    """Whether what is purged is to be stale and not gone; None where what is said of it cannot be read."""
    said = {fields.get(name, "0") for name in _SOFT}
    return None if not said <= {"0", "1"} else "1" in said
