"""One declaration: what the model is asked for, what is accepted from it, and what the file holds agree."""

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.spec.fields import OutputField, json_schema, validator_for
from schemas.tables import arrow_fields

Declared = dict[str, OutputField]
NAMES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=6)
NUMBERS = st.integers(-1000, 1000)


def declared(**fields: Any) -> Declared:
    return {name: OutputField.model_validate(field) for name, field in fields.items()}


def scalars() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(NUMBERS, NUMBERS).map(sorted)
    return st.one_of(
        st.sampled_from(["str", "int", "float", "bool", "date", "datetime"]).map(lambda kind: {"type": kind}),
        st.tuples(st.sampled_from(["int", "float"]), bounds).map(
            lambda x: {"type": x[0], "ge": x[1][0], "le": x[1][1]}
        ),
        st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True).map(lambda v: {"type": "enum", "values": v}),
        st.tuples(st.integers(0, 3), st.integers(3, 6)).map(
            lambda x: {"type": "str", "min_length": x[0], "max_length": x[1]}
        ),
    )


def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        inner.map(lambda item: {"type": "list", "items": item}),
        st.dictionaries(NAMES, inner, min_size=1, max_size=3).map(lambda fields: {"fields": fields}),
    )


KINDS = st.recursive(scalars(), nested, max_leaves=4)
DECLARATIONS = st.dictionaries(
    NAMES, st.tuples(KINDS, st.booleans()).map(lambda x: {**x[0], "optional": x[1]}), min_size=1, max_size=4
)


