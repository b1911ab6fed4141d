"""The kinds of value a configuration file is made of, and how they nest.

Each kind reads itself from YAML and describes itself as JSON Schema, so that `check` and `schema`
cannot disagree.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from proxy.config.document import Reading, Reported

OFF: Final = ("off", "false")  # YAML 1.1 writers turn `off` into false
ON: Final = ("on", "true")  # and `on` into true
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_ALIKE: Final = 0.6  # of 1.0, in difflib's measure: below it a guess leads astray more often than it helps
_VARIABLE: Final = r"\$\{"  # the schema cannot know what a variable holds


class _Bad:
    """Stands where a value was given that cannot be used."""


BAD: Final[Any] = _Bad()


class Wrong(Exception):
    """A text does not convert: `what` and `instead` hold nothing of it, `hint` may."""

    def __init__(self, what: str, instead: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.instead, self.hint = what, instead, hint


class Kind(Protocol):
    """What one value may be."""

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:  # noqa: ANN401
        """The value. Raises Reported, having noted what is wrong."""
        ...

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""
        ...

    def show(self, value: Any) -> Any:  # noqa: ANN401
        """A value as the file would say it."""
        ...


@dataclass(frozen=True, slots=True)
class Leaf:
    """A single value. `noun` and `write` complete "is not …; write …".

    `convert` gets what `pattern` matches whole and raises Wrong. `native` is how the value looks
    where it need not be a string. A `secret` is never shown.
    """

    noun: str
    write: str
    pattern: str
    convert: Callable[[str], Any] = str
    show: Callable[[Any], Any] = str
    native: tuple[Mapping[str, Any], ...] = ()
    secret: bool = False

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:  # noqa: ANN401, D102
        scalar = reading.scalar(node, at, f"write {self.write}", secret=self.secret)
        try:
            return self.parse(scalar.text)
        except Wrong as wrong:
            instead = wrong.instead if scalar.hidden else wrong.hint or wrong.instead
            reading.error(at, f"{scalar.shown} {wrong.what}", instead)
            raise Reported from None

    def parse(self, text: str) -> Any:  # noqa: ANN401
        """The value of a text. Raises Wrong."""
        if re.fullmatch(self.pattern, text) is None:
            raise Wrong(f"is not {self.noun}" if text else "is empty", f"write {self.write}")
        return self.convert(text)

    def schema(self) -> dict[str, Any]:  # noqa: D102
        text = {"type": "string", "pattern": f"^(?:{self.pattern})$|{_VARIABLE}"}
        return {"anyOf": [*map(dict, self.native), text]} if self.native else text


@dataclass(frozen=True, slots=True)
class File:
    """A readable file; a relative name starts at the configuration's directory."""

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Path:  # noqa: D102
        scalar = reading.scalar(node, at, "write the name of a PEM file")
        path = reading.base / scalar.text
        if not os.path.isfile(path):  # noqa: PTH113 -- Path.is_file raises for impossible names
            reading.error(at, f"{scalar.shown} is not a file", "write a name relative to this file's directory")
            raise Reported
        if not os.access(path, os.R_OK):
            reading.error(at, f"{scalar.shown} cannot be read", "let the user that runs this read it")
            raise Reported
        return path

    def schema(self) -> dict[str, Any]:  # noqa: D102
        return {"type": "string", "minLength": 1}

    def show(self, value: Any) -> Any:  # noqa: ANN401, D102
        return str(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    options: Mapping[str, Any]

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:  # noqa: ANN401, D102
        instead = f"write {' or '.join(self.options)}"
        scalar = reading.scalar(node, at, instead)
        meant = (words[0] for words in (OFF, ON) if scalar.text.lower() in words and words[0] in self.options)
        word = next(meant, scalar.text)
        if word not in self.options:
            reading.error(at, f"{scalar.shown} is not known here", instead)
            raise Reported
        return self.options[word]

    def schema(self) -> dict[str, Any]:  # noqa: D102
        off = [False, OFF[1]] if OFF[0] in self.options else []
        on = [True, ON[1]] if ON[0] in self.options else []
        return {"anyOf": [{"enum": [*self.options, *off, *on]}, {"type": "string", "pattern": _VARIABLE}]}

    def show(self, value: Any) -> Any:  # noqa: ANN401, D102
        return next(word for word, meaning in self.options.items() if meaning == value)


@dataclass(frozen=True, slots=True)
class OrOff:
    """What `kind` reads, or `off`, which is None."""

    kind: Kind

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:  # noqa: ANN401, D102
        if not isinstance(node, yaml.ScalarNode):
            return self.kind.read(node, at, reading)
        scalar = reading.scalar(node, at, instead := f"write {OFF[0]}, or `key: value` lines")
        if scalar.text.lower() not in OFF:
            reading.error(at, f"{scalar.shown} is not known here", instead)
            raise Reported
        return None

    def schema(self) -> dict[str, Any]:  # noqa: D102
        return {"anyOf": [self.kind.schema(), Choice({OFF[0]: None}).schema()]}

    def show(self, value: Any) -> Any:  # noqa: ANN401, D102
        return OFF[0] if value is None else self.kind.show(value)


@dataclass(frozen=True, slots=True)
class OrBare:
    """What `section` reads, or a single value: that of its key `name`, with all others left out."""

    section: "Section"
    name: str

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:  # noqa: ANN401, D102
        if not isinstance(node, yaml.ScalarNode):
            return self.section.read(node, at, reading)
        key = self.section.keys[self.name]
        return {key.field or self.name: key.kind.read(node, at, reading)}

    def schema(self) -> dict[str, Any]:  # noqa: D102
        return {"anyOf": [self.section.keys[self.name].kind.schema(), self.section.schema()]}

    def show(self, value: Any) -> None:  # noqa: ANN401
        """Nothing: each key says its own default."""
        return self.section.show(value)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list, read as a tuple in which BAD stands for what could not be used."""

    kind: Kind
    least: int = 0
    or_one: bool = False  # a single item need not be in a list

    def read(self, node: yaml.Node, at: str, reading: Reading) -> tuple[Any, ...]:  # noqa: D102
        if self.or_one and not isinstance(node, yaml.SequenceNode):
            return (self.kind.read(node, at, reading),)
        reading.check_tag(at, node)
        if not isinstance(node, yaml.SequenceNode):
            reading.error(at, "is not a list", "write [one, two], or a line that begins with `- ` for each")
            raise Reported
        if len(node.value) < self.least:
            reading.error(at, "is an empty list", "write at least one item")
            raise Reported
        for i, child in enumerate(node.value):
            reading.mark(f"{at}[{i}]", child)
        return tuple(attempt(self.kind, child, f"{at}[{i}]", reading) for i, child in enumerate(node.value))

    def schema(self) -> dict[str, Any]:  # noqa: D102
        items = self.kind.schema()
        many = {"type": "array", "items": items, **({"minItems": self.least} if self.least else {})}
        return {"anyOf": [items, many]} if self.or_one else many

    def show(self, value: Any) -> Any:  # noqa: ANN401, D102
        return [self.kind.show(item) for item in value]


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping whose keys are the user's, read as a dict in which BAD stands for what could not be used."""

    key: Leaf
    kind: Kind
    least: int = 0

    def read(self, node: yaml.Node, at: str, reading: Reading) -> dict[Any, Any]:  # noqa: D102
        values: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for i, (key_node, child, line) in enumerate(reading.pairs(node, at)):
            place = _join(at, key_node.value) if _WORD.fullmatch(key_node.value) else f"{at}[{i}]"
            reading.mark(place, child, line)
            key = attempt(self.key, key_node, place, reading)
            if key is BAD:
                continue
            if key in lines:
                reading.error(place, f"is given twice, first in line {lines[key]}", "keep one of them", line)
                continue
            lines[key] = line
            values[key] = attempt(self.kind, child, place, reading)
        if len(node.value) < self.least:
            reading.error(at, "is empty", "write at least one")
            raise Reported
        return values

    def schema(self) -> dict[str, Any]:  # noqa: D102
        pattern = self.key.schema()["pattern"]
        schema = {"type": "object", "patternProperties": {pattern: self.kind.schema()}, "additionalProperties": False}
        return schema | ({"minProperties": self.least} if self.least else {})

    def show(self, value: Any) -> Any:  # noqa: ANN401, D102
        return {str(key): self.kind.show(item) for key, item in value.items()}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section. `doc` is a sentence for editors; `field` its name in the code, if another."""

    kind: Kind
    doc: str
    required: bool = False
    field: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with known keys, read as a dict by field name in which BAD stands for what could not be used.

    The fields of `cls` hold the defaults; if it is to be `built`, the section is read as one.
    Of a `private` section no unknown key is shown: it may be a secret that lost its key.
    """

    keys: Mapping[str, Key]
    cls: type | None = None
    built: bool = False
    private: bool = False

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:  # noqa: ANN401, D102
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, child, line in reading.pairs(node, at):
            name = key_node.value
            key = self.keys.get(name)
            place = _join(at, name)
            if key is None:
                self._unknown(name, at, reading, line)
            elif name in lines:
                reading.error(place, f"is given twice, first in line {lines[name]}", "keep one of them", line)
            else:
                lines[name] = line
                reading.mark(place, child, line)
                values[key.field or name] = attempt(key.kind, child, place, reading)
        for name, key in self.keys.items():
            if key.required and name not in lines:
                reading.error(at, f"{name} is missing", f"add `{name}:`. {key.doc}")
                values[key.field or name] = BAD
        if self.cls is None or not self.built:
            return values
        if any(value is BAD or (isinstance(value, tuple) and BAD in value) for value in values.values()):
            raise Reported
        return self.cls(**values)

    def _unknown(self, name: str, at: str, reading: Reading, line: int) -> None:
        meant = self._meant(name.lower())
        instead = f"did you mean {meant}?" if meant else f"the keys here are {', '.join(self.keys)}"
        shown = not self.private and _WORD.fullmatch(name)
        reading.error(at, f"unknown key {name}" if shown else "unknown key", instead, line)

    def _meant(self, word: str) -> str:
        """The keys here that have this word in them, or one that is nearly it; else those one section further in."""
        inner = {key: f"{name}.{key}" for name, section in self._sections() for key in section.keys}
        if word in inner:
            return inner[word]
        found = _nearest(word, self.keys) or [inner[key] for key in _nearest(word, inner)]
        return " or ".join(found)

    def _sections(self) -> Iterator[tuple[str, "Section"]]:
        for name, key in self.keys.items():
            kind = key.kind.kind if isinstance(key.kind, OrOff) else key.kind
            if isinstance(kind, Section):
                yield name, kind

    def schema(self) -> dict[str, Any]:  # noqa: D102
        defaults = {f.name: f.default for f in fields(self.cls)} if self.cls else {}
        properties: dict[str, Any] = {}
        for name, key in self.keys.items():
            default = defaults.get(key.field or name, MISSING)
            shown = None if default is MISSING or default is None else key.kind.show(default)
            default_too = {} if shown in (None, []) else {"default": shown}
            properties[name] = {"description": key.doc, **default_too, **key.kind.schema()}
        required = [name for name, key in self.keys.items() if key.required]
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return schema | ({"required": required} if required else {})

    def show(self, value: Any) -> None:  # noqa: ANN401
        """Nothing: each key says its own default."""
        del value


def _nearest(word: str, keys: Iterable[str]) -> list[str]:
    """The keys of several words that have this one among them; else the one that is spelt most alike, if any."""
    keys = tuple(keys)
    return [key for key in keys if word in key.split("_")] or get_close_matches(word, keys, 1, _ALIKE)


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def attempt(kind: Kind, node: yaml.Node, at: str, reading: Reading) -> Any:  # noqa: ANN401
    """What `kind` reads, or BAD."""
    try:
        return kind.read(node, at, reading)
    except Reported:
        return BAD
