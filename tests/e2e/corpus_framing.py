"""The part of the corpus that is about where a body ends; sources as in `corpus`."""

from typing import Final

from tests.e2e.corpus import HOST, Case

SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: api.example.test\r\n\r\n"
TE: Final = b"Transfer-Encoding: chunked\r\n"
HIDDEN: Final = "TE.TE: one side sees `chunked`, the other does not"
LENGTH: Final = "RFC 9110 8.6: one or more digits"
SIZE: Final = "RFC 9112 7.1: a chunk size is hexadecimal digits"
ENDS: Final = "RFC 9112 7.1: chunk data ends where its size says, with CRLF"
TRAILER: Final = "RFC 9112 7.1.2: trailers are fields"


def _framing(name: str, lines: bytes, body: bytes, why: str, *statuses: int) -> Case:
    """A POST whose framing is wrong or told twice; the body holds what would be smuggled."""
    return Case(name, b"POST /hit HTTP/1.1\r\n" + HOST + lines + b"\r\n" + body, statuses or (400,), why)


def _coding(name: str, lines: bytes, why: str = HIDDEN, *statuses: int) -> Case:
    return _framing(f"te-{name}", lines, b"0\r\n\r\n" + SMUGGLED, why, *statuses)


def _value(name: str, value: bytes, *statuses: int) -> Case:
    return _coding(name, b"Transfer-Encoding:" + value + b"\r\n", HIDDEN, *statuses)


def _length(name: str, value: bytes) -> Case:
    return _framing(f"cl-{name}", b"Content-Length:" + value + b"\r\n", b"hello" + SMUGGLED, LENGTH)


def _chunks(name: str, body: bytes, why: str = SIZE) -> Case:
    """A chunked POST with a good head and a body that breaks RFC 9112 section 7.1."""
    return Case(f"chunk-{name}", b"POST /sink HTTP/1.1\r\n" + HOST + TE + b"\r\n" + body, (400,), why, bad_body=True)


_BOTH: Final = [
    _framing("cl-te", b"Content-Length: 6\r\n" + TE, b"0\r\n\r\nG", "RFC 9112 6.1: CL.TE"),
    _framing("te-cl", TE + b"Content-Length: 3\r\n", b"8\r\nSMUGGLED\r\n0\r\n\r\n", "RFC 9112 6.1: TE.CL"),
    _framing("cl-zero-te", b"Content-Length: 0\r\n" + TE, b"0\r\n\r\n" + SMUGGLED, "RFC 9112 6.1"),
    _framing("te-cl-te", TE + b"Content-Length: 5\r\n" + TE, b"0\r\n\r\n", "RFC 9112 6.1"),
    _framing("cl-and-bad-te", b"Content-Length: 5\r\nTransfer-Encoding: x\r\n", b"hello", "RFC 9112 6.1", 400, 501),
    _framing(
        "cl-hidden-from-connection", b"Connection: Content-Length\r\nContent-Length: 5\r\n" + TE, b"0\r\n\r\n", "6.1"
    ),
    Case(
        "get-cl-te", b"GET /hit HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n" + TE + b"\r\n0\r\n\r\n", (400,), "6.1"
    ),
    Case("te-1.0", b"POST /hit HTTP/1.0\r\n" + HOST + TE + b"\r\n0\r\n\r\n", (400,), "RFC 9112 6.1: no TE in 1.0"),
    Case(
        "te-1.0-keep-alive",
        b"POST /hit HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n" + TE + b"\r\n0\r\n\r\n" + SMUGGLED,
        (400,),
        "RFC 9112 6.1: no TE in 1.0",
    ),
]

