"""The numbers as nested data."""

import json

import pytest

from proxy.admin.families import Ledger
from proxy.admin.reading import read
from proxy.admin.stats import hit_ratio, stats_of
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
        "connections": 4,
        "breaker": "closed",
        "breaker_opened": 0,
        "durations": None,
    }
    assert told["memory"]["exploding_vary"] == "user-agent"
    assert told["redis"] == {
        "up": 1,
        "round_trip_seconds": 0.001,
        "commands": 100,
        "connects": 1,
        "errors": {"refused": 1, "timeout": 2},
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


def test_of_nothing_nothing_is_told() -> None:
    told = stats_of({})
    assert (told["requests"]["total"], told["hit_ratio"], told["redis"]) == (0, None, None)
