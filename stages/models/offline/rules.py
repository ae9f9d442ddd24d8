"""Answer a JSON schema from a text by counting words: the rules of the `offline:` model.

No understanding is claimed. Each property is read by its name, description, type and enum values:

- enum: the value whose words and synonyms occur most; equal counts: the one met first in the text; none: the value
  that says other, neutral, unknown …, else the last. Numbers and low/medium/high follow the intensity instead;
- bounded number: the text's intensity (alarm words against calm ones) when the name or description says urgency, score,
  rating …; any other number: the first in the text within the bounds, else the intensity, else 0 clamped;
- bool: true if a word of the name (or two of the description) occurs; language: a count of stop words;
- string: first sentences for a summary, the fullest sentence for a reason, else a name or a frequent word;
  dates: the first one written, days before months; list of strings: the frequent words; list of objects: one.

An answer is always valid: a schema with a keyword not in `KNOWN` is refused with FatalModelError. Nothing depends on
hash order, so equal questions have equal answers in every process.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from schemas.errors import FatalModelError
from stages.models.offline.reading import Text, cut
from stages.models.offline.words import (
    EMAIL,
    FALLBACKS,
    GENERIC,
    KNOWN,
    LANGUAGE,
    NAMES,
    ORDER,
    PROPER,
    SCALES,
    SENTENCES,
    SUMMARIES,
    SYNONYMS,
    stems,
)

Schema = dict[str, Any]
Found = tuple[Any, bool]  # a valid value, and True if the text gave a reason for it
Reader = Callable[["Text"], Found]


def answer_text(text: str, schema: Schema) -> Any:
    """The value for `schema` that the words of `text` suggest."""
    return _plan(json.dumps(schema))(Text(text))[0]


@lru_cache(256)
def _plan(schema: str) -> Reader:
    """Keyed by the schema's JSON with its properties in their order, which the answer keeps."""
    root = json.loads(schema)
    return _reader(_Field({}, "", root, ()).child(root))


def _refused(why: str) -> FatalModelError:
    return FatalModelError(
        f"The offline model cannot answer this schema: {why}.",
        hint="Simplify the stage's `output`, or set its `model` to a provider's.",
    )


@dataclass(frozen=True)
class _Field:
    """A sub-schema with its references resolved, and the property it is for."""

    schema: Schema
    name: str
    root: Schema
    refs: tuple[str, ...]

    def child(self, schema: Schema, name: str | None = None) -> "_Field":
        refs = self.refs
        while ref := schema.get("$ref"):
            if ref in refs:
                raise _refused(f"{ref!r} contains itself")
            refs, target = (*refs, ref), self.root
            for key in filter(None, ref.removeprefix("#").split("/")):
                target = target[key]
            schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
        if unknown := sorted(schema.keys() - KNOWN):
            raise _refused(f"it uses {unknown[0]!r}")
        return _Field(schema, self.name if name is None else name, self.root, refs)

    def says(self, words: frozenset[str]) -> bool:
        return not words.isdisjoint(stems(self.name))

    def span(self, low: str, high: str) -> tuple[Any, Any]:
        """The bounds under these two keywords, absent ones as 0 and infinity."""
        least, most = self.schema.get(low, 0), self.schema.get(high, math.inf)
        if least > most:
            raise _refused(f"nothing fits {low} and {high} of {self.name!r}")
        return least, most


def _reader(field: _Field) -> Reader:
    schema = field.schema
    if "const" in schema or "enum" in schema:
        return _enum(field, schema.get("enum", [schema.get("const")]))
    options = schema.get("anyOf") or schema.get("oneOf")
    if not options and isinstance(kinds := schema.get("type"), list):
        options = [{**schema, "type": kind} for kind in kinds]
    if options:
        return _union(field, options)
    kind = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else "string")
    if kind not in _READERS:
        raise _refused(f"its type {kind!r} is unknown")
    return _READERS[kind](field)


