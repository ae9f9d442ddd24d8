"""The JSON Schema of a spec (draft 2020-12), for editors: derived from the models of `schemas.spec`, and widened to the
short forms that `schemas.spec.loading` accepts.

It accepts every spec that loads and whose stages exist, and refuses most that do not load. Rules that JSON Schema
cannot express (a time zone that exists, a regular expression that compiles, bounds that contradict one another) are
left to `tandem check`."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from schemas.ids import PIPELINE_NAME
from schemas.spec.durations import format_duration
from schemas.spec.fields import SCALARS
from schemas.spec.portable import EFFORTS, VERBOSITIES
from schemas.spec.sections import STAGE_NAME, Spec
from schemas.spec.uses import BUILT_IN, Uses
from schemas.spec_help import KEYS, SECTIONS

Schema = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
_MODULE_ATTRIBUTE = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
_MODEL_NAME = r"^[a-z][a-z0-9_]*:[\s\S]+$"
_DURATION = r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d|w)\s*$|^0$"
_SCALAR_TYPE = f"({'|'.join(SCALARS)})"
# Brackets are not counted: a regular expression cannot, and the loader does.
_SHORT_TYPE = rf"^\s*(list\[\s*){{0,10}}{_SCALAR_TYPE}\s*\??\s*(\]\s*\??\s*){{0,10}}$"
_NULL: Schema = {"type": "null"}


def spec_schema(options: Mapping[str, type[BaseModel]] | None = None) -> Schema:
    """Return the schema of a whole spec. `options`: for each built-in stage the model of its key `with`; without,
    `with` may hold anything."""
    raw = Spec.model_json_schema()
    models: dict[str, Schema] = {**raw.pop("$defs"), "Spec": raw}
    for model in (options or {}).values():
        own = model.model_json_schema()
        models |= {**own.pop("$defs", {}), model.__name__: own}
    definitions: dict[str, Schema] = {name: _section(name, schema) for name, schema in models.items()}
    definitions["Duration"] = _duration()
    _widen(definitions, options or {})
    root = definitions.pop("Spec")
    return {"$schema": DRAFT, "title": "Tandem pipeline", **root, "$defs": dict(sorted(definitions.items()))}


def schema_text(options: Mapping[str, type[BaseModel]] | None = None) -> str:
    """Return the schema of a whole spec as the text of a file."""
    return json.dumps(spec_schema(options), indent=2, ensure_ascii=False) + "\n"


# From pydantic's schema to a short one with our own words ----------------------------------------------------------


def _section(name: str, schema: Schema) -> Schema:
    """Return one model's schema without pydantic's titles, with the descriptions of `schemas.spec_help`."""
    help_of = KEYS.get(name, {})
    properties = {key: _property(value, help_of.get(key)) for key, value in schema["properties"].items()}
    out: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if schema.get("required"):
        out["required"] = schema["required"]
    return {"description": SECTIONS[name], **out} if name in SECTIONS else out


def _property(value: Schema, description: str | None) -> Schema:
    out = _plain(value)
    default = out.pop("default", None)
    if out.get("format") == "duration":
        out = {"$ref": "#/$defs/Duration", "description": out.get("description")}
        default = None if default is None else _iso_to_text(default)
    if description or out.get("description"):
        out["description"] = description or out["description"]
    if default not in (None, [], {}) and not isinstance(default, dict):
        out["default"] = default
    return out


def _plain(value: Schema) -> Schema:
    """Return a schema without titles, and with `or null` written into the type."""
    out: Schema = {}
    for key, item in value.items():
        if key == "title":
            continue
        out[key] = _plain(item) if isinstance(item, dict) else item
    alternatives = [_plain(item) for item in value.get("anyOf", ())]
    if len(alternatives) == 2 and alternatives[1] == _NULL and isinstance(alternatives[0].get("type"), str):
        del out["anyOf"]
        out |= alternatives[0]
        out["type"] = [out["type"], "null"]
        if "enum" in out:
            out["enum"] = [*out["enum"], None]
    elif alternatives:
        out["anyOf"] = alternatives
    return out


def _iso_to_text(iso: str) -> str:
    """Return `90d` for `P90D`; pydantic writes defaults in ISO 8601."""
    match = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", iso)
    assert match is not None, iso
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return format_duration(timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds))


# The short forms that loading accepts ------------------------------------------------------------------------------


def _widen(definitions: dict[str, Schema], options: Mapping[str, type[BaseModel]]) -> None:
    spec, source, stage = (definitions[name]["properties"] for name in ("Spec", "Source", "Stage"))
    spec["name"]["pattern"] = _pattern(PIPELINE_NAME)
    _or(source, "key", {"type": "string"})
    definitions["ColumnType"] = _described(
        {"anyOf": [{"enum": list(SCALARS)}, {**definitions["ColumnType"]}]}, definitions["ColumnType"]
    )
    if (confidence := definitions.get("Confidence")) is not None:
        definitions["Confidence"] = {"anyOf": [{"type": "string"}, confidence]}
    definitions["ModelChoice"]["properties"]["name"]["pattern"] = _MODEL_NAME
    definitions["Fallbacks"] = _fallbacks(definitions["ModelChoice"]["properties"])
    _or_null(definitions["Sink"]["properties"]["provenance"])
    definitions["OutputField"] = _output_field(definitions["OutputField"])
    _or(definitions["McpServer"]["properties"], "command", {"type": "string"})
    _widen_stage(stage)
    definitions["Stage"]["allOf"] = [_needs(name, uses, options.get(name)) for name, uses in BUILT_IN.items()]
    _conditions(definitions)


def _widen_stage(stage: dict[str, Schema]) -> None:
    stage["name"]["pattern"] = _pattern(STAGE_NAME)
    stage["uses"] = {
        "description": stage["uses"]["description"],
        "anyOf": [{"enum": list(BUILT_IN)}, {"type": "string", "pattern": ".:."}],
    }
    del stage["output_class"]
    del stage["options"]
    for key in ("system", "prompt"):
        stage[key] |= {
            "type": ["string", "object", "null"],
            "properties": {"file": {"type": "string", "description": "A text file, relative to the spec."}},
            "required": ["file"],
            "additionalProperties": False,
        }
    file = stage["prompt"]["properties"]["file"] | {"description": "A file of them, relative to the spec."}
    stage["examples"] = {
        "description": stage["examples"]["description"],
        "anyOf": [
            {name: part for name, part in stage["examples"].items() if name != "description"},
            {"type": "object", "properties": {"file": file}, "required": ["file"], "additionalProperties": False},
        ],
    }
    for key in ("when_empty", "on_reject"):
        _or_null(stage[key])
    _or(stage, "output", {"type": "string", "pattern": f"{_MODULE_ATTRIBUTE}|^$"})
    stage["tools"]["items"]["pattern"] = rf"{_MODULE_ATTRIBUTE}|^mcp:[A-Za-z][A-Za-z0-9_-]*$"
    stage["model"] = {"description": stage["model"]["description"], **_models({}, main=True)}
    efforts = {"effort": {"enum": list(EFFORTS)}}
    stage["reasoning"] = {
        "description": KEYS["Stage"]["reasoning"],
        "anyOf": [
            {"type": "object", "properties": efforts, "required": ["effort"], "additionalProperties": False}, _NULL,
        ],
    }  # fmt: skip
    stage["verbosity"] = {"description": KEYS["Stage"]["verbosity"], "enum": [*VERBOSITIES, None]}
    stage["with"] = {"description": KEYS["Stage"]["with"], "type": ["object", "null"]}


def _models(roles: Schema, *, main: bool) -> Schema:
    """Return the schema of a model for each role; with `main`, a single model is that of the role `main`."""
    name: Schema = {"type": "string", "pattern": _MODEL_NAME}
    choice: Schema = {"$ref": "#/$defs/ModelChoice"}
    several: Schema = {"$ref": "#/$defs/Fallbacks"}
    by_role = {"type": "object", "additionalProperties": {"anyOf": [name, choice, several]}, **roles}
    return {"anyOf": [name, choice, several, by_role, _NULL] if main else [by_role]}


def _fallbacks(choice: dict[str, Schema]) -> Schema:
    """Return the schema of `{try: [MODEL, …], …}`, whose keys it takes out of those of a single model."""
    del choice["others"]
    help_of = KEYS["Fallbacks"]
    own = {name: {**choice.pop(name), "description": help_of[name]} for name in ("fallback_after", "fallback_on")}
    name: Schema = {"type": "string", "pattern": _MODEL_NAME}
    models = {"type": "array", "minItems": 1, "items": {"anyOf": [name, {"$ref": "#/$defs/ModelChoice"}]}}
    properties = {"try": {"description": help_of["try"], **models}, **own}
    return {
        "description": SECTIONS["Fallbacks"],
        "type": "object",
        "properties": properties,
        "required": ["try"],
        "additionalProperties": False,
    }


def _output_field(declared: Schema) -> Schema:
    """Return the schema of the long form or the short one: `str`, `list[str]?`."""
    properties = declared["properties"]
    kinds = properties["type"]["enum"]
    properties["type"] = {
        "description": properties["type"]["description"],
        "anyOf": [{"enum": kinds}, {"type": "string", "pattern": rf"{_SHORT_TYPE}|^\s*(enum|list|fields)\s*\??\s*$"}],
    }
    properties["values"]["items"] = {"type": ["string", "number", "boolean"]}
    long = {key: value for key, value in declared.items() if key not in ("description", "required")}
    long["anyOf"] = [{"required": ["type"]}, {"required": ["fields"]}]
    long["allOf"] = [
        {
            "if": {"properties": {"type": {"pattern": rf"^\s*{kind}\s*\??\s*$"}}, "required": ["type"]},
            "then": {"required": [key]},
        }
        for kind, key in (("enum", "values"), ("list", "items"), ("fields", "fields"))
    ]
    return {"description": declared["description"], "anyOf": [{"type": "string", "pattern": _SHORT_TYPE}, long]}


def _needs(name: str, uses: Uses, options: type[BaseModel] | None) -> Schema:
    """Return the schema of a built-in stage's required keys, model roles and options."""
    properties: Schema = {}
    required = list(uses.needs)
    if not uses.roles:
        properties["model"] = {"type": ["object", "null"], "maxProperties": 0}
    elif "model" in required:
        roles = {"required": list(uses.roles), "propertyNames": {"enum": [*uses.roles, *uses.may]}}
        properties["model"] = _models(roles, main=uses.roles == ("main",))
    if options is not None:
        properties["with"] = {"anyOf": [{"$ref": f"#/$defs/{options.__name__}"}, _NULL]}
        if any(field.is_required() for field in options.model_fields.values()):
            properties["with"] = properties["with"]["anyOf"][0]
            required.append("with")
    then: Schema = {"required": required} if required else {}
    return {
        "if": {"properties": {"uses": {"const": name}}, "required": ["uses"]},
        "then": {**then, "properties": properties},
    }