_CODINGS: Final = [
    _value("unknown", b" xchunked", 501),
    _value("gzip", b" gzip", 501),
    _value("gzip-chunked", b" gzip, chunked", 501),
    _value("chunked-gzip", b" chunked, gzip", 501),
    _value("identity", b" identity", 501),
    _value("chunked-identity", b" chunked, identity", 501),
    _value("identity-chunked", b" identity, chunked", 501),
    _value("cow", b" chunked-cow", 501),
    _value("chunked-twice-in-list", b" chunked, chunked"),
    _value("chunked-comma", b" chunked,"),
    _value("comma-chunked", b" ,chunked"),
    _value("parameter", b" chunked;q=1"),
    _value("quoted", b' "chunked"'),
    _value("single-quoted", b" 'chunked' x"),
    _value("empty", b""),
    _value("only-a-comma", b" ,"),
    _value("split-by-space", b" chun ked"),
    _value("vertical-tab", b" \x0bchunked"),
    _value("form-feed", b" \x0cchunked"),
    _value("nul", b" chunked\0"),
    _value("bare-cr", b" \rchunked"),
    _value("trailing-bare-cr", b" chunked\r"),
    _value("no-break-space", b" \xa0chunked"),
    _value("high-byte", b" chunked\xff"),
    _value("bare-lf-value", b"\n chunked"),
    _value("folded-value", b"\r\n chunked"),
    _value("folded-behind", b" chunked\r\n , identity"),
    _coding("twice", TE + TE),
    _coding("twice-differing", TE + b"Transfer-Encoding: identity\r\n", HIDDEN, 400, 501),
    _coding("twice-in-other-case", TE + b"transfer-encoding: x\r\n", HIDDEN, 400, 501),
    _coding("space-before-colon", b"Transfer-Encoding : chunked\r\n"),
    _coding("tab-before-colon", b"Transfer-Encoding\t: chunked\r\n"),
    _coding("leading-space", b" Transfer-Encoding: chunked\r\n"),
    _coding("leading-tab", b"\tTransfer-Encoding: chunked\r\n"),
    _coding("name-with-space", b"Transfer Encoding: chunked\r\n"),
    _coding("name-with-nul", b"Transfer-\0Encoding: chunked\r\n"),
    _coding("name-with-cr", b"Transfer-Encoding\r: chunked\r\n"),
    _coding("name-split-by-lf", b"Transfer-Encoding\n: chunked\r\n"),
    _coding("behind-bare-lf", b"X: y\nTransfer-Encoding: chunked\r\n"),
    _coding("behind-bare-cr", b"X: y\rTransfer-Encoding: chunked\r\n"),
    _coding("behind-nul", b"X: y\0Transfer-Encoding: chunked\r\n"),
]

