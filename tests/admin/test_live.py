"""`readthrough stats`: what it prints, and how it ends."""

import asyncio
import io
from typing import Any

import pytest

from proxy.admin.access import Access
from proxy.admin.client import Answer, Instance, Unanswered
from proxy.admin.live import Reading, lines, percentile, stats
from proxy.admin.metrics import Metrics
from proxy.admin.reading import read
from proxy.admin.server import AdminServer
from proxy.admin.stats import stats_of
from proxy.cli import main
from tests.admin.kit import TOKEN, Admin, admin
from tests.admin.numbers import sources


class Told(Instance):
    """An instance that answers as it is told to, then not at all."""

    __slots__ = ("answers",)
    answers: list[Answer]

    def get(self, path: str, within: float) -> Answer:
        assert (path, within) == ("/stats", 2.0)
        if not self.answers:
            raise Unanswered("it is gone")
        return self.answers.pop(0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(*answers: Answer) -> Told:
    made = Told(secure=False, host="127.0.0.1", port=1)
    object.__setattr__(made, "answers", list(answers))
    return made


def numbers() -> dict[str, Any]:
    return stats_of(read(sources()))


def test_once_is_since_the_start() -> None:
    out, complaints = io.StringIO(), list[str]()
    said = numbers()
    said["limits"]["refused"] = [
        {"route": "route 0", "limit": "few", "client": "\x1b[2J192.0.2.1", "rate": 3.21, "excess": 0.0},
        {"route": "route 0", "limit": "few", "client": "", "rate": 1.0, "excess": 0.0},
    ]
    assert stats(told(Answer(200, said)), watch=False, out=out, complain=complaints.append) == 0
    assert complaints == []
    text = out.getvalue()
    assert "requests     1,007   hit ratio 99.6%" in text
    assert "upstream     api: 7 requests, 3 errors, 3 answers 5xx, 4 connections, breaker closed" in text
    assert "limits       route 0: allowed 1,006  refused 0  stale 0  too many at once 0" in text
    assert "refused      ?[2J192.0.2.1: 3.2/s of late, by few" in text
    assert "refused      all clients: 1.0/s of late, by few" in text
    assert "\x1b" not in text


def test_watching_is_a_table_drawn_anew_until_ctrl_c_which_is_exit_0() -> None:
    out, slept = Terminal(), list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    later = numbers()
    later["requests"] = {**later["requests"], "by_result": {"hit": 1500, "miss": 1}}
    times = iter([10.0, 12.0])
    answers = told(Answer(200, numbers()), Answer(200, later))
    code = stats(answers, watch=True, out=out, complain=print, now=lambda: next(times), sleep=sleep)
    assert (code, slept) == (0, [1.0, 1.0])
    first, second = out.getvalue().split("\x1b[H\x1b[J")[1:]
    assert "1,007" in first
    assert "requests     250/s   hit ratio 100.0%" in second


@pytest.mark.parametrize("terminal", [True, False])
def test_a_table_drawn_anew_is_no_larger_than_the_terminal(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "10")
    out = Terminal() if terminal else io.StringIO()
    assert stats(told(Answer(200, numbers())), watch=True, out=out, complain=print, sleep=sleep) == 0
    whole = list(lines(Reading(0.0, numbers()), None))
    assert len(whole) > 9
    assert max(map(len, whole)) > 40
    drawn = out.getvalue().removeprefix("\x1b[H\x1b[J").splitlines()
    assert drawn == ([line[:40] for line in whole[:9]] if terminal else whole)


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ([], "no stats: it is gone"),
        ([Answer(401, {"detail": "say who\x1b[2J"})], "no stats: http://127.0.0.1:1 says 401: say who?[2J"),
        ([Answer(200, {})], "no stats: http://127.0.0.1:1 says 200: nothing that can be understood"),
    ],
)
def test_no_answer_is_exit_1_and_says_why(answers: list[Answer], complaint: str) -> None:
    out, complaints = io.StringIO(), list[str]()
    assert stats(told(*answers), watch=True, out=out, complain=complaints.append) == 1
    assert (out.getvalue(), complaints) == ("", [complaint])


def test_a_start_anew_is_no_negative_rate() -> None:
    before, after = numbers(), numbers()
    after["requests"] = {**after["requests"], "by_result": {"hit": 5}}
    after["limits"]["routes"]["route 0"]["allowed"] = 5
    text = "\n".join(lines(Reading(1.0, after), Reading(0.0, before)))
    assert "route 0: allowed 0/s  refused 0/s" in text
    assert "requests     0/s" in "\n".join(lines(Reading(1.0, after), Reading(0.0, before)))


@pytest.mark.parametrize(
    ("counts", "share", "word"),
    [
        ([0, 0, 0], 0.5, "-"),
        ([9, 1, 0], 0.5, "≤ 10 ms"),
        ([9, 1, 0], 0.95, "≤ 2 s"),
        ([0, 1, 9], 0.95, "> 2 s"),
    ],
)
def test_percentiles_are_bounds(counts: list[int], share: float, word: str) -> None:
    assert percentile([0.01, 2.0], counts, share) == word


async def test_the_command_asks_the_instance_it_is_told_to_with_its_token(capsys: pytest.CaptureFixture[str]) -> None:
    def served(here: Admin) -> None:
        here.access = Access("127.0.0.1", TOKEN)
        here.server = AdminServer(lambda: True, access=lambda: here.access, parts=[Metrics(sources())])

    async with admin(change=served) as here:
        at = ("--admin", f"127.0.0.1:{here.port}")
        assert await asyncio.to_thread(main, ["stats", *at, "--token", TOKEN]) == 0
        assert "readthrough 1.2.3, ready" in capsys.readouterr().out
        assert await asyncio.to_thread(main, ["stats", *at]) == 1
        assert "says 401" in capsys.readouterr().err
