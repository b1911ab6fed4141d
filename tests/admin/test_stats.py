"""The numbers as nested data."""

import json

import pytest

from proxy.admin.families import Ledger
from proxy.admin.reading import read
from proxy.admin.stats import Refused, hit_ratio, most_refused, stats_of
from proxy.flow.hot import Hot
from proxy.rules.message import Reason
from proxy.rules.report import Account
from tests.admin.numbers import sources


def test_the_numbers_of_one_process() -> None:
    told = json.loads(json.dumps(stats_of(read(sources()))))
    assert told["requests"]["by_result"] == {
        "hit": 1000,
        **dict.fromkeys(("revalidated", "miss", "bypass", "error", "stale", "gone", "refused"), 1),
    }
    assert told["requests"]["by_status"] == {"2xx": 1006, "4xx": 1}
    assert told["hit_ratio"] == pytest.approx(1001 / 1005)
    assert told["durations"]["cache"]["counts"][0] == 1000
    assert told["routes"]["route 0"]["saved_upstream_seconds"] == 250.5
    assert told["upstreams"]["api"] | {"durations": None} == {
        "requests": 7,
        "retries": 1,
        "errors": {"timeout": 2, "breaker-open": 1},
        "responses": {"2xx": 4, "3xx": 0, "4xx": 0, "5xx": 3},
        "connections": 4,
        "breaker": "closed",
        "breaker_opened": 0,
        "durations": None,
        "gate": {"limit": 2, "inside": 0, "waiting": 0, "refused": 0},
    }
    assert told["memory"]["exploding_vary"] == "user-agent"
    assert told["redis"] == {
        "up": 1,
        "round_trip_seconds": 0.001,
        "commands": 100,
        "connects": 1,
        "errors": {"refused": 1, "timeout": 2, "connect": 5},
    }
    assert told["log"]["position"] == 42


def test_of_several_the_worst_is_told_of_what_does_not_sum() -> None:
    behind, blind = read(sources()), dict(read(sources()))
    blind["readthrough_log_blind_seconds"] = [((), 7.5)]
    blind["readthrough_redis_up"] = [((), 0)]
    blind["readthrough_log_position"] = [((), 40)]
    told = stats_of(Ledger().merged({(1, 1): behind, (2, 2): blind}, []))
    assert (told["log"]["blind_seconds"], told["redis"]["up"], told["log"]["position"]) == (7.5, 0, 40)
    assert told["memory"]["entries"] == 20


def test_the_hit_ratio_is_of_what_the_cache_could_have_answered() -> None:
    assert hit_ratio({"hit": 2, "stale": 1, "miss": 1, "refused": 5, "gone": 3}) == 0.75
    assert hit_ratio({"refused": 5}) is None


def test_what_limits_have_decided_is_told_by_route() -> None:
    made = sources()
    for account in (Account(Reason.RATE_LIMITED), Account(Reason.RATE_LIMITED), Account(Reason.RATE_LIMITED, ttl=-1)):
        made.tallies.note("route 0", "GET", 429, account, 0, 0.001)
    assert stats_of(read(made))["limits"]["routes"] == {
        "route 0": {
            "allowed": 1006,
            "refused": 2,
            "stale": 1,
            "buckets": {"few": 3},
            "alone": 4,
            "too_many_at_once": 0,
        }
    }


def test_the_clients_that_are_refused_most_come_first_and_those_of_all_processes_are_added_up() -> None:
    def refused(*clients: tuple[str, float]) -> list[Refused]:
        return most_refused([Hot(f"search\nfew\n{client}", rate, 0.5) for client, rate in clients])

    told = stats_of({}, [*refused(("a", 2.0), ("b", 3.0)), *refused(("a", 2.0004))])["limits"]["refused"]
    assert told == [
        {"route": "search", "limit": "few", "client": "a", "rate": 4.0, "excess": 1.0},
        {"route": "search", "limit": "few", "client": "b", "rate": 3.0, "excess": 0.5},
    ]
    many = stats_of({}, refused(*[(f"{number}", float(number)) for number in range(100)]))["limits"]["refused"]
    assert [client["client"] for client in many] == [str(number) for number in range(99, 79, -1)]


def test_of_nothing_nothing_is_told() -> None:
    told = stats_of({})
    assert (told["requests"]["total"], told["hit_ratio"], told["redis"]) == (0, None, None)