def _union(field: _Field, options: Sequence[Schema]) -> Reader:
    """The first option that is not null; null when it may be and the text gave no reason for a value."""
    described = {key: field.schema[key] for key in ("description",) if key in field.schema}
    values = [option for option in options if option.get("type") != "null"]
    if not values:
        return _null(field)
    read = _reader(field.child({**described, **values[0]}))
    if len(values) == len(options):
        return read
    return lambda text: found if (found := read(text))[1] else (None, False)


def _null(field: _Field) -> Reader:
    return lambda text: (None, False)


def _object(field: _Field) -> Reader:
    properties = field.schema.get("properties", {})
    if missing := sorted(set(field.schema.get("required", [])) - properties.keys()):
        raise _refused(f"required {missing[0]!r} is not among the properties")
    readers = {name: _reader(field.child(schema, name)) for name, schema in properties.items()}

    def read(text: Text) -> Found:
        found = {name: reader(text) for name, reader in readers.items()}
        return {name: value for name, (value, _) in found.items()}, any(hit for _, hit in found.values())

    return read


def _labels(values: Sequence[Any]) -> list[tuple[Any, dict[str, int]]]:
    """The stems that speak for each value: its own weigh two, their synonyms one."""
    labels = []
    for value in values:
        own = stems(str(value))
        labels.append((value, {key: 1 for word in own for key in SYNONYMS.get(word, ())} | dict.fromkeys(own, 2)))
    return labels


def _ranked(text: Text, labels: Sequence[tuple[Any, dict[str, int]]]) -> list[Any]:
    """The values the text speaks of, most first; of equals the first mentioned."""
    scored = []
    for value, label in labels:
        if hits := [key for key in label if key in text.seen]:
            score = sum(label[key] * min(text.seen[key][0], 2) for key in hits)
            scored.append((-score, min(text.seen[key][1] for key in hits), value))
    return [value for *_, value in sorted(scored, key=lambda entry: entry[:2])]


