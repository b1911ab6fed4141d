"""Asking the admin listener of a running instance. Standard library only: the command line starts fast."""

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit

DEFAULT: Final = "http://127.0.0.1:8081"
_CONNECT: Final = 5.0  # seconds
_PATIENCE: Final = 10.0  # seconds for an answer, beside those that it was asked to take
_MAX_ANSWER: Final = 4 << 20  # bytes
_TOKEN: Final = re.compile(r"[!-~]+")


class Unanswered(Exception):
    """Nobody answered, or nobody who could be understood."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Its status, and the members of its body."""

    status: int
    members: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Instance:
    """Where it is: `path` is what stands before every path, where something else is in front of it."""

    secure: bool
    host: str
    port: int | None
    path: str = ""
    token: str | None = field(default=None, repr=False)

    @classmethod
    def at(cls, url: str, token: str | None) -> "Instance":
        """By its URL, or by HOST:PORT. Raises ValueError, without a word of the token or of a password."""
        if token is not None and _TOKEN.fullmatch(token) is None:
            raise ValueError("the token has a character that no token has; it is visible ASCII without spaces")
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port, host = parts.port, parts.hostname
        except ValueError:
            raise ValueError("its URL has no host and port that can be read") from None
        plain = re.fullmatch(r"[!-~]+", url) is not None and not (parts.query or parts.fragment or "@" in parts.netloc)
        if parts.scheme not in ("http", "https") or not host or not plain:
            raise ValueError("its URL is written as http://HOST:PORT or https://HOST:PORT")
        return cls(parts.scheme == "https", host, port, parts.path.rstrip("/"), token)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{'https' if self.secure else 'http'}://{host}{port}{self.path}"

    def post(self, path: str, members: Mapping[str, Any], within: float) -> Answer:
        """Ask for a change, which may take `within` seconds. Raises Unanswered."""
        return self._ask("POST", path, members, within)

    def get(self, path: str, within: float) -> Answer:
        """Ask how things are, which may take `within` seconds. Raises Unanswered."""
        return self._ask("GET", path, None, within)

    def _ask(self, method: str, path: str, members: Mapping[str, Any] | None, within: float) -> Answer:
        made = (
            HTTPSConnection(self.host, self.port, timeout=_CONNECT, context=ssl.create_default_context())
            if self.secure
            else HTTPConnection(self.host, self.port, timeout=_CONNECT)
        )
        headers = {"Accept": "application/json"}
        if members is not None:
            headers["Content-Type"] = "application/json"
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            made.connect()
            made.sock.settimeout(within + _PATIENCE)
            made.request(method, self.path + path, None if members is None else json.dumps(members), headers)
            response = made.getresponse()
            body = response.read(_MAX_ANSWER)
            if response.length:  # a read of at most so many bytes does not mind that some are missing
                raise Unanswered(f"{self} broke off its answer, or it is too long")
        except TimeoutError:
            raise Unanswered(f"{self} does not answer") from None
        except OSError as error:
            raise Unanswered(f"{self} cannot be reached: {error.strerror or error}") from None
        except HTTPException:
            raise Unanswered(f"{self} does not speak HTTP") from None
        finally:
            made.close()
        return Answer(response.status, _members(body))


def _members(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
