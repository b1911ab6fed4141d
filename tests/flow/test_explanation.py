"""What explanations are made of."""

from dataclasses import fields, is_dataclass
from typing import get_args

import orjson

from proxy.flow import explanation as module
from proxy.flow.explanation import (
    Act,
    Answer,
    AsRead,
    Decision,
    Explanation,
    Step,
)
from proxy.rules.message import Reason


def test_every_step_is_said_by_one_kind_of_decision() -> None:
    kinds = get_args(Decision)
    assert all(is_dataclass(kind) for kind in kinds)
    said = [next(f.default for f in fields(kind) if f.name == "step") for kind in kinds]
    assert sorted(said, key=str) == sorted(Step, key=str)


def test_it_is_json_as_it_is() -> None:
    answer = Answer(Act.REFUSE, 404, Reason.NO_ROUTE)
    written = orjson.loads(orjson.dumps(Explanation((AsRead("GET", "http", "h", "/a"),), answer)))
    assert written["answer"]["reason"] == "no-route"
    assert written["steps"] == [
        {
            "method": "GET",
            "scheme": "http",
            "host": "h",
            "target": "/a",
            "body": False,
            "refused": None,
            "step": "request",
        }
    ]


def test_the_decisions_are_frozen_and_slotted() -> None:
    made = [kind for kind in vars(module).values() if isinstance(kind, type) and is_dataclass(kind)]
    assert len(made) > len(get_args(Decision))
    assert all(kind.__dataclass_params__.frozen and "__slots__" in vars(kind) for kind in made)  # type: ignore[attr-defined]
