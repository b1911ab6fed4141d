"""An entry as one binary frame, and back: what instances hand each other by way of the shared store.

    head   magic, version, flags, n, fresh_ms, stale_ms, left_ms, age_ms, held_ms, checksum of the payload, epoch
    stamp  stored_ms, asked_ms: Redis's clock, written by lua/fill.lua
    seal   digest of head and stamp, written there too
    payload  lengths, key, terms (JSON), lead, fields, body

The head is laid out for Lua's struct library. Everything in it that has to do with time is a duration, so
that no clock but that of Redis matters. What cannot be read is Damaged or UnknownVersion, never an answer.
"""

import re
import threading
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha1
from math import isfinite
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Any, Final, NamedTuple, TypeGuard
from zlib import crc32

import orjson
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, frame_content_size

from proxy.rules.admit import INLINE
from proxy.rules.message import Entry, Headers, Terms, held_once, shared

MAGIC: Final = b"RT"
VERSION: Final = 1
HEAVY: Final = 1 << 20  # bytes of body; reading more takes longer than the loop may stand still
MAX_BODY: Final = 64 << 20  # bytes; a frame that claims more is not believed

_POINTER: Final = 1  # flags
_ZSTD: Final = 2
_HEAD: Final = Struct("<2sBBddddddIB")  # the last is the length of the epoch, which follows
_STAMP: Final = Struct("<dd")
_SEAL: Final = 8  # hexadecimal digits
_LENGTHS: Final = Struct("<IIIII")  # of key, terms, lead, fields and the body as it was
_PIECE: Final = 64 << 10  # bytes of a body that is held in pieces
_WORTH_ZSTD: Final = 4096  # bytes of body; below that it saves less than it costs each reader
_MAX_N: Final = 1 << 53  # what a double counts exactly
_MAX_MS: Final = 1e15  # thirty thousand years
_CODED: Final = re.compile(rb"(?:^|\n)content-encoding:", re.IGNORECASE)


class Damaged(Exception):
    """A frame that is cut or altered, or not of what was asked for."""


class UnknownVersion(Exception):
    """A frame of another version of this program."""


class _Zstd(threading.local):
    """Its contexts serve one thread at a time."""

    def __init__(self) -> None:
        self.compress = ZstdCompressor(level=3).compress
        self.decompress = ZstdDecompressor().decompress


_zstd: Final = _Zstd()


class Packed(NamedTuple):
    """The payload of a frame, and what the head says of it."""

    payload: bytes
    flags: int
    checksum: int


class Asked(NamedTuple):
    """What a frame must be of, and what its reader knows of the time: `now` is the reader's monotonic clock in seconds,
    `now_ms` that of Redis when it was read. `at` tells the position that the log calls (epoch, n).
    """

    key: str
    policy: str
    vary: Headers
    now: float
    now_ms: int
    at: Callable[[str, int], int]


def pack(entry: Entry) -> Packed:
    """The part that is worth a thread where the body is large. Raises ValueError or TypeError for texts that no
    instance could have got from a request or a response.
    """
    body = entry.body
    raw = body[0] if len(body) == 1 else b"".join(body)
    fields = entry.rest[: entry.head_end]
    flags, coded = 0, raw
    if len(raw) >= _WORTH_ZSTD and not (_CODED.search(entry.lead) or _CODED.search(fields)):
        smaller = _zstd.compress(raw)
        if len(smaller) <= len(raw) * 9 // 10:
            flags, coded = _ZSTD, smaller
    key, terms = entry.key.encode(), _write_terms(entry.terms)
    lengths = _LENGTHS.pack(len(key), len(terms), len(entry.lead), len(fields), len(raw))
    payload = b"".join((lengths, key, terms, entry.lead, fields, coded))
    return Packed(payload, flags, crc32(payload))


def pack_pointer(names: tuple[str, ...]) -> Packed:
    """The request fields that tell the variants of an answer apart."""
    payload = orjson.dumps(names)
    return Packed(payload, _POINTER, crc32(payload))


def head_of(packed: Packed, entry: Entry, place: tuple[str, int], now: float) -> bytes:
    """What precedes the stamp, at `now` in monotonic seconds. `place`: epoch and n of the entry's position."""
    epoch, n = place[0].encode(), place[1]
    left = (entry.fresh_until - now) * 1000
    fresh = stale = 0.0  # Lua must not take for fresh what has to be validated
    if not entry.terms.always_validate:
        fresh = left
        stale = left if entry.terms.never_stale else left + entry.terms.stale_window * 1000
    age, held = (now - entry.born) * 1000, (now - entry.stored_at) * 1000
    head = _HEAD.pack(MAGIC, VERSION, packed.flags, n, fresh, stale, left, age, held, packed.checksum, len(epoch))
    return head + epoch


def is_heavy(frame: bytes) -> bool:
    """Whether decoding belongs in a thread."""
    size = len(frame)
    if size > HEAVY or size < _HEAD.size or not frame[3] & _ZSTD:
        return size > HEAVY
    at = _HEAD.size + frame[_HEAD.size - 1] + _STAMP.size + _SEAL
    return size >= at + _LENGTHS.size and _LENGTHS.unpack_from(frame, at)[4] > HEAVY


def identity(frame: bytes) -> bytes:
    """Enough of a frame to tell it from whatever replaces it."""
    return frame[: _HEAD.size + 255 + _STAMP.size + _SEAL]


def decode(frame: bytes, asked: Asked) -> Entry:
    """The entry in a frame, as if it had been stored here. Raises Damaged and UnknownVersion."""
    try:
        return _decode(frame, asked)
    except (StructError, ZstdError, ValueError, TypeError, IndexError) as error:
        raise Damaged(str(error)) from None


