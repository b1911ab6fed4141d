"""Frames: what goes in comes out, and what is not whole is found out."""

import os
import struct
from contextlib import suppress
from dataclasses import replace
from math import isfinite
from typing import Any, Final
from zlib import crc32

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.edges import codec
from proxy.edges.codec import Asked, Damaged, UnknownVersion
from proxy.rules.admit import INLINE
from proxy.rules.freshness import distrust
from proxy.rules.message import Entry, Headers, held_once
from proxy.rules.policy import Policy
from tests.edges.fleet import sealed, stamped
from tests.rules.build import NOW, admitted, bare, brief, entry

EPOCH: Final = "e7"
STORED: Final = 1_700_000_000_000.0  # milliseconds by Redis's clock
AWAY: Final = 100_000.0  # seconds between the clock of who wrote and of who reads
MS: Final = 0.002


def framed(kept: Entry, *, n: int = 3, at: float = NOW) -> bytes:
    """What is in Redis after an instance has stored it at that time."""
    packed = codec.pack(kept)
    return stamped(codec.head_of(packed, kept, (EPOCH, n), at), packed.payload, STORED, STORED - 50)


def asked(kept: Entry, *, now: float = NOW, after: float = 0.0) -> Asked:
    """The question for it, `after` so many seconds in Redis."""
    at = {(EPOCH, 3): kept.seq}
    return Asked(kept.key, kept.terms.policy, kept.vary, now, int(STORED + after * 1000), lambda epoch, n: at[epoch, n])


def compressible(size: int) -> bytes:
    return (b'{"name": "value", "other": "thing"}, ' * (size // 37 + 1))[:size]


def same(read: Entry, kept: Entry, later: float = 0.0) -> None:
    """The same to all who look, with clocks that far apart."""
    assert (read.key, read.terms, read.lead, read.seq) == (kept.key, kept.terms, kept.lead, kept.seq)
    assert (read.rest, read.head_end, b"".join(read.pieces)) == (kept.rest, kept.head_end, b"".join(kept.pieces))
    for name in ("stored_at", "born", "fresh_until"):
        assert abs(getattr(read, name) - later - getattr(kept, name)) <= MS, name


@brief
@given(admitted(), st.floats(-1000, 1000), st.floats(0, 1000))
def test_any_entry_survives_the_way_from_one_clock_to_another(
    case: tuple[Entry, Policy], delay: float, residence: float
) -> None:
    kept = case[0]
    written_at, read_at = NOW + delay, NOW + delay + AWAY + residence
    read = codec.decode(framed(kept, at=written_at), asked(kept, now=read_at, after=residence))
    same(read, kept, later=AWAY)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 100_000, INLINE, INLINE + 1, 3 * INLINE])
@pytest.mark.parametrize("random", [False, True])
def test_a_body_of_any_size_survives(size: int, random: bool) -> None:
    body = os.urandom(size) if random else compressible(size)
    kept = bare(body=body, seq=9)
    if size > INLINE:
        kept = replace(kept, rest=kept.rest[: kept.head_end], pieces=(body[:1000], body[1000:]))
    read = codec.decode(framed(kept), asked(kept))
    same(read, kept)
    assert read.length == size


def test_texts_of_every_kind_survive() -> None:
    kept = bare("http://h/\nx-tenant=ä", b"x", vary=(("accept", "\0"), ("x", "é")), tags=("a b", "ü"))
    kept = replace(kept, terms=replace(kept.terms, aside=(("Cache-Tag", "ü"),), fetch_seconds=1.5, policy="p"))
    same(codec.decode(framed(kept), asked(kept)), kept)


def test_what_pays_is_compressed_and_nothing_else() -> None:
    def size(body: bytes, *fields: str) -> int:
        coded = "".join(f"{each}\r\n" for each in (*fields, "")).encode()
        return len(codec.pack(replace(bare(body=b""), rest=coded + body, head_end=len(coded))).payload)

    assert size(compressible(5000)) < 1000
    assert size(compressible(4095)) > 4095
    assert size(os.urandom(5000)) > 5000
    assert size(compressible(5000), "Content-Encoding: gzip") > 5000
    assert size(compressible(5000), "X: y", "content-encoding: br") > 5000
    assert size(compressible(5000), "X-Content-Encoding: br") < 1000


