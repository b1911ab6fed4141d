"""Request bodies, in whatever pieces they come (RFC 9112 sections 6.2 and 7.1)."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.message import Reason
from proxy.rules.wire import MAX_CHUNK_LINE, MAX_TRAILERS, ChunkedReader, Refused, SizedReader
from tests.rules.build import brief


def read(*pieces: bytes) -> tuple[bytes, bytes, bool]:
    """The body, what was left over, and whether the body ended."""
    reader, buffer, body = ChunkedReader(), bytearray(), b""
    for piece in pieces:
        buffer += piece
        body += reader.feed(buffer)
    return body, bytes(buffer), reader.done


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        pytest.param(b"0\r\n\r\n", b"", id="an empty body"),
        pytest.param(b"3\r\nabc\r\n0\r\n\r\n", b"abc", id="one chunk"),
        pytest.param(b"3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789", id="two, sizes in hexadecimal"),
        pytest.param(b"a\r\n0123456789\r\n000\r\n\r\n", b"0123456789", id="small letters, zeros"),
        pytest.param(b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", id="line ends in the data"),
        pytest.param(b'1;a=b;c="d" \t;e\r\nx\r\n0;f\r\n\r\n', b"x", id="extensions are passed over (RFC 9112 7.1.1)"),
        pytest.param(b"1 \t;a\r\nx\r\n0\r\n\r\n", b"x", id="white space before an extension (RFC 9112 7.1.1)"),
        pytest.param(b"1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\n", b"x", id="trailers are dropped (RFC 9112 7.1.2)"),
    ],
)
@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_bodies(raw: bytes, body: bytes, behind: bytes) -> None:
    assert read(raw + behind) == (body, behind, True)


@pytest.mark.parametrize(
    "raw", [b"", b"3", b"3\r\n", b"3\r\nabc", b"3\r\nabc\r", b"3\r\nabc\r\n", b"0\r\n", b"0\r\n\r", b"0\r\nA: b\r\n"]
)
def test_a_body_that_is_not_over_is_not_done(raw: bytes) -> None:
    assert not read(raw)[2]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\r\n", id="no size"),
        pytest.param(b"g\r\n", id="a size that is no number"),
        pytest.param(b"0x3\r\nabc\r\n", id="a size with a prefix"),
        pytest.param(b"+3\r\nabc\r\n", id="a signed size"),
        pytest.param(b"-1\r\n", id="a negative size"),
        pytest.param(b" 3\r\nabc\r\n", id="a space before the size"),
        pytest.param(b"3 \r\nabc\r\n", id="a space behind the size"),
        pytest.param(b"3\nabc\r\n", id="a size that ends without CR"),
        pytest.param(b"3\r\r\nabc\r\n", id="a size that ends with two"),
        pytest.param(b"3;a\nb\r\nabc\r\n", id="a bare LF in an extension"),
        pytest.param(b"3;a\x00\r\nabc\r\n", id="a NUL in an extension"),
        pytest.param(b"3,a\r\nabc\r\n", id="an extension after a comma"),
        pytest.param(b"f" * 16 + b"\r\n", id="a size that nobody has"),
        pytest.param(b"3\r\nabcd\r\n", id="more data than the size says"),
        pytest.param(b"3\r\nab\r\n\r\n", id="less data than the size says"),
        pytest.param(b"3\r\nabc\n0\r\n", id="data that ends without CR"),
        pytest.param(b"3\r\nabc\r0\r\n", id="data that ends without LF"),
        pytest.param(b"0\r\nA\r\n", id="a trailer without a colon"),
        pytest.param(b"0\r\nA : b\r\n", id="a trailer with a space before the colon"),
        pytest.param(b"0\r\n A: b\r\n", id="a trailer that is folded"),
        pytest.param(b"0\r\nA: b\n\r\n", id="a trailer that ends without CR"),
        pytest.param(b"0\r\nA: \x00\r\n", id="a trailer with a NUL"),
        pytest.param(b"0\r\n\n", id="an end without CR"),
        pytest.param(b"1;" + b"a" * MAX_CHUNK_LINE, id="an extension without end"),
        pytest.param(b"0\r\n" + b"A: b\r\n" * (MAX_TRAILERS // 6 + 1), id="trailers without end"),
        pytest.param(b"0\r\nA: " + b"b" * MAX_TRAILERS, id="a trailer without end"),
    ],
)
def test_bad_framing_is_refused_at_once_and_byte_by_byte(raw: bytes) -> None:
    for pieces in ([raw], [bytes([byte]) for byte in raw]):
        with pytest.raises(Refused) as caught:
            read(*pieces)
        assert (caught.value.status, caught.value.reason) == (400, Reason.MALFORMED)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"1;" + b"a" * (MAX_CHUNK_LINE - 4) + b"\r\nx\r\n0\r\n\r\n", id="an extension"),
        pytest.param(b"1\r\nx\r\n0\r\nA:" + b"b" * (MAX_TRAILERS - 6) + b"\r\n\r\n", id="trailers"),
    ],
)
def test_as_much_as_may_be(raw: bytes) -> None:
    assert read(raw) == (b"x", b"", True)
    with pytest.raises(Refused):
        read(raw.replace(b"a", b"aa", 1).replace(b"b", b"bb", 1))


chunks = st.lists(st.binary(min_size=1, max_size=20), max_size=5)
extensions = st.sampled_from([b"", b";a", b" ;a=b", b';a="\xff"'])
trailers = st.lists(st.sampled_from([b"A: b\r\n", b"x-y:\r\n"]), max_size=2).map(b"".join)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body, and how it may be framed."""
    data = draw(chunks)
    size = draw(st.sampled_from([b"%x", b"%X", b"0%x"]))
    framed = [size % len(chunk) + draw(extensions) + b"\r\n" + chunk + b"\r\n" for chunk in data]
    return b"".join(data), b"".join([*framed, b"0", draw(extensions), b"\r\n", draw(trailers), b"\r\n"])


