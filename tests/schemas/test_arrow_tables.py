"""Arrow arrays and tables of Python values: those that pyarrow makes, and without its imports."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.arrow_tables import array_of, empty_frame, empty_table, table_of_rows
from schemas.spec.fields import OutputField
from schemas.tables import arrow_type

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats() | st.integers(-(2**53), 2**53),
    "bool": st.booleans(),
    "date": st.dates(),
    "datetime": st.datetimes(timezones=st.just(dt.UTC)),
}


@st.composite
def _columns(draw: st.DrawFn, depth: int = 2) -> tuple[OutputField, st.SearchStrategy[Any]]:
    """A declared type, and values of it, nulls included."""
    kind = draw(st.sampled_from([*_VALUES, *(["list", "fields"] if depth else [])]))
    if kind == "list":
        items, values = draw(_columns(depth - 1))
        return OutputField(type="list", items=items), st.none() | st.lists(values, max_size=3)
    if kind == "fields":
        inner = draw(st.dictionaries(st.sampled_from("abc"), _columns(depth - 1), min_size=1))
        rows = st.fixed_dictionaries({name: values for name, (_, values) in inner.items()})
        return OutputField(type="fields", fields={name: field for name, (field, _) in inner.items()}), st.none() | rows
    return OutputField.model_validate({"type": kind}), st.none() | _VALUES[kind]


@given(st.data())
def test_arrays_are_those_of_pyarrow(data: st.DataObject) -> None:
    field, values = data.draw(_columns())
    column = data.draw(st.lists(values, max_size=5))
    expected = pa.array(column, arrow_type(field))
    found = array_of(column, arrow_type(field))
    found.validate(full=True)
    assert found.type == expected.type
    assert repr(found.to_pylist()) == repr(expected.to_pylist()), "NaN equals no NaN, but is written alike"


@pytest.mark.parametrize(("value", "data_type"), [("a", pa.int64()), (2**63, pa.int64()), (1, pa.string())])
def test_a_value_that_does_not_fit_is_refused(value: object, data_type: pa.DataType) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        array_of([value], data_type)


_SCHEMA = pa.schema(
    [pa.field("id", pa.string()), pa.field("n", pa.int32()), pa.field("parts", pa.list_(pa.field("item", pa.string())))]
)


def test_rows_become_a_table_in_which_what_is_absent_is_null() -> None:
    rows = [{"id": "a", "n": 1}, {"parts": ["x", None], "other": 1}]
    assert table_of_rows(rows, _SCHEMA).equals(pa.Table.from_pylist(rows, schema=_SCHEMA))
    assert table_of_rows([], _SCHEMA).equals(empty_table(_SCHEMA))


@given(st.data())
def test_tables_without_rows_have_their_columns(data: st.DataObject) -> None:
    fields = [data.draw(_columns())[0] for _ in range(data.draw(st.integers(0, 3)))]
    schema = pa.schema([pa.field(f"c{number}", arrow_type(field)) for number, field in enumerate(fields)])
    assert empty_table(schema).equals(schema.empty_table())
    assert empty_frame(schema).columns == schema.names


def test_pandas_is_not_imported() -> None:
    code = """
import sys
import pyarrow as pa
from schemas.arrow_tables import array_of, empty_frame, table_of_rows
schema = pa.schema([pa.field("a", pa.int64()), pa.field("b", pa.list_(pa.struct([pa.field("c", pa.string())])))])
table_of_rows([{"a": 1, "b": [{"c": "x"}]}], schema)
array_of([1, None], pa.int64())
empty_frame(schema)
before = "pandas" in sys.modules
pa.array([1])
print(before, "pandas" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"], "or pyarrow does without, and so can we"
