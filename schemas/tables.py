"""Declared types as Arrow types: the schema of every file is written from here, never inferred from values."""

import datetime as dt
import enum
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel

from schemas.errors import SpecError
from schemas.fields import OutputField

_ARROW = {
    "str": pa.string(),
    "enum": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "datetime": pa.timestamp("us", tz="UTC"),
}
_PYTHON = {str: "str", int: "int", float: "float", bool: "bool", dt.date: "date", dt.datetime: "datetime"}


def arrow_type(field: OutputField) -> pa.DataType:
    """int64, float64, string, bool, date32, timestamp[us, UTC], and lists and structs of them."""
    if field.type == "list":
        assert field.items is not None
        return pa.list_(pa.field("item", arrow_type(field.items)))
    if field.type == "fields":
        return pa.struct([pa.field(name, arrow_type(inner)) for name, inner in (field.fields or {}).items()])
    return _ARROW[field.type]


def arrow_fields(fields: Mapping[str, OutputField]) -> list[pa.Field]:
    """Nullable throughout: a rejected row kept by `on_reject: null` has null outputs."""
    return [pa.field(name, arrow_type(field)) for name, field in fields.items()]


def stored_type(data_type: pa.DataType) -> pa.DataType:
    """The type in which a pass-through column is stored: what every reader knows. Timestamps become microseconds (with
    a zone: UTC), dictionaries, views and large types their plain twins."""
    if pa.types.is_timestamp(data_type):
        return pa.timestamp("us", tz="UTC" if data_type.tz else None)
    if pa.types.is_dictionary(data_type):
        return stored_type(data_type.value_type)
    if pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type):
        return pa.string()
    if pa.types.is_large_binary(data_type) or pa.types.is_binary_view(data_type):
        return pa.binary()
    if pa.types.is_date64(data_type):
        return pa.date32()
    if pa.types.is_null(data_type):
        return pa.string()
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        return pa.list_(pa.field("item", stored_type(data_type.value_type)))
    if pa.types.is_struct(data_type):
        return pa.struct([pa.field(f.name, stored_type(f.type)) for f in data_type])
    return data_type


def stored_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(field.name, stored_type(field.type)) for field in schema])


def fields_of_class(model: type[BaseModel]) -> dict[str, OutputField]:
    """The declaration that a pydantic class amounts to. Raises SpecError for a type that no column can hold."""
    out = {}
    for name, info in model.model_fields.items():
        field = _field_of(info.annotation, f"{model.__name__}.{name}")
        out[info.alias or name] = field.model_copy(update={"description": info.description})
    return out


def _field_of(annotation: Any, where: str) -> OutputField:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _field_of(args[0], where)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        if len(inner) == 1:
            return _field_of(inner[0], where).model_copy(update={"optional": len(args) > 1})
    elif origin is Literal:
        return OutputField(type="enum", values=tuple(str(value) for value in args))
    elif origin in (list, set, tuple) and args:
        return OutputField(type="list", items=_field_of(args[0], where))
    elif isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return OutputField(type="fields", fields=fields_of_class(annotation))
        if issubclass(annotation, enum.Enum):
            return OutputField(type="enum", values=tuple(str(item.value) for item in annotation))
        if annotation in _PYTHON:
            return OutputField.model_validate({"type": _PYTHON[annotation]})
    raise SpecError(
        f"{where}: {annotation!r} has no column type.",
        hint="Use str, int, float, bool, date, datetime, Literal, Enum, list[…], Optional, or a nested pydantic class.",
    )
