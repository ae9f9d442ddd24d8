"""The output declaration of a stage: names, types, bounds. One tree, from which the validator, the JSON schema
for the model, and the Arrow schema of the files (`schemas.tables`) are all derived.

    category: {type: enum, values: [billing, bug]}      urgency: {type: int, ge: 1, le: 5}
    summary: str        tags: list[str]      who: {fields: {name: str, born: date?}}      note: "str?"
"""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

TypeName = Literal["str", "int", "float", "bool", "date", "datetime", "enum", "list", "fields"]
SCALARS = ("str", "int", "float", "bool", "date", "datetime")
_MAX_NESTED = 10
_ALLOWED = "str, int, float, bool, date, datetime, list[…], enum with values, {fields: …}; a ? at the end for optional"


class OutputField(BaseModel):
    """One declared value. `items` for lists, `fields` for nested objects, `values` for enums."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: TypeName
    optional: bool = False
    description: str | None = None
    values: tuple[str, ...] | None = None
    items: "OutputField | None" = None
    fields: dict[str, "OutputField"] | None = None
    ge: float | None = None
    le: float | None = None
    gt: float | None = None
    lt: float | None = None
    min_length: int | None = Field(default=None, ge=0)
    max_length: int | None = Field(default=None, ge=1)
    pattern: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            return parse_type(value)
        if isinstance(value, Mapping):
            declared = dict(value)
            kind = declared.get("type")
            if kind is None and "fields" in declared:
                declared["type"] = "fields"
            elif isinstance(kind, str) and (parsed := _parse_kind(kind)):
                declared = {**declared, **parsed, "optional": parsed["optional"] or declared.get("optional", False)}
            if declared.get("type") is None:
                raise ValueError(f"no type; allowed: {_ALLOWED}")
            return declared
        return value

    @field_validator("values", mode="before")
    @classmethod
    def _text_values(cls, values: Any) -> Any:
        if isinstance(values, list | tuple):
            return tuple(
                ("true" if v else "false") if isinstance(v, bool) else str(v) if isinstance(v, int | float) else v
                for v in values
            )
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.type == "enum" and not self.values:
            raise ValueError("an enum needs values: [first, second]")
        if self.values is not None and len(set(self.values)) != len(self.values):
            raise ValueError("values has the same value twice")
        if self.type != "enum" and self.values is not None:
            raise ValueError("values belongs to type: enum")
        if self.type == "list" and self.items is None:
            raise ValueError("a list needs its item type: list[str], or {type: list, items: {…}}")
        if self.type == "fields" and not self.fields:
            raise ValueError("fields needs at least one field")
        bounds = [self.ge, self.le, self.gt, self.lt]
        if self.type not in ("int", "float") and any(bound is not None for bound in bounds):
            raise ValueError(f"ge, le, gt, lt are for int and float, not {self.type}")
        lower = max((b for b in (self.ge, self.gt) if b is not None), default=None)
        upper = min((b for b in (self.le, self.lt) if b is not None), default=None)
        if lower is not None and upper is not None and (lower > upper or (lower == upper in (self.gt, self.lt))):
            raise ValueError(f"no number lies between {lower:g} and {upper:g}")
        self._consistent_text()
        return self

    def _consistent_text(self) -> None:
        sized = self.min_length is not None or self.max_length is not None
        if sized and self.type not in ("str", "list"):
            raise ValueError(f"min_length and max_length are for str and list, not {self.type}")
        if self.min_length is not None and self.max_length is not None and self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}")
        if self.pattern is None:
            return
        if self.type != "str":
            raise ValueError(f"pattern is for str, not {self.type}")
        try:
            re.compile(self.pattern)
        except re.error as exc:
            raise ValueError(f"pattern is not a regular expression: {exc}") from None


def _parse_kind(kind: str) -> dict[str, Any] | None:
    """Parse the type of a long declaration: `enum`, `list?` and `fields` stand alone, others are parsed."""
    core = kind.strip().removesuffix("?").strip()
    if core in ("enum", "list", "fields"):
        return {"type": core, "optional": kind.strip().endswith("?")}
    return parse_type(kind)


def parse_type(text: str) -> dict[str, Any]:
    """Parse a short form such as `list[str]?`. Raises ValueError that lists the allowed forms."""
    text = text.strip()
    optional = text.endswith("?")
    core = text[:-1].strip() if optional else text
    if core in SCALARS:
        return {"type": core, "optional": optional}
    if core.startswith("list[") and core.endswith("]") and core.count("list[") <= _MAX_NESTED:
        return {"type": "list", "items": parse_type(core[5:-1]), "optional": optional}
    raise ValueError(f"{text!r} is not a type; allowed: {_ALLOWED}")


# Validation --------------------------------------------------------------------------------------------------------


def validator_for(fields: Mapping[str, OutputField], name: str = "Answer") -> type[BaseModel]:
    """Return a pydantic model of the declared fields; unknown fields are ignored, as models add some."""
    members: dict[str, Any] = {}
    for field_name, field in fields.items():
        default = None if field.optional else ...
        # Aliased, so that a field may be called `json`, `copy` or `_x` without meeting pydantic's own names.
        members[f"f_{len(members)}"] = (_annotation(field, name + "_" + field_name), Field(default, alias=field_name))
    # Python's own expressions: those of Rust have no look-ahead, which a spec may use.
    config = ConfigDict(extra="ignore", allow_inf_nan=False, regex_engine="python-re")
    return create_model(name, __config__=config, **members)


def _no_number(value: Any) -> Any:
    """Refuse a number: 2026 is a year for a model, but 2,026 seconds since 1970 for pydantic."""
    if isinstance(value, int | float):
        raise ValueError("write it as ISO 8601 text")
    return value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


_PYTHON: dict[str, Any] = {
    "str": str,
    "int": Annotated[int, Field(ge=-(2**63), le=2**63 - 1), BeforeValidator(_no_bool)],
    "float": Annotated[float, BeforeValidator(_no_bool)],
    "bool": bool,
    "date": Annotated[dt.date, BeforeValidator(_no_number)],
    "datetime": Annotated[dt.datetime, BeforeValidator(_no_number)],
}


def _annotation(field: OutputField, name: str) -> Any:
    kind: Any
    if field.type == "enum":
        kind = Literal[field.values or ()]
    elif field.type == "list":
        assert field.items is not None
        kind = list[_annotation(field.items, name)]  # type: ignore[misc]
    elif field.type == "fields":
        assert field.fields is not None
        kind = validator_for(field.fields, name)
    else:
        kind = _PYTHON[field.type]
    limits = {k: getattr(field, k) for k in ("ge", "le", "gt", "lt", "min_length", "max_length")}
    if field.type == "str":
        limits["pattern"] = field.pattern
    bounds = {k: v for k, v in limits.items() if v is not None}
    if bounds:
        kind = Annotated[kind, Field(**bounds)]
    return kind | None if field.optional else kind


# The JSON schema for the model ------------------------------------------------------------------------------------

_JSON_TYPES: dict[str, dict[str, Any]] = {
    "str": {"type": "string"}, "int": {"type": "integer"}, "float": {"type": "number"}, "bool": {"type": "boolean"},
    "date": {"type": "string", "format": "date"}, "datetime": {"type": "string", "format": "date-time"},
}  # fmt: skip


def json_schema(fields: Mapping[str, OutputField]) -> dict[str, Any]:
    """Return the JSON schema of an object of these fields, in the subset of providers' strict modes: every property
    required, no additional ones, optional as a union with null."""
    return {
        "type": "object",
        "properties": {name: _property(field) for name, field in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def _property(field: OutputField) -> dict[str, Any]:
    if field.type == "enum":
        schema: dict[str, Any] = {"type": "string", "enum": list(field.values or ())}
    elif field.type == "list":
        assert field.items is not None
        schema = {"type": "array", "items": _property(field.items)}
        _put(schema, minItems=field.min_length, maxItems=field.max_length)
    elif field.type == "fields":
        schema = json_schema(field.fields or {})
    else:
        schema = dict(_JSON_TYPES[field.type])
        _put(schema, minimum=_number(field, field.ge), maximum=_number(field, field.le))
        _put(schema, exclusiveMinimum=_number(field, field.gt), exclusiveMaximum=_number(field, field.lt))
        _put(schema, minLength=field.min_length, maxLength=field.max_length, pattern=field.pattern)
    if field.optional:
        schema = {"anyOf": [schema, {"type": "null"}]}
    if field.description:
        schema["description"] = field.description
    return schema


def _number(field: OutputField, bound: float | None) -> float | int | None:
    return int(bound) if bound is not None and field.type == "int" and bound == int(bound) else bound


def _put(schema: dict[str, Any], **values: Any) -> None:
    schema.update({key: value for key, value in values.items() if value is not None})


def problems(exc: ValidationError) -> str:
    """Return each invalid value with its place, in one line."""
    lines = []
    for error in exc.errors(include_url=False)[:10]:
        place = ".".join(str(part) for part in error["loc"]) or "the answer"
        lines.append(f"{place}: {error['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
