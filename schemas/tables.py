"""Convert declared types to Arrow types: the schema of every file comes from here, never from values."""

import base64
import datetime as dt
import enum
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from schemas.arrow_tables import array_of
from schemas.errors import SpecError
from schemas.spec.fields import OutputField

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
    """Return int64, float64, string, bool, date32, timestamp[us, UTC], or lists and structs of them."""
    if field.type == "list":
        assert field.items is not None
        return pa.list_(pa.field("item", arrow_type(field.items)))
    if field.type == "fields":
        return pa.struct([pa.field(name, arrow_type(inner)) for name, inner in (field.fields or {}).items()])
    return _ARROW[field.type]


def arrow_fields(fields: Mapping[str, OutputField]) -> list[pa.Field]:
    """Return Arrow fields, all nullable: a rejected row kept by `on_reject: null` has null outputs."""
    return [pa.field(name, arrow_type(field)) for name, field in fields.items()]


def stored_type(data_type: pa.DataType) -> pa.DataType:
    """Return the type in which a pass-through column is stored, one that every reader knows. Timestamps become
    microseconds (with a zone: UTC), dictionaries, views and large types their plain twins."""
    if isinstance(data_type, pa.BaseExtensionType):
        return stored_type(data_type.storage_type)
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


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type in which columns of two files are stored together, else None: the narrowest that holds the values
    of both (`wider_number`). A column (or list) that is all null takes any type."""
    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    if _is_list(one) and _is_list(other):
        item = common_type(one.value_type, other.value_type)
        return None if item is None else pa.list_(pa.field("item", item))
    if pa.types.is_struct(one) and pa.types.is_struct(other) and [f.name for f in one] == [f.name for f in other]:
        members = [(f.name, common_type(f.type, other.field(f.name).type)) for f in one]
        return None if any(kind is None for _, kind in members) else pa.struct(members)
    first, second = stored_type(one), stored_type(other)
    return first if first == second else wider_number(first, second)


_INTEGER_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
_MOST_DIGITS = 38  # of a 128-bit decimal


def wider_number(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the number type that both widen to, else None: integers to a longer integer, a decimal or a double; floats
    to a double; decimals to more digits. A decimal and a float have none, as each would change values of the other."""
    integers = [kind for kind in (one, other) if pa.types.is_integer(kind)]
    floats = [kind for kind in (one, other) if pa.types.is_floating(kind)]
    decimals = [kind for kind in (one, other) if pa.types.is_decimal(kind)]
    if len(integers) == 2:
        return _wider_integer(one, other)
    if len(integers) + len(floats) == 2:
        return pa.float64() if integers or pa.float64() in floats else pa.float32()
    if len(integers) + len(decimals) == 2:
        digits = [_INTEGER_DIGITS[kind.bit_width] for kind in integers] + [d.precision - d.scale for d in decimals]
        scale = max(kind.scale for kind in decimals)
        return pa.decimal128(max(digits) + scale, scale) if max(digits) + scale <= _MOST_DIGITS else None
    return None


def _wider_integer(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if pa.types.is_signed_integer(one) == pa.types.is_signed_integer(other):
        return max(one, other, key=lambda kind: kind.bit_width)
    unsigned, signed = sorted((one, other), key=pa.types.is_signed_integer)
    bits = max(signed.bit_width, 2 * unsigned.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)


def _is_list(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_list(data_type) or pa.types.is_large_list(data_type))


def stored_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(field.name, stored_type(field.type)) for field in schema])


def fields_of_class(model: type[BaseModel]) -> dict[str, OutputField]:
    """Return the declaration of a pydantic class. Raises SpecError for a type that no column can hold."""
    return _fields_of(model, ())


def _fields_of(model: type[BaseModel], within: tuple[type, ...]) -> dict[str, OutputField]:
    if model in within:
        raise SpecError(
            f"{model.__name__} contains itself; a column cannot.", hint="Nest different classes to a fixed depth."
        )
    out = {}
    for name, info in model.model_fields.items():
        field = _field_of(info.annotation, f"{model.__name__}.{name}", (*within, model))
        written = info.serialization_alias or info.alias or name
        out[written] = field.model_copy(update={"description": info.description})
    return out


