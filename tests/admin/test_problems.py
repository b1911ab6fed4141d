"""Errors as documents."""

import json

import pytest

from proxy.admin.problems import Mistake, Refusal, Trouble
from tests.documents import listed


@pytest.mark.parametrize("trouble", Trouble)
def test_every_trouble_is_a_problem_document_with_its_status(trouble: Trouble) -> None:
    response = Refusal(trouble, "Why.", headers=(("Retry-After", "1"),)).response()
    assert isinstance(response.body, bytes)
    said = json.loads(response.body)
    assert (response.status, said["status"], said["detail"]) == (trouble.value[1], trouble.value[1], "Why.")
    assert said["type"].startswith("urn:readthrough:error:")
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Retry-After"] == "1"


def test_every_type_is_explained_once_and_no_other() -> None:
    assert sorted(listed("reasons.md", "Errors of the admin listener")) == sorted(kind.value[0] for kind in Trouble)


def test_no_two_troubles_have_one_type() -> None:
    kinds = [trouble.value[0] for trouble in Trouble]
    assert len(set(kinds)) == len(kinds)


def test_mistakes_are_told_but_not_by_the_thousand() -> None:
    mistakes = [Mistake(f"urls[{i}]", "is wrong", "mend it") for i in range(500)]
    response = Refusal(Trouble.BAD_REQUEST, "Why.", mistakes=mistakes).response()
    assert isinstance(response.body, bytes)
    said = json.loads(response.body)
    assert said["errors"][1] == {"at": "urls[1]", "what": "is wrong", "instead": "mend it"}
    assert len(said["errors"]) == 100
