"""The columns of files: from pydantic classes, and from whatever types the source has."""

import datetime as dt
import enum
from typing import Annotated, Any, Literal

import pyarrow as pa
import pytest
from pydantic import BaseModel, Field

from schemas.errors import SpecError
from schemas.spec.fields import validator_for
from schemas.tables import arrow_fields, common_type, fields_of_class, same_but_for_case, stored_schema, stored_type


class Mood(enum.StrEnum):
    GOOD = "good"
    BAD = "bad"


class Person(BaseModel):
    name: str
    born: dt.date | None = None


class Triage(BaseModel):
    category: Literal["billing", "bug"] = Field(description="what it is about")
    urgency: Annotated[int, Field(ge=1, le=5)]
    stars: Literal[1, 2, 3]
    mood: Mood | None
    tags: list[str]
    pairs: tuple[float, ...]
    who: Person
    when: dt.datetime
    renamed: str = Field(alias="other name")


def test_a_pydantic_class_is_a_declaration() -> None:
    fields = fields_of_class(Triage)
    assert {name: (field.type, field.optional) for name, field in fields.items()} == {
        "category": ("enum", False), "urgency": ("int", False), "stars": ("int", False), "mood": ("enum", True),
        "tags": ("list", False), "pairs": ("list", False), "who": ("fields", False), "when": ("datetime", False),
        "other name": ("str", False),
    }  # fmt: skip
    assert fields["category"].description == "what it is about"
    assert fields["mood"].values == ("good", "bad")
    assert fields["who"].fields is not None
    assert fields["who"].fields["born"].optional


def test_what_the_class_writes_fits_the_declared_columns() -> None:
    answer = Triage.model_validate(
        {"category": "bug", "urgency": 5, "stars": 2, "mood": "bad", "tags": ["a"], "pairs": [1.5],
         "who": {"name": "x"}, "when": "2026-11-01T05:00:00Z", "other name": "y"}
    ).model_dump(mode="json", by_alias=True)  # fmt: skip
    fields = fields_of_class(Triage)
    assert set(answer) == set(fields)
    for column in arrow_fields(fields):
        if column.name != "when":
            assert pa.array([answer[column.name]], type=column.type).to_pylist() == [answer[column.name]]
    assert validator_for(fields).model_validate(answer)


class Node(BaseModel):
    children: "list[Node]"


def model_with(annotation: Any) -> type[BaseModel]:
    return type("Odd", (BaseModel,), {"__annotations__": {"x": annotation}})


@pytest.mark.parametrize(
    "annotation", [dict[str, int], Any, bytes, int | str, tuple[int, str], Literal[1, "a"], list, object]
)
def test_a_type_that_no_column_can_hold_is_named(annotation: Any) -> None:
    with pytest.raises(SpecError, match=r"Odd\.x.*has no column type"):
        fields_of_class(model_with(annotation))


def test_a_class_that_contains_itself_is_refused() -> None:
    with pytest.raises(SpecError, match="Node contains itself"):
        fields_of_class(Node)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("s", "Europe/Paris"), pa.timestamp("us", "UTC")),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.binary_view(), pa.binary()),
        (pa.date64(), pa.date32()),
        (pa.null(), pa.string()),
        (pa.large_list(pa.large_string()), pa.list_(pa.field("item", pa.string()))),
        (pa.struct([("a", pa.timestamp("ms"))]), pa.struct([("a", pa.timestamp("us"))])),
        (pa.uuid(), pa.binary(16)),
        (pa.decimal128(9, 2), pa.decimal128(9, 2)),
        (pa.int8(), pa.int8()),
    ],
)
def test_columns_are_stored_in_types_that_every_reader_knows(given: pa.DataType, stored: pa.DataType) -> None:
    assert stored_type(given) == stored
    assert stored_type(stored) == stored
    assert stored_schema(pa.schema([pa.field("x", given)])) == pa.schema([pa.field("x", stored)])


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (pa.null(), pa.int64(), pa.int64()),
        (pa.list_(pa.null()), pa.list_(pa.int64()), pa.list_(pa.field("item", pa.int64()))),
        (pa.struct([("a", pa.null())]), pa.struct([("a", pa.string())]), pa.struct([("a", pa.string())])),
        (pa.timestamp("ns", "Asia/Tokyo"), pa.timestamp("ms", "UTC"), pa.timestamp("us", "UTC")),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
        (pa.int64(), pa.string(), None),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint64(), pa.int8(), None),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.float16(), pa.float32(), pa.float32()),
        (pa.int64(), pa.decimal128(9, 2), pa.decimal128(22, 2)),
        (pa.int64(), pa.decimal128(38, 30), None),
        (pa.decimal128(9, 2), pa.decimal128(9, 4), pa.decimal128(11, 4)),
        (pa.decimal128(9, 2), pa.float64(), None),
        (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.float32())]), pa.struct([("a", pa.float64())])),
        (pa.bool_(), pa.int8(), None),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), None),
    ],
)
def test_two_files_agree_on_a_type_or_do_not(one: pa.DataType, other: pa.DataType, both: pa.DataType | None) -> None:
    for found in (common_type(one, other), common_type(other, one)):
        assert (found and stored_type(found)) == both


def test_names_that_a_reader_which_folds_case_takes_for_one_are_found() -> None:
    assert same_but_for_case(["ID", "text", "id", "Text", "other"]) == [("ID", "id"), ("text", "Text")]