def _field_of(annotation: Any, where: str, within: tuple[type, ...]) -> OutputField:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _field_of(args[0], where, within)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        if len(inner) == 1:
            return _field_of(inner[0], where, within).model_copy(update={"optional": len(args) > 1})
    elif origin is Literal:
        return _one_of([value for value in args if value is not None], None in args, annotation, where)
    elif origin in (list, set, frozenset) or (origin is tuple and args[1:] == (...,)):
        return OutputField(type="list", items=_field_of(args[0], where, within))
    elif isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return OutputField(type="fields", fields=_fields_of(annotation, within))
        if issubclass(annotation, enum.Enum):
            return _one_of([item.value for item in annotation], False, annotation, where)
        if annotation in _PYTHON:
            return OutputField.model_validate({"type": _PYTHON[annotation]})
    raise _no_column(annotation, where)


def _one_of(values: list[Any], optional: bool, annotation: Any, where: str) -> OutputField:
    """Return the declaration of a choice: of texts an enum, of numbers or booleans their type."""
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return OutputField(type="enum", values=tuple(values), optional=optional)
    if len(kinds) == 1 and (kind := _PYTHON.get(kinds.pop())) in ("int", "float", "bool"):
        return OutputField.model_validate({"type": kind, "optional": optional})
    raise _no_column(annotation, where)


def _no_column(annotation: Any, where: str) -> SpecError:
    return SpecError(
        f"{where}: {annotation!r} has no column type.",
        hint="Use str, int, float, bool, date, datetime, Literal, Enum, list[…], Optional, or a nested pydantic class.",
    )


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with exactly these columns and types; absent columns are null. Raises ArrowInvalid if a value
    does not fit; only fractions of a microsecond are cut off."""
    present = dict(zip(table.column_names, table.columns, strict=True))
    columns = []
    for field in schema:
        column = present.get(field.name)
        if column is None:
            columns.append(pa.nulls(table.num_rows, field.type))
        elif column.type == field.type:
            columns.append(column)
        else:
            columns.append(pc.cast(column, options=pc.CastOptions(field.type, allow_time_truncate=True)))
    return pa.Table.from_arrays(columns, schema=schema)


def same_but_for_case(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of names that differ only in case."""
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    return [tuple(together) for together in folded.values() if len(together) > 1]


def encode_schema(schema: pa.Schema) -> str:
    """Return an Arrow schema as text (IPC, base64)."""
    return base64.b64encode(stored_schema(schema).serialize().to_pybytes()).decode()


def decode_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def answer_columns(answers: list[dict[str, Any] | None], fields: Mapping[str, OutputField]) -> dict[str, pa.Array]:
    """Return JSON-like answers as Arrow arrays of the declared types; a row without an answer is null in all of
    them."""
    out = {}
    for name, declared in fields.items():
        values = [None if answer is None else answer.get(name) for answer in answers]
        if _temporal(declared):
            values = [_parsed(value, declared) for value in values]
        out[name] = array_of(values, arrow_type(declared))
    return out


def _temporal(declared: OutputField) -> bool:
    inner = [*(declared.fields or {}).values(), *([declared.items] if declared.items else [])]
    return declared.type in ("date", "datetime") or any(_temporal(field) for field in inner)


def _parsed(value: Any, declared: OutputField) -> Any:
    if value is None:
        return None
    if declared.type == "date":
        return dt.date.fromisoformat(value)
    if declared.type == "datetime":
        time = dt.datetime.fromisoformat(value)
        return time.astimezone(dt.UTC) if time.tzinfo else time.replace(tzinfo=dt.UTC)
    if declared.type == "list":
        assert declared.items is not None
        return [_parsed(item, declared.items) for item in value]
    if declared.type == "fields":
        return {name: _parsed(value.get(name), inner) for name, inner in (declared.fields or {}).items()}
    return value
