"""JSON in a model's text: after prose, in a fence, after a model's thinking, or nearly JSON (single quotes, control
characters, trailing commas, lone surrogates). No guess at what is cut off or broken in another way.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from stages.text.surrogates import encodable, without_surrogates

_MOST_CHARACTERS, _MOST_STARTS, _DEEPEST = 400_000, 200, 64
_SPACE = re.compile(r"(?:[\s\ufeff]|//[^\n]*|/\*.*?\*/)*", re.S)
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_WORD = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)
# A quote within ends the text only where an end can be: {'note': 'it's late'}.
_SINGLE = re.compile(r"'((?:[^'\\]|\\.|'(?!\s*[,:}\]]))*)'", re.S)
_ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|.)|(")', re.S)
_THINKING = re.compile(
    r"<(think|thinking|thought|thoughts|reasoning|reflection|scratchpad)\b[^>]*>|\[THINK\]|<\|channel\|>analysis<\|message\|>",
    re.I,
)
_THOUGHT = re.compile(
    r"</(think|thinking|thought|thoughts|reasoning|reflection|scratchpad)\s*>|\[/THINK\]|<\|channel\|>final<\|message\|>",
    re.I,
)


class NumberAsWritten(float):
    """A number that is no integer, with its text: 1.10 as a text is not 1.1."""

    text: str


@dataclass
class Found:
    """The values in a text, each object or list of the top level, and those within a model's thinking."""

    values: list[Any]
    thoughts: list[Any]


def json_values(text: str) -> Found:
    """Return all values that are JSON, or nearly so. Nothing from a text that is larger than any answer."""
    if len(text) > _MOST_CHARACTERS:
        return Found([], [])
    thoughts, rest = _thinking(text)
    return Found(_scan(rest), [value for thought in thoughts for value in _scan(thought)])


def number(text: str) -> Any:
    """Return a float that keeps its text."""
    value = NumberAsWritten(text)
    value.text = text
    return value


def _thinking(text: str) -> tuple[list[str], str]:
    """Return the parts within thinking, and the rest. Some servers omit the opening tag; an unclosed part is no
    answer."""
    thoughts: list[str] = []
    opened, closed = _THINKING.search(text), _THOUGHT.search(text)
    if closed is not None and (opened is None or closed.start() < opened.start()):
        return [text[: closed.start()]], text[closed.end() :]
    rest, position = "", 0
    while opened is not None:
        rest += text[position : opened.start()]
        closed = _THOUGHT.search(text, opened.end())
        position = len(text) if closed is None else closed.end()
        thoughts.append(text[opened.end() : position if closed is None else closed.start()])
        opened = _THINKING.search(text, position)
    return thoughts, rest + text[position:]


class _Broken(Exception):
    """No JSON here. `keyed`: an object was begun, so that values inside it are no answers of their own."""

    def __init__(self, keyed: bool = False) -> None:
        super().__init__()
        self.keyed = keyed


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


_EXACTLY = json.JSONDecoder(parse_float=number, parse_constant=_refuse_constant)
_START = re.compile(r"[{\[]")


def _scan(text: str) -> list[Any]:
    found: list[Any] = []
    position = 0
    for _ in range(_MOST_STARTS):
        start = _START.search(text, position)
        if start is None:
            break
        position = start.start()
        try:
            value, position = _value_at(text, position)
            found.append(value)
        except _Broken as exc:
            end = _matching(text, position)
            if end is None and exc.keyed:
                break
            position = position + 1 if end is None else end
    return found


def _value_at(text: str, position: int) -> tuple[Any, int]:
    try:
        value, end = _EXACTLY.raw_decode(text, position)
    except (ValueError, RecursionError):
        return _Reader(text).value(position, 0)
    return encodable(value), end


def _matching(text: str, position: int) -> int | None:
    """Return the position behind the bracket that closes the one at `position`; skips text in double quotes."""
    depth = 0
    for match in re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.S).finditer(text, position):
        bracket = match[0]
        depth += (bracket in "{[") - (bracket in "}]") if len(bracket) == 1 else 0
        if depth == 0 and len(bracket) == 1:
            return match.end()
    return None


class _Reader:
    """Reads one value, leniently."""

    def __init__(self, text: str) -> None:
        self._text = text

    def _space(self, position: int) -> int:
        match = _SPACE.match(self._text, position)
        return match.end() if match else position

    def value(self, position: int, depth: int) -> tuple[Any, int]:
        text = self._text
        if depth > _DEEPEST or position >= len(text):
            raise _Broken
        match text[position]:
            case "{":
                return self._object(position, depth)
            case "[":
                return self._list(position, depth)
            case '"' | "'":
                return self._string(position)
        if found := _NUMBER.match(text, position):
            digits = found[0]
            return (int(digits) if re.fullmatch(r"-?\d{1,4000}", digits) else number(digits)), found.end()
        word = _WORD.match(text, position)
        if word is None or word[0] not in _WORDS:
            raise _Broken
        return _WORDS[word[0]], word.end()

    def _object(self, position: int, depth: int) -> tuple[dict[str, Any], int]:
        text, out, keyed = self._text, {}, False
        position = self._space(position + 1)
        try:
            while text[position : position + 1] != "}":
                name, position = self._key(position)
                position = self._space(position)
                if text[position : position + 1] != ":":
                    raise _Broken
                keyed = True
                out[name], position = self.value(self._space(position + 1), depth + 1)
                position = self._next(position, "}")
        except _Broken as exc:
            raise _Broken(keyed or exc.keyed) from None
        return out, position + 1

    def _list(self, position: int, depth: int) -> tuple[list[Any], int]:
        out: list[Any] = []
        position = self._space(position + 1)
        while self._text[position : position + 1] != "]":
            item, position = self.value(position, depth + 1)
            out.append(item)
            position = self._next(position, "]")
        return out, position + 1

    def _next(self, position: int, end: str) -> int:
        """Return the position of the next member, or of the end; skips a comma before the end."""
        position = self._space(position)
        if self._text[position : position + 1] == ",":
            return self._space(position + 1)
        if self._text[position : position + 1] != end:
            raise _Broken
        return position

    def _key(self, position: int) -> tuple[str, int]:
        if self._text[position : position + 1] in ('"', "'"):
            return self._string(position)
        word = _WORD.match(self._text, position)
        if word is None:
            raise _Broken
        return word[0], word.end()

    def _string(self, position: int) -> tuple[str, int]:
        found = (_DOUBLE if self._text[position] == '"' else _SINGLE).match(self._text, position)
        if found is None:
            raise _Broken
        text: str = json.loads(f'"{_ESCAPE.sub(_escaped, found[1])}"', strict=False)
        return without_surrogates(text), found.end()


def _escaped(match: re.Match[str]) -> str:
    """Return an escape that JSON knows; of others the character, with its backslash unless it is a quote."""
    if match[2]:
        return '\\"'
    escape = match[1]
    if escape[0] in '"\\/bfnrt' or len(escape) == 5:
        return match[0]
    return escape if escape == "'" else "\\\\" + escape
