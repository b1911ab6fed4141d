"""A YAML file as places and texts: variables filled in, and every mistake noted with its line.

Every scalar is read as text: YAML's own guesses (`off` is False, `010` is 8) do not apply.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-((?:(?!\$\{)[^}])*))?\}")
_CORE: Final = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "map", "seq")
)
_NULL: Final = "tag:yaml.org,2002:null"
# What a syntax error quotes may be a piece of a secret, unless it is one character or a grammar symbol.
_QUOTED: Final = re.compile(r" ?(?:'(?!<|.')[^']*'|\"[^\"]*\")")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `line` counts from 1; 0 where it is not of any one line. `instead` is what to write."""

    file: str
    line: int
    where: str
    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"

    @property
    def place(self) -> str:
        """File and line, as editors and terminals link them."""
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def text(self) -> str:
        """All but the place."""
        return f"{self.where + ': ' if self.where else ''}{self.what}; {self.instead}"


class ConfigError(Exception):
    """The configuration cannot be used; `errors` says all that is wrong with it, in the order of lines."""

    def __init__(self, errors: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = errors


class Reported(Exception):
    """A value cannot be used, and what is wrong with it has been noted."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar after substitution. `shown` is fit for messages: never a secret, nor what came from a variable."""

    text: str
    shown: str
    hidden: bool


class Reading:
    """One pass over one file: the variables it may use, where its values stand and what is wrong with it."""

    __slots__ = ("_file", "_lines", "_shown", "base", "environ", "problems", "varied")

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._file = str(path)
        self.base = path.parent  # relative file names in the file start here
        self.environ = environ
        self.problems: list[Problem] = []
        self.varied: set[str] = set()  # secrets of which a part, or all, came from a variable
        self._lines: dict[str, int] = {}
        self._shown: dict[str, str] = {}

    def problem(self, at: str, what: str, instead: str, line: int | None = None) -> Problem:
        """A problem at the line of the value `at`, or of what it stands in."""
        place = at
        while line is None and place:
            line = self._lines.get(place)
            place = re.sub(r"(?:^|\.)[^.\[]*$|\[\d+\]$", "", place)
        return Problem(self._file, 1 if line is None else line, at, what, instead)

    def error(self, at: str, what: str, instead: str, line: int | None = None) -> None:
        """Note a mistake."""
        self.problems.append(self.problem(at, what, instead, line))

    def shown(self, at: str) -> str:
        """The scalar at this place, as far as a message may say it."""
        return self._shown.get(at, "the value")

    def given(self, at: str) -> bool:
        """Whether the file has anything at this place."""
        return at in self._lines

    def mark(self, at: str, node: yaml.Node, line: int | None = None) -> None:
        """Remember where a value stands: a scalar where it begins, the rest where its key is."""
        own = node.start_mark.line + 1
        self._lines[at] = own if line is None or isinstance(node, yaml.ScalarNode) else line

    def root(self) -> yaml.Node | None:
        """The file's one document. None, with the reason noted, where there is none."""
        text = ""
        try:
            text = Path(self._file).read_bytes().decode("utf-8-sig")
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except UnicodeDecodeError as exc:
            line = exc.object[: exc.start].count(b"\n") + 1
            self.error("", "the file is not UTF-8", "save it as UTF-8", line)
        except OSError as exc:
            what = (exc.strerror or "error").lower()
            self.error("", f"the file cannot be read: {what}", "name a readable YAML file", 0)
        except yaml.reader.ReaderError as exc:
            line = text.count("\n", 0, exc.position) + 1
            self.error("", "there is a character that YAML does not allow", "write it as an escape in quotes", line)
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            what = _QUOTED.sub("", exc.problem or exc.context or "cannot be parsed")
            instead = "check the indentation, and put quotes around values with any of * & ! [ { : # or ${…}"
            self.error("", f"this is not YAML: {what}", instead, mark.line + 1 if mark else 1)
        except (ValueError, OverflowError, RecursionError, yaml.YAMLError):
            # PyYAML lets these through for impossible escapes and numbers, and for nesting without end.
            self.error("", "this is not YAML that can be read", "write plain mappings, lists and values", 1)
        else:
            if isinstance(node, yaml.Node):
                return node
            self.error("", "the file is empty", "write at least upstreams and routes", 1)
        return None

    def check_tag(self, at: str, node: yaml.Node) -> None:
        """Explicit tags would be ignored: refuse them."""
        if node.tag not in _CORE:
            self.error(at, "has a YAML tag", "write the value without !")
            raise Reported

    def scalar(self, node: yaml.Node, at: str, instead: str, *, secret: bool = False) -> Scalar:
        """The node's text with its variables filled in. Raises Reported."""
        self.check_tag(at, node)
        if not isinstance(node, yaml.ScalarNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
            self.error(at, f"is {kind} where one value belongs", instead)
            raise Reported
        if node.tag == _NULL:
            self.error(at, "is empty", f"{instead}, or leave the key out")
            raise Reported
        names: list[str] = []
        missing: list[str] = []

        def fill(match: re.Match[str]) -> str:
            name, default = match.groups()
            names.append(name)
            value = self.environ.get(name)
            if default is not None:
                return value or default  # as in a shell, :- stands in for an empty variable too
            if value is None:
                missing.append(name)
            return value or ""

        text = _VARIABLE.sub(fill, node.value)
        if "${" in _VARIABLE.sub("", node.value):
            self.error(at, "has a ${ that begins no variable", "write ${NAME} or ${NAME:-default}")
            raise Reported
        for name in missing:
            self.error(at, f"the variable {name} is not set", f"set it, or write ${{{name}:-default}}")
        if missing:
            raise Reported
        shown = f"the value of {' and '.join(f'${{{name}}}' for name in names)}" if names else _clipped(text)
        self._shown[at] = shown = "the value" if secret else shown
        if secret and names:
            self.varied.add(text)
        return Scalar(text, shown, secret or bool(names))

    def pairs(self, node: yaml.Node, at: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node, int]]:
        """Keys, what they hold and the keys' lines. Raises Reported where it is no mapping."""
        self.check_tag(at, node)
        if not isinstance(node, yaml.MappingNode):
            what = "is empty" if node.tag == _NULL else "is not a mapping"
            self.error(at, what, "write `key: value` lines, indented, with a space behind each colon")
            raise Reported
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.error(at, "has a key that is not a word", "write `key: value`", line)
            elif key.value == "<<" and not key.style:
                self.error(at, "has a YAML merge key", "write shared settings under defaults", line)
            else:
                yield key, value, line


def _clipped(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