_LENGTHS: Final = [
    _length("plus", b" +5"),
    _length("minus", b" -5"),
    _length("minus-zero", b" -0"),
    _length("hexadecimal", b" 0x5"),
    _length("hexadecimal-digits", b" a"),
    _length("octal", b" 0o5"),
    _length("decimal-point", b" 5.0"),
    _length("exponent", b" 1e1"),
    _length("underscore", b" 5_0"),
    _length("word", b" five"),
    _length("empty", b""),
    _length("space-within", b" 5 5"),
    _length("list-equal", b" 5, 5"),
    _length("list-differing", b" 5, 50"),
    _length("list-empty-member", b" 5,"),
    _length("semicolon", b" 5;"),
    _length("quoted", b' "5"'),
    _length("overflow-64-bits", b" 18446744073709551621"),
    _length("overflow-signed", b" 9223372036854775813"),
    _length("overflow-32-bits-many-digits", b" 000000000000000000000004294967301"),
    _length("vertical-tab", b" \x0b5"),
    _length("nul", b" 5\0"),
    _length("bare-cr", b" 5\r5"),
    _length("bare-lf", b" \n5"),
    _length("folded", b" 5\r\n 0"),
    _length("arabic-digit", b" \xd9\xa5"),
    _length("superscript-digit", b" \xb2"),
    _framing("cl-twice-equal", b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello", "RFC 9110 8.6"),
    _framing("cl-twice-differing", b"Content-Length: 5\r\nContent-Length: 0\r\n", b"hello", "Linhart 2005"),
    _framing("cl-twice-in-other-case", b"Content-Length: 0\r\ncontent-length: 5\r\n", b"hello", "Linhart 2005"),
    _framing("cl-space-before-colon", b"Content-Length : 5\r\n", b"hello", "RFC 9112 5.1; 0.CL"),
    _framing("cl-leading-space", b" Content-Length: 5\r\n", b"hello", "RFC 9112 5.2; 0.CL"),
    _framing("cl-behind-bare-lf", b"X: y\nContent-Length: 5\r\n", b"hello", "RFC 9112 2.2; 0.CL"),
    _framing("cl-name-split-by-lf", b"Content-Length\n: 5\r\n", b"hello", "RFC 9112 2.2; 0.CL"),
    _framing("cl-name-with-nul", b"Content-Length\0: 5\r\n", b"hello", "RFC 9110 5.1; 0.CL"),
    Case("cl-negative-on-get", b"GET /hit HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", (400,), LENGTH),
    _framing("expect-obfuscated", b"Expect: y 100-continue\r\nContent-Length: 5\r\n", b"hello", "Kettle 2025", 417),
]

_CHUNKS: Final = [
    _chunks("plus", b"+5\r\nhello\r\n0\r\n\r\n"),
    _chunks("minus", b"-5\r\nhello\r\n0\r\n\r\n"),
    _chunks("0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    _chunks("leading-space", b" 5\r\nhello\r\n0\r\n\r\n"),
    _chunks("leading-tab", b"\t5\r\nhello\r\n0\r\n\r\n"),
    _chunks("trailing-space", b"5 \r\nhello\r\n0\r\n\r\n"),
    _chunks("no-size", b"\r\nhello\r\n0\r\n\r\n"),
    _chunks("only-an-extension", b";a=b\r\nhello\r\n0\r\n\r\n"),
    _chunks("no-hexadecimal", b"g\r\nhello\r\n0\r\n\r\n"),
    _chunks("underscore", b"0_5\r\nhello\r\n0\r\n\r\n"),
    _chunks("comma", b"5,5\r\nhello\r\n0\r\n\r\n"),
    _chunks("decimal-point", b"5.0\r\nhello\r\n0\r\n\r\n"),
    _chunks("two-sizes", b"5 5\r\nhello\r\n0\r\n\r\n"),
    _chunks("high-byte", b"5\xa0\r\nhello\r\n0\r\n\r\n"),
    _chunks("full-width-digit", b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n"),
    _chunks("nul", b"5\0\r\nhello\r\n0\r\n\r\n"),
    _chunks("overflow", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    _chunks("overflow-wraps-to-5", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    _chunks("overflow-many-digits", b"0" * 300 + b"5\r\nhello\r\n0\r\n\r\n"),
    _chunks("size-ends-with-lf", b"5\nhello\r\n0\r\n\r\n"),
    _chunks("size-ends-with-cr", b"5\rhello\r\n0\r\n\r\n"),
    _chunks("extension-ends-with-lf", b"5;\nhello\r\n0\r\n\r\n", "TERM.EXT"),
    _chunks("extension-named-ends-with-lf", b"5;a=b\nhello\r\n0\r\n\r\n", "TERM.EXT"),
    _chunks("extension-holds-cr", b"5;a\rb\r\nhello\r\n0\r\n\r\n", "EXT.TERM"),
    _chunks("extension-holds-two-cr", b"5;a\r\r\nhello\r\n0\r\n\r\n", "EXT.TERM"),
    _chunks("extension-hides-a-request", b"2;\nxx\r\n39\r\n0\r\n\r\n" + SMUGGLED + b"0\r\n\r\n", "TERM.EXT"),
    _chunks("extension-with-nul", b"5;\0\r\nhello\r\n0\r\n\r\n", "RFC 9112 7.1.1"),
    _chunks("extension-without-end", b"5;" + b"a" * 70_000 + b"\r\nhello\r\n0\r\n\r\n", "RFC 9112 7.1.1: bounded"),
    _chunks("data-too-long", b"3\r\nhello\r\n0\r\n\r\n", ENDS),
    _chunks("data-too-short", b"6\r\nhello\r\n0\r\n\r\n", ENDS),
    _chunks("data-without-crlf", b"5\r\nhello0\r\n\r\n", ENDS),
    _chunks("data-ends-with-lf", b"5\r\nhello\n0\r\n\r\n", ENDS),
    _chunks("data-ends-with-cr", b"5\r\nhello\r0\r\n\r\n", ENDS),
    _chunks("data-ends-with-two-others", b"5\r\nhelloXX0\r\n\r\n", "two bytes skipped unread: chunk spill"),
    _chunks("data-ends-with-lf-cr", b"5\r\nhello\n\r0\r\n\r\n", ENDS),
    _chunks("last-ends-with-lf", b"5\r\nhello\r\n0\n\r\n", ENDS),
    _chunks("last-extension-ends-with-lf", b"5\r\nhello\r\n0;\n\r\n", "TERM.EXT"),
    _chunks("end-with-lf", b"5\r\nhello\r\n0\r\n\n", ENDS),
    _chunks("end-with-cr", b"5\r\nhello\r\n0\r\n\rX\r\n", ENDS),
    _chunks("last-is-minus-zero", b"5\r\nhello\r\n-0\r\n\r\n"),
    _chunks("trailer-without-colon", b"0\r\n" + SMUGGLED, TRAILER),
    _chunks("trailer-name-with-space", b"0\r\nX y: z\r\n\r\n", TRAILER),
    _chunks("trailer-space-before-colon", b"0\r\nX : z\r\n\r\n", TRAILER),
    _chunks("trailer-folded", b"0\r\nX: y\r\n z\r\n\r\n", TRAILER),
    _chunks("trailer-bare-lf", b"0\r\nX: y\nZ: a\r\n\r\n", TRAILER),
    _chunks("trailer-bare-cr", b"0\r\nX: y\rZ: a\r\n\r\n", TRAILER),
    _chunks("trailer-nul", b"0\r\nX: \0\r\n\r\n", TRAILER),
    _chunks("trailer-empty-name", b"0\r\n: y\r\n\r\n", TRAILER),
    _chunks("trailers-without-end", b"0\r\n" + b"X: y\r\n" * 12_000 + b"\r\n", "bounded like a head"),
]

FRAMINGS: Final = [*_BOTH, *_CODINGS, *_LENGTHS, *_CHUNKS]
