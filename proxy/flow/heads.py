"""Request heads that were read before: most clients send the same bytes again and again."""

import gc
from collections.abc import Callable
from sys import getrefcount
from typing import Final, Generic, Protocol, TypeVar

from proxy.flow.ports import Asked
from proxy.rules.limits import Limits
from proxy.rules.memo import Memo
from proxy.rules.message import Request
from proxy.rules.wire import Section, parse_request

A = TypeVar("A", bound=Asked)

HEADS: Final = 16 << 20  # bytes of heads of one kind of connection that are kept, per generation
SECTIONS: Final = 4 << 20  # bytes of field lines alike
LONG: Final = 2048  # bytes; heads longer than that are read every time
_PER_HEAD: Final = 1100  # bytes of objects around what is known of one head
_PER_FIELD: Final = 350  # and around one of its fields
_AT_ONCE: Final = 250  # heads freed at a time
_WALKED: Final = 64  # heads kept between two collections
_MANY: Final = 8  # heads with the same fields, from which on each weighs no more than its own


A_co = TypeVar("A_co", bound=Asked, covariant=True)


class Look(Protocol[A_co]):
    """Finds out what may be known of a request before it is asked."""

    def __call__(self, request: Request, *, trusted: bool) -> A_co:
        """`trusted`: its peer is believed in what it forwards."""
        ...


class Heads(Generic[A]):
    """Reads heads. `look` finds out what may be known of a request before it is asked; `collect` has the garbage
    collector look at what is new.
    """

    def __init__(self, look: Look[A], collect: Callable[[], object] = gc.collect) -> None:
        self._look, self._collect, self._kept = look, collect, 0
        self._known: dict[tuple[str, bool], Memo[bytes, A]] = {}
        self._sections: Memo[bytes, Section] = Memo(SECTIONS, _weight_of_section)

    def known(self, scheme: str, *, trusted: bool) -> Memo[bytes, A]:
        """What was read on connections of one kind: how a head is read depends on nothing else."""
        kind = scheme, trusted
        if kind not in self._known:
            self._known[kind] = Memo(HEADS, _weight_of_head)
        return self._known[kind]

    def read(self, raw: bytes, scheme: str, *, trusted: bool, limits: Limits) -> A:
        """One complete head. Raises Refused."""
        known = self.known(scheme, trusted=trusted)
        asked = known.get(raw)
        if asked is not None:
            return asked
        short = len(raw) <= LONG
        sections = self._sections if short else None
        request = parse_request(raw, scheme, trusted=trusted, max_headers=limits.max_headers, sections=sections)
        asked = self._look(request, trusted=trusted)
        if short and known.offer(raw, asked):
            self._kept += 1
            # The collector counts what is made less what is freed: where each head that is kept frees another it
            # would wait until tens of thousands of objects are new, and walk them all at once.
            if self._kept % _WALKED == 0:
                self._collect()
        return asked

    def forget(self) -> None:
        """Read every head anew: the configuration has changed."""
        for known in self._known.values():
            known.clear()
        self._sections.clear()

    def tidy(self) -> None:
        """Free some of what was forgotten; to be called now and then."""
        for known in self._known.values():
            known.free(_AT_ONCE)
        self._sections.free(_AT_ONCE)


def _weight_of_head(raw: bytes, asked: Asked) -> int:
    headers = asked.request.headers
    fields = 0 if getrefcount(headers) > _MANY else _PER_FIELD * len(headers)
    return 2 * len(raw) + _PER_HEAD + fields


def _weight_of_section(raw: bytes, section: Section) -> int:
    return 2 * len(raw) + _PER_FIELD * len(section.headers)
