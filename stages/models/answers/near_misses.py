"""Correct answers that are nearly of the declared types, if unambiguous; list the places that validation changed.

Corrected: an enum in another case or with blanks, a number for a text, a text for a number or boolean, 12.0 for an int,
unknown keys. Not corrected, as it is ambiguous: 12.7 for an int, "maybe" for a boolean, "1,234", a label that
equals two values but for the case.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.spec.fields import OutputField
from stages.models.answers.json_in_text import NumberAsWritten

_EXACT_INTEGERS = 2**53  # beyond it a float is not an exact integer
_NUMBER = re.compile(r"\s*[-+]?\d+(\.\d+)?([eE][-+]?\d+)?\s*", re.ASCII)
_YES, _NO = frozenset(("true", "yes")), frozenset(("false", "no"))


def mended(data: Mapping[str, Any], fields: Mapping[str, OutputField]) -> dict[str, Any]:
    """Return the declared keys alone, their values converted towards the declared types."""
    return {name: _mended(data[name], field) for name, field in fields.items() if name in data}


def _mended(value: Any, field: OutputField) -> Any:
    if value is None:
        return None
    match field.type:
        case "enum":
            return _label(value, field.values or ())
        case "str":
            return _text(value)
        case "int" | "float":
            return _number(value)
        case "bool":
            return _boolean(value)
        case "list" if isinstance(value, list) and field.items is not None:
            return [_mended(item, field.items) for item in value]
        case "fields" if isinstance(value, Mapping):
            return mended(value, field.fields or {})
    return value


def _label(value: Any, values: tuple[str, ...]) -> Any:
    if isinstance(value, bool):
        value = "true" if value else "false"
    written = _text(value)
    if not isinstance(written, str) or written in values:
        return written
    same = [label for label in values if _folded(label) == _folded(written)]
    return same[0] if len(same) == 1 else value


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _text(value: Any) -> Any:
    """Return a number as it was written; other values as they are."""
    if isinstance(value, NumberAsWritten):
        return value.text
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and abs(value) < _EXACT_INTEGERS:
        return repr(value)
    return value


def _number(value: Any) -> Any:
    if isinstance(value, NumberAsWritten):
        return float(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return value.strip().removeprefix("+")  # validation reads it, and refuses what is no integer
    return value


def _boolean(value: Any) -> Any:
    if isinstance(value, NumberAsWritten):
        return float(value)
    if isinstance(value, str) and (word := value.strip().lower()) in _YES | _NO:
        return word in _YES
    return value


# What validation changed ---------------------------------------------------------------------------------------------

_ABSENT = object()
_NESTED = (dict, list)


def coerced(data: Any, answer: Any, place: str = "") -> list[str]:
    """Return the places whose values had another JSON type than declared, or are absent, or not declared. An int is a
    float, too."""
    found: list[str] = []
    for name, before, after in _pairs(data, answer):
        same = type(before) is type(after)
        if same and type(after) not in _NESTED:
            continue
        number = isinstance(after, float) and isinstance(before, int | float) and not isinstance(before, bool)
        if isinstance(after, _NESTED) and isinstance(before, _NESTED):
            found += coerced(before, after, f"{place}{name}.")
        elif not number:
            found.append(f"{place}{name}")
    return found


def _pairs(data: Any, answer: Any) -> Iterator[tuple[Any, Any, Any]]:
    if isinstance(answer, dict) and isinstance(data, Mapping):
        for name, after in answer.items():
            yield name, data.get(name, _ABSENT), after
        if len(data) != len(answer) or data.keys() != answer.keys():
            for name in data:
                if name not in answer:
                    yield name, data[name], _ABSENT
    elif isinstance(answer, list) and isinstance(data, list) and len(data) == len(answer):
        yield from zip(range(len(data)), data, answer, strict=True)
