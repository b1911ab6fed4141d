"""What YAML says, with its variables, at its lines; and files that say nothing that can be read."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from proxy.config.document import Problem, Reading, Reported


def read(tmp_path: Path, data: bytes, environ: Mapping[str, str] | None = None) -> tuple[Reading, yaml.Node | None]:
    file = tmp_path / "x.yaml"
    file.write_bytes(data)
    reading = Reading(file, environ or {})
    return reading, reading.root()


def scalar(tmp_path: Path, text: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """A value as it is read, and as it is shown."""
    reading, node = read(tmp_path, f'a: "{text}"'.encode(), environ)
    assert node is not None
    [(_, child, _)] = reading.pairs(node, "")
    got = reading.scalar(child, "a", "write something")
    return got.text, got.shown


@pytest.mark.parametrize(
    ("data", "line", "what"),
    [
        (b"a: [1\nb: 2\n", 2, "this is not YAML"),
        (b"a: 1\n\tb: 2\n", 2, "this is not YAML"),
        (b"a: 1\nb: *.example.com\n", 2, "this is not YAML: expected alphabetic or numeric character, but found '.'"),
        (b"a: 1\n\nb: %x\n", 3, "this is not YAML: found character '%' that cannot start any token"),
        (b"a: 1\n---\nb: 2\n", 2, "this is not YAML: but found another document"),
        (b"a: 1\nb: \x00\n", 2, "there is a character that YAML does not allow"),
        (b"a: 1\nb: \xff\n", 2, "the file is not UTF-8"),
        (b'a: "\\U00110000"\n', 1, "this is not YAML that can be read"),
        (b"[" * 5000, 1, "this is not YAML that can be read"),
        (b"", 1, "the file is empty"),
        (b"# nothing\n\n", 1, "the file is empty"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(tmp_path: Path, data: bytes, line: int, what: str) -> None:
    reading, node = read(tmp_path, data)
    assert node is None
    [problem] = reading.problems
    assert problem.line == line
    assert problem.what.startswith(what)
    assert problem.instead


def test_a_missing_file_a_directory_and_a_byte_order_mark(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "none.yaml", "no such file or directory"), (tmp_path, "is a directory")):
        reading = Reading(path, {})
        assert reading.root() is None
        assert str(reading.problems[0]).startswith(f"{path}: the file cannot be read: {what}; ")
    reading, node = read(tmp_path, b"\xef\xbb\xbfa: 1\n")
    assert isinstance(node, yaml.MappingNode)
    assert reading.problems == []


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    reading = Reading(tmp_path / "x.yaml", {})
    assert reading.root() is None
    assert reading.problems[0].what == "the file cannot be read: permission denied"


@pytest.mark.parametrize(
    "text",
    ["a: *s3cr3t", "a: &s3cr3t x\nb: &s3cr3t y", "a: !s3cr3t!x y", '"s3cr3t', "a: [s3cr3t", "{s3cr3t", "a: s3cr3t: x"],
)
def test_a_syntax_error_quotes_nothing_of_the_file(tmp_path: Path, text: str) -> None:
    reading, _ = read(tmp_path, text.encode())
    assert "s3cr3t" not in "\n".join(map(str, reading.problems))


@pytest.mark.parametrize(
    ("text", "environ", "value"),
    [
        ("${A}", {"A": "1"}, "1"),
        ("x${A}y${B_2}z", {"A": "1", "B_2": "2"}, "x1y2z"),
        ("${A:-d}", {}, "d"),
        ("${A:-d}", {"A": ""}, "d"),
        ("${A:-d}", {"A": "1"}, "1"),
        ("${A:-}", {}, ""),
        ("${A}", {"A": ""}, ""),
        ("${A:-http://x:1/$y-{z}", {}, "http://x:1/$y-{z"),
        ("${A}", {"A": "${B}", "B": "never"}, "${B}"),
        ("$A $ {A} a}", {"A": "1"}, "$A $ {A} a}"),
    ],
)
def test_variables_are_filled_in_once(tmp_path: Path, text: str, environ: Mapping[str, str], value: str) -> None:
    assert scalar(tmp_path, text, environ)[0] == value


def test_what_came_from_a_variable_is_not_shown(tmp_path: Path) -> None:
    assert scalar(tmp_path, "x", {}) == ("x", "'x'")
    assert scalar(tmp_path, "x${A}${B:-d}", {"A": "s3cr3t"}) == ("xs3cr3td", "the value of ${A} and ${B}")
    assert scalar(tmp_path, "y" * 99, {})[1] == repr("y" * 57 + "...")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("${A}", "the variable A is not set"),
        ("${1A}", "has a ${ that begins no variable"),
        ("${A", "has a ${ that begins no variable"),
        ("${A-x}", "has a ${ that begins no variable"),
        ("${}", "has a ${ that begins no variable"),
        ("${A:-${B}}", "has a ${ that begins no variable"),
    ],
)
def test_a_variable_that_cannot_be_filled_in_is_a_mistake(tmp_path: Path, text: str, what: str) -> None:
    reading, node = read(tmp_path, f'\n\na: "{text}"'.encode())
    assert node is not None
    [(_, child, line)] = reading.pairs(node, "")
    reading.mark("a", child, line)
    with pytest.raises(Reported):
        reading.scalar(child, "a", "write something")
    assert [(p.line, p.where, p.what) for p in reading.problems] == [(3, "a", what)]


def test_a_place_without_a_line_of_its_own_has_that_of_what_it_stands_in(tmp_path: Path) -> None:
    reading, node = read(tmp_path, b"\na:\n  - {b: 1}\n")
    assert isinstance(node, yaml.MappingNode)
    [(_, child, line)] = reading.pairs(node, "")
    reading.mark("a", child, line)
    assert reading.problem("a", "w", "i").line == 2
    assert reading.problem("a[0].b[3].c", "w", "i").line == 2
    assert reading.problem("c.d", "w", "i").line == 1


def test_a_problem_in_words() -> None:
    assert str(Problem("f.yaml", 3, "a.b", "is wrong", "write right")) == "f.yaml:3: a.b: is wrong; write right"
    assert str(Problem("f.yaml", 0, "", "is wrong", "write right")) == "f.yaml: is wrong; write right"
