"""What traces are told of a request on its way, and nothing of how: None stands for no tracing at all."""

from enum import Enum, unique
from typing import Protocol

from proxy.rules.message import Headers, Reason, Request
from proxy.rules.report import Account
from proxy.rules.routes import Route


@unique
class Step(Enum):
    """What is done for a request within this instance, or with those that share its store."""

    LOOK_UP = "cache look-up"
    SHARED = "shared store"
    FLIGHT = "flight"


class TraceSpan(Protocol):
    """A stretch of work. Whoever begins one ends it; nothing that comes behind its end changes it.

    A request that is not sampled has one too, which tells nobody and only keeps what is upstream from deciding anew.
    """

    @property
    def outbound(self) -> Headers:
        """The fields that make what a call upstream leads to a part of this (W3C Trace Context)."""
        ...

    def step(self, step: Step) -> "TraceSpan":
        """A part of it begins."""
        ...

    def call(self, method: str, target: str, upstream: str, host: str) -> "TraceSpan":
        """A call upstream begins; `host` is the upstream's authority."""
        ...

    def apart(self) -> "TraceSpan":
        """Something begins because of it that nobody waits for: a refresh, in a trace of its own."""
        ...

    def follow(self, flight: "TraceSpan") -> None:
        """It waits for a flight that belongs to another request."""
        ...

    def head(self, status: int) -> None:
        """The answer to a call has begun to come."""
        ...

    def answered(self, status: int, account: Account, *, complete: bool) -> None:
        """The request is over, and this with it."""
        ...

    def end(self, outcome: str = "", error: Reason | None = None) -> None:
        """It is over, and this has come of it."""
        ...


class Tracer(Protocol):
    """Begins the span of each request."""

    def sampled(self, request: Request, route: Route | None, peer: str) -> TraceSpan | None:
        """Decide whether traces tell of the request: by the client's own trace, where it names one. None: no."""
        ...

    def silent(self, request: Request) -> TraceSpan:
        """The span of a request that is not sampled."""
        ...
