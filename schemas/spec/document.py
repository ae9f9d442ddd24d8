"""Read a YAML file as plain data with line numbers; refuse one that could do harm or be misread.

Refused: more than 1 MB or 50,000 values, anchors and aliases (a 430-byte file can hold 10⁹ leaves), tags, depth above
50, duplicate keys. Scalars follow YAML 1.2's core schema, without octal and hexadecimal: only `true` and `false` are
booleans, `1e3` is a number, and `012`, `no`, `12:30:45` and dates stay text.
"""

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import SpecError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_VALUES = 50_000
Location = tuple[str | int, ...]

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(frozen=True)
class Document:
    """Plain data and the line (from 1) of each location in it."""

    name: str
    data: Any
    lines: dict[Location, int]

    def line(self, location: Location) -> int:
        """Return the line of a location, or of the nearest one that contains it."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


def load_document(path: Path) -> Document:
    """Read and parse a file. Raises SpecError, naming file and line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # not by stat, which says 0 for a device
        if len(data) > MAX_BYTES:
            raise SpecError(f"{path}: more than {MAX_BYTES:,} bytes.", hint="Put long prompts in separate files.")
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError(
            f"{path}: no such file.", hint="Give the path of a spec, or write one with: tandem init DIR --from FILE"
        ) from None
    except IsADirectoryError:
        raise SpecError(
            f"{path}: this is a folder.", hint=f"Give the path of a file in it, such as {path / 'tandem.yaml'}"
        ) from None
    except UnicodeDecodeError as exc:
        raise SpecError(f"{path}: not UTF-8 text (byte {exc.start}).", hint="Save the file as UTF-8.") from exc
    except OSError as exc:
        raise SpecError(f"{path}: cannot be read: {exc.strerror}.") from exc
    return parse_document(text, name=str(path))


def parse_document(text: str, *, name: str = "spec") -> Document:
    """Parse YAML text of at most 1 MB. Raises SpecError."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise SpecError(f"{name}: more than {MAX_BYTES:,} bytes.")
    _check_events(text, name)
    try:
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as exc:
        raise _syntax_error(exc, name, text) from None
    lines: dict[Location, int] = {}
    return Document(name, None if node is None else _plain(node, (), lines, name), lines)


def _check_events(text: str, name: str) -> None:
    """Check the event stream, which builds no data, before composing. Raises SpecError."""
    depth = values = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            values += 1
            if values > 2 * MAX_VALUES:  # each with its key
                raise _error_at(name, event.start_mark, f"more than {MAX_VALUES:,} values.", "")
            if isinstance(event, yaml.AliasEvent):
                raise _error_at(name, event.start_mark, "aliases (*name) are refused.", "Write the value out.")
            if isinstance(event, yaml.NodeEvent) and event.anchor:
                raise _error_at(name, event.start_mark, "anchors (&name) are refused.", "Write the value out.")
            tag = getattr(event, "tag", None)
            if isinstance(event, yaml.NodeEvent) and tag:
                raise _error_at(name, event.start_mark, f"the tag {tag} is refused.", "Specs are plain data.")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise _error_at(name, event.start_mark, f"nested deeper than {MAX_DEPTH} levels.", "")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.YAMLError as exc:
        raise _syntax_error(exc, name, text) from None


def _error_at(name: str, mark: Any, message: str, hint: str) -> SpecError:
    return SpecError(f"{name}:{mark.line + 1 if mark else 1}: {message}", hint=hint)


def _syntax_error(exc: yaml.YAMLError, name: str, text: str) -> SpecError:
    if isinstance(exc, yaml.reader.ReaderError):
        match = next(
            ((position, char) for position, char in enumerate(text) if yaml.reader.Reader.NON_PRINTABLE.match(char)),
            None,
        )
        position, char = match or (0, "?")
        return SpecError(f"{name}:{text.count(chr(10), 0, position) + 1}: the character {char!r} is refused.")
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None) or "it cannot be parsed"
    return _error_at(name, mark, f"not valid YAML: {problem}.", "Check indentation and quotes there.")


def _plain(node: yaml.Node, location: Location, lines: dict[Location, int], name: str) -> Any:
    lines[location] = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*location, index), lines, name) for index, item in enumerate(node.value)]
    out: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _error_at(name, key_node.start_mark, "a key must be plain text.", "")
        key = key_node.value
        if key in out:
            raise _error_at(name, key_node.start_mark, f"the key {key!r} appears twice.", "Keep one of them.")
        out[key] = _plain(value_node, (*location, key), lines, name)
        lines[(*location, key)] = key_node.start_mark.line + 1
    return out


def _scalar(node: yaml.ScalarNode) -> Any:
    text: str = node.value
    if node.style:  # quoted or a block; a plain one has None or ""
        return text
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.match(text):
        return int(text) if len(text) <= 20 else text
    if _FLOAT.match(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text
