"""What explanations are made of."""

import re
from dataclasses import fields, is_dataclass
from typing import get_args

import orjson
import pytest

from proxy.flow import explanation as module
from proxy.flow.explanation import (
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
        *("ocp-apim-subscription-key", "x-functions-key", "x-goog-api-client", "key", "x-user", "x-forwarded-for"),
        *("referer", "from", "sec-websocket-protocol", "accepted", "x-acceptance"),
    ],
)
def test_of_whatever_is_not_known_to_be_harmless_only_a_mark_is_told(name: str) -> None:
    one, other = told(name, "s3cret"), told(name, "s3cret2")
    assert re.fullmatch(r"\(hidden [0-9a-f]{12}\)", one or "")
    assert one != other, "whoever looks can tell them apart"
    assert told(name, "s3cret") == one
    assert (told(name, None), told(name, "\0"), told(name, "")) == (None, None, "")
    assert compared(((name, "s3cret"),), ((name, "s3cret2"),)) == (Compared(name, one, other, same=False),)


def test_what_no_text_should_hold_is_hidden_too() -> None:
    assert told("cookie", "\udcff") != told("cookie", "\udcfe")


@pytest.mark.parametrize(
    "name",
    [
        *("accept", "accept-encoding", "accept-language", "content-type", "host", "range", "if-none-match", "pragma"),
        *("cache-control", "user-agent", "origin", "x-forwarded-proto", "x-requested-with", "x-tenant", "save-data"),
        *("dnt", "sec-ch-ua-mobile", "sec-fetch-mode", "sec-gpc"),
    ],
)
def test_what_tells_variants_apart_is_told(name: str) -> None:
    assert told(name, "de") == "de"
    assert compared(((name, "\0"),), ((name, ""),)) == (Compared(name, None, "", same=False),)


def test_a_key_is_told_without_what_is_somebodys_own() -> None:
    assert told_key("http://a/?x=1") == "http://a/?x=1"
    line = f"http://a/\nx-tenant=t=1\nx-api-key={told('x-api-key', 's3cret=2')}\nx-empty="
    assert told_key("http://a/\nx-tenant=t=1\nx-api-key=s3cret=2\nx-empty=") == line
    assert "s3cret" not in line


def test_the_decisions_are_frozen_and_slotted() -> None:
    made = [kind for kind in vars(module).values() if isinstance(kind, type) and is_dataclass(kind)]
    assert len(made) > len(get_args(Decision))
    assert all(kind.__dataclass_params__.frozen and "__slots__" in vars(kind) for kind in made)  # type: ignore[attr-defined]
