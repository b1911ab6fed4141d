"""What a response head says of its body."""

import pytest

from proxy.rules.framing import MAX_HEAD, Framed, Unreadable, read_head


def read(
    text: str, *, status: int = 200, method: str = "GET", version: tuple[int, int] = (1, 1), upgrade: bool = False
) -> Framed:
    lines = [line.encode("latin-1").partition(b": ") for line in text.split("\n") if line]
    raw = [(name, value) for name, _, value in lines]
    return read_head(version, status, b"Fine \xe9", raw, method=method, upgrade=upgrade)


@pytest.mark.parametrize(
    ("text", "status", "method", "length", "close_delimited"),
    [
        pytest.param("", 200, "HEAD", 0, False, id="9112-6.3-1 nothing follows the answer to HEAD"),
        pytest.param("Content-Length: 9", 200, "HEAD", 0, False, id="9112-6.3-1 whatever its length"),
        pytest.param("Transfer-Encoding: chunked", 200, "HEAD", 0, False, id="9112-6.3-1 or coding"),
        pytest.param("Content-Length: 9", 204, "GET", 0, False, id="9112-6.3-1 204"),
        pytest.param("Content-Length: 9", 304, "GET", 0, False, id="9112-6.3-1 304"),
        pytest.param("Transfer-Encoding: Chunked", 200, "GET", None, False, id="9112-6.3-4 chunked, in any case"),
        pytest.param("Content-Length: 0", 200, "GET", 0, False, id="9112-6.3-6 length 0"),
        pytest.param("Content-Length: 9", 500, "POST", 9, False, id="9112-6.3-6 a length"),
        pytest.param("", 200, "GET", None, True, id="9112-6.3-8 neither: the end of the connection"),
    ],
)
def test_the_length_of_a_body(text: str, status: int, method: str, length: int | None, close_delimited: bool) -> None:
    framed = read(text, status=status, method=method)
    assert (framed.length, framed.close_delimited) == (length, close_delimited)


@pytest.mark.parametrize(
    ("text", "status", "version"),
    [
        pytest.param("Transfer-Encoding: gzip, chunked", 200, (1, 1), id="9112-6.1 a coding nobody here undoes"),
        pytest.param("Transfer-Encoding: gzip", 200, (1, 1), id="9112-6.1 and without chunked"),
        pytest.param("Transfer-Encoding: chunked\nTransfer-Encoding: chunked", 200, (1, 1), id="9112-7 chunked twice"),
        pytest.param("Transfer-Encoding: ", 200, (1, 1), id="no coding at all"),
        pytest.param("Transfer-Encoding: chunked", 200, (1, 0), id="9112-6.1 a coding in HTTP/1.0"),
        pytest.param("", 200, (2, 0), id="HTTP/2 in the dress of HTTP/1"),
        pytest.param("", 200, (0, 9), id="HTTP/0.9"),
        pytest.param("", 99, (1, 1), id="9110-15 a status below 100"),
        pytest.param("Upgrade: x\nConnection: upgrade", 101, (1, 1), id="9110-7.8 101 nobody asked for"),
        pytest.param("Content-Length : 2", 200, (1, 1), id="9112-5.1 space before the colon"),
        pytest.param("Transfer-Encoding\t: chunked", 200, (1, 1), id="9112-5.1 in any field"),
        pytest.param(": a", 200, (1, 1), id="9110-5.1 a field without a name"),
        pytest.param("X: " + "a" * MAX_HEAD, 200, (1, 1), id="too large"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(text: str, status: int, version: tuple[int, int]) -> None:
    with pytest.raises(Unreadable):
        read(text, status=status, version=version)


def test_a_head_goes_on_without_hop_by_hop_fields_and_with_its_bytes() -> None:
    head = read("Connection: X-A\nx-a: 1\nx-B: \xe9\nContent-Length: 2", version=(1, 0)).head
    assert (head.status, head.reason, head.http10) == (200, "Fine \xe9", True)
    assert head.headers == (("x-B", "\xe9"), ("Content-Length", "2"))
    assert head.fields == {"x-b": "\xe9", "content-length": "2"}


def test_a_101_goes_on_with_what_it_switches_to() -> None:
    framed = read("Upgrade: websocket\nConnection: Upgrade", status=101, upgrade=True)
    assert framed.head.headers == (("Upgrade", "websocket"), ("Connection", "Upgrade"))
    assert (framed.length, framed.close_delimited) == (0, False)


@pytest.mark.parametrize("status", [101, 204])
def test_an_answer_without_content_says_no_length_of_it(status: int) -> None:
    """RFC 9110 section 8.6."""
    framed = read("content-LENGTH: 5\nX: 1", status=status, upgrade=status == 101)
    assert (framed.length, framed.head.headers, framed.head.fields) == (0, (("X", "1"),), {"x": "1"})
