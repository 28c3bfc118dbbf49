"""YAML as plain data that remembers where everything stood.

Owns: YAML 1.2 (`22:30` and `yes` are text), duplicate keys refused, bounds on hostile or runaway files.
Does not own: which keys mean something.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from offhost.errors import ConfigError

Path: TypeAlias = tuple[str | int, ...]
"""The way from the document's root to a value: keys and positions."""

MAX_DEPTH = 16
MAX_NODES = 20_000
"""Counted with aliases written out, so that a few lines of nested aliases cannot fill the memory."""


_MAX_DIGITS = 100
"""No setting is as large; and Python refuses to write numbers of thousands of digits, in a message, too."""


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file, counted from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """One YAML file as plain data, the mistakes in its form, and the place of each key and value."""

    file: str
    data: Any = None
    mistakes: list[ConfigError] = field(default_factory=list)
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)

    def mistake(
        self, path: Sequence[str | int], message: str, *, hint: str | None, at_key: bool = False
    ) -> ConfigError:
        """An error at `path`, or, where nothing stands there (a missing key), at the nearest thing around it."""
        path = tuple(path)
        place = self._place(path, at_key=at_key)
        return ConfigError(
            f"{dotted(path)}: {message}" if path else message,
            file=self.file,
            line=place.line,
            column=place.column,
            hint=hint,
        )

    def _place(self, path: Path, *, at_key: bool) -> Place:
        found = self.keys.get(path) if at_key else self.values.get(path)
        if found is not None:
            return found
        for length in range(len(path) - 1, -1, -1):
            around = path[:length]
            found = self.keys.get(around) or self.values.get(around)
            if found is not None:
                return found
        return Place(1, 1)


def dotted(path: Sequence[str | int]) -> str:
    """`("select", "include", 0, "name")` as people write it: `select.include[0].name`."""
    written = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return written.removeprefix(".")


def parse(text: str, file: str) -> Document:
    """Read one document. What is wrong with its form is in `mistakes`; `data` is None when nothing could be read."""
    document = Document(file)
    try:
        _refuse_depth(text)
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        document.mistakes.append(_unreadable(document, place, error.problem or "it cannot be read"))
        return document
    except YAMLError as error:
        document.mistakes.append(_unreadable(document, Place(1, 1), str(error).splitlines()[0]))
        return document
    except (ValueError, OverflowError, AssertionError):
        # How the parser ends at a version or a character's number that is out of all bounds.
        document.mistakes.append(_unreadable(document, Place(1, 1), "it cannot be read"))
        return document
    if root is not None:
        document.data = _Reader(document).plain(root, ())
    return document


def _refuse_depth(text: str) -> None:
    """Raise for collections within collections beyond all use: composing them recurses, once for each."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH + 1:
            raise MarkedYAMLError(problem="too deeply nested", problem_mark=event.start_mark)


def _unreadable(document: Document, place: Place, problem: str) -> ConfigError:
    return ConfigError(
        f"not YAML: {problem}",
        file=document.file,
        line=place.line,
        column=place.column,
        hint="look at indentation, quotes and brackets just before this place",
    )


class _Reader:
    """Turns nodes into plain data and notes places; a branch it refuses is left out of the data."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes_left = MAX_NODES

    def plain(self, node: Node, path: Path) -> Any:
        self._document.values[path] = _place(node)
        self._nodes_left -= 1
        if len(path) > MAX_DEPTH or self._nodes_left < 0:
            if self._nodes_left == -1 or len(path) > MAX_DEPTH:
                self._refuse(path, "too deeply nested, or too large", "a configuration file needs neither")
            return None
        match node:
            case MappingNode():
                return self._mapping(node, path)
            case SequenceNode():
                return [self.plain(item, (*path, position)) for position, item in enumerate(node.value)]
            case _:
                return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, ScalarNode) else "?"
            here = (*path, key)
            if key in data:
                first = self._document.keys[here]
                place = _place(key_node)
                message = f"{dotted(here)}: the key stands here a second time, first on line {first.line}"
                self._document.mistakes.append(
                    ConfigError(
                        message,
                        file=self._document.file,
                        line=place.line,
                        column=place.column,
                        hint="keep one of the two",
                    )
                )
                continue
            self._document.keys[here] = _place(key_node)
            data[key] = self.plain(value_node, here)
        return data

    def _scalar(self, node: Node, path: Path) -> Any:
        text = str(node.value)
        match str(node.tag).rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return {"true": True, "false": False}.get(text.lower(), text)
            case "int":
                return _integer(text)
            case "float":
                return _real(text)
            case "str" | "timestamp":
                return text
            case _:
                self._refuse(path, f"the tag {node.tag} means nothing here", "write the value without a tag")
                return None

    def _refuse(self, path: Path, message: str, hint: str) -> None:
        self._document.mistakes.append(self._document.mistake(path, message, hint=hint))


def _integer(text: str) -> int | str:
    """A number as YAML 1.2 writes it (`0o17`, `0x0f`, and `010` is ten); text where Python sees none, or a monster."""
    if len(text) > _MAX_DIGITS:
        return text
    digits = text.lstrip("+-")
    try:
        return int(text, 0) if digits[:2] in ("0x", "0o") else int(text)
    except ValueError:
        return text


def _real(text: str) -> float | str:
    """A number with a point as YAML writes it (`1_000.5`, `.inf`); text where there is none, as in `._`."""
    try:
        return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return text


def _place(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
