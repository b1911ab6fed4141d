"""How values nest, and that a kind's JSON Schema takes what the kind itself takes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from proxy.config.document import Reading
from proxy.config.kinds import BAD, Choice, File, Key, Kind, Leaf, ListOf, MapOf, OrOff, Section, attempt
from proxy.config.vocabulary import BOOLEAN, NAMED, STATUS, duration, integer


@dataclass(frozen=True)
class Pair:
    one: int
    two: int = 2


COUNT = integer(1)
PAIR = Section({"one": Key(COUNT, "One.", required=True), "second": Key(COUNT, "Two.", field="two")}, Pair, built=True)
SECRET = Leaf("a secret", "letters", "[a-z]+", secret=True)
WORDS = Choice({"json": 1, "off": 2})


def take(kind: Kind, text: str, tmp_path: Path) -> tuple[Any, list[str]]:
    """What a text is read as, and what is said of it."""
    file = tmp_path / "x.yaml"
    file.write_text(text)
    reading = Reading(file, {"N": "7", "WORD": "s3cr3t"})
    node = reading.root()
    assert node is not None
    value = attempt(kind, node, "", reading)
    return value, [str(problem).removeprefix(f"{file}:") for problem in reading.problems]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (COUNT, "7", 7),
        (COUNT, '"7"', 7),
        (COUNT, "${N}", 7),
        (BOOLEAN, "true", True),
        (BOOLEAN, '"false"', False),
        (duration(), "0", 0.0),
        (duration(), "5s", 5.0),
        (WORDS, "off", 2),
        (WORDS, "Off", 2),
        (WORDS, "false", 2),
        (WORDS, "json", 1),
        (OrOff(PAIR), "off", None),
        (OrOff(PAIR), "{one: 3}", Pair(3)),
        (ListOf(COUNT), "[]", ()),
        (ListOf(COUNT), "- 1\n- 2", (1, 2)),
        (ListOf(PAIR, or_one=True), "one: 1", (Pair(1),)),
        (ListOf(PAIR, or_one=True), "- one: 1", (Pair(1),)),
        (MapOf(STATUS, duration()), "404: 5s", {404: 5.0}),
        (MapOf(STATUS, duration()), "{}", {}),
        (PAIR, "{one: 1, second: 3}", Pair(1, 3)),
        (PAIR, "{one: &a 1, second: *a}", Pair(1, 1)),
    ],
)
def test_what_is_right_is_right_for_the_schema_too(kind: Kind, text: str, value: object, tmp_path: Path) -> None:
    assert take(kind, text, tmp_path) == (value, [])
    Draft202012Validator(kind.schema()).validate(json.loads(json.dumps(yaml.safe_load(text))))


@pytest.mark.parametrize(
    ("kind", "text", "problems"),
    [
        (COUNT, "0", ["1: '0' is too small; write 1 or more"]),
        (COUNT, "1.5", ["1: '1.5' is not a whole number; write digits only, 1 or more"]),
        (COUNT, "[1]", ["1: is a list where one value belongs; write digits only, 1 or more"]),
        (COUNT, "{a: 1}", ["1: is a mapping where one value belongs; write digits only, 1 or more"]),
        (COUNT, "!!set x", ["1: has a YAML tag; write the value without !"]),
        (COUNT, "null", ["1: is empty; write digits only, 1 or more, or leave the key out"]),
        (COUNT, "${WORD}", ["1: the value of ${WORD} is not a whole number; write digits only, 1 or more"]),
        (COUNT, '""', ["1: '' is empty; write digits only, 1 or more"]),
        (SECRET, "5ecret", ["1: the value is not a secret; write letters"]),
        (WORDS, "jsno", ["1: 'jsno' is not known here; write json or off"]),
        (WORDS, "${WORD}", ["1: the value of ${WORD} is not known here; write json or off"]),
        (OrOff(PAIR), "on", ["1: 'on' is not known here; write off, or `key: value` lines"]),
        (ListOf(COUNT), "1", ["1: is not a list; write [one, two], or a line that begins with `- ` for each"]),
        (ListOf(COUNT, least=1), "[]", ["1: is an empty list; write at least one item"]),
        (
            ListOf(COUNT),
            "- 1\n- 0\n- x",
            [
                "2: [1]: '0' is too small; write 1 or more",
                "3: [2]: 'x' is not a whole number; write digits only, 1 or more",
            ],
        ),
        (MapOf(STATUS, COUNT, least=1), "{}", ["1: is empty; write at least one"]),
        (
            MapOf(STATUS, COUNT),
            "404: 1\n200: 1",
            ["2: 200: '200' is not an error status; write a number from 400 to 599"],
        ),
        (MapOf(NAMED, COUNT), "a: 1\nb: 2\na: 3", ["3: a: is given twice, first in line 1; keep one of them"]),
        (MapOf(NAMED, COUNT), "a: 1\n'a b': 2", ["2: [1]: 'a b' is not a name; write letters, digits, _ and -"]),
        (PAIR, "second: 1", ["1: one is missing; add `one:`. One."]),
        (PAIR, "one: 1\n\nsecnd: 1", ["3: unknown key secnd; did you mean second?"]),
        (PAIR, "one: 1\nxyz: 1", ["2: unknown key xyz; the keys here are one, second"]),
        (PAIR, "one: 1\n'x y z:': 1", ["2: unknown key; the keys here are one, second"]),
        (PAIR, "one: 1\none: 2", ["2: one: is given twice, first in line 1; keep one of them"]),
        (PAIR, "one: 1\n[a]: 2", ["2: has a key that is not a word; write `key: value`"]),
        (PAIR, "one: 1\n<<: {second: 1}", ["2: has a YAML merge key; write shared settings under defaults"]),
        (PAIR, "s3cr3t", ["1: is not a mapping; write `key: value` lines, indented, with a space behind each colon"]),
        (PAIR, "~", ["1: is empty; write `key: value` lines, indented, with a space behind each colon"]),
        (
            Section({"token": Key(COUNT, "Secret.")}, private=True),
            "tokens3cr3t: 1\ns3cr3t: 1",
            ["1: unknown key; did you mean token?", "2: unknown key; the keys here are token"],
        ),
    ],
)
def test_what_is_wrong_and_where(kind: Kind, text: str, problems: list[str], tmp_path: Path) -> None:
    assert take(kind, text, tmp_path)[1] == problems


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (COUNT, 0),
        (COUNT, "x"),
        (duration(), 5),
        (BOOLEAN, "maybe"),
        (WORDS, "jsno"),
        (OrOff(PAIR), "on"),
        (ListOf(COUNT), 1),
        (ListOf(COUNT, least=1), []),
        (MapOf(STATUS, COUNT), {"200": 1}),
        (MapOf(STATUS, COUNT, least=1), {}),
        (PAIR, {"second": 1}),
        (PAIR, {"one": 1, "secnd": 1}),
        (File(), ""),
    ],
)
def test_what_is_wrong_is_wrong_for_the_schema_too(kind: Kind, value: object) -> None:
    assert not Draft202012Validator(kind.schema()).is_valid(value)


def test_a_section_with_a_bad_value_is_bad_and_the_others_are_kept(tmp_path: Path) -> None:
    kind = MapOf(NAMED, PAIR)
    assert take(kind, "a: {one: x}\nb: {one: 1}", tmp_path)[0] == {"a": BAD, "b": Pair(1)}
    assert take(ListOf(COUNT), "[1, x]", tmp_path)[0] == (1, BAD)
    assert take(Section({"a": Key(COUNT, "A."), "b": Key(COUNT, "B.")}), "{a: 1, b: x}", tmp_path)[0] == {
        "a": 1,
        "b": BAD,
    }


def test_the_schema_says_defaults() -> None:
    section = Section({"second": Key(COUNT, "Two.", field="two")}, Pair)
    assert section.schema()["properties"]["second"]["default"] == 2
    assert WORDS.show(2) == "off"


def test_files_are_found_beside_the_configuration_and_must_be_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cert.pem").touch()
    assert take(File(), "cert.pem", tmp_path) == (tmp_path / "cert.pem", [])
    assert take(File(), str(tmp_path / "cert.pem"), tmp_path) == (tmp_path / "cert.pem", [])
    beside = "write a name relative to this file's directory"
    assert take(File(), "key.pem", tmp_path)[1] == [f"1: 'key.pem' is not a file; {beside}"]
    assert take(File(), ".", tmp_path)[1] == [f"1: '.' is not a file; {beside}"]
    assert take(File(), '"\\0"', tmp_path)[1] == [f"1: '\\x00' is not a file; {beside}"]
    monkeypatch.setattr("os.access", lambda *_: False)
    assert take(File(), "cert.pem", tmp_path)[1] == [
        "1: 'cert.pem' cannot be read; let the user that runs this read it"
    ]
