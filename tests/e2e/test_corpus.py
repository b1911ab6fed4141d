"""The corpus: refused, the connection closed, and the upstream none the wiser."""

import pytest

from tests.e2e.corpus import HEADS, Case
from tests.e2e.corpus_framing import FRAMINGS
from tests.e2e.harness import Site, ask, request
from tests.e2e.stream import Stream, parse_head
from tests.e2e.upstream import replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = {"limits": {"header_timeout": "3s", "body_timeout": "3s", "max_header_bytes": "32KiB", "max_headers": 100}}
ODD_PATH = "/a%20b/;c=d/:@!$&'()*+,=/..c/.d/e../caf%C3%A9"
CASES = [*HEADS, *FRAMINGS]


async def test_the_corpus_is_what_it_says() -> None:
    assert len(CASES) >= 100
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.raw for case in CASES}) == len(CASES)


@pytest.mark.parametrize("after_a_hit", [False, True], ids=["at-once", "after-a-hit"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_refused_and_closed(here: Site, case: Case, after_a_hit: bool) -> None:
    here.upstream.on("/hit", replies("hit", "Cache-Control: max-age=600"))
    here.upstream.on("/sink", replies("sunk"))
    good = request("/hit")
    await here.send(good)
    before = len(here.upstream.calls)
    stream = await here.connect()
    if after_a_hit:
        assert (await ask(stream, good)).hit
    await _refused(stream, case)

    calls = here.upstream.calls[before:]
    assert not any(call.complete for call in calls), calls[0].head
    assert case.bad_body or not calls, calls[0].head
    assert (await here.send(good)).hit


async def _refused(stream: Stream, case: Case) -> None:
    await stream.send(case.raw)
    raw, _ = await stream.rest()
    stream.close()
    head, mark, body = raw.partition(b"\r\n\r\n")
    answer = parse_head(head + mark)
    assert int(answer.start[1]) in case.statuses, (case.why, raw)
    assert answer["content-type"] == "application/problem+json"
    assert answer["connection"].lower() == "close"
    # Exactly one answer: what stood behind the refused request was not read as another.
    assert len(body) == int(answer["content-length"])


ODD = {
    "an empty line first": b"\r\n" + request("/hit"),
    "spaces round values": request("/hit").replace(b"Host: ", b"hOsT:\t ").replace(b"test\r\n", b"test \t\r\n"),
    "chunked in another case": request("/hit", "Transfer-Encoding: CHUNKED", method="POST") + b"0\r\n\r\n",
    "chunks with extensions": request("/hit", "Transfer-Encoding: chunked", method="POST")
    + b'0005;a;b=c;d="e"\r\nhello\r\n000;f\r\nX: y\r\n\r\n',
    "absolute form": request("http://api.example.test/hit"),
    "absolute form spelt otherwise": request("HTTP://API.example.test:80/hit"),
    "a host spelt otherwise": request("/hit", host="API.EXAMPLE.TEST:80"),
    "odd values": request("/hit", "X-Empty:", "X-Obs: caf\u00e9"),
    "an odd query": request("/hit?a=%2f%5c%00%0d%0a&b=../..&c=\\|<>{}\"^`'"),
    "an odd path": request(ODD_PATH),
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_but_well_formed_is_served(here: Site, name: str) -> None:
    here.upstream.on("/hit", replies("hit", "Cache-Control: max-age=600"))
    here.upstream.on(ODD_PATH, replies("hit"))
    stream = await here.connect()
    for _ in range(2):
        response = await ask(stream, ODD[name])
        assert (response.status, response.text) == (200, "hit")
    stream.close()
