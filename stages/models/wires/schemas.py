"""JSON schemas in the subsets that providers' strict modes take.

What a subset lacks is written into the description, where the model reads it, and is checked when the answer is read:
nothing of a declaration is dropped. Schemas are rewritten once each.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

Schema = dict[str, Any]
# As the SDK in the lock sorts them (`anthropic.transform_schema`).
_ANTHROPIC_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
)
_PARTS = ("anyOf", "oneOf", "allOf")
_NESTED = ("properties", "$defs", "definitions")


def anthropic_schema(schema: Mapping[str, Any]) -> Schema:
    """Return the schema as Anthropic's strict modes take it: no bounds of numbers, texts and lists, no patterns, each
    object closed, `anyOf` for any union."""
    return _copy(_rewritten(orjson.dumps(schema)))


@lru_cache(maxsize=256)
def _rewritten(schema: bytes) -> bytes:
    return orjson.dumps(_anthropic(orjson.loads(schema)))


def _copy(schema: bytes) -> Schema:
    found: Schema = orjson.loads(schema)
    return found


def _anthropic(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    rest = dict(schema)
    out: Schema = {}
    for name in ("$defs", "definitions"):
        if isinstance(definitions := rest.pop(name, None), dict):
            out["$defs"] = {key: _anthropic(part) for key, part in definitions.items()}
    if (reference := rest.pop("$ref", None)) is not None:
        return {**out, "$ref": reference.replace("#/definitions/", "#/$defs/")}
    kind = rest.pop("type", None)
    if isinstance(kind, list):
        others = {name: rest.pop(name) for name in list(rest) if name not in ("description", "title")}
        return _anthropic({**rest, "anyOf": [{"type": one, **_only_for(one, others)} for one in kind]})
    for name in ("enum", "const"):
        if name in rest:
            out[name] = rest.pop(name)
            kind = None
    for name in _PARTS:
        if isinstance(parts := rest.pop(name, None), list):
            out["allOf" if name == "allOf" else "anyOf"] = [_anthropic(part) for part in parts]
            kind = None
    if kind is not None:
        out["type"] = kind
    for name in ("description", "title"):
        if name in rest:
            out[name] = rest.pop(name)
    _shape(kind, rest, out)
    rest.pop("default", None)
    rest.pop("$schema", None)
    return _with_words(out, rest)


def _shape(kind: Any, rest: Schema, out: Schema) -> None:
    """Move what the subset knows of a type from `rest` to `out`."""
    if kind == "object":
        out["properties"] = {name: _anthropic(part) for name, part in rest.pop("properties", {}).items()}
        rest.pop("additionalProperties", None)
        out["additionalProperties"] = False
        if (required := rest.pop("required", None)) is not None:
            out["required"] = required
    elif kind == "array":
        if (items := rest.pop("items", None)) is not None:
            out["items"] = _anthropic(items)
        if rest.get("minItems") in (0, 1):
            out["minItems"] = rest.pop("minItems")
    elif kind == "string" and rest.get("format") in _ANTHROPIC_FORMATS:
        out["format"] = rest.pop("format")


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


# Of any wire ----------------------------------------------------------------------------------------------------------


def unions_in(schema: Any) -> int:
    """Count the parameters with a union of types."""
    if isinstance(schema, list):
        return sum(map(unions_in, schema))
    if not isinstance(schema, Mapping):
        return 0
    own = "anyOf" in schema or isinstance(schema.get("type"), list)
    inner = sum(
        sum(map(unions_in, value.values())) if name in _NESTED and isinstance(value, Mapping) else unions_in(value)
        for name, value in schema.items()
    )
    return int(own) + inner
