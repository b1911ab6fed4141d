"""What explanations are made of."""

from dataclasses import fields, is_dataclass
from typing import get_args

import orjson
import pytest

from proxy.flow import explanation as module
from proxy.flow.explanation import (
    HIDDEN,
    Act,
    Answer,
    AsRead,
    Compared,
    Decision,
    Explanation,
    Step,
    compared,
    told,
    told_key,
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


@pytest.mark.parametrize(
    "name",
    [
        *("authorization", "cookie", "proxy-authorization", "x-api-key", "x-apikey", "x-auth", "x-session-id", "token"),
        *("x-access-key", "x-jwt-assertion", "x-hub-signature", "x-client-credential"),
    ],
)
def test_what_is_somebodys_own_is_hidden(name: str) -> None:
    assert told(name, "s3cret") == HIDDEN
    assert told(name, None) is None
    assert compared(((name, "a"),), ((name, "b"),)) == (Compared(name, HIDDEN, HIDDEN, same=False),)


@pytest.mark.parametrize("name", ["accept-encoding", "x-tenant", "accept-language", "key"])
def test_what_tells_variants_apart_is_not(name: str) -> None:
    assert told(name, "de") == "de"
    assert compared(((name, "\0"),), ((name, ""),)) == (Compared(name, None, "", same=False),)


def test_a_key_is_told_without_what_is_somebodys_own() -> None:
    assert told_key("http://a/?x=1") == "http://a/?x=1"
    assert told_key("http://a/\nx-tenant=t=1\nx-api-key=s3cret=2\nx-empty=") == (
        "http://a/\nx-tenant=t=1\nx-api-key=(hidden)\nx-empty="
    )


def test_the_decisions_are_frozen_and_slotted() -> None:
    made = [kind for kind in vars(module).values() if isinstance(kind, type) and is_dataclass(kind)]
    assert len(made) > len(get_args(Decision))
    assert all(kind.__dataclass_params__.frozen and "__slots__" in vars(kind) for kind in made)  # type: ignore[attr-defined]
