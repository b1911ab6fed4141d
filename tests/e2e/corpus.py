"""Requests that are malformed, or that two parsers read in two ways: each must be refused.

Sources: RFC 9110, 9112 and 3986; the published research on request smuggling (Linhart and others
2005 on doubled lengths; Kettle 2019 on CL.TE, TE.CL and TE.TE; Kettle 2022 on CL.0; Kettle 2025 on
0.CL and on headers that one side sees and the other does not; the 2025 work on line ends within
chunk extensions, TERM.EXT and EXT.TERM, and on what follows chunk data); CVE numbers where there is one.
"""

from dataclasses import dataclass
from typing import Final

HOST: Final = b"Host: api.example.test\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """`bad_body`: the head is in order, so the upstream may see it, but never a whole request."""

    name: str
    raw: bytes
    statuses: tuple[int, ...]
    why: str
    bad_body: bool = False


def _line(name: str, line: bytes, why: str, *statuses: int) -> Case:
    """A request whose request line is wrong."""
    return Case(name, line + b"\r\n" + HOST + b"\r\n", statuses or (400,), why)


def _target(name: str, target: bytes, why: str) -> Case:
    return _line(name, b"GET " + target + b" HTTP/1.1", why)


def _field(name: str, lines: bytes, why: str, *statuses: int) -> Case:
    """A GET with header lines, given with their line ends, that are wrong."""
    return Case(name, b"GET /hit HTTP/1.1\r\n" + HOST + lines + b"\r\n", statuses or (400,), why)


def _host(name: str, lines: bytes, why: str) -> Case:
    """A GET whose Host lines, given with their line ends, are wrong."""
    return Case(name, b"GET /hit HTTP/1.1\r\n" + lines + b"\r\n", (400,), why)


_REQUEST_LINES: Final = [
    _line("method-lower-case", b"get /hit HTTP/1.1", "RFC 9110 9.1: methods are case-sensitive"),
    _line("method-mixed-case", b"Get /hit HTTP/1.1", "RFC 9110 9.1"),
    _line("method-empty", b" /hit HTTP/1.1", "RFC 9112 3: a method is a token"),
    _line("method-with-colon", b"GET: /hit HTTP/1.1", "RFC 9110 5.6.2: no token"),
    _line("method-with-nul", b"G\0ET /hit HTTP/1.1", "RFC 9110 5.6.2: no token"),
    _line("method-with-high-byte", b"G\xc9T /hit HTTP/1.1", "RFC 9110 5.6.2: no token"),
    _line("method-quoted", b'"GET" /hit HTTP/1.1', "RFC 9110 5.6.2: no token"),
    _line("method-connect", b"CONNECT api.example.test:443 HTTP/1.1", "a reverse proxy opens no tunnels", 405),
    _line("method-trace", b"TRACE /hit HTTP/1.1", "it would echo credentials", 405),
    _line("leading-space", b" GET /hit HTTP/1.1", "RFC 9112 3: nothing stands before the method"),
    _line("leading-tab", b"\tGET /hit HTTP/1.1", "RFC 9112 3"),
    _line("leading-nul", b"\0GET /hit HTTP/1.1", "RFC 9112 3"),
    _line("double-space-before-target", b"GET  /hit HTTP/1.1", "RFC 9112 3: single SP; lenient parsers differ"),
    _line("double-space-before-version", b"GET /hit  HTTP/1.1", "RFC 9112 3: single SP"),
    _line("trailing-space", b"GET /hit HTTP/1.1 ", "RFC 9112 3: nothing stands behind the version"),
    _line("tab-before-target", b"GET\t/hit HTTP/1.1", "RFC 9112 3: HTAB is not SP"),
    _line("tab-before-version", b"GET /hit\tHTTP/1.1", "RFC 9112 3: HTAB is not SP"),
    _line("vertical-tab", b"GET\x0b/hit HTTP/1.1", "RFC 9112 3: lenient parsers take VT and FF as space"),
    _line("form-feed", b"GET /hit\x0cHTTP/1.1", "RFC 9112 3"),
    _line("bare-cr-in-line", b"GET /hit\rHTTP/1.1", "RFC 9112 2.2: bare CR is not space"),
    _line("four-parts", b"GET /hit /other HTTP/1.1", "RFC 9112 3: a target has no whitespace"),
    _line("second-request-in-line", b"GET /hit HTTP/1.1 GET /smuggled HTTP/1.1", "RFC 9112 3"),
    _line("http-0.9", b"GET /hit", "RFC 9112 appendix: simple requests are no more"),
    _line("no-target", b"GET HTTP/1.1", "RFC 9112 3"),
    _line("only-a-method", b"GET", "RFC 9112 3"),
    _line("version-lower-case", b"GET /hit http/1.1", "RFC 9112 2.3: HTTP-name is case-sensitive"),
    _line("version-of-another-name", b"GET /hit ICAP/1.1", "RFC 9112 2.3"),
    _line("version-without-minor", b"GET /hit HTTP/1", "RFC 9112 2.3"),
    _line("version-two-digits", b"GET /hit HTTP/1.10", "RFC 9112 2.3: one digit each"),
    _line("version-padded", b"GET /hit HTTP/01.1", "RFC 9112 2.3: one digit each"),
    _line("version-comma", b"GET /hit HTTP/1,1", "RFC 9112 2.3"),
    _line("version-empty", b"GET /hit HTTP/", "RFC 9112 2.3"),
    _line("version-with-space", b"GET /hit HTTP/ 1.1", "RFC 9112 2.3"),
    _line("version-1.2", b"GET /hit HTTP/1.2", "RFC 9110 15.6.6", 505),
    _line("version-1.9", b"GET /hit HTTP/1.9", "RFC 9110 15.6.6", 505),
    _line("version-0.9", b"GET /hit HTTP/0.9", "RFC 9110 15.6.6", 505),
    _line("version-2.0", b"GET /hit HTTP/2.0", "RFC 9110 15.6.6", 505),
    _line("version-3.0", b"GET /hit HTTP/3.0", "RFC 9110 15.6.6", 505),
    Case("http-2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505), "RFC 9113 3.4"),
    Case("tls-hello", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", (400,), "TLS on a plain port"),
    _line("request-line-too-long", b"GET /" + b"a" * 70_000 + b" HTTP/1.1", "RFC 9110 15.5.15", 414),
    _line("query-too-long", b"GET /hit?" + b"a" * 70_000 + b" HTTP/1.1", "RFC 9110 15.5.15", 414),
]

_TARGETS: Final = [
    _target("asterisk", b"*", "RFC 9112 3.2.4: only with OPTIONS"),
    _line("asterisk-options", b"OPTIONS * HTTP/1.1", "no route is meant by it"),
    _target("authority-form", b"api.example.test:80", "RFC 9112 3.2.3: only with CONNECT"),
    _target("no-slash", b"hit", "RFC 9112 3.2.1: an absolute path"),
    _target("only-a-query", b"?hit", "RFC 9112 3.2.1"),
    _target("fragment", b"/hit#part", "RFC 9112 3.2.1: no fragment in a target"),
    _target("fragment-in-query", b"/hit?a=b#part", "RFC 9112 3.2.1"),
    _target("fragment-in-absolute", b"http://api.example.test/hit#part", "RFC 9112 3.2.2"),
    _target("absolute-other-host", b"http://evil.test/hit", "Host and target disagree"),
    _target("absolute-other-port", b"http://api.example.test:81/hit", "Host and target disagree"),
    _target("absolute-other-scheme", b"https://api.example.test/hit", "scheme and connection disagree"),
    _target("absolute-unknown-scheme", b"ftp://api.example.test/hit", "no such scheme here"),
    _target("absolute-userinfo", b"http://user@api.example.test/hit", "RFC 9110 4.2.4"),
    _target("absolute-userinfo-trick", b"http://api.example.test@evil.test/hit", "RFC 9110 4.2.4"),
    _target("absolute-no-host", b"http:///hit", "RFC 9110 4.2.1: the host is not empty"),
    _target("absolute-backslash", b"http://api.example.test\\@evil.test/hit", "URL parsers disagree"),
    _target("dot-segment", b"/a/./hit", "RFC 3986 5.2.4: routed one way, forwarded another"),
    _target("dot-dot-segment", b"/a/../hit", "RFC 3986 5.2.4"),
    _target("dot-dot-at-the-end", b"/a/..", "RFC 3986 5.2.4"),
    _target("dot-dot-alone", b"/..", "RFC 3986 5.2.4"),
    _target("dot-dot-encoded", b"/a/%2e%2e/hit", "RFC 3986 6.2.2.3: dots stay dots when encoded"),
    _target("dot-dot-encoded-upper", b"/a/%2E%2E/hit", "RFC 3986 6.2.2.3"),
    _target("dot-dot-half-encoded", b"/a/.%2e/hit", "RFC 3986 6.2.2.3"),
    _target("dot-encoded", b"/a/%2e/hit", "RFC 3986 6.2.2.3"),
    _target("dot-dot-semicolon", b"/a/..;/hit", "servlet containers cut path parameters first"),
    _target("dot-dot-before-query", b"/a/..?x", "RFC 3986 5.2.4"),
    _target("slash-encoded", b"/a%2fb", "one segment or two"),
    _target("slash-encoded-upper", b"/a%2Fb", "one segment or two"),
    _target("dot-dot-slash-encoded", b"/a/..%2fhit", "one segment or two"),
    _target("backslash-encoded", b"/a%5cb", "a slash to some"),
    _target("backslash-raw", b"/a\\b", "a slash to some"),
    _target("nul-encoded", b"/hit%00.json", "an end to some"),
    _target("cr-encoded", b"/hit%0dX-Evil:1", "response and request splitting"),
    _target("lf-encoded", b"/hit%0aX-Evil:1", "response and request splitting"),
    _target("crlf-encoded", b"/hit%0d%0aX-Evil:1", "response and request splitting"),
    _target("percent-alone", b"/hit%", "RFC 3986 2.1"),
    _target("percent-one-digit", b"/hit%4", "RFC 3986 2.1"),
    _target("percent-no-hex", b"/hit%zz", "RFC 3986 2.1"),
    _target("percent-unicode", b"/hit%u002e", "RFC 3986 2.1: the IIS form"),
    _target("high-byte", b"/h\xefit", "RFC 3986 2: visible ASCII"),
    _target("utf-8", "/h\u00eft".encode(), "RFC 3986 2: visible ASCII"),
    _target("high-byte-in-query", b"/hit?\xff", "RFC 3986 2: visible ASCII"),
    _target("nul", b"/hit\0", "RFC 3986 2: visible ASCII"),
    _target("delete", b"/hit\x7f", "RFC 3986 2: visible ASCII"),
    _target("escape", b"/hit\x1b[0m", "RFC 3986 2: visible ASCII"),
]

_HOSTS: Final = [
    _host("host-missing", b"", "RFC 9112 3.2"),
    Case("host-missing-1.0", b"GET /hit HTTP/1.0\r\n\r\n", (400,), "the key needs a host"),
    _host("host-empty", b"Host:\r\n", "RFC 9110 7.2: http URIs have a host"),
    _host("host-twice", HOST + b"Host: evil.test\r\n", "RFC 9112 3.2"),
    _host("host-twice-equal", HOST + HOST, "RFC 9112 3.2"),
    _host("host-twice-in-other-case", HOST + b"hOST: evil.test\r\n", "RFC 9112 3.2"),
    _host("host-comma", b"Host: api.example.test, evil.test\r\n", "RFC 9110 7.2: one host"),
    _host("host-path", b"Host: api.example.test/evil\r\n", "RFC 9110 7.2"),
    _host("host-query", b"Host: api.example.test?evil\r\n", "RFC 9110 7.2"),
    _host("host-fragment", b"Host: api.example.test#evil\r\n", "RFC 9110 7.2"),
    _host("host-userinfo", b"Host: user@api.example.test\r\n", "RFC 9110 7.2"),
    _host("host-scheme", b"Host: http://api.example.test\r\n", "RFC 9110 7.2"),
    _host("host-space", b"Host: api.example.test evil.test\r\n", "RFC 9110 7.2"),
    _host("host-backslash", b"Host: api.example.test\\evil\r\n", "RFC 9110 7.2"),
    _host("host-port-no-number", b"Host: api.example.test:http\r\n", "RFC 9110 7.2"),
    _host("host-port-too-large", b"Host: api.example.test:65536\r\n", "RFC 9110 7.2"),
    _host("host-port-negative", b"Host: api.example.test:-80\r\n", "RFC 9110 7.2"),
    _host("host-two-ports", b"Host: api.example.test:80:81\r\n", "RFC 9110 7.2"),
    _host("host-bad-ipv6", b"Host: [::1\r\n", "RFC 3986 3.2.2"),
    _host("host-high-byte", b"Host: api.ex\xe4mple.test\r\n", "RFC 9110 7.2"),
    _host("host-folded-behind", b"Host: api.example.test\r\n evil.test\r\n", "RFC 9112 5.2"),
    _host("host-space-before-colon", b"Host : api.example.test\r\n", "Kettle 2025: seen by one side only"),
    _host("host-behind-a-space", b" Host: api.example.test\r\n", "Kettle 2025: seen by one side only"),
    _host("host-and-hidden-host", HOST + b"Host : evil.test\r\n", "Kettle 2025: seen by one side only"),
    _host("host-behind-bare-cr", HOST + b"X: y\rHost: evil.test\r\n", "RFC 9112 2.2"),
    _host("host-behind-bare-lf", HOST + b"X: y\nHost: evil.test\r\n", "RFC 9112 2.2"),
]

_FIELDS: Final = [
    _field("field-space-before-colon", b"X-Field : a\r\n", "RFC 9112 5.1"),
    _field("field-tab-before-colon", b"X-Field\t: a\r\n", "RFC 9112 5.1"),
    _field("field-name-with-space", b"X Field: a\r\n", "RFC 9110 5.6.2: no token"),
    _field("field-name-empty", b": a\r\n", "RFC 9112 5"),
    _field("field-without-colon", b"X-Field\r\n", "RFC 9112 5"),
    _field("field-name-with-nul", b"X-\0Field: a\r\n", "RFC 9110 5.6.2"),
    _field("field-name-with-high-byte", b"X-F\xefeld: a\r\n", "RFC 9110 5.6.2"),
    _field("field-name-with-parenthesis", b"X(Field): a\r\n", "RFC 9110 5.6.2"),
    _field("field-name-with-slash", b"X/Field: a\r\n", "RFC 9110 5.6.2"),
    _field("field-name-with-bracket", b"X[Field]: a\r\n", "RFC 9110 5.6.2"),
    _field("field-value-with-nul", b"X-Field: a\0b\r\n", "RFC 9110 5.5"),
    _field("field-value-with-escape", b"X-Field: a\x1bb\r\n", "RFC 9110 5.5: control characters"),
    _field("field-value-with-delete", b"X-Field: a\x7fb\r\n", "RFC 9110 5.5: control characters"),
    _field("field-value-with-vertical-tab", b"X-Field: a\x0bb\r\n", "RFC 9110 5.5: control characters"),
    _field("field-value-with-bare-cr", b"X-Field: a\rb\r\n", "RFC 9110 5.5"),
    _field("field-double-cr", b"X-Field: a\r\r\n", "RFC 9112 2.2"),
    _field("field-obs-fold-space", b"X-Field: a\r\n b\r\n", "RFC 9112 5.2"),
    _field("field-obs-fold-tab", b"X-Field: a\r\n\tb\r\n", "RFC 9112 5.2"),
    _field("field-obs-fold-empty", b"X-Field: a\r\n \r\n", "RFC 9112 5.2"),
    Case("field-first-line-folded", b"GET /hit HTTP/1.1\r\n X: y\r\n" + HOST + b"\r\n", (400,), "RFC 9112 2.2"),
    _field("field-bare-lf", b"X-Field: a\nX-Other: b\r\n", "RFC 9112 2.2"),
    Case("bare-lf-everywhere", b"GET /hit HTTP/1.1\nHost: api.example.test\n\n", (400,), "RFC 9112 2.2"),
    Case("bare-lf-at-the-end", b"GET /hit HTTP/1.1\r\nHost: api.example.test\r\n\n", (400,), "RFC 9112 2.2"),
    Case("bare-lf-in-line", b"GET /hit HTTP/1.1\n" + HOST + b"\r\n", (400,), "RFC 9112 2.2"),
    Case("bare-cr-everywhere", b"GET /hit HTTP/1.1\rHost: api.example.test\r\r\n\r\n", (400,), "RFC 9112 2.2"),
    Case("lf-before-cr", b"GET /hit HTTP/1.1\n\rHost: api.example.test\n\r\n\r", (400,), "RFC 9112 2.2"),
    _field("expect-something-else", b"Expect: 200-ok\r\n", "RFC 9110 10.1.1", 417),
    _field("expect-two", b"Expect: 100-continue, 200-ok\r\n", "RFC 9110 10.1.1", 417),
    _field("fields-too-large", b"X-Field: " + b"a" * 70_000 + b"\r\n", "RFC 6585 5", 431),
    _field("fields-too-large-together", (b"X-Field: " + b"a" * 900 + b"\r\n") * 50, "RFC 6585 5", 431),
    _field("fields-too-many", b"X: y\r\n" * 200, "RFC 6585 5", 431),
    _field("field-name-too-large", b"X" * 70_000 + b": a\r\n", "RFC 6585 5", 431),
]

HEADS: Final = [*_REQUEST_LINES, *_TARGETS, *_HOSTS, *_FIELDS]
