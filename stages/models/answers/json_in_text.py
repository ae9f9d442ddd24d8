"""JSON in a model's text: after prose, in a fence, after a model's thinking, or nearly JSON (single quotes, control
characters, trailing commas, lone surrogates). No guess at what is cut off or broken in another way.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from stages.text.surrogates import without_surrogates

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
    """Whatever is JSON, or nearly so. Nothing of a text that is larger than any answer."""
    if len(text) > _MOST_CHARACTERS:
        return Found([], [])
    thoughts, rest = _thinking(text)
    return Found(_scan(rest), [value for thought in thoughts for value in _scan(thought)])


def number(text: str) -> Any:
    """A float that knows how it was written."""
    value = NumberAsWritten(text)
    value.text = text
    return value


def _thinking(text: str) -> tuple[list[str], str]:
    """Parts within thinking, and the rest. Some servers leave the opening tag out; what is not closed is no answer."""
    thoughts: list[str] = []
    opened, closed = _THINKING.search(text), _THOUGHT.search(text)
    if closed is not None and (opened is None or closed.start() < opened.start()):
        return [text[: closed.start()]], text[closed.end() :]
    rest, at = "", 0
    while opened is not None:
        rest += text[at : opened.start()]
        closed = _THOUGHT.search(text, opened.end())
        at = len(text) if closed is None else closed.end()
        thoughts.append(text[opened.end() : at if closed is None else closed.start()])
        opened = _THINKING.search(text, at)
    return thoughts, rest + text[at:]


class _Broken(Exception):
    """No JSON here. `keyed`: an object was begun, so that what is inside it is no answer of its own."""

    def __init__(self, keyed: bool = False) -> None:
        super().__init__()
        self.keyed = keyed


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


_EXACTLY = json.JSONDecoder(parse_float=number, parse_constant=_refuse_constant)
_START = re.compile(r"[{\[]")


def _scan(text: str) -> list[Any]:
    found: list[Any] = []
    at = 0
    for _ in range(_MOST_STARTS):
        start = _START.search(text, at)
        if start is None:
            break
        at = start.start()
        try:
            value, at = _value_at(text, at)
            found.append(value)
        except _Broken as exc:
            end = _matching(text, at)
            if end is None and exc.keyed:
                break
            at = at + 1 if end is None else end
    return found


def _value_at(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = _EXACTLY.raw_decode(text, at)
    except (ValueError, RecursionError):
        return _Reader(text).value(at, 0)
    return _written(value), end


def _written(value: Any) -> Any:
    """Without halves of surrogate pairs, which JSON can name and no file can hold."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list):
        return [_written(item) for item in value]
    if isinstance(value, dict):
        return {_written(key): _written(item) for key, item in value.items()}
    return value


def _matching(text: str, at: int) -> int | None:
    """Behind the bracket that closes the one at `at`; text in double quotes is passed over."""
    depth = 0
    for match in re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.S).finditer(text, at):
        bracket = match[0]
        depth += (bracket in "{[") - (bracket in "}]") if len(bracket) == 1 else 0
        if depth == 0 and len(bracket) == 1:
            return match.end()
    return None


class _Reader:
    """Reads one value, leniently."""

    def __init__(self, text: str) -> None:
        self._text = text

    def _space(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at

    def value(self, at: int, depth: int) -> tuple[Any, int]:
        text = self._text
        if depth > _DEEPEST or at >= len(text):
            raise _Broken
        match text[at]:
            case "{":
                return self._object(at, depth)
            case "[":
                return self._list(at, depth)
            case '"' | "'":
                return self._string(at)
        if found := _NUMBER.match(text, at):
            written = found[0]
            return (int(written) if re.fullmatch(r"-?\d{1,4000}", written) else number(written)), found.end()
        word = _WORD.match(text, at)
        if word is None or word[0] not in _WORDS:
            raise _Broken
        return _WORDS[word[0]], word.end()

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        text, out, keyed = self._text, {}, False
        at = self._space(at + 1)
        try:
            while text[at : at + 1] != "}":
                name, at = self._key(at)
                at = self._space(at)
                if text[at : at + 1] != ":":
                    raise _Broken
                keyed = True
                out[name], at = self.value(self._space(at + 1), depth + 1)
                at = self._next(at, "}")
        except _Broken as exc:
            raise _Broken(keyed or exc.keyed) from None
        return out, at + 1

    def _list(self, at: int, depth: int) -> tuple[list[Any], int]:
        out: list[Any] = []
        at = self._space(at + 1)
        while self._text[at : at + 1] != "]":
            item, at = self.value(at, depth + 1)
            out.append(item)
            at = self._next(at, "]")
        return out, at + 1

    def _next(self, at: int, end: str) -> int:
        """To the next member, or the end; a comma before the end is passed over."""
        at = self._space(at)
        if self._text[at : at + 1] == ",":
            return self._space(at + 1)
        if self._text[at : at + 1] != end:
            raise _Broken
        return at

    def _key(self, at: int) -> tuple[str, int]:
        if self._text[at : at + 1] in ('"', "'"):
            return self._string(at)
        word = _WORD.match(self._text, at)
        if word is None:
            raise _Broken
        return word[0], word.end()

    def _string(self, at: int) -> tuple[str, int]:
        found = (_DOUBLE if self._text[at] == '"' else _SINGLE).match(self._text, at)
        if found is None:
            raise _Broken
        text: str = json.loads(f'"{_ESCAPE.sub(_escaped, found[1])}"', strict=False)
        return without_surrogates(text), found.end()


def _escaped(match: re.Match[str]) -> str:
    """An escape as JSON has it; of others the character, with its backslash where it is no quote."""
    if match[2]:
        return '\\"'
    escape = match[1]
    if escape[0] in '"\\/bfnrt' or len(escape) == 5:
        return match[0]
    return escape if escape == "'" else "\\\\" + escape