def _enum(field: _Field, values: Sequence[Any]) -> Reader:
    options = [value for value in values if value is not None]
    if not options:
        return _null(field)
    labels, named = _labels(options), {str(value).lower(): value for value in options}
    vague = [value for value in options if not FALLBACKS.isdisjoint(stems(str(value)))]
    fallback = None if None in values else (vague or options)[-1]
    steps: list[Any] = [named[word] for word in ORDER if word in named] if named.keys() <= set(ORDER) else []
    if all(type(value) in (int, float) for value in options):
        steps = sorted(options)
    language = field.says(LANGUAGE)

    def read(text: Text) -> Found:
        if len(steps) > 1:
            return steps[(text.intensity * (len(steps) - 1) + 50) // 100], bool(text.words)
        if language:
            spoken = [named[name] for name in named if text.language in (name[:2], NAMES.get(name))]
            return (spoken[0], True) if spoken else (fallback, False)
        ranked = _ranked(text, labels)
        if "mixed" in named and {"positive", "negative"} <= {str(value).lower() for value in ranked}:
            return named["mixed"], True
        return (ranked[0], True) if ranked else (fallback, False)

    return read


def _number(field: _Field) -> Reader:
    schema, whole, inf = field.schema, field.schema["type"] == "integer", math.inf
    low = max(schema.get("minimum", -inf), _beyond(schema.get("exclusiveMinimum", -inf), inf, whole))
    high = min(schema.get("maximum", inf), _beyond(schema.get("exclusiveMaximum", inf), -inf, whole))
    if whole:
        low, high = (math.ceil(low) if low > -inf else low), (math.floor(high) if high < inf else high)
    if low > high:
        raise _refused(f"no number lies within the bounds of {field.name!r}")
    bounded = low > -inf and high < inf
    scale = bounded and not SCALES.isdisjoint(stems(f"{field.name} {schema.get('description', '')}"))

    def read(text: Text) -> Found:
        stated = [int(number) if whole else number for number in ([] if scale else text.numbers)]
        inside = [number for number in stated if low <= number <= high]
        value, level = inside[0] if inside else 0, text.intensity
        if bounded and not inside:
            if whole:
                value = low + ((high - low) * level + 50) // 100
            else:  # not low + (high - low) …, which may overflow
                value = round(low * (1 - level / 100) + high * (level / 100), 4)
        return min(max(value, low), high), bool(inside) or (scale and bool(text.words))

    return read


def _beyond(bound: float, towards: float, whole: bool) -> float:
    """The nearest number on the allowed side of an exclusive bound."""
    if math.isinf(bound):
        return bound
    if whole:
        return math.floor(bound) + 1 if towards > 0 else math.ceil(bound) - 1
    return math.nextafter(bound, towards)


def _boolean(field: _Field) -> Reader:
    own = [key for key in stems(field.name) if key not in GENERIC]
    words = frozenset(own).union(*(SYNONYMS.get(key, ()) for key in own))
    hints = frozenset(stems(field.schema.get("description", ""))) - GENERIC

    def read(text: Text) -> Found:
        occurs = not words.isdisjoint(text.seen) or sum(key in text.seen for key in hints) > 1
        return occurs, occurs

    return read


def _string(field: _Field) -> Reader:
    low, high = field.span("minLength", "maxLength")
    if form := field.schema.get("format"):
        if form not in _FORMATS or low or high < math.inf:
            raise _refused(f"{field.name!r} has the format {form!r}, or one with a length")
        return _FORMATS[form]
    limit = int(max(low, min(160, high)))
    language, summary, sentence = (field.says(words) for words in (LANGUAGE, SUMMARIES, SENTENCES))

    def find(text: Text) -> str:
        if language:
            return text.language or "und"
        if summary or not text.words:
            return text.summary(limit)
        if sentence:
            return text.fullest()[0]
        proper = PROPER.search(text.raw)
        return proper.group() if proper else (text.topics or text.words)[0]

    return lambda text: (cut(find(text), limit).ljust(low, "."), bool(text.raw))


def _array(field: _Field) -> Reader:
    low, high = field.span("minItems", "maxItems")
    inner = field.child(field.schema.get("items", {}))
    item, labels, kind = _reader(inner), _labels(inner.schema.get("enum", [])), inner.schema.get("type", "string")
    if field.schema.get("uniqueItems") and low > max(1, len(labels)):
        raise _refused(f"{field.name!r} wants {low} different items")
    sentences = field.says(SENTENCES)
    words = kind == "string" and inner.schema.keys().isdisjoint(("const", "format", "anyOf", "oneOf", "properties"))

    def parts(text: Text) -> list[str]:
        if words:
            return text.fullest()[:3] if sentences else text.topics[:4]
        return text.sentences[:50] if kind in ("integer", "number") else [text.raw]

    def read(text: Text) -> Found:
        if labels:
            found = _ranked(text, labels)
            found += [value for value, _ in labels if value not in found][: max(0, low - len(found))]
        else:
            hits = [value for value, hit in (item(Text(part)) for part in parts(text)) if hit]
            found = [value for index, value in enumerate(hits) if value not in hits[:index]]
        kept = found[: int(min(high, len(found)))]
        return kept + [item(text)[0]] * (low - len(kept)), bool(found)

    return read


def _date(text: Text) -> Found:
    return (text.date[0], True) if text.date else ("1970-01-01", False)


def _datetime(text: Text) -> Found:
    day, time = text.date or ("1970-01-01", "00:00")
    return f"{day}T{time}:00Z", text.date is not None


def _email(text: Text) -> Found:
    return (hit.group(), True) if (hit := EMAIL.search(text.raw)) else ("nobody@example.com", False)


_FORMATS: dict[str, Reader] = {"date": _date, "date-time": _datetime, "email": _email}
_READERS: dict[str, Callable[[_Field], Reader]] = {
    "object": _object, "array": _array, "string": _string, "boolean": _boolean,
    "integer": _number, "number": _number, "null": _null,
}  # fmt: skip
