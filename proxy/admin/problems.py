"""Errors of the admin listener, as `application/problem+json` (RFC 9457)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum, unique
from http import HTTPStatus
from typing import Final

from aiohttp import web

from proxy.rules.admit import NAME

_SHOWN: Final = 100  # mistakes; whoever makes more has made one of another kind


@unique
class Trouble(Enum):
    """What went wrong: the end of the stable `type`, and the status."""

    MALFORMED = ("malformed", 400)
    BAD_REQUEST = ("bad-request", 400)
    UNAUTHORIZED = ("unauthorized", 401)
    NOT_FOUND = ("not-found", 404)
    METHOD = ("method", 405)
    BODY_TIMEOUT = ("body-timeout", 408)
    LENGTH_REQUIRED = ("length-required", 411)
    BODY_TOO_LARGE = ("body-too-large", 413)
    CONTENT_TYPE = ("content-type", 415)
    UNKNOWN_HOST = ("unknown-host", 421)
    TOO_MANY = ("too-many-invalidations", 429)
    INTERNAL = ("internal", 500)
    LOG_UNREACHABLE = ("log-unreachable", 503)
    NO_WORKER = ("no-worker", 503)


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to mend in a request: where it stands, what is wrong with it, what to write instead."""

    at: str
    what: str
    instead: str


class Refusal(Exception):
    """This will not be done; `detail` and `mistakes` are for whoever asked."""

    def __init__(
        self,
        trouble: Trouble,
        detail: str,
        *,
        mistakes: Sequence[Mistake] = (),
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.trouble, self.detail, self.mistakes, self.headers = trouble, detail, mistakes, headers

    def response(self) -> web.Response:
        """The answer that says so."""
        kind, status = self.trouble.value
        members: dict[str, object] = {
            "type": f"urn:{NAME}:error:{kind}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": self.detail,
        }
        if self.mistakes:
            members["errors"] = [asdict(mistake) for mistake in self.mistakes[:_SHOWN]]
        body = json.dumps(members).encode() + b"\n"
        headers = [*self.headers, ("Content-Type", "application/problem+json")]
        return web.Response(status=status, body=body, headers=headers)