def _conditions(definitions: dict[str, Schema]) -> None:
    """Add the rules over two keys."""
    definitions["Partition"] |= {
        "if": {"properties": {"by": {"enum": ["time", "column"]}}, "required": ["by"]},
        "then": {"properties": {"column": {"type": "string"}}, "required": ["column"]},
        "else": {"properties": {"column": {"maxLength": 0}}},
    }
    definitions["McpServer"]["oneOf"] = [
        {"properties": {"command": {"minItems": 1, "minLength": 1}}, "required": ["command"]},
        {"properties": {"url": {"type": "string"}}, "required": ["url"]},
    ]
    definitions["Notify"]["oneOf"] = [
        {"properties": {"webhook": {"type": "string"}}, "required": ["webhook"]},
        {"properties": {"command": {"type": "array", "minItems": 1}}, "required": ["command"]},
    ]
    definitions["Notify"]["properties"]["on"]["minItems"] = 1


def _duration() -> Schema:
    return {
        "description": "A number and a unit: 500ms, 30s, 15m, 6h, 7d, 4w; or 0.",
        "anyOf": [{"type": "string", "pattern": _DURATION}, {"const": 0}],
    }


def _or(properties: dict[str, Schema], key: str, other: Schema) -> None:
    """Accept another form too, under the same description."""
    kept: Schema = {name: properties[key].pop(name) for name in ("description", "default") if name in properties[key]}
    properties[key] = {**kept, "anyOf": [other, properties[key]]}


def _or_null(choice: Schema) -> None:
    """Accept the YAML word null for the value `null` or `none`."""
    choice |= {"type": ["string", "null"], "enum": [*choice["enum"], None]}


def _described(schema: Schema, by: Schema) -> Schema:
    return {"description": by["description"], **schema}


def _pattern(expression: re.Pattern[str]) -> str:
    """Return a Python pattern for `match` in the dialect of JSON Schema."""
    return "^" + expression.pattern.replace(r"\Z", "$")