def decode_pointer(frame: bytes) -> tuple[str, ...]:
    """The names in a pointer. Raises Damaged and UnknownVersion."""
    try:
        _, flags, *_, at = _open(frame)
        names = orjson.loads(frame[at:])
    except (StructError, ValueError, TypeError, IndexError) as error:
        raise Damaged(str(error)) from None
    if not flags & _POINTER or not names or not _are_texts(names):
        raise Damaged("no pointer")
    return tuple(names)


def _open(frame: bytes) -> tuple[str, int, int, float, float, float, float, int]:
    """Epoch, flags, n, left_ms, age_ms, held_ms, stored_ms and where the payload begins, of a frame that is whole."""
    magic, version, flags, n, _, _, left, age, held, checksum, size = _HEAD.unpack_from(frame)
    if magic != MAGIC:
        raise Damaged("no frame")
    if version != VERSION:
        raise UnknownVersion(str(version))
    stamp = _HEAD.size + size
    end = stamp + _STAMP.size
    at = end + _SEAL
    if _seal(frame[:end]) != frame[end:at] or crc32(memoryview(frame)[at:]) != checksum:
        raise Damaged("altered")
    stored = _STAMP.unpack_from(frame, stamp)[0]
    if not (0 <= n < _MAX_N and 0 <= stored < _MAX_MS and abs(left) + abs(age) + abs(held) < _MAX_MS):
        raise Damaged("numbers of no use")
    return frame[_HEAD.size : stamp].decode(), flags, int(n), left, age, held, stored, at


def _decode(frame: bytes, asked: Asked) -> Entry:
    epoch, flags, n, left, age, held, stored_ms, at = _open(frame)
    if flags & _POINTER:
        raise Damaged("a pointer")
    key_size, terms_size, lead_size, fields_size, raw_size = _LENGTHS.unpack_from(frame, at)
    at += _LENGTHS.size
    key = frame[at : at + key_size].decode()
    at += key_size
    terms = _read_terms(frame[at : at + terms_size])
    if key != asked.key or terms.policy != asked.policy or terms.vary != asked.vary:
        raise Damaged("of something else")
    at += terms_size
    lead = frame[at : at + lead_size]
    at += lead_size
    body_at = at + fields_size
    if flags & _ZSTD:
        rest, pieces = _joined(frame[at:body_at], _expanded(frame[body_at:], raw_size))
    elif body_at + raw_size != len(frame):
        raise Damaged("cut")
    elif raw_size <= INLINE:
        rest, pieces = frame[at:], ()
    else:
        rest, pieces = _joined(frame[at:body_at], frame[body_at:])
    residence = max(0.0, asked.now_ms - stored_ms)
    stored_at = asked.now - (held + residence) / 1000
    born = stored_at if age == held else asked.now - (age + residence) / 1000  # one object for both in most entries
    fresh_until = asked.now + (left - residence) / 1000
    lead = held_once(lead) if lead.find(b"\n") == len(lead) - 1 else lead
    head_end, seq = held_once(fields_size), asked.at(epoch, n)
    # By position: names make a dictionary, and that is 1 µs for each entry.
    return Entry(asked.key, terms, lead, rest, head_end, pieces, stored_at, born, fresh_until, seq)


def _expanded(coded: bytes, size: int) -> bytes:
    """Raises Damaged, before it takes any memory, where it would not become exactly `size` bytes."""
    if size > MAX_BODY or frame_content_size(coded) != size:
        raise Damaged("larger than it says")
    body = _zstd.decompress(coded)
    if len(body) != size:
        raise Damaged("shorter than it says")
    return body


def _joined(fields: bytes, body: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """As an entry holds them: `rest` and `pieces`."""
    if len(body) <= INLINE:
        return fields + body, ()
    return fields, tuple([body[at : at + _PIECE] for at in range(0, len(body), _PIECE)])


def _seal(sealed: bytes) -> bytes:
    return sha1(sealed, usedforsecurity=False).hexdigest()[:_SEAL].encode()


def _write_terms(terms: Terms) -> bytes:
    return orjson.dumps(
        (
            terms.vary,
            terms.tags,
            terms.aside,
            terms.policy,
            terms.stale_window,
            terms.error_window,
            terms.lost_window,
            terms.always_validate,
            terms.distrusted,
            terms.never_stale,
            terms.stated,
            terms.fetch_seconds,
        )
    )


def _read_terms(written: bytes) -> Terms:
    return _read_usual(written) if len(written) <= _USUAL else _read(written)


def _read(written: bytes) -> Terms:
    vary, tags, aside, policy, *rest = orjson.loads(written)
    windows, flags, seconds = rest[:3], rest[3:7], rest[7:]
    if not (
        _are_pairs(vary)
        and _are_texts(tags)
        and _are_pairs(aside)
        and isinstance(policy, str)
        and all(type(each) in (int, float) and isfinite(each) for each in (*windows, *seconds))
        and all(isinstance(flag, bool) for flag in flags)
    ):
        raise Damaged("terms of the wrong kinds")
    pairs = [tuple([(name, value) for name, value in fields]) for fields in (vary, aside)]
    return shared(Terms(pairs[0], tuple(tags), pairs[1], policy, *rest))


def _are_texts(read: Any) -> TypeGuard[list[str]]:  # noqa: ANN401 - JSON
    return isinstance(read, list) and all(isinstance(text, str) for text in read)


def _are_pairs(read: Any) -> TypeGuard[list[list[str]]]:  # noqa: ANN401 - JSON
    return isinstance(read, list) and all(_are_texts(pair) and len(pair) == 2 for pair in read)


_USUAL: Final = 512  # bytes; what others choose is kept only where it is short
_read_usual = lru_cache(maxsize=1024)(_read)