def instances(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a JSON schema of ours admits."""
    if "anyOf" in schema:
        return st.one_of(*(instances(option) for option in schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "object":
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False
        return st.fixed_dictionaries({name: instances(inner) for name, inner in schema["properties"].items()})
    if schema["type"] == "array":
        return st.lists(instances(schema["items"]), max_size=3)
    text = st.text(min_size=schema.get("minLength", 0), max_size=schema.get("maxLength", 8))
    times = st.datetimes(timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=45))]))
    low, high = schema.get("minimum"), schema.get("maximum")
    found: st.SearchStrategy[Any] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "integer": st.integers(-(2**63) if low is None else low, 2**63 - 1 if high is None else high),
        "number": st.floats(low, high, allow_nan=False, allow_infinity=False),
        "string": {
            "date": st.dates().map(dt.date.isoformat),
            "date-time": times.map(dt.datetime.isoformat),
        }.get(schema.get("format", ""), text),
    }[schema["type"]]
    return found


def as_python(value: Any, field: OutputField) -> Any:
    """A validated JSON value as Arrow takes it: ISO text as the time that it names."""
    if value is None:
        return None
    if field.type == "date":
        return dt.date.fromisoformat(value)
    if field.type == "datetime":
        return dt.datetime.fromisoformat(value)
    if field.type == "list":
        assert field.items is not None
        return [as_python(item, field.items) for item in value]
    if field.type == "fields":
        return {name: as_python(value[name], inner) for name, inner in (field.fields or {}).items()}
    return value


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_the_schema_admits_is_accepted_and_fits_the_declared_columns(data: st.DataObject) -> None:
    fields = declared(**data.draw(DECLARATIONS))
    schema = json_schema(fields)
    instance = data.draw(instances(json.loads(json.dumps(schema))))
    answer = validator_for(fields).model_validate(instance).model_dump(mode="json", by_alias=True)
    assert list(answer) == list(fields)
    for column in arrow_fields(fields):
        field = fields[column.name]
        given_value, accepted = as_python(instance[column.name], field), as_python(answer[column.name], field)
        assert accepted == given_value
        assert pa.array([accepted, None], type=column.type).to_pylist() == [given_value, None]


@pytest.mark.parametrize(
    ("written", "type_", "optional"),
    [
        ("str", "str", False), ("int?", "int", True), (" float ", "float", False), ("list[str]", "list", False),
        ("list[list[int?]]?", "list", True), ({"type": "date?"}, "date", True),
        ({"type": "str", "optional": True}, "str", True),
        ({"type": "enum?", "values": ["a"]}, "enum", True), ({"type": "enum", "values": [1, 2.5, True]}, "enum", False),
        ({"fields": {"a": "str"}}, "fields", False), ({"fields": {"a": "str"}, "optional": True}, "fields", True),
        ({"type": "list", "items": {"fields": {"a": "date"}}}, "list", False),
    ],
)  # fmt: skip
def test_the_short_forms_of_a_declaration(written: Any, type_: str, optional: bool) -> None:
    field = OutputField.model_validate(written)
    assert (field.type, field.optional) == (type_, optional)


def test_enum_values_are_text_as_it_would_be_written() -> None:
    assert OutputField.model_validate({"type": "enum", "values": [1, True, "x"]}).values == ("1", "true", "x")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("text", "'text' is not a type; allowed: str, int"),
        ("list[", "is not a type"),
        ("list[" * 5000 + "str" + "]" * 5000, "is not a type"),
        ({}, "no type"),
        ({"type": "enum"}, "needs values"),
        ({"type": "enum", "values": ["a", "a"]}, "same value twice"),
        ({"type": "str", "values": ["a"]}, "values belongs to"),
        ({"type": "list"}, "needs its item type"),
        ({"fields": {}}, "at least one field"),
        ({"type": "str", "ge": 1}, "for int and float"),
        ({"type": "int", "ge": 5, "le": 1}, "no number lies between 5 and 1"),
        ({"type": "int", "gt": 5, "le": 5}, "no number lies between 5 and 5"),
        ({"type": "int", "min_length": 1}, "for str and list, not int"),
        ({"type": "str", "min_length": 5, "max_length": 1}, "min_length 5 is above"),
        ({"type": "int", "pattern": "x"}, "pattern is for str, not int"),
        ({"type": "str", "pattern": "("}, "not a regular expression"),
        ({"type": "str", "optional": "yes"}, "boolean"),
        ({"type": "str", "colour": 1}, "Extra inputs"),
    ],
)
def test_a_declaration_that_cannot_be_met_is_refused(written: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OutputField.model_validate(written)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("int", "five"), ("int", 1.5), ("int", True), ("int", 2**63), ("int", -(2**63) - 1), ("int", None),
        ("float", float("nan")), ("float", float("inf")), ("float", False), ("str", 5), ("str", None),
        ("bool", 2), ("date", "2026-02-30"), ("date", 2026), ("date", 20261101), ("datetime", 2026),
        ("datetime", "yesterday"), ("list[str]", "a"), ("list[int]", [None]), ({"type": "enum", "values": ["a"]}, "A"),
        ({"type": "int", "ge": 1, "le": 5}, 6), ({"type": "float", "gt": 0}, 0),
        ({"type": "str", "pattern": "^a"}, "b"),
        ({"type": "list", "items": "str", "min_length": 1}, []), ({"fields": {"a": "int"}}, {"a": "x"}),
        ({"fields": {"a": "int"}}, {}),
    ],
)  # fmt: skip
def test_an_answer_out_of_bounds_is_refused(field: Any, value: Any) -> None:
    with pytest.raises(ValidationError):
        validator_for(declared(x=field)).model_validate({"x": value})


def test_an_optional_field_may_be_left_out_and_an_unknown_one_is_dropped() -> None:
    accepted = validator_for(declared(a="str", b="int?")).model_validate({"a": "x", "z": 1})
    assert accepted.model_dump(by_alias=True) == {"a": "x", "b": None}


def test_fields_may_have_the_names_of_pydantics_own() -> None:
    names = ["json", "copy", "model_config", "_x", "class", "with space", "é"]
    accepted = validator_for(declared(**dict.fromkeys(names, "int"))).model_validate(dict.fromkeys(names, 1))
    assert accepted.model_dump(by_alias=True) == dict.fromkeys(names, 1)


def test_a_pattern_may_look_ahead_and_is_searched_for() -> None:
    model = validator_for(declared(x={"type": "str", "pattern": "(?=.*[0-9])b"}))
    assert model.model_validate({"x": "abc 1"})
    with pytest.raises(ValidationError):
        model.model_validate({"x": "abc"})


def test_the_schema_says_what_the_model_must_know() -> None:
    schema = json_schema(
        declared(
            urgency={"type": "int", "ge": 1, "lt": 5, "description": "5 is an outage"},
            note="str?",
            tags={"type": "list", "items": "str", "min_length": 1},
        )
    )
    assert schema["properties"] == {
        "urgency": {"type": "integer", "minimum": 1, "exclusiveMaximum": 5, "description": "5 is an outage"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    }