def test_a_coding_told_before_the_last_cache_status_is_seen_too() -> None:
    lead = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nCache-Status: other\r\n"
    assert len(codec.pack(replace(bare(body=compressible(5000)), lead=lead)).payload) > 5000


def test_what_many_share_is_shared() -> None:
    kept = bare(body=b"x", vary=(("accept", "a"),))
    first, second = (codec.decode(framed(kept), asked(kept)) for _ in range(2))
    assert first.terms is second.terms
    assert first.lead is second.lead
    assert first.lead is held_once(first.lead)
    assert first.stored_at is first.born


def test_a_distrusted_entry_stays_so() -> None:
    kept = distrust(bare(body=b"x"))
    same(codec.decode(framed(kept), asked(kept)), kept)


def test_time_in_redis_never_runs_backwards() -> None:
    kept = bare()
    read = codec.decode(framed(kept), asked(kept, after=-5))
    assert abs(read.fresh_until - kept.fresh_until) <= MS


FRAMES: Final = {
    "plain": bare(body=b"hello", tags=("t",)),
    "compressed": bare(body=compressible(3000)),
    "admitted": entry("Cache-Control: max-age=60", 'ETag: "1"'),
}


@pytest.mark.parametrize("name", FRAMES)
def test_every_altered_byte_is_found(name: str) -> None:
    kept = FRAMES[name]
    frame = framed(kept)
    question = asked(kept)
    for at in range(len(frame)):
        for change in (1, 0x80, 0xFF):
            altered = frame[:at] + bytes([frame[at] ^ change]) + frame[at + 1 :]
            with pytest.raises(UnknownVersion if at == 2 else Damaged):
                codec.decode(altered, question)
            codec.is_heavy(altered)


@pytest.mark.parametrize("name", FRAMES)
def test_every_cut_is_found(name: str) -> None:
    kept = FRAMES[name]
    frame = framed(kept)
    for size in range(len(frame)):
        with pytest.raises(Damaged):
            codec.decode(frame[:size], asked(kept))
        codec.is_heavy(frame[:size])
    with pytest.raises(Damaged):
        codec.decode(frame + b"x", asked(kept))


@brief
@given(st.binary(max_size=200))
def test_noise_is_no_frame(noise: bytes) -> None:
    for read in (lambda: codec.decode(noise, asked(bare())), lambda: codec.decode_pointer(noise)):
        with pytest.raises((Damaged, UnknownVersion)):
            read()


NUMBERS: Final = (3.0, 60_000.0, 60_000.0, 60_000.0, 0.0, 0.0, STORED, STORED)  # of a frame that nothing ails
JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


def paid(terms: list[Any]) -> bytes:
    """The payload of an entry with those terms."""
    key, written, lead, fields = b"http://h/", orjson.dumps(terms), b"HTTP/1.1 200 OK\r\n", b"\r\n"
    return struct.pack("<IIIII", *map(len, (key, written, lead, fields, b"x"))) + key + written + lead + fields + b"x"


QUESTION: Final = asked(bare())._replace(at=lambda _, n: n)
TERMS: Final[list[Any]] = [[], [], [], "", 0.0, 0.0, 0.0, False, False, False, True, 0.0]


def is_of_use(read: Entry) -> bool:
    """Whether those who look at it get what they expect."""
    times = (read.stored_at, read.born, read.fresh_until, read.stale_until, read.error_until, read.lost_until)
    flags = (read.terms.always_validate, read.terms.distrusted, read.terms.never_stale, read.terms.stated)
    texts = [*read.tags, *[text for pair in (*read.vary, *read.terms.aside) for text in pair], read.terms.policy]
    return all(map(isfinite, times)) and {*map(type, flags)} == {bool} and {*map(type, texts)} == {str}


def test_a_sealed_frame_that_nothing_ails_is_read() -> None:
    assert is_of_use(codec.decode(sealed(NUMBERS, paid(TERMS)), QUESTION))


@pytest.mark.parametrize("at", [0, 3, 4, 5, 6])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_numbers_that_nobody_can_count_with_are_damage(at: int, number: float) -> None:
    with pytest.raises(Damaged):
        codec.decode(sealed((*NUMBERS[:at], number, *NUMBERS[at + 1 :]), paid(TERMS)), QUESTION)


