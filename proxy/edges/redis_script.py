"""Lua scripts, and the commands that call them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from proxy.edges.redis_wire import Word, pack

__all__ = ["Call", "Prepared", "Script", "Word"]


class Script:
    """A Lua script and the hash that Redis calls it by."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, name: str) -> Self:
        """The script of that name in lua/."""
        return cls(Path(__file__).with_name("lua").joinpath(f"{name}.lua").read_text("utf-8"))

    def call(self, keys: Sequence[str], args: Sequence[Word]) -> tuple[Word, ...]:
        """The words that run it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


class Prepared:
    """A call of a script that is made again and again with other arguments at its end: all else is packed once."""

    __slots__ = ("_count", "_packed", "key", "script")

    def __init__(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> None:
        words = script.call(keys, args)
        self.script, self.key = script, keys[0]
        self._count, self._packed = len(words), _words(words)

    def packed(self, args: tuple[Word, ...]) -> bytes:
        """With these arguments behind its own."""
        return b"*%d\r\n%b%b" % (self._count + len(args), self._packed, _words(args))


def _words(words: tuple[Word, ...]) -> bytes:
    """Packed, without their number."""
    return pack(words).partition(b"\r\n")[2]


@dataclass(frozen=True, slots=True)
class Call:
    """One command, for `Link.alone`."""

    words: tuple[Word, ...]

    @classmethod
    def script(cls, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Self:
        """A script, sent with its text: nothing need be repeated where the server does not know it."""
        return cls(("EVAL", script.source, len(keys), *keys, *args))
