"""Request heads that were read before: most clients send the same bytes again and again."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from proxy.flow.ports import Asked
from proxy.rules.limits import Limits
from proxy.rules.memo import Memo
from proxy.rules.message import Request
from proxy.rules.wire import Section, parse_request

A = TypeVar("A", bound=Asked)

REMEMBERED: Final = 8192  # heads of one kind of connection that are kept, per generation
LONG: Final = 2048  # bytes; heads longer than that are read every time


class Heads(Generic[A]):
    """Reads heads. `look` finds out what may be known of a request before it is asked."""

    def __init__(self, look: Callable[[Request], A]) -> None:
        self._look = look
        self._known: dict[tuple[str, bool], Memo[bytes, A]] = {}
        self._sections: Memo[bytes, Section] = Memo(REMEMBERED // 8)  # fields alike, under many targets

    def known(self, scheme: str, *, trusted: bool) -> Memo[bytes, A]:
        """What was read on connections of one kind: how a head is read depends on nothing else."""
        return self._known.setdefault((scheme, trusted), Memo(REMEMBERED))

    def read(self, raw: bytes, scheme: str, *, trusted: bool, limits: Limits) -> A:
        """One complete head. Raises Refused."""
        known = self.known(scheme, trusted=trusted)
        asked = known.get(raw)
        if asked is not None:
            return asked
        short = len(raw) <= LONG
        sections = self._sections if short else None
        request = parse_request(raw, scheme, trusted=trusted, max_headers=limits.max_headers, sections=sections)
        asked = self._look(request)
        if short:
            known.offer(raw, asked)
        return asked

    def forget(self) -> None:
        """Read every head anew: the configuration has changed."""
        for known in self._known.values():
            known.clear()
        self._sections.clear()