@pytest.mark.parametrize("number", [-1.0, 2.0**53])
def test_a_number_that_no_log_gives_is_damage(number: float) -> None:
    with pytest.raises(Damaged):
        codec.decode(sealed((number, *NUMBERS[1:]), paid(TERMS)), QUESTION)


@pytest.mark.parametrize("at", range(len(TERMS)))
@pytest.mark.parametrize("value", [None, "x", 1, {"a": "b"}, [1], [["a", 1]], [["a"]], ["a"], True])
def test_terms_are_of_the_right_kinds_or_damage(at: int, value: object) -> None:
    terms = [*TERMS[:at], value, *TERMS[at + 1 :]]
    with suppress(Damaged):
        assert is_of_use(codec.decode(sealed(NUMBERS, paid(terms)), QUESTION))


@pytest.mark.parametrize("names", [{"a": 1}, "ab", [1], [["a"]], 5, [None], []])
def test_a_pointer_to_anything_but_names_is_damage(names: object) -> None:
    with pytest.raises(Damaged):
        codec.decode_pointer(sealed(NUMBERS, orjson.dumps(names), flags=1))


@brief
@given(
    st.lists(st.floats() | st.sampled_from(NUMBERS), min_size=8, max_size=8) | st.just(NUMBERS),
    st.builds(lambda at, value: [*TERMS[:at], value, *TERMS[at + 1 :]], st.integers(0, len(TERMS)), JSON).map(paid)
    | JSON.map(orjson.dumps)
    | st.binary(max_size=80),
    st.just(b"e7") | st.binary(max_size=255),
    st.integers(0, 255),
)
def test_whatever_a_sealed_frame_says_it_is_an_entry_of_use_or_damage(
    numbers: list[float], payload: bytes, epoch: bytes, flags: int
) -> None:
    frame = sealed(numbers, payload, epoch=epoch, flags=flags)
    codec.is_heavy(frame)
    with suppress(Damaged):
        assert is_of_use(codec.decode(frame, QUESTION))
    with suppress(Damaged):
        assert {*map(type, codec.decode_pointer(frame))} == {str}


@pytest.mark.parametrize(
    ("key", "policy", "vary"),
    [("http://h/other", "", ()), ("http://h/", "other", ()), ("http://h/", "", (("accept", "x"),))],
    ids=["key", "policy", "variant"],
)
def test_what_was_stored_for_something_else_is_no_answer(key: str, policy: str, vary: Headers) -> None:
    kept = bare()
    with pytest.raises(Damaged):
        codec.decode(framed(kept), asked(kept)._replace(key=key, policy=policy, vary=vary))


@pytest.mark.parametrize("claimed", [3001, 2999, 1 << 31, 0])
def test_a_frame_that_lies_about_its_size_is_not_believed(claimed: int) -> None:
    kept = bare(body=compressible(3000))
    packed = codec.pack(kept)
    lying = bytearray(packed.payload)
    lying[16:20] = claimed.to_bytes(4, "little")
    sealed = codec.Packed(bytes(lying), packed.flags, crc32(bytes(lying)))
    frame = stamped(codec.head_of(sealed, kept, (EPOCH, 3), NOW), sealed.payload, STORED, STORED)
    with pytest.raises(Damaged):
        codec.decode(frame, asked(kept))


def test_a_pointer_names_fields_and_is_no_answer() -> None:
    kept = bare(vary=(("accept", "a"), ("x", "y")))
    packed = codec.pack_pointer(("accept", "x"))
    frame = stamped(codec.head_of(packed, kept, (EPOCH, 3), NOW), packed.payload, STORED, STORED)
    assert codec.decode_pointer(frame) == ("accept", "x")
    with pytest.raises(Damaged):
        codec.decode(frame, asked(kept))
    with pytest.raises(Damaged):
        codec.decode_pointer(framed(kept))
    for at in range(len(frame)):
        with pytest.raises((Damaged, UnknownVersion)):
            codec.decode_pointer(frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :])


def test_only_what_takes_long_to_read_is_heavy() -> None:
    assert not codec.is_heavy(framed(bare(body=compressible(codec.HEAVY))))
    assert codec.is_heavy(framed(bare(body=compressible(codec.HEAVY + 1))))
