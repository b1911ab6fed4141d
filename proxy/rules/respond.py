"""What goes back to the client for one request, from a stored entry or an arriving head."""

from dataclasses import dataclass
from typing import Final

from proxy.rules.admit import outward
from proxy.rules.message import Entry, Head, Headers, Request
from proxy.rules.policy import Policy
from proxy.rules.ranges import Span, Unsatisfiable, asked_span, cut, not_modified
from proxy.rules.wire import head_bytes

_NOT_IN_304: Final = frozenset(  # RFC 9110 section 15.4.5
    {"content-length", "content-type", "content-encoding", "content-language", "content-range"}
)
_CONDITIONS: Final = frozenset({"if-none-match", "if-modified-since", "range"})


@dataclass(frozen=True, slots=True)
class Reply:
    """`head` lacks the connection's own fields and the empty line; `body` is what follows it.

    `length` is the body's in bytes, None where it is not known; `span` is what of an arriving
    body to send, None for all.
    """

    status: int
    head: bytes
    length: int | None
    body: tuple[bytes, ...] = ()
    span: Span | None = None


def from_entry(request: Request, entry: Entry, now: float, account: Headers) -> Reply:
    """Answer from the store: 200, 304, 206 or 416, and HEAD, as the request asks (RFC 9111 section 4)."""
    head = entry.head
    age = int(max(0.0, entry.age + now - entry.stored_at))
    own = f"Age: {age}\r\n" + "".join([f"{name}: {value}\r\n" for name, value in account])
    if head.status == 200 and not _CONDITIONS.isdisjoint(request.fields):
        headers = (*_stored_headers(entry), ("Age", str(age)), *account)
        reply = _narrowed(request, head, headers, entry.length, entry.date)
        if reply is not None:
            return Reply(
                reply.status, reply.head, reply.length, tuple(cut(entry.body, reply.span)) if reply.span else ()
            )
    body = () if request.method == "HEAD" else entry.body
    return Reply(head.status, entry.wire + own.encode("latin-1"), entry.length, body)


def from_arrival(
    request: Request, head: Head, length: int | None, wall: float, policy: Policy, account: Headers, *, whole: bool
) -> Reply:
    """Answer with a response that is arriving. `whole`: it was asked for without the client's Range
    and conditions, which are applied here.
    """
    headers = (*outward(head, wall, policy), *account)
    if whole and head.status == 200:
        reply = _narrowed(request, head, headers, length, wall)
        if reply is not None:
            return reply
    return Reply(head.status, head_bytes(head.status, head.reason, headers), length)


def _narrowed(request: Request, head: Head, headers: Headers, length: int | None, date: float) -> Reply | None:
    fields = request.fields
    if not_modified(fields, head.fields, date):
        kept = tuple((n, v) for n, v in headers if n.lower() not in _NOT_IN_304)
        return Reply(304, head_bytes(304, "Not Modified", kept), 0)
    if "range" not in fields or request.method != "GET" or length is None:
        return None
    match asked_span(fields, head.fields, length):
        case Span() as span:
            part = span.last - span.first + 1
            return Reply(206, _partial(206, "Partial Content", headers, span.content_range, part), part, span=span)
        case Unsatisfiable(total):
            return Reply(416, _partial(416, "Range Not Satisfiable", headers, f"bytes */{total}", 0), 0)
        case None:
            return None


def _partial(status: int, reason: str, headers: Headers, content_range: str, length: int) -> bytes:
    kept = tuple((n, v) for n, v in headers if n.lower() not in ("content-length", "content-range"))
    return head_bytes(status, reason, (*kept, ("Content-Range", content_range), ("Content-Length", str(length))))


def _stored_headers(entry: Entry) -> Headers:
    """The stored fields as `wire` has them."""
    lines = entry.wire.decode("latin-1").split("\r\n")[1:-1]
    return tuple([(name, value) for name, _, value in [line.partition(": ") for line in lines]])
