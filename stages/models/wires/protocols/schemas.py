"""JSON schemas in the subsets that providers' strict modes take.

What a subset lacks is written into the description, where the model reads it, and is checked when the answer is read:
nothing of a declaration is dropped. Schemas are rewritten once each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

Schema = dict[str, Any]
_NUMBER = frozenset(("minimum", "maximum"))
_ANNOTATIONS = ("description", "title")
_UNIONS = ("anyOf", "oneOf", "allOf")
_SILENT = ("default", "$schema", "examples")  # which say nothing of what is valid


@dataclass(frozen=True)
class _Subset:
    """What a provider takes of each type; `formats` of texts, None for all; `closed`: objects say that they have no
    further properties; `typed_enums`: an enum has its type beside it; `first_items`: a least length of 0 or 1 alone."""

    keywords: Mapping[str, frozenset[str]] = field(default_factory=dict)
    formats: frozenset[str] | None = None
    closed: bool = False
    typed_enums: bool = True
    const: bool = True
    first_items: bool = False


# As `anthropic.transform_schema` has it.
_ANTHROPIC = _Subset(
    formats=frozenset(
        ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
    ),
    closed=True, typed_enums=False, first_items=True,
)  # fmt: skip
# google/genai/types.py: GenerateContentConfig.response_json_schema lists the keywords.
_GEMINI = _Subset(
    keywords={
        "number": _NUMBER, "integer": _NUMBER, "array": frozenset(("minItems", "maxItems", "prefixItems")),
        "object": frozenset(("additionalProperties",)),
    },
    const=False,
)  # fmt: skip


def anthropic_schema(schema: Mapping[str, Any]) -> Schema:
    """Return the schema as Anthropic's strict modes take it: no bounds of numbers, texts and lists, no patterns, each
    object closed, `anyOf` for any union."""
    found: Schema = orjson.loads(_rewritten(orjson.dumps(schema), "anthropic"))
    return found


def gemini_schema(schema: Mapping[str, Any]) -> Schema:
    """Return the schema as Gemini takes it: no patterns, no lengths of texts, no exclusive bounds, no constants."""
    found: Schema = orjson.loads(_rewritten(orjson.dumps(schema), "gemini"))
    return found


@lru_cache(maxsize=256)
def _rewritten(schema: bytes, name: str) -> bytes:
    return orjson.dumps(_rewrite(orjson.loads(schema), _ANTHROPIC if name == "anthropic" else _GEMINI))


def _rewrite(schema: Any, subset: _Subset) -> Any:
    if not isinstance(schema, dict):
        return schema
    rest = {name: value for name, value in schema.items() if name not in _SILENT}
    out: Schema = {}
    for name in ("$defs", "definitions"):
        if isinstance(definitions := rest.pop(name, None), dict):
            out["$defs"] = {key: _rewrite(part, subset) for key, part in definitions.items()}
    if (reference := rest.pop("$ref", None)) is not None:
        return {**out, "$ref": reference.replace("#/definitions/", "#/$defs/")}
    kind = rest.pop("type", None)
    if isinstance(kind, list):
        others = {name: rest.pop(name) for name in list(rest) if name not in _ANNOTATIONS}
        return _rewrite({**rest, "anyOf": [{"type": one, **_only_for(one, others)} for one in kind]}, subset)
    if "const" in rest and not subset.const:
        rest["enum"] = [rest.pop("const")]
    kind = _values(kind, rest, out, subset)
    if kind is not None:
        out["type"] = kind
    for name in _ANNOTATIONS:
        if name in rest:
            out[name] = rest.pop(name)
    _shape(kind, rest, out, subset)
    return _with_words(out, rest)


def _values(kind: Any, rest: Schema, out: Schema, subset: _Subset) -> Any:
    """Move enums and unions from `rest` to `out`; return the type that stands beside them."""
    for name in ("enum", "const"):
        if name in rest:
            out[name] = rest.pop(name)
            kind = kind if subset.typed_enums else None
    for name in _UNIONS:
        if isinstance(rest.get(name), list) and (name != "allOf" or subset.closed):
            out["allOf" if name == "allOf" else "anyOf"] = [_rewrite(part, subset) for part in rest.pop(name)]
            kind = None
    return kind


def _shape(kind: Any, rest: Schema, out: Schema, subset: _Subset) -> None:
    """Move what the subset knows of a type from `rest` to `out`."""
    if kind == "object":
        out["properties"] = {name: _rewrite(part, subset) for name, part in rest.pop("properties", {}).items()}
        if subset.closed:
            rest.pop("additionalProperties", None)
            out["additionalProperties"] = False
        if (required := rest.pop("required", None)) is not None:
            out["required"] = required
    elif kind == "array":
        if (items := rest.pop("items", None)) is not None:
            out["items"] = _rewrite(items, subset)
        if subset.first_items and rest.get("minItems") in (0, 1):
            out["minItems"] = rest.pop("minItems")
    elif kind == "string" and "format" in rest and (subset.formats is None or rest["format"] in subset.formats):
        out["format"] = rest.pop("format")
    elif kind == "integer" and "minimum" in subset.keywords.get(kind, ()):
        _inclusive(rest)
    out |= {name: rest.pop(name) for name in list(rest) if name in subset.keywords.get(str(kind), ())}


def _inclusive(schema: Schema) -> None:
    """Write exclusive bounds of an integer as inclusive ones."""
    for name, inclusive, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        if isinstance(bound := schema.get(name), int) and not isinstance(bound, bool) and inclusive not in schema:
            schema[inclusive] = schema.pop(name) + step


def _with_words(out: Schema, rest: Mapping[str, Any]) -> Schema:
    """Add what is left of a schema to its description."""
    if rest:
        words = "{" + ", ".join(f"{name}: {value}" for name, value in rest.items()) + "}"
        described = out.get("description")
        out["description"] = f"{described}\n\n{words}" if described else words
    return out


_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems", "uniqueItems"),
    "string": ("format", "pattern", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def _only_for(kind: str, keywords: Mapping[str, Any]) -> Schema:
    """Return the keywords that say something of one type of a union; an enum without the values of others."""
    names = _OF_TYPE.get("number" if kind == "integer" else kind, ())
    found = {name: value for name, value in keywords.items() if name in names}
    if "enum" in keywords and kind != "null":
        found["enum"] = [value for value in keywords["enum"] if value is not None]
    return found