def pieces_of(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    return [raw[a:b] for a, b in pairwise(edges)]


@brief
@given(bodies(), st.binary(max_size=30), st.lists(st.integers(0, 10_000), max_size=6))
def test_a_body_is_the_same_however_it_is_cut_and_ends_where_it_ends(
    pair: tuple[bytes, bytes], behind: bytes, cuts: list[int]
) -> None:
    body, framed = pair
    assert read(*pieces_of(framed + behind, cuts)) == (body, behind, True)
    assert read(framed, behind) == (body, behind, True)


@brief
@given(
    bodies(), st.integers(0, 10_000), st.binary(min_size=1, max_size=2), st.lists(st.integers(0, 10_000), max_size=6)
)
def test_a_damaged_body_fares_the_same_however_it_is_cut(
    pair: tuple[bytes, bytes], at: int, damage: bytes, cuts: list[int]
) -> None:
    at %= len(pair[1])
    raw = pair[1][:at] + damage + pair[1][at + 1 :]

    def fate(*pieces: bytes) -> tuple[bytes, bytes, bool] | None:
        try:
            return read(*pieces)
        except Refused:
            return None

    whole, parted = fate(raw), fate(*pieces_of(raw, cuts))
    assert whole == parted


@brief
@given(st.binary(max_size=40), st.binary(max_size=40), st.lists(st.integers(0, 10_000), max_size=6))
def test_a_sized_body_ends_at_its_size_however_it_is_cut(body: bytes, behind: bytes, cuts: list[int]) -> None:
    reader, buffer, got = SizedReader(len(body)), bytearray(), b""
    for piece in pieces_of(body + behind, cuts):
        assert reader.done is (len(got) == len(body))
        buffer += piece
        got += reader.feed(buffer)
    assert reader.done
    assert (got, bytes(buffer)) == (body, behind)
