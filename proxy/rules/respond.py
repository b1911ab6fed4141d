"""What goes back to the client for one request, from a stored entry or an arriving head."""

from functools import lru_cache
from typing import Final, NamedTuple

from proxy.rules.admit import outward
from proxy.rules.message import Entry, Head, Headers, Request, read_head
from proxy.rules.policy import Policy
from proxy.rules.ranges import Span, Unsatisfiable, asked_span, cut, not_modified
from proxy.rules.wire import head_bytes

_NOT_IN_304: Final = frozenset(  # RFC 9110 section 15.4.5
    {"content-length", "content-type", "content-encoding", "content-language", "content-range"}
)
_CONDITIONS: Final = frozenset({"if-none-match", "if-modified-since", "range"})
COPIED: Final = 64 << 10  # bytes of a part that are copied at once: whoever reads slowly holds no more
_SHORT: Final = 256  # characters; what is kept by its text must not be long
END: Final = b"\r\n"


class Reply(NamedTuple):
    """An answer: `head`, then the connection's own fields, then `tail`, which ends the head and holds
    `sent` bytes of body. A body that is too large for that is in `pieces`.

    `length` is the body's in bytes, None where it is not known; `span` is what of an arriving
    body to send, None for all.
    """

    status: int
    head: bytes
    tail: bytes
    length: int | None
    sent: int = 0
    pieces: tuple[bytes | memoryview, ...] = ()
    span: Span | None = None


def only_condition(request: Request) -> str | None:
    """The If-None-Match of a request that asks for nothing but what it has not got, as most conditional ones do."""
    there = _CONDITIONS & request.fields.keys()
    tags = request.fields["if-none-match"] if there == {"if-none-match"} else None
    return tags if tags is not None and len(tags) <= _SHORT else None


def takes_whole(request: Request) -> bool:
    """Whether a stored 200 answers the request as it is."""
    return request.method == "GET" and _CONDITIONS.isdisjoint(request.fields)


def age_line(entry: Entry, now: float) -> bytes:
    """The Age field (RFC 9111 section 5.1)."""
    return b"Age: %d\r\n" % max(0.0, now - entry.born)


def from_entry(request: Request, entry: Entry, own: bytes) -> Reply:
    """Answer from the store: 200, 304, 206 or 416, and HEAD, as the request asks (RFC 9111 section 4).

    `own` is the fields that are ours: Age, and how it came about.
    """
    stored, end = entry.rest, entry.head_end
    length = entry.length if entry.pieces else len(stored) - end
    status = int(entry.lead[9:12])
    if status == 200 and not _CONDITIONS.isdisjoint(request.fields):
        reply = _narrowed(request, entry.lead + stored[:end], own, length)
        if reply is not None:
            body = entry.pieces or (memoryview(stored)[end:],)
            return reply if reply.span is None else _with_part(reply, cut(body, reply.span))
    if request.method == "HEAD":
        return Reply(status, entry.lead + own, stored[:end], length)
    return Reply(status, entry.lead + own, stored, length, len(stored) - end, entry.pieces)


def _with_part(reply: Reply, part: list[memoryview]) -> Reply:
    size = sum(map(len, part))
    if size > COPIED:
        return reply._replace(pieces=tuple(part))
    return reply._replace(tail=reply.tail + b"".join(part), sent=size)


def from_arrival(
    request: Request, head: Head, length: int | None, wall: float, policy: Policy, account: bytes, *, whole: bool
) -> Reply:
    """Answer with a response that is arriving. `whole`: it was asked for without the client's Range
    and conditions, which are applied here.
    """
    stated = head_bytes(head.status, head.reason, outward(head, wall, policy))
    if whole and head.status == 200 and not _CONDITIONS.isdisjoint(request.fields):
        reply = _narrowed(request, stated + END, account, length)
        if reply is not None:
            return reply
    return Reply(head.status, stated + account, END, length)


def _narrowed(request: Request, head: bytes, own: bytes, length: int | None) -> Reply | None:
    """What conditions and Range make of a complete 200, if anything."""
    fields, stated = request.fields, read_head(head)
    if not_modified(fields, stated.fields):
        return Reply(304, _bare(head) + own, END, 0)
    if "range" not in fields or request.method != "GET" or length is None:
        return None
    match asked_span(fields, stated.fields, length):
        case Span() as span:
            part = span.last - span.first + 1
            partial = _partial(206, "Partial Content", stated.headers, span.content_range, part)
            return Reply(206, partial + own, END, part, span=span)
        case Unsatisfiable(total):
            partial = _partial(416, "Range Not Satisfiable", stated.headers, f"bytes */{total}", 0)
            return Reply(416, partial + own, END, 0)
        case None:
            return None


@lru_cache(maxsize=1024)
def unmodified(lead: bytes, rest: bytes, head_end: int, tags: str) -> bytes | None:
    """The head of a 304 for a request that is conditional on If-None-Match alone; None: it has changed.

    Of a large entry leave the body off: what is asked for here is kept for the next time.
    """
    head = lead + rest[:head_end]
    stated = read_head(head)
    matches = stated.status == 200 and not_modified({"if-none-match": tags}, stated.fields)
    return _bare(head) if matches else None


def _bare(head: bytes) -> bytes:
    """The 304 that stands for a 200."""
    kept = [(n, v) for n, v in read_head(head).headers if n.lower() not in _NOT_IN_304]
    return head_bytes(304, "Not Modified", tuple(kept))


def _partial(status: int, reason: str, headers: Headers, content_range: str, length: int) -> bytes:
    kept = [(n, v) for n, v in headers if n.lower() not in ("content-length", "content-range")]
    own = ("Content-Range", content_range), ("Content-Length", str(length))
    return head_bytes(status, reason, (*kept, *own))
